package action

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata/log.golden: only for samples that are new, as old bytes must stay")

var (
	ann = Participant{User: "ann"}
	bob = Participant{User: "bob"}
	cy  = Participant{Email: "cy@example.org"}
)

// samples has at least one action of every kind, with every field of it set once.
func samples() []Action {
	states := []MemberState{
		{Member: Member{Participant: ann, Kind: MemberCellUser, Joined: 5, AddedBy: bob}, Stamp: 1, By: bob},
		{Member: Member{Participant: cy, Kind: MemberEmail, Joined: -5, AddedBy: ann}, Left: true, Stamp: 300, By: cy},
	}
	members := []Member{states[0].Member, {Participant: bob, Kind: MemberOldInboxUser, Joined: 9, AddedBy: bob}}
	message := Message{Thread: "t-1", ID: "m-1", Author: ann, Channel: ChannelEmail, Time: math.MinInt64, Reply: true, Body: "Grüße",
		LargeBody:   []Attachment{{Blob: "b0", Name: "body.txt", MediaType: "text/plain", Size: 1 << 20, SHA256: strings.Repeat("\xee", 32)}},
		Attachments: []Attachment{{Blob: "b1", Size: 3}, {Blob: "b2", Name: "x.png", MediaType: "image/png", Size: 1 << 40}}}
	membership := Membership{Thread: "t-1", States: states, ReplyHandler: "r@reply", After: members, Notify: []Participant{ann, cy}}
	thread, some := Target{Thread: "t-1", Through: 7}, Target{Thread: "inbox:8812", Messages: []string{"m-1", "m-2"}}
	all := []Do{
		&ThreadCreated{Thread: "t-1", Subject: "Plans", Folder: FolderOther, ReplyHandler: "r@reply", Members: states},
		&MessageCreated{Message: message, Recipients: []Participant{bob, cy}},
		&MessageCreated{Message: Message{Thread: "t", ID: "m", Author: ann, Channel: ChannelSMS}},
		&MessageDelivered{Message: message, Relay: []Participant{bob}},
		&MessageDelivered{Message: Message{Thread: "t", ID: "m", Author: cy, Channel: ChannelChat, Stripped: true, StrippedBytes: 12}},
		&MessageRefused{Thread: "t-1", Message: "m-9"},
		&Read{thread, true},
		&Archived{some, true},
		&Tagged{Target: some, Add: []string{"red", "été"}, Remove: []string{"blue"}},
		&Moved{Thread: "t-1", Folder: FolderInbox},
		&Muted{Thread: "t-1", Is: true},
		&Deleted{thread},
		&Subscribed{membership},
		&Unsubscribed{membership},
		&AccountClosed{},
		&Purged{Messages: []string{"m-1", "m-2"}},
	}
	var log []Action
	for i, do := range all {
		a := Action{Sequence: uint64(i + 1), Time: Time(1290000000123456789 + i), Channel: Channel(i % 5), Origin: Origin(i%3 + 1), Do: do}
		if i%2 == 1 {
			a.Key, a.Request = fmt.Sprint("key-", i), DigestOf([]byte{byte(i)})
		}
		log = append(log, a)
	}
	return log
}

// TestRoundTrip: what is appended is decoded as it was. Rows: G88 every update is an
// action, of a closed list: every kind has a sample, and every field is set in one;
// G90 small bodies are in the log.
func TestRoundTrip(t *testing.T) {
	seen := map[Kind]bool{}
	fields := map[string]bool{}
	for _, want := range samples() {
		record, err := Append([]byte("before"), want, 0)
		if err != nil || !bytes.HasPrefix(record, []byte("before")) {
			t.Fatalf("append %v: %v", want.Do.Kind(), err)
		}
		got, err := Decode(record[6:])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", want.Do.Kind(), diff)
		}
		seen[want.Do.Kind()] = true
		noteFields(fields, reflect.ValueOf(want.Do).Elem())
	}
	for k := KindThreadCreated; k < kindEnd; k++ {
		if !seen[k] || newDo(k).Kind() != k || k.String() == name(nil, int(k)) {
			t.Errorf("kind %d (%v) has no sample, no type of its own or no name", k, k)
		}
	}
	for field, set := range fields {
		if !set {
			t.Errorf("no sample sets %s", field)
		}
	}
}

// noteFields notes the fields of v, and which of them are set.
func noteFields(fields map[string]bool, v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			noteFields(fields, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().String() + "." + v.Type().Field(i).Name
			fields[name] = fields[name] || !v.Field(i).IsZero()
			noteFields(fields, v.Field(i))
		}
	}
}

