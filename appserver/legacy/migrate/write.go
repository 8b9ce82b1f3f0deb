package migrate

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"slices"
	"time"

	"darklaunch/appserver/action"
	"darklaunch/appserver/fence"
	"darklaunch/appserver/index"
	"darklaunch/appserver/search"
	"darklaunch/appserver/store"
)

var (
	// ErrOther is returned by Import: the mailbox holds what this import did not write.
	ErrOther = errors.New("the mailbox holds something else")
	// ErrDiffers is returned by Import: what was read back is not what was written.
	ErrDiffers = errors.New("what was read back differs")
)

// putBytes is about how much of a log goes into one put; with what is made from it
// that stays far below the limit of a put.
const putBytes = 1 << 20

// Result is what an import of one user did.
type Result struct {
	Actions  int      // in the user's log as the old data make it
	Messages int      // of them
	Written  int      // actions that were not there yet
	Sum      [32]byte // of the log, its times aside
}

// Writer imports users into a store. It is not safe for concurrent use.
type Writer struct {
	store    store.Store
	analyzer *search.Analyzer
	at       action.Time
}

// NewWriter returns a Writer whose actions are logged at a time. language is that of the
// servers' search.
func NewWriter(s store.Store, language string, at time.Time) (*Writer, error) {
	analyzer, err := search.NewAnalyzer(language)
	if err != nil {
		return nil, err
	}
	t, ok := action.TimeOf(at)
	if !ok {
		return nil, fmt.Errorf("time %v is out of range", at)
	}
	return &Writer{s, analyzer, t}, nil
}

// Import puts log, of Old.Log, into the mailbox of u, with its metadata and keywords, and
// reads it back. Of a log that was put in part it puts the rest. A log that has grown
// since is left alone. ErrOther: nothing was written. ErrDiffers.
func (w *Writer) Import(ctx context.Context, u string, log []action.Action) (Result, error) {
	r := Result{Actions: len(log)}
	want := sha256.New()
	for _, a := range log {
		if action.MessageOf(a.Do) != nil {
			r.Messages++
		}
		if err := digest(want, a); err != nil {
			return r, err
		}
	}
	want.Sum(r.Sum[:0])
	have, err := ReadLog(ctx, w.store, u)
	if err != nil {
		return r, err
	}
	common := min(len(have), len(log))
	same, err := equal(have[:common], log[:common])
	if err != nil {
		return r, err
	}
	if !same {
		return r, fmt.Errorf("import %s: %w", u, ErrOther)
	}
	if len(have) < len(log) {
		if err := w.append(ctx, u, log, len(have)); err != nil {
			return r, fmt.Errorf("import %s: %w", u, err)
		}
		r.Written = len(log) - len(have)
	}
	if have, err = ReadLog(ctx, w.store, u); err != nil {
		return r, err
	}
	if same, err = equal(have[:min(len(have), len(log))], log); err == nil && !same {
		err = fmt.Errorf("import %s: %w", u, ErrDiffers)
	}
	return r, err
}

// digest adds an action, its time aside, to a hash.
func digest(h hash.Hash, a action.Action) error {
	a.Time = 0
	record, err := action.Append(nil, a, 0)
	_, _ = h.Write(record) // never fails
	return err
}

// equal reports whether two logs are, times aside, by count and hash.
func equal(a, b []action.Action) (bool, error) {
	var sums [2][]byte
	for i, log := range [][]action.Action{a, b} {
		h := sha256.New()
		for _, a := range log {
			if err := digest(h, a); err != nil {
				return false, err
			}
		}
		sums[i] = h.Sum(nil)
	}
	return len(a) == len(b) && slices.Equal(sums[0], sums[1]), nil
}

// ReadLog returns the log of a user's mailbox.
func ReadLog(ctx context.Context, s store.Store, u string) ([]action.Action, error) {
	// A log only grows, so that pages of different moments fit together.
	row, _, err := store.ReadAll(ctx, s, u, store.Span{Family: store.Actions})
	if err != nil {
		return nil, fmt.Errorf("read the log of %s: %w", u, err)
	}
	log := make([]action.Action, len(row.Cells))
	for i, c := range row.Cells {
		if log[i], err = action.Decode(c.Value); err != nil {
			return nil, fmt.Errorf("read the log of %s: %w", u, err)
		}
		if log[i].Sequence != uint64(i)+1 {
			return nil, fmt.Errorf("read the log of %s: action %d stands at place %d", u, log[i].Sequence, i+1)
		}
	}
	return log, nil
}

