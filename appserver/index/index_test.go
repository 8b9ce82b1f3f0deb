package index

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"darklaunch/appserver/action"
)

// dice returns a source of choices of which rapid draws the seed: its own draws favour
// small numbers, and so short and dull mailboxes.
func dice(t *rapid.T) *rand.Rand { return rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)) }

func flip(r *rand.Rand) bool { return r.IntN(2) == 0 }

func between(r *rand.Rand, least, most int) int { return least + r.IntN(most-least+1) }

func pick[T any](r *rand.Rand, all []T) T { return all[r.IntN(len(all))] }

// me is the user of the mailboxes here.
var me = action.Participant{User: "me"}

// draw returns a log of n actions of every kind, on few names, so that they meet: on
// things that are there, that are deleted, and that never were.
func draw(r *rand.Rand, n int) []action.Action {
	log := make([]action.Action, 0, n)
	for i := range n {
		a := action.Action{Sequence: uint64(i + 1), Time: action.Time(between(r, 0, 1000)),
			Channel: action.ChannelChat, Origin: action.OriginUser, Do: drawDo(r, i)}
		if flip(r) {
			a.Key, a.Request = fmt.Sprint("k", between(r, 0, 40)), action.DigestOf([]byte{byte(i)})
		}
		log = append(log, a)
	}
	return log
}

func drawDo(r *rand.Rand, i int) action.Do {
	thread := fmt.Sprint("t", between(r, 0, 3))
	set := flip(r)
	switch kind := between(r, 0, 19); kind {
	case 0, 1, 2:
		return &action.ThreadCreated{Thread: thread, Subject: pick(r, []string{"", "plans", "été"}),
			Folder: drawFolder(r), Members: drawStates(r)}
	case 3, 4, 5:
		return &action.MessageCreated{Message: drawMessage(r, thread, i, me), Recipients: []action.Participant{drawWho(r), drawWho(r)}}
	case 6, 7, 8, 9:
		return &action.MessageDelivered{Message: drawMessage(r, thread, i, drawWho(r))}
	case 10:
		return &action.Read{Target: drawTarget(r, thread, i), Is: set}
	case 11:
		return &action.Archived{Target: drawTarget(r, thread, i), Is: set}
	case 12:
		tags := func() []string { return []string{"red", "blue", "x"}[r.IntN(4):] }
		return &action.Tagged{Target: drawTarget(r, thread, i), Add: tags(), Remove: tags()}
	case 13:
		return &action.Moved{Thread: thread, Folder: drawFolder(r)}
	case 14:
		return &action.Muted{Thread: thread, Is: set}
	case 15:
		return &action.Deleted{Target: drawTarget(r, thread, i)}
	case 16:
		return &action.Subscribed{Membership: action.Membership{Thread: thread, States: drawStates(r), ReplyHandler: pick(r, []string{"", "h@x"})}}
	case 17:
		return &action.Unsubscribed{Membership: action.Membership{Thread: thread, States: drawStates(r)}}
	case 18:
		return &action.Purged{Messages: []string{drawMessageID(r, i), drawMessageID(r, i)}}
	default:
		if set {
			return &action.AccountClosed{}
		}
		return &action.MessageRefused{Thread: thread, Message: "refused"}
	}
}

func drawFolder(r *rand.Rand) action.Folder {
	return pick(r, action.Folders[:])
}

func drawWho(r *rand.Rand) action.Participant {
	return pick(r, []action.Participant{me, {User: "ann"}, {User: "bob"}, {Email: "cy@example.org"}})
}

// drawMessageID is mostly the id that a message at an earlier place would have.
func drawMessageID(r *rand.Rand, i int) string {
	return fmt.Sprint("m", between(r, max(0, i-12), i))
}

