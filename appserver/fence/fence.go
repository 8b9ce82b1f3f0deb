// Package fence is what a server has to do to own a user's row, as decisions: it
// does no I/O. A caller puts and reads what an Owner says, and tells it what came
// of it.
//
// # The protocol
//
//	claim     read the fence; put (epoch+1, seq, new tag, the claimer's ring)
//	load      read the row; every page carries the fence of the claim
//	commit    put (epoch, seq+k, new tag) with k actions; k = 0 flushes what was made from them
//	hand over put (epoch, seq, new tag, the newer ring); the row is no longer ours
//	seal      put (epoch+1, seq, new tag, sealed, generation+1); the row is nobody's any more
//	arrive    put (epoch+1, seq, new tag, arriving, generation) on an absent or a sealed row; then
//	          commits, whose rows stay sealed, and
//	open      put (epoch+1, seq+k, new tag), no longer sealed; the row is anybody's to claim
//
// One put is on its way at a time. Each compares the whole fence and rewrites
// it. An answer other than written is settled by reading the fence back:
//
//	the put's own      it was written
//	the one compared   it was not yet; the same put goes out again, as only one copy of it can ever be written
//	an older one       the reader is behind; as before
//	any other          the row is another's; whether it was written before that is not known
//
// # Why it is safe
//
// Tags are never used twice, so no fence comes again once it is replaced. Hence
// accepted puts of a row form one chain, each is accepted at most once however
// often it is sent and however late, and none of an epoch is accepted once a later
// epoch has begun. Clocks, leases and the ring play no part: they say who should
// claim. An owner's copy of the row equals the row as long as its puts succeed,
// because nothing came between; so an idempotency key that the copy lacks, the row
// lacks. The argument is that of fencing tokens (Kleppmann, "How to do distributed
// locking", 2016), with the token compared and replaced by the resource itself in
// each write, as an optimistic transaction does (Kung and Robinson, 1981).
//
// A test explores every interleaving of this code within bounds, with copies,
// stragglers, lost answers, stale reads and restarts; five designs that compare
// less, or do not read back, fail it.
package fence

import (
	"errors"

	"darklaunch/appserver/store"
)

// Why a row is not to be claimed.
var (
	// ErrSealed: the user has been moved; the row says where.
	ErrSealed = errors.New("row is sealed")
	// ErrOpen: the row is, or was, of the generation that is to arrive, or a later.
	ErrOpen = errors.New("row is of this generation or a later")
	// ErrNewerRing: the row has been claimed or handed over by a newer view of
	// the members than the claimer's, who should look again.
	ErrNewerRing = errors.New("row was claimed by a newer ring")
)

// State is how far an owner is with its row.
type State uint8

// The states. Claiming, Writing and Leaving have a put on its way.
const (
	Out      State = iota // the row is not ours
	Claiming              // a claim is on its way
	Owning                // the row is ours, as far as we know
	Writing               // a commit is on its way
	Leaving               // a hand-over or a seal is on its way
)

func (s State) String() string {
	return [...]string{"out", "claiming", "owning", "writing", "leaving"}[s]
}

// Write is a put to be made: Store.Put(ctx, user, w.Cur, w.Next, cells).
type Write struct {
	Cur, Next store.Fence
}

// Step is what to do next with a put.
type Step uint8

// The steps.
const (
	// Won: it is written and durable. After a claim or a commit the row is ours,
	// after a hand-over or a seal no longer.
	Won Step = iota + 1
	// NotWritten: it is not and never will be written, and nobody else has the
	// row by it. A claim has failed; an owner goes on as it was.
	NotWritten
	// ReadBack: read the row's fence, and tell it to Saw.
	ReadBack
	// Again: make the same put again, cells included, and tell its end to Answer;
	// or give up with Drop.
	Again
	// Fenced: it is not and never will be written: the row is another's. The
	// owner is Out.
	Fenced
	// Lost: the row is another's; whether the put was written before that is not
	// known. The owner is Out.
	Lost
)

func (s Step) String() string {
	return [...]string{"", "won", "not written", "read back", "again", "fenced", "lost"}[s]
}

// Owner is what one server knows of its hold on one user's row. The zero Owner
// is Out. It is not safe for concurrent use.
type Owner struct {
	state State
	held  store.Fence // of the row, when it was last known to be ours
	write Write       // on its way
	// again is whether the write may be out more than once, so that an answer to
	// one copy says nothing of the others.
	again bool
}

// State returns how far the owner is.
func (o *Owner) State() State { return o.state }

// Held is the row's fence while State is Owning: that of the owner's last write.
func (o *Owner) Held() store.Fence { return o.held }

// Claim begins to take a row whose fence was seen, for a server that sees the
// members by view. The owner must be Out. A tag is random, and never used twice.
//
// ErrSealed and ErrNewerRing leave the owner Out. The latter is advice: who knows
// better (the ensemble was rebuilt, an operator insists) claims with Force.
func (o *Owner) Claim(seen store.Fence, view store.Ring, tag store.Tag) (Write, error) {
	if seen.Flags&store.Sealed == 0 && view.Compare(seen.Ring) < 0 {
		return Write{}, ErrNewerRing
	}
	return o.Force(seen, view, tag)
}