// TestGolden: the bytes of a record never change. A new sample is added at the end.
// Row G100.
func TestGolden(t *testing.T) {
	var lines strings.Builder
	for _, a := range samples() {
		record, err := Append(nil, a, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "%s %s\n", strings.ReplaceAll(a.Do.Kind().String(), " ", "-"), hex.EncodeToString(record))
		for _, e := range Entries("ann", a) {
			fmt.Fprintf(&lines, "outbox %s %s\n", hex.EncodeToString(e.Qualifier()), hex.EncodeToString(e.Value()))
		}
	}
	path := filepath.Join("testdata", "log.golden")
	if *update {
		if err := os.WriteFile(path, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), lines.String()); diff != "" {
		t.Errorf("records (-golden +got):\n%s", diff)
	}
}

// TestNewer: a record of a newer version, or of a kind this program does not know, is
// refused as such and not as rubbish.
func TestNewer(t *testing.T) {
	record, err := Append(nil, samples()[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	version, kind := bytes.Clone(record), bytes.Clone(record)
	version[0]++
	kind[1] = byte(kindEnd)
	for name, newer := range map[string][]byte{"version": version, "version alone": {2}, "kind": kind} {
		if _, err := Decode(newer); !errors.Is(err, ErrNewer) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want ErrNewer", name, err)
		}
	}
	e := Entry{Sequence: 1, To: ann, Key: "m"}
	if _, err := DecodeEntry(e.Qualifier(), append([]byte{2}, e.Value()[1:]...)); !errors.Is(err, ErrNewer) {
		t.Errorf("outbox entry: got %v, want ErrNewer", err)
	}
}

// TestCorrupt: a record cut anywhere is refused, and none with a byte changed is read
// as something that is written otherwise.
func TestCorrupt(t *testing.T) {
	for _, a := range samples() {
		record, _ := Append(nil, a, 0)
		for n := range record {
			if _, err := Decode(record[:n]); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v cut to %d bytes: got %v, want ErrCorrupt", a.Do.Kind(), n, err)
			}
			bad := bytes.Clone(record)
			bad[n] ^= 0x55
			canonical(t, bad)
		}
	}
}

// canonical fails if record is decoded to what is not appended as record.
func canonical(t *testing.T, record []byte) {
	t.Helper()
	a, err := Decode(record)
	if err != nil {
		if errors.Is(err, ErrNewer) == errors.Is(err, ErrCorrupt) {
			t.Errorf("decode %x: got %v, want ErrNewer or ErrCorrupt", record, err)
		}
		return
	}
	again, err := Append(nil, a, math.MaxInt)
	if err != nil || !bytes.Equal(again, record) {
		t.Errorf("%x is decoded to %+v, which is appended as %x, %v", record, a, again, err)
	}
}