func drawMessage(r *rand.Rand, thread string, i int, by action.Participant) action.Message {
	m := action.Message{Thread: thread, ID: fmt.Sprint("m", i), Author: by, Channel: action.ChannelChat,
		Time:  action.Time(between(r, -3, 6)),
		Reply: flip(r),
		Body:  strings.Repeat("é", pick(r, []int{0, 3, 99, 100, 101, 300}))}
	if between(r, 0, 5) == 0 {
		m.Attachments = []action.Attachment{{Blob: "b", Size: 100}}
	}
	if i > 3 && between(r, 0, 9) == 0 {
		m.ID = drawMessageID(r, i)
	}
	return m
}

func drawTarget(r *rand.Rand, thread string, i int) action.Target {
	switch between(r, 0, 3) {
	case 0:
		return action.Target{Thread: thread, Messages: []string{drawMessageID(r, i), drawMessageID(r, i), drawMessageID(r, i)}}
	case 1:
		return action.Target{Thread: thread, Through: uint64(between(r, 1, i+1))}
	}
	return action.Target{Thread: thread}
}

func drawStates(r *rand.Rand) []action.MemberState {
	var states []action.MemberState
	for range r.IntN(4) {
		by := drawWho(r)
		states = append(states, action.MemberState{Member: action.Member{Participant: drawWho(r), Joined: action.Time(r.IntN(6)), AddedBy: by},
			Left: flip(r), Stamp: uint64(between(r, 1, 5)), By: by})
	}
	return states
}

func drawSchema(r *rand.Rand) Schema { return pick(r, []Schema{V1, V2}) }

func rebuilt(t testing.TB, schema Schema, log []action.Action) *Cells {
	t.Helper()
	cells, err := Rebuild(schema, slices.Values(log))
	if err != nil {
		t.Fatal(err)
	}
	return cells
}

// same fails unless two readers hold the same cells.
func same(t interface{ Fatalf(string, ...any) }, got, want Reader, what string) {
	if err := Differences(got, want); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// TestAnyBatches: however the log is cut into batches, stacked one on another or
// flushed, the cells are those of a fold from nothing. Rows: G91 the state can be
// made anew by replay, F80 an index kept up equals one rebuilt, A6.
func TestAnyBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := dice(t)
		log, schema := draw(r, between(r, 0, 60)), drawSchema(r)
		want := NewCells()
		for _, a := range log { // one batch an action
			d, err := Fold(want, schema, []action.Action{a})
			if err != nil {
				t.Fatal(err)
			}
			want.Apply(d)
		}
		cells := NewCells()
		batch, _ := NewBatch(cells, schema)
		for _, a := range log {
			if err := batch.Apply(a); err != nil {
				t.Fatal(err)
			}
			switch between(r, 0, 5) {
			case 0:
				cells.Apply(minimal(t, cells, batch.Delta()))
				batch, _ = NewBatch(cells, schema)
			case 1: // a second batch in front of the first, which is being put
				front, err := NewBatch(batch, schema)
				if err != nil {
					t.Fatal(err)
				}
				same(t, front, batch, "an empty batch in front")
			}
		}
		cells.Apply(minimal(t, cells, batch.Delta()))
		same(t, cells, want, "cells of other batches")
		once, err := Fold(NewCells(), schema, log)
		if err != nil {
			t.Fatal(err)
		}
		same(t, NewCells(once...), want, "cells of one batch")
	})
}

// minimal fails if a delta takes away what is not there, puts what is there already,
// or is out of order.
func minimal(t *rapid.T, cells *Cells, d Delta) Delta {
	for i, c := range d {
		old := cells.Get(c.Qualifier)
		if len(c.Value) == 0 && old == nil {
			t.Fatalf("delta takes away %q, which is not there", c.Qualifier)
		}
		if i > 0 && bytes.Compare(d[i-1].Qualifier, c.Qualifier) >= 0 {
			t.Fatalf("delta: %q after %q", c.Qualifier, d[i-1].Qualifier)
		}
	}
	return d
}