// Force is Claim by a view that may be older than the row's.
func (o *Owner) Force(seen store.Fence, view store.Ring, tag store.Tag) (Write, error) {
	if seen.Flags&store.Sealed != 0 {
		return Write{}, ErrSealed
	}
	next := seen
	next.Epoch++
	next.Ring = view
	return o.begin(Out, Claiming, seen, next, tag), nil
}

// Loaded takes the fence of each page that is read of the row after a claim, and
// reports whether the page is of the row as claimed. If not, the owner is Out:
// somebody else has the row, or the reader is behind.
func (o *Owner) Loaded(page store.Fence) bool {
	o.must(Owning)
	if page != o.held {
		o.Drop()
		return false
	}
	return true
}

// Commit begins to write n new actions, which get the sequence numbers from
// Held().Seq+1 on. None: only what was made from actions is written, or removed.
// The owner must be Owning, and its copy of the row complete.
func (o *Owner) Commit(n uint64, tag store.Tag) Write {
	next := o.held
	next.Seq += n
	return o.begin(Owning, Writing, o.held, next, tag)
}

// HandOver begins to leave the row to whom view names. From then on servers
// that see the members by an older view do not claim it. The owner must be Owning.
func (o *Owner) HandOver(view store.Ring, tag store.Tag) Write {
	next := o.held
	if view.Compare(next.Ring) > 0 {
		next.Ring = view
	}
	return o.begin(Owning, Leaving, o.held, next, tag)
}

// Seal begins to close the row until its user comes back; where to is for the put's
// cells to say. The user's generation rises by one. The owner must be Owning.
func (o *Owner) Seal(tag store.Tag) Write {
	next := o.held
	next.Epoch++
	next.Flags = next.Flags.WithGeneration(next.Flags.Generation()+1) | store.Sealed
	return o.begin(Owning, Leaving, o.held, next, tag)
}

// Arrive begins to take a row into which a user is to be moved, as a generation, which
// is above 0. The row is absent, or sealed: by who left it as an earlier generation, or
// by an attempt to arrive as none later. It stays sealed. ErrOpen: it is neither. The
// owner must be Out.
func (o *Owner) Arrive(seen store.Fence, generation uint64, tag store.Tag) (Write, error) {
	has, left := seen.Flags.Generation(), seen.Flags&store.Arriving == 0
	if seen != (store.Fence{}) && (seen.Flags&store.Sealed == 0 || has > generation || has == generation && left) {
		return Write{}, ErrOpen
	}
	next := seen
	next.Epoch++
	next.Flags = next.Flags.WithGeneration(generation) | store.Sealed | store.Arriving
	return o.begin(Out, Claiming, seen, next, tag), nil
}

// Open begins to make the row into which a user was moved anybody's to claim, with seq
// actions in its log. The owner must be Owning by Arrive.
func (o *Owner) Open(seq uint64, tag store.Tag) Write {
	next := o.held
	next.Epoch++
	next.Seq = seq
	next.Flags &^= store.Sealed | store.Arriving
	return o.begin(Owning, Leaving, o.held, next, tag)
}

func (o *Owner) begin(from, to State, cur, next store.Fence, tag store.Tag) Write {
	o.must(from)
	next.Tag = tag
	o.state, o.write, o.again = to, Write{cur, next}, false
	return o.write
}

// Answer takes what the store said to the put that is on its way: what Put
// returned, the end of a context included.
func (o *Owner) Answer(err error) Step {
	o.mustWrite()
	switch {
	case err == nil:
		return o.won()
	case o.again || store.Unknown(err):
		// This copy may be out still, whatever happens to the next one.
		o.again = true
		return ReadBack
	case errors.Is(err, store.ErrFenced):
		o.Drop()
		return Fenced
	}
	return o.back()
}

// Saw takes the row's fence as it was read back, by a read that began after the
// answer.
func (o *Owner) Saw(f store.Fence) Step {
	o.mustWrite()
	switch {
	case f == o.write.Next:
		return o.won()
	case f == o.write.Cur || f.Epoch < o.write.Cur.Epoch || f.Seq < o.write.Cur.Seq:
		return Again
	}
	o.Drop()
	return Lost
}

// Drop gives the row up as far as this server is concerned: its copy is worth
// nothing from now on. A put on its way may still be written.
func (o *Owner) Drop() { *o = Owner{} }

func (o *Owner) won() Step {
	if o.state == Leaving {
		o.Drop()
		return Won
	}
	o.state, o.held, o.write = Owning, o.write.Next, Write{}
	return Won
}

// back is as if the write had not been begun.
func (o *Owner) back() Step {
	if o.state == Claiming {
		o.Drop()
		return NotWritten
	}
	o.state, o.write = Owning, Write{}
	return NotWritten
}

func (o *Owner) must(s State) {
	if o.state != s {
		panic("fence: owner is " + o.state.String() + ", not " + s.String())
	}
}

func (o *Owner) mustWrite() {
	if o.state == Out || o.state == Owning {
		panic("fence: no put is on its way")
	}
}