// TestLimits: each limit with what is just within and what is just beyond. Row F72.
func TestLimits(t *testing.T) {
	message := func(edit func(*Message)) Do {
		m := Message{Thread: "t", ID: "m", Author: ann, Channel: ChannelChat}
		edit(&m)
		return &MessageCreated{Message: m}
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, test := range []struct {
		name    string
		ok, bad Do
		maxBody int
		want    error
	}{
		{name: "body by default", ok: message(func(m *Message) { m.Body = long(64 << 10) }), bad: message(func(m *Message) { m.Body = long(64<<10 + 1) }), want: ErrBodyTooLarge},
		{name: "body as configured", maxBody: 10, ok: message(func(m *Message) { m.Body = long(10) }), bad: message(func(m *Message) { m.Body = long(11) }), want: ErrBodyTooLarge},
		{name: "thread id", ok: message(func(m *Message) { m.Thread = long(128) }), bad: message(func(m *Message) { m.Thread = long(129) })},
		{name: "message id", ok: message(func(m *Message) { m.ID = "inbox:1" }), bad: message(func(m *Message) { m.ID = "inbox 1" })},
		{name: "user", ok: message(func(m *Message) { m.Author.User = User(long(256)) }), bad: message(func(m *Message) { m.Author.User = User(long(257)) })},
		{name: "email", ok: message(func(m *Message) { m.Author = Participant{Email: long(254)} }), bad: message(func(m *Message) { m.Author = Participant{Email: long(255)} })},
		{name: "one address", ok: message(func(*Message) {}), bad: message(func(m *Message) { m.Author.Email = "a@x" })},
		{name: "body is UTF-8", ok: message(func(m *Message) { m.Body = "é\x00" }), bad: message(func(m *Message) { m.Body = "\xff" })},
		{name: "channel", ok: message(func(m *Message) { m.Channel = ChannelMessage }), bad: message(func(m *Message) { m.Channel++; m.Channel += ChannelMessage })},
		{name: "tag", ok: &Tagged{Target: Target{Thread: "t"}, Add: []string{long(64)}}, bad: &Tagged{Target: Target{Thread: "t"}, Add: []string{long(65)}}},
		{name: "tag without controls", ok: &Tagged{Target: Target{Thread: "t"}, Add: []string{"a b"}}, bad: &Tagged{Target: Target{Thread: "t"}, Remove: []string{"a\x00b"}}},
		{name: "folder", ok: &Moved{Thread: "t", Folder: FolderOther}, bad: &Moved{Thread: "t"}},
		{name: "through of a thread", ok: &Deleted{Target{Thread: "t", Through: 1}}, bad: &Deleted{Target{Thread: "t", Through: 1, Messages: []string{"m"}}}},
		{name: "stamp", ok: &Subscribed{Membership{Thread: "t", States: []MemberState{{Member: Member{Participant: ann, AddedBy: ann}, Stamp: 1, By: ann}}}},
			bad: &Subscribed{Membership{Thread: "t", States: []MemberState{{Member: Member{Participant: ann, AddedBy: ann}, By: ann}}}}},
		{name: "purged", ok: &Purged{Messages: []string{"m"}}, bad: &Purged{}},
	} {
		at := Action{Sequence: 1, Origin: OriginUser, Do: test.ok}
		if _, err := Append(nil, at, test.maxBody); err != nil {
			t.Errorf("%s: within: %v", test.name, err)
		}
		want := test.want
		if want == nil {
			want = ErrInvalid
		}
		at.Do = test.bad
		if _, err := Append(nil, at, test.maxBody); !errors.Is(err, want) {
			t.Errorf("%s: beyond: got %v, want %v", test.name, err, want)
		}
	}
	for name, a := range map[string]Action{
		"sequence 0":            {Origin: OriginUser, Do: &AccountClosed{}},
		"no origin":             {Sequence: 1, Do: &AccountClosed{}},
		"nothing done":          {Sequence: 1, Origin: OriginUser},
		"long key":              {Sequence: 1, Origin: OriginUser, Key: long(129), Do: &AccountClosed{}},
		"request without a key": {Sequence: 1, Origin: OriginUser, Request: Digest{1}, Do: &AccountClosed{}},
	} {
		if _, err := Append(nil, a, 0); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}

// TestQualifier: cells of the log are in chronological order. Row: G89.
func TestQualifier(t *testing.T) {
	var last []byte
	for _, n := range []uint64{1, 2, 255, 256, 1 << 40, math.MaxUint64} {
		q := Qualifier(n)
		if bytes.Compare(last, q) >= 0 {
			t.Errorf("qualifier of %d is not after the one before", n)
		}
		last = q
	}
}

func TestTime(t *testing.T) {
	now := time.Date(2010, 11, 15, 1, 2, 3, 4, time.FixedZone("", 3600))
	if at, ok := TimeOf(now); !ok || !at.Time().Equal(now) {
		t.Errorf("got %v, %v", at, ok)
	}
	if at, ok := TimeOf(time.Time{}); ok {
		t.Errorf("the year 1: got %v", at)
	}
}

// TestStrip: a stripped message has no contents, and counts what it counted.
func TestStrip(t *testing.T) {
	for _, a := range samples() {
		m := MessageOf(a.Do)
		stripped := Strip(a)
		if m == nil {
			if !cmp.Equal(stripped, a) {
				t.Errorf("%v is changed", a.Do.Kind())
			}
			continue
		}
		s := MessageOf(stripped.Do)
		if s.Body != "" || s.Attachments != nil || s.LargeBody != nil || s.ContentBytes() != m.ContentBytes() || s.ID != m.ID {
			t.Errorf("got %+v of %+v", s, m)
		}
		if again := Strip(stripped); !cmp.Equal(again, stripped) {
			t.Errorf("stripped twice: got %+v, want %+v", again, stripped)
		}
		if _, err := Append(nil, stripped, 0); err != nil {
			t.Error(err)
		}
	}
	whole := Message{Body: "begin", LargeBody: []Attachment{{Blob: "b", Size: 100}}}
	if got := whole.ContentBytes(); got != 100 {
		t.Errorf("a large body of 100 bytes counts %d", got)
	}
}

// TestEntries: a message and a membership event owe a delivery to each recipient but
// the mailbox's own user, under a key that is the same on each attempt. Rows: I114
// delivery on behalf of the sending user, A8 recipients exactly once.
func TestEntries(t *testing.T) {
	for _, test := range []struct {
		do   Do
		want []Participant
	}{
		{&MessageCreated{Message: Message{ID: "m-1"}, Recipients: []Participant{bob, cy, bob, ann}}, []Participant{bob, cy}},
		{&MessageCreated{Message: Message{ID: "m-1"}, Recipients: []Participant{ann}}, nil},
		{&MessageDelivered{Message: Message{ID: "m-1"}, Relay: []Participant{bob}}, []Participant{bob}},
		{&MessageDelivered{Message: Message{ID: "m-1"}}, nil},
		{&Subscribed{Membership{Notify: []Participant{bob}}}, []Participant{bob}},
		{&Unsubscribed{Membership{Notify: []Participant{cy}}}, []Participant{cy}},
		{&Read{}, nil},
	} {
		a := Action{Sequence: 9, Time: 3, Do: test.do}
		var to []Participant
		for _, e := range Entries("ann", a) {
			to = append(to, e.To)
			got, err := DecodeEntry(e.Qualifier(), e.Value())
			if err != nil || got != e {
				t.Errorf("entry %+v is decoded to %+v, %v", e, got, err)
			}
			if !ValidID(e.Key) || MessageOf(test.do) != nil && e.Key != "m-1" {
				t.Errorf("key %q", e.Key)
			}
		}
		if diff := cmp.Diff(test.want, to); diff != "" {
			t.Errorf("%T (-want +got):\n%s", test.do, diff)
		}
	}
	event := func(u User, sequence uint64) string {
		return Entries(u, Action{Sequence: sequence, Do: &Subscribed{Membership{Notify: []Participant{cy}}}})[0].Key
	}
	seen := map[string]bool{event("ann", 1): true, event("bob", 1): true, event("ann", 2): true, event("ann", 1): true}
	if len(seen) != 3 {
		t.Errorf("keys of three events: %v", seen)
	}
}

// TestMergeMembers: copies that have seen the same states agree, in whatever order
// these came and however often.
func TestMergeMembers(t *testing.T) {
	state := func(p Participant, stamp uint64, by Participant, left bool) MemberState {
		return MemberState{Member: Member{Participant: p, AddedBy: by}, Left: left, Stamp: stamp, By: by}
	}
	all := []MemberState{state(bob, 1, ann, false), state(bob, 2, ann, true), state(bob, 2, bob, false), state(bob, 2, cy, true), state(ann, 1, ann, false), state(cy, 7, bob, false)}
	want := []MemberState{all[4], all[3], all[5]}
	for i := range all {
		order := append(append([]MemberState{}, all[i:]...), all[:i]...)
		got, changed := MergeMembers(nil, order)
		if diff := cmp.Diff(want, got); diff != "" || len(changed) < 3 {
			t.Errorf("from %d (-want +got), %d changed:\n%s", i, len(changed), diff)
		}
		if again, changed := MergeMembers(got, order); !cmp.Equal(again, got) || changed != nil {
			t.Errorf("merged twice: %v, changed %v", again, changed)
		}
	}
}

// TestMadeIDs: ids follow from user and key, and from nothing else.
func TestMadeIDs(t *testing.T) {
	got := []string{ThreadID("ann", "k1"), MessageID("ann", "k1"), MessageID("ann", "k2"), MessageID("bob", "k1")}
	want := []string{"t-op6rnbdcdciynu2urquz3h6fkb", "m-", "m-", "m-"}
	seen := map[string]bool{}
	for i, id := range got {
		if !ValidID(id) || len(id) != 28 || !strings.HasPrefix(id, want[i][:2]) || seen[id[2:]] {
			t.Errorf("id %q", id)
		}
		seen[id[2:]] = true
	}
	if got[0] != want[0] {
		t.Errorf("thread of ann by k1: got %s, want %s: an id that was made must be made again", got[0], want[0])
	}
}

func FuzzDecode(f *testing.F) {
	for _, a := range samples() {
		record, _ := Append(nil, a, 0)
		f.Add(record)
	}
	f.Fuzz(canonical)
}

func FuzzDecodeEntry(f *testing.F) {
	e := Entry{Sequence: 5, To: cy, Key: "m-1", Time: 9}
	f.Add(e.Qualifier(), e.Value())
	f.Fuzz(func(t *testing.T, qualifier, value []byte) {
		e, err := DecodeEntry(qualifier, value)
		if err == nil && (!bytes.Equal(e.Qualifier(), qualifier) || !bytes.Equal(e.Value(), value)) {
			t.Errorf("%x %x is decoded to %+v, whose cell is %x %x", qualifier, value, e, e.Qualifier(), e.Value())
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	a := samples()[1]
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = Append(buf[:0], a, 0)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecode(b *testing.B) {
	record, _ := Append(nil, samples()[1], 0)
	b.SetBytes(int64(len(record)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(record); err != nil {
			b.Fatal(err)
		}
	}
}
