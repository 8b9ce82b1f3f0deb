package index

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"darklaunch/appserver/action"
)

// me is the user of the mailboxes here.
var me = action.Participant{User: "me"}

// draw returns a log of n actions of every kind, on few names, so that they meet: on
// things that are there, that are deleted, and that never were.
func draw(t *rapid.T, n int) []action.Action {
	log := make([]action.Action, 0, n)
	for i := range n {
		a := action.Action{Sequence: uint64(i + 1), Time: action.Time(rapid.Int64Range(0, 1000).Draw(t, "log time")),
			Channel: action.ChannelChat, Origin: action.OriginUser, Do: drawDo(t, i)}
		if rapid.Bool().Draw(t, "keyed") {
			a.Key, a.Request = fmt.Sprint("k", rapid.IntRange(0, 40).Draw(t, "key")), action.DigestOf([]byte{byte(i)})
		}
		log = append(log, a)
	}
	return log
}

func drawDo(t *rapid.T, i int) action.Do {
	thread := fmt.Sprint("t", rapid.IntRange(0, 3).Draw(t, "thread"))
	set := rapid.Bool().Draw(t, "set")
	switch kind := rapid.IntRange(0, 19).Draw(t, "do"); kind {
	case 0, 1, 2:
		return &action.ThreadCreated{Thread: thread, Subject: rapid.SampledFrom([]string{"", "plans", "été"}).Draw(t, "subject"),
			Folder: drawFolder(t), Members: drawStates(t)}
	case 3, 4, 5:
		return &action.MessageCreated{Message: drawMessage(t, thread, i, me), Recipients: []action.Participant{drawWho(t), drawWho(t)}}
	case 6, 7, 8, 9:
		return &action.MessageDelivered{Message: drawMessage(t, thread, i, drawWho(t))}
	case 10:
		return &action.Read{Target: drawTarget(t, thread, i), Is: set}
	case 11:
		return &action.Archived{Target: drawTarget(t, thread, i), Is: set}
	case 12:
		tags := rapid.SliceOfN(rapid.SampledFrom([]string{"red", "blue", "x"}), 0, 2)
		return &action.Tagged{Target: drawTarget(t, thread, i), Add: tags.Draw(t, "add"), Remove: tags.Draw(t, "remove")}
	case 13:
		return &action.Moved{Thread: thread, Folder: drawFolder(t)}
	case 14:
		return &action.Muted{Thread: thread, Is: set}
	case 15:
		return &action.Deleted{Target: drawTarget(t, thread, i)}
	case 16:
		return &action.Subscribed{Membership: action.Membership{Thread: thread, States: drawStates(t), ReplyHandler: rapid.SampledFrom([]string{"", "h@x"}).Draw(t, "handler")}}
	case 17:
		return &action.Unsubscribed{Membership: action.Membership{Thread: thread, States: drawStates(t)}}
	case 18:
		return &action.Purged{Messages: []string{drawMessageID(t, i), drawMessageID(t, i)}}
	default:
		if set {
			return &action.AccountClosed{}
		}
		return &action.MessageRefused{Thread: thread, Message: "refused"}
	}
}

func drawFolder(t *rapid.T) action.Folder {
	return rapid.SampledFrom(action.Folders[:]).Draw(t, "folder")
}

func drawWho(t *rapid.T) action.Participant {
	return rapid.SampledFrom([]action.Participant{me, {User: "ann"}, {User: "bob"}, {Email: "cy@example.org"}}).Draw(t, "who")
}

// drawMessageID is mostly the id that a message at an earlier place would have.
func drawMessageID(t *rapid.T, i int) string {
	return fmt.Sprint("m", rapid.IntRange(max(0, i-12), i).Draw(t, "message"))
}

func drawMessage(t *rapid.T, thread string, i int, by action.Participant) action.Message {
	m := action.Message{Thread: thread, ID: fmt.Sprint("m", i), Author: by, Channel: action.ChannelChat,
		Time:  action.Time(rapid.Int64Range(-3, 6).Draw(t, "time")),
		Reply: rapid.Bool().Draw(t, "reply"),
		Body:  strings.Repeat("é", rapid.SampledFrom([]int{0, 3, 99, 100, 101, 300}).Draw(t, "length"))}
	if rapid.IntRange(0, 5).Draw(t, "attached") == 0 {
		m.Attachments = []action.Attachment{{Blob: "b", Size: 100}}
	}
	if i > 3 && rapid.IntRange(0, 9).Draw(t, "double") == 0 {
		m.ID = drawMessageID(t, i)
	}
	return m
}

func drawTarget(t *rapid.T, thread string, i int) action.Target {
	switch rapid.IntRange(0, 3).Draw(t, "target") {
	case 0:
		return action.Target{Thread: thread, Messages: []string{drawMessageID(t, i), drawMessageID(t, i), drawMessageID(t, i)}}
	case 1:
		return action.Target{Thread: thread, Through: uint64(rapid.IntRange(1, i+1).Draw(t, "through"))}
	}
	return action.Target{Thread: thread}
}

func drawStates(t *rapid.T) []action.MemberState {
	state := rapid.Custom(func(t *rapid.T) action.MemberState {
		who, by := drawWho(t), drawWho(t)
		return action.MemberState{Member: action.Member{Participant: who, Joined: action.Time(rapid.IntRange(0, 5).Draw(t, "joined")), AddedBy: by},
			Left: rapid.Bool().Draw(t, "left"), Stamp: uint64(rapid.IntRange(1, 5).Draw(t, "stamp")), By: by}
	})
	return rapid.SliceOfN(state, 0, 3).Draw(t, "states")
}

func drawSchema(t *rapid.T) Schema { return rapid.SampledFrom([]Schema{V1, V2}).Draw(t, "schema") }

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
		log, schema := draw(t, rapid.IntRange(0, 60).Draw(t, "actions")), drawSchema(t)
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
			switch rapid.IntRange(0, 5).Draw(t, "flush") {
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
		log, schema := draw(t, rapid.IntRange(1, 50).Draw(t, "actions")), drawSchema(t)
		cut := rapid.IntRange(0, len(log)).Draw(t, "cut")
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
		cells.Apply(first.Delta())
		cells.Apply(second.Delta())
		same(t, cells, shown, "what two batches show and what they put")
	})
}

// TestUpgrade: whatever the old schema and however far it lags, replay gives what the
// new schema folds from nothing; and back. Rows: G95 switch to a new schema by replay,
// G96 by an offline job, G97 online when the mailbox is loaded.
func TestUpgrade(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := draw(t, rapid.IntRange(0, 50).Draw(t, "actions"))
		lag := rapid.IntRange(0, len(log)).Draw(t, "lag")
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
		log := draw(t, rapid.IntRange(0, 50).Draw(t, "actions"))
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