// append claims the row and puts the log from an index on.
func (w *Writer) append(ctx context.Context, u string, log []action.Action, from int) error {
	var owner fence.Owner
	seen, err := w.store.Read(ctx, u)
	if err != nil {
		return err
	}
	claim, err := owner.Claim(seen.Fence, seen.Fence.Ring, newTag())
	if err != nil {
		return err
	}
	if err := w.put(ctx, u, &owner, claim, nil); err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	row, whole, err := store.ReadAll(ctx, w.store, u, store.Span{Family: store.Metadata}, store.Span{Family: store.Keywords})
	if err != nil {
		return err
	}
	if !owner.Loaded(row.Fence) || !whole || row.Fence.Seq != uint64(from) {
		return fmt.Errorf("%w: another has the row", ErrOther)
	}
	b, err := w.begin(row, log[:from])
	if err != nil {
		return err
	}
	for from < len(log) {
		n, cells, err := b.next(log[from:], w.at)
		if err != nil {
			return err
		}
		if err := w.put(ctx, u, &owner, owner.Commit(uint64(n), newTag()), cells); err != nil {
			return err
		}
		from += n
	}
	return nil
}

func newTag() (t store.Tag) {
	_, _ = rand.Read(t[:]) // never fails
	return t
}

// put makes a put, again where that is called for, until it is known what came of it.
func (w *Writer) put(ctx context.Context, u string, owner *fence.Owner, write fence.Write, cells []store.Cell) error {
	for {
		err := w.store.Put(ctx, u, write.Cur, write.Next, cells)
		step := owner.Answer(err)
		if step == fence.ReadBack {
			row, readErr := w.store.Read(ctx, u)
			if readErr != nil {
				return errors.Join(err, readErr)
			}
			step = owner.Saw(row.Fence)
		}
		switch step {
		case fence.Won:
			return nil
		case fence.Again:
			if ctx.Err() != nil {
				return err
			}
		case fence.NotWritten:
			return err
		default:
			return fmt.Errorf("%w: another has the row", ErrOther)
		}
	}
}

// derived is what is made from a log while it is put.
type derived struct {
	cells, words *index.Cells
	analyzer     *search.Analyzer
}

// begin returns what the row has, brought up to the log that is there.
func (w *Writer) begin(row store.Row, log []action.Action) (*derived, error) {
	d := &derived{index.NewCells(), index.NewCells(), w.analyzer}
	for f, into := range map[store.Family]*index.Cells{store.Metadata: d.cells, store.Keywords: d.words} {
		for _, c := range row.Of(f) {
			into.Apply(index.Delta{{Qualifier: c.Qualifier, Value: c.Value}})
		}
	}
	have, err := index.VersionOf(d.cells)
	if err != nil {
		return nil, err
	}
	// They were put together with the log, whoever began it here.
	if have.Sequence != uint64(len(log)) {
		return nil, fmt.Errorf("%w: metadata of %d actions, a log of %d", ErrOther, have.Sequence, len(log))
	}
	return d, nil
}

// next returns the cells of as many actions as go into a put.
func (d *derived) next(log []action.Action, at action.Time) (n int, cells []store.Cell, err error) {
	meta, err := index.NewBatch(d.cells, index.Latest)
	if err != nil {
		return 0, nil, err
	}
	words, err := search.NewBatch(d.words, d.analyzer)
	if err != nil {
		return 0, nil, err
	}
	for size := 0; n < len(log) && size < putBytes && n < 1000; n++ {
		a := log[n]
		a.Time = at
		record, err := action.Append(nil, a, 0)
		if err != nil {
			return 0, nil, err
		}
		if err := meta.Apply(a); err != nil {
			return 0, nil, err
		}
		view, err := index.Open(meta)
		if err != nil {
			return 0, nil, err
		}
		if err := words.Apply(a, view); err != nil {
			return 0, nil, err
		}
		cells = append(cells, store.Cell{Family: store.Actions, Qualifier: action.Qualifier(a.Sequence), Value: record})
		size += len(record)
	}
	keys, err := words.Delta()
	if err != nil {
		return 0, nil, err
	}
	made := meta.Delta()
	for f, delta := range map[store.Family]index.Delta{store.Metadata: made, store.Keywords: keys} {
		for _, c := range delta {
			cells = append(cells, store.Cell{Family: f, Qualifier: c.Qualifier, Value: c.Value})
		}
	}
	d.cells.Apply(made)
	d.words.Apply(keys)
	return n, cells, nil
}