// TestStacked: a batch in front of a batch shows and changes what one batch does.
func TestStacked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := dice(t)
		log, schema := draw(r, between(r, 1, 50)), drawSchema(r)
		cut := between(r, 0, len(log))
		cells := NewCells()
		first, _ := NewBatch(cells, schema)
		for _, a := range log[:cut] {
			if err := first.Apply(a); err != nil {
				t.Fatal(err)
			}
		}
		second, _ := NewBatch(first, schema)
		for _, a := range log[cut:] {
			if err := second.Apply(a); err != nil {
				t.Fatal(err)
			}
		}
		shown := NewCells()
		for q, v := range second.Scan(nil, nil) {
			shown.Apply(Delta{{q, v}})
		}
		back := NewCells()
		for q, v := range second.ScanBack(nil, nil) {
			back.Apply(Delta{{q, v}})
		}
		same(t, back, shown, "a scan backwards")
		if r.IntN(2) > 0 { // what was in front of the cells may be put before
			cells.Apply(first.Delta())
			first, _ = NewBatch(cells, schema)
		}
		if err := first.Absorb(second); err != nil || first.Version() != second.Version() {
			t.Fatalf("absorb: got version %v, %v, want %v", first.Version(), err, second.Version())
		}
		cells.Apply(minimal(t, cells, first.Delta()))
		same(t, cells, shown, "what two batches show and what they put")
	})
}

// TestUpgrade: whatever the old schema and however far it lags, replay gives what the
// new schema folds from nothing; and back. Rows: G95 switch to a new schema by replay,
// G96 by an offline job, G97 online when the mailbox is loaded.
func TestUpgrade(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := dice(t)
		log := draw(r, between(r, 0, 50))
		lag := between(r, 0, len(log))
		for _, from := range []Schema{V1, V2} {
			old, err := Rebuild(from, slices.Values(log[lag:][:0]))
			if err == nil {
				old, err = Rebuild(from, slices.Values(log[:lag]))
			}
			if err != nil {
				t.Fatal(err)
			}
			to := V1 + V2 - from
			delta, err := Upgrade(old, to, slices.Values(log))
			if err != nil {
				t.Fatal(err)
			}
			old.Apply(delta)
			want, _ := Rebuild(to, slices.Values(log))
			same(t, old, want, fmt.Sprintf("schema %d from %d", to, from))
		}
	})
}

// TestLagging: cells that lag behind the log are brought up to it by folding what is
// missing. Rows: G92 the version is the last action replayed, G93 it is compared with
// the log, G94 and brought up.
func TestLagging(t *testing.T) {
	log := sample()
	for lag := range len(log) {
		cells := rebuilt(t, Latest, log[:lag])
		v, err := VersionOf(cells)
		if err != nil || v.Sequence != uint64(lag) {
			t.Fatalf("version of the first %d actions: got %+v, %v", lag, v, err)
		}
		delta, err := Fold(cells, Latest, log[v.Sequence:])
		if err != nil {
			t.Fatal(err)
		}
		cells.Apply(delta)
		same(t, cells, rebuilt(t, Latest, log), "caught up")
	}
	if _, err := Fold(rebuilt(t, Latest, log[:2]), Latest, log[3:]); !errors.Is(err, ErrGap) {
		t.Errorf("an action left out: got %v, want ErrGap", err)
	}
}

// sample is a small log.
func sample() []action.Action {
	var log []action.Action
	add := func(do action.Do) {
		n := uint64(len(log) + 1)
		log = append(log, action.Action{Sequence: n, Time: action.Time(n), Origin: action.OriginUser, Do: do})
	}
	for i := range 4 {
		thread := fmt.Sprint("t", i)
		add(&action.ThreadCreated{Thread: thread, Subject: "plans", Folder: action.Folders[i%2]})
		add(&action.MessageDelivered{Message: action.Message{Thread: thread, ID: fmt.Sprint("a", i), Author: action.Participant{User: "ann"},
			Channel: action.ChannelEmail, Time: action.Time(10 * i), Body: "hello"}})
		add(&action.MessageCreated{Message: action.Message{Thread: thread, ID: fmt.Sprint("b", i), Author: me,
			Channel: action.ChannelChat, Time: action.Time(10*i + 1), Body: "hi", Reply: true}, Recipients: []action.Participant{{User: "ann"}}})
	}
	add(&action.Tagged{Target: action.Target{Thread: "t2"}, Add: []string{"red"}})
	add(&action.Deleted{Target: action.Target{Thread: "t3"}})
	add(&action.Read{Target: action.Target{Thread: "t0"}, Is: true})
	return log
}

// TestCheck: the check of cells against the log (A14) passes what is right and what
// lags, and catches each cell missing, extra or stale, of every kind.
func TestCheck(t *testing.T) {
	log := sample()
	for _, schema := range []Schema{V1, V2} {
		cells := rebuilt(t, schema, log)
		if err := Check(slices.Values(log), cells); err != nil {
			t.Fatalf("schema %d: %v", schema, err)
		}
		if err := Check(slices.Values(log), rebuilt(t, schema, log[:5])); err != nil {
			t.Errorf("schema %d, lagging: %v", schema, err)
		}
		if err := Check(slices.Values(log[:5]), cells); !errors.Is(err, ErrDiffers) {
			t.Errorf("schema %d, log shorter than the cells: got %v, want ErrDiffers", schema, err)
		}
		var all []Cell
		for q, v := range cells.Scan(nil, nil) {
			all = append(all, Cell{q, v})
		}
		kinds := map[byte]int{}
		for _, c := range all {
			kind := c.Qualifier[0]
			if kinds[kind]++; kind == cellVersion {
				continue
			}
			for fault, planted := range map[string]Delta{
				"missing": {{c.Qualifier, nil}},
				"extra":   {{append(bytes.Clone(c.Qualifier), 'x'), c.Value}},
				"stale":   {{c.Qualifier, append(bytes.Clone(c.Value), 7)}},
			} {
				bad := NewCells(all...)
				bad.Apply(planted)
				want := fmt.Sprintf("%s %c cell", fault, kind)
				if err := Check(slices.Values(log), bad); !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), want) {
					t.Errorf("schema %d: got %v, want a %s", schema, err, want)
				}
			}
		}
		if want := 12 + int(schema-V1)*2; len(kinds) != want {
			t.Errorf("schema %d: %d kinds of cell in the sample, want %d: %v", schema, len(kinds), want, kinds)
		}
	}
	if err := Check(slices.Values(log), NewCells()); err != nil {
		t.Errorf("no cells yet: %v", err)
	}
}

// TestNewerSchema: cells of a newer schema are refused and left alone.
func TestNewerSchema(t *testing.T) {
	cells := NewCells(Cell{[]byte{cellVersion}, []byte{byte(Latest) + 1, 9}})
	_, batchErr := NewBatch(cells, Latest)
	_, openErr := Open(cells)
	for _, err := range []error{batchErr, openErr, Check(slices.Values(sample()), cells)} {
		if !errors.Is(err, ErrNewer) {
			t.Errorf("got %v, want ErrNewer", err)
		}
	}
	for _, bad := range []string{"\x00\x01", "\x02", "\x02\x01\x01"} {
		if _, err := Open(NewCells(Cell{[]byte{cellVersion}, []byte(bad)})); !errors.Is(err, ErrCorrupt) {
			t.Errorf("version %q: got %v, want ErrCorrupt", bad, err)
		}
	}
}

// TestCorruptCells: any cell overwritten with rubbish is an error of whoever reads it,
// never a panic.
func TestCorruptCells(t *testing.T) {
	log := sample()
	cells := rebuilt(t, Latest, log)
	errs := 0
	for q := range cells.Scan(nil, nil) {
		bad := NewOverlay(cells)
		bad.Set(q, []byte{0xff, 0xff, 0xff})
		v, err := Open(bad)
		if err != nil {
			errs++
			continue
		}
		for _, err := range everything(v) {
			if errors.Is(err, ErrCorrupt) {
				errs++
			} else if err != nil {
				t.Errorf("cell %q: got %v, want ErrCorrupt", q, err)
			}
		}
		next := action.Action{Sequence: uint64(len(log) + 1), Origin: action.OriginUser, Do: &action.Deleted{Target: action.Target{Thread: "t1"}}}
		if _, err := Fold(bad, Latest, []action.Action{next}); errors.Is(err, ErrCorrupt) {
			errs++
		} else if err != nil {
			t.Errorf("cell %q: fold: got %v, want ErrCorrupt", q, err)
		}
	}
	if errs < 20 {
		t.Errorf("%d errors seen", errs)
	}
}

// everything asks all there is to ask.
func everything(v View) []error {
	var errs []error
	_, err := v.Stats()
	errs = append(errs, err)
	for _, f := range action.Folders {
		_, err = v.Folder(f)
		errs = append(errs, err)
	}
	threads, _, err := v.Threads(Filter{Limit: 100})
	errs = append(errs, err)
	for _, t := range threads {
		_, err = v.Members(&t)
		errs = append(errs, err)
		_, _, err = v.Messages(t.ID, false, 100, nil)
		errs = append(errs, err)
	}
	_, err = v.Receipt(action.OriginUser, "k1")
	return append(errs, err)
}

// TestPurged: a log whose purged messages were stripped folds into the same cells as
// the log before, and the capacity falls only then. Rows: I132 marked as deleted,
// content still there, I133 as far as marking.
func TestPurged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := dice(t)
		log := draw(r, between(r, 0, 50))
		before, err := Rebuild(Latest, slices.Values(log))
		if err != nil {
			t.Fatal(err)
		}
		v, _ := Open(before)
		stripped := slices.Clone(log)
		for i, a := range log {
			if m, _ := v.MessageAt(a.Sequence); m != nil && m.Purged {
				stripped[i] = action.Strip(a)
			}
		}
		after, err := Rebuild(Latest, slices.Values(stripped))
		if err != nil {
			t.Fatal(err)
		}
		same(t, after, before, "of a stripped log")
	})
}

// TestKeys: a key is remembered while it is young or among the last.
func TestKeys(t *testing.T) {
	const day = action.Time(24 * 3600 * 1e9)
	cells := NewCells()
	batch, _ := NewBatch(cells, Latest)
	apply := func(key string, at action.Time) {
		t.Helper()
		a := action.Action{Sequence: batch.Version().Sequence + 1, Time: at, Origin: action.OriginUser, Key: key,
			Request: action.DigestOf([]byte(key)), Do: &action.AccountClosed{}}
		if err := batch.Apply(a); err != nil {
			t.Fatal(err)
		}
	}
	known := func(key string) bool {
		t.Helper()
		r, err := batch.view().Receipt(action.OriginUser, key)
		if err != nil {
			t.Fatal(err)
		}
		if other, _ := batch.view().Receipt(action.OriginDelivery, key); other != (Receipt{}) {
			t.Fatalf("key %s is known of another origin", key)
		}
		return r.Sequence > 0
	}
	for i := range KeepKeys {
		apply(fmt.Sprint(i), 0)
	}
	apply("a", 7*day)
	if !known("0") {
		t.Error("a key of 7 days is forgotten")
	}
	apply("b", 7*day+1)
	if known("0") || known("1") || !known("2") {
		t.Error("want the two oldest forgotten, beyond 10,000 and older than 7 days")
	}
	if got := batch.stats.Keys; got != KeepKeys {
		t.Errorf("%d keys, want %d", got, KeepKeys)
	}
	apply("b", 8*day)
	if got, _ := batch.view().Receipt(action.OriginUser, "b"); got.Sequence != KeepKeys+3 || batch.stats.Keys != KeepKeys {
		t.Errorf("a key again: %+v, %d keys", got, batch.stats.Keys)
	}
}

// counting is a Reader that notes what is read.
type counting struct {
	*Cells
	got map[string]bool
}

func (c counting) Get(q []byte) []byte {
	c.got[string(q)] = true
	return c.Cells.Get(q)
}

// TestReadsLittle: to fold a message into a mailbox of many threads, no other
// thread's cells are read. Rows: E64 finer-grained schema: a group's members are not
// read for a message, F78 a cell an entity.
func TestReadsLittle(t *testing.T) {
	var log []action.Action
	add := func(do action.Do) {
		log = append(log, action.Action{Sequence: uint64(len(log) + 1), Origin: action.OriginUser, Do: do})
	}
	for i := range 500 {
		thread := fmt.Sprint("t", i)
		add(&action.ThreadCreated{Thread: thread, Folder: action.FolderInbox})
		add(&action.MessageDelivered{Message: action.Message{Thread: thread, ID: fmt.Sprint("m", i), Author: me, Channel: action.ChannelChat}})
	}
	cells := counting{rebuilt(t, Latest, log), map[string]bool{}}
	log = nil
	next := action.Action{Sequence: 1001, Origin: action.OriginDelivery, Do: &action.MessageDelivered{
		Message: action.Message{Thread: "t7", ID: "new", Author: me, Channel: action.ChannelChat, Time: 5}}}
	d, err := Fold(cells, Latest, []action.Action{next})
	if err != nil {
		t.Fatal(err)
	}
	var read []string
	for q := range cells.got {
		read = append(read, q)
	}
	slices.Sort(read)
	want := []string{"F\x01", "Tt7", "aume\x00t7", "inew", "s", "v"}
	if diff := cmp.Diff(want, read); diff != "" {
		t.Errorf("cells read (-want +got):\n%s", diff)
	}
	if len(d) != 13 {
		t.Errorf("delta of %d cells, want 13: %q", len(d), d)
	}
}

func BenchmarkApply(b *testing.B) {
	log := sample()[:2]
	cells := rebuilt(b, Latest, log)
	batch, _ := NewBatch(cells, Latest)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		a := action.Action{Sequence: uint64(3 + i), Time: action.Time(i), Origin: action.OriginDelivery, Key: fmt.Sprint("k", i),
			Do: &action.MessageDelivered{Message: action.Message{Thread: "t0", ID: fmt.Sprint("m", i), Author: me,
				Channel: action.ChannelChat, Time: action.Time(i), Body: "see you at the station at nine"}}}
		if err := batch.Apply(a); err != nil {
			b.Fatal(err)
		}
		if batch.Len() > 4096 {
			cells.Apply(batch.Delta())
			batch, _ = NewBatch(cells, Latest)
		}
	}
}

// FuzzCells: whatever stands in a cell, reading and folding it is an error or none,
// never a panic.
func FuzzCells(f *testing.F) {
	log := sample()
	cells := rebuilt(f, Latest, log)
	var all []Cell
	for q, v := range cells.Scan(nil, nil) {
		f.Add(len(all), v)
		all = append(all, Cell{q, v})
	}
	f.Fuzz(func(t *testing.T, i int, value []byte) {
		if i < 0 || i >= len(all) || len(value) == 0 {
			return
		}
		bad := NewOverlay(cells)
		bad.Set(all[i].Qualifier, value)
		v, err := Open(bad)
		if err != nil {
			return
		}
		everything(v)
		batch, err := NewBatch(bad, Latest)
		if err != nil {
			t.Fatal(err)
		}
		for _, do := range []action.Do{&action.Read{Target: action.Target{Thread: "t0"}}, &action.Deleted{Target: action.Target{Thread: "t1"}},
			&action.Subscribed{Membership: action.Membership{Thread: "t2"}}} {
			a := action.Action{Sequence: v.Version().Sequence + 1, Origin: action.OriginUser, Key: "k", Do: do}
			if err := batch.Apply(a); err != nil {
				return
			}
		}
	})
}
