package search

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/blevesearch/bleve/v2/analysis"
	tokenizer "github.com/blevesearch/bleve/v2/analysis/tokenizer/unicode"
	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
)

func analyzer(t testing.TB, language string) *Analyzer {
	t.Helper()
	a, err := NewAnalyzer(language)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// dice returns a source of choices of which rapid draws the seed: its own draws favour
// small numbers, and so short and dull mailboxes.
func dice(t *rapid.T) *rand.Rand { return rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)) }

func flip(r *rand.Rand) bool { return r.IntN(2) == 0 }

func between(r *rand.Rand, least, most int) int { return least + r.IntN(most-least+1) }

func pick[T any](r *rand.Rand, all []T) T { return all[r.IntN(len(all))] }

// TestTokens is the analyzers' behaviour. Row: H105 messages are parsed by an analyzer
// of Lucene's kind.
func TestTokens(t *testing.T) {
	for _, test := range []struct{ language, text, want string }{
		{None, "Running foxes' Messages", "running1 foxes2 messages3"},
		{None, "the cat and the hat", "the1 cat2 and3 the4 hat5"},
		{None, "Café, NAÏVE Ærø straße", "cafe1 naive2 aero3 strasse4"},
		{None, "cafe\u0301 ﬁne ２０１０", "cafe1 fine2 20103"},
		{None, "can't half-past 3.14 foo_bar http://x.org/y", "can1 t2 half3 past4 3 5 14 6 foo7 bar8 http9 x10 org11 y12"},
		{None, "東京都 カタカナ", "東1 京2 都3 カタカナ4"},
		{None, "mail Ann.Smith@Example.org today", "mail1 ann2 smith3 example4 org5 today6 ann.smith@example.org2"},
		{None, "Привет МИР हिन्दी", "привет1 мир2 हिन्दी3"},
		{None, "!?… 🎉", ""},
		{None, "", ""},
		{English, "Running foxes messages", "run1 fox2 messag3"},
		{English, "running ann@runners.org", "run1 ann2 runner3 org4 ann@runners.org2"},
		{German, "Häuser Straßen", "haus1 strass2"},
		{CJK, "東京都 hotel", "東京1 京都2 hotel3"},
		{CJK, "東京都 a@b.org", "東京1 京都2 a3 b4 org5 a@b.org3"},
	} {
		var got []string
		for _, token := range analyzer(t, test.language).Tokens(test.text) {
			space := ""
			if last := token.Term[len(token.Term)-1]; last >= '0' && last <= '9' && len(token.Term) < 3 {
				space = " "
			}
			got = append(got, fmt.Sprint(token.Term, space, token.Position))
		}
		if got := strings.Join(got, " "); got != test.want {
			t.Errorf("%s %q: got %q, want %q", test.language, test.text, got, test.want)
		}
	}
	if _, err := NewAnalyzer("tlh"); err == nil {
		t.Error("a language unknown is taken")
	}
	long := analyzer(t, None).Tokens(strings.Repeat("é日", 50) + strings.Repeat("x", 100))
	for _, token := range long {
		if len(token.Term) > maxTerm {
			t.Errorf("a term of %d bytes", len(token.Term))
		}
	}
}

// TestSegmentASCII: words of ASCII are what the segmentation of Unicode makes of them.
func TestSegmentASCII(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := dice(rt)
		text := make([]byte, r.IntN(60))
		for i := range text {
			text[i] = byte(r.IntN(utf8.RuneSelf))
			if r.IntN(2) == 0 { // else few of them stand together
				text[i] = pick(r, []byte("abzAZ059._'-@: "))
			}
		}
		where := func(stream analysis.TokenStream) (all []string) {
			for _, w := range stream {
				all = append(all, fmt.Sprintf("%d %q at %d to %d", w.Position, w.Term, w.Start, w.End))
			}
			return all
		}
		want := where(split(tokenizer.NewUnicodeTokenizer().Tokenize(text)))
		if diff := gocmp.Diff(want, where(segment(text))); diff != "" {
			rt.Errorf("%q (-segmented +got):\n%s", text, diff)
		}
	})
}

// box is a mailbox for tests: log, index and keywords.
type box struct {
	log   []action.Action
	meta  *index.Batch
	words *Batch
	cells *index.Cells // of the keywords, flushed
}

func newBox(t testing.TB, language string) *box {
	t.Helper()
	b := &box{cells: index.NewCells()}
	var err error
	if b.meta, err = index.NewBatch(index.NewCells(), index.Latest); err != nil {
		t.Fatal(err)
	}
	if b.words, err = NewBatch(b.cells, analyzer(t, language)); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *box) do(t testing.TB, do action.Do) {
	t.Helper()
	a := action.Action{Sequence: uint64(len(b.log) + 1), Origin: action.OriginUser, Do: do}
	b.log = append(b.log, a)
	if err := errors.Join(b.meta.Apply(a), b.words.Apply(a, b.view(t))); err != nil {
		t.Fatal(err)
	}
}

func (b *box) view(t testing.TB) index.View {
	t.Helper()
	v, err := index.Open(b.meta)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// flush puts the batch's delta and begins another.
func (b *box) flush(t testing.TB) {
	t.Helper()
	d, err := b.words.Delta()
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range d {
		if len(c.Value) == 0 && b.cells.Get(c.Qualifier) == nil {
			t.Fatalf("delta takes away %q, which is not there", c.Qualifier)
		}
		if i > 0 && string(d[i-1].Qualifier) >= string(c.Qualifier) {
			t.Fatalf("delta: %q after %q", c.Qualifier, d[i-1].Qualifier)
		}
	}
	b.cells.Apply(d)
	if b.words, err = NewBatch(b.cells, b.words.analyzer); err != nil {
		t.Fatal(err)
	}
}

// search returns the ids of what a query finds.
func (b *box) search(t testing.TB, text string) []string {
	t.Helper()
	q, err := Parse(text, b.words.analyzer)
	if err != nil {
		t.Fatal(err)
	}
	page, next, err := q.Run(b.view(t), b.words, 1000, nil)
	if err != nil || next != nil {
		t.Fatalf("search %q: next %v, %v", text, next, err)
	}
	var ids []string
	for _, m := range page {
		ids = append(ids, m.ID)
	}
	return ids
}

func at(day int) action.Time {
	t, _ := action.TimeOf(time.Date(2010, 11, day, 12, 0, 0, 0, time.UTC))
	return t
}

var (
	me  = action.Participant{User: "me"}
	ann = action.Participant{User: "ann"}
	cy  = action.Participant{Email: "cy@example.org"}
)

// letters is a mailbox with something for each kind of query.
func letters(t testing.TB) *box {
	b := newBox(t, None)
	member := func(p action.Participant) action.MemberState {
		return action.MemberState{Member: action.Member{Participant: p, AddedBy: me}, Stamp: 1, By: me}
	}
	send := func(thread, id string, by action.Participant, channel action.Channel, day int, body string, files ...string) {
		m := action.Message{Thread: thread, ID: id, Author: by, Channel: channel, Time: at(day), Body: body}
		for _, f := range files {
			m.Attachments = append(m.Attachments, action.Attachment{Blob: "b", Name: f})
		}
		if by == me {
			b.do(t, &action.MessageCreated{Message: m})
		} else {
			b.do(t, &action.MessageDelivered{Message: m})
		}
	}
	b.do(t, &action.ThreadCreated{Thread: "t1", Subject: "Lunch on Friday?", Folder: action.FolderInbox, Members: []action.MemberState{member(ann), member(me)}})
	send("t1", "m1", me, action.ChannelMessage, 1, "How about the café at half past twelve?")
	send("t1", "m2", ann, action.ChannelChat, 2, "Past twelve is fine, half of us come later")
	b.do(t, &action.ThreadCreated{Thread: "t2", Subject: "Re: invoice", Folder: action.FolderOther, Members: []action.MemberState{member(cy), member(me)}})
	send("t2", "m3", cy, action.ChannelEmail, 3, "Please see the attached, or write to billing@example.org", "Invoice-2010.pdf", "friday lunch.txt")
	send("t2", "m4", ann, action.ChannelSMS, 4, "lunchbox 東京")
	send("t2", "m5", cy, action.ChannelEmail, 5, "lunch is deleted")
	b.do(t, &action.Deleted{Target: action.Target{Thread: "t2", Messages: []string{"m5"}}})
	b.do(t, &action.Tagged{Target: action.Target{Thread: "t2", Messages: []string{"m3"}}, Add: []string{"to pay"}})
	b.do(t, &action.Archived{Target: action.Target{Thread: "t1"}, Is: true})
	return b
}

// TestQueries: each kind of query. Rows: H104 a reverse index from keywords to matched
// messages, H106 with positions: phrases, H108 each keyword has its own column, H109
// all channels, in real time: each is found as soon as it is applied, before any
// flush; I132 what is deleted is in no result.
func TestQueries(t *testing.T) {
	b := letters(t)
	queries := []struct{ query, want string }{
		{"lunch", "m2 m1"},
		{"LUNCH cafe", "m1"},
		{"café", "m1"},
		{"half past", "m2 m1"},
		{`"half past"`, "m1"},
		{"half-past", "m1"},
		{`"past twelve"`, "m2 m1"},
		{"lun*", "m4 m2 m1"},
		{`lunchb* OR caf*`, "m4 m1"},
		{"lunch -cafe", "m2"},
		{"lunch NOT cafe", "m2"},
		{"(cafe OR later) AND friday", "m2 m1"},
		{"cafe OR later invoice", "m1"},
		{"cafe OR (later invoice)", "m1"},
		{"subject:lunch", "m2 m1"},
		{"body:lunch", ""},
		{"body:invoice", ""},
		{"subject:invoice", "m4 m3"},
		{"file:lunch", "m3"},
		{`file:"invoice 2010"`, "m3"},
		{`file:"invoice lunch"`, ""}, // not across names
		{"billing@example.org", "m3"},
		{"billing@exa*", "m3"},
		{"billing@examp", ""},
		{"example", "m3"},
		{"東京", "m4"},
		{"東", "m4"},
		{"京東", ""},
		{"from:ann", "m4 m2"},
		{"from:cy@EXAMPLE.org", "m3"},
		{"from:cy", ""},
		{"from:example.org", ""},
		{"with:ann", "m2 m1"},
		{"with:cy@example.org", "m4 m3"},
		{"in:inbox", "m2 m1"},
		{"in:other lunchbox", "m4"},
		{`tag:"to pay"`, "m3"},
		{"tag:pay", ""},
		{"channel:sms", "m4"},
		{"channel:chat", "m2"},
		{"channel:email", "m3"},
		{"channel:message", "m1"},
		{"is:read", "m1"},
		{"is:unread", "m4 m3 m2"},
		{"is:archived", "m2 m1"},
		{"after:2010-11-02 before:2010-11-04", "m3 m2"},
		{`after:"2010-11-03T12:00:00Z"`, "m4 m3"},
		{`before:"2010-11-03T12:00:00Z" -in:other`, "m2 m1"},
		{"deleted", ""},
		{"12:30", ""},
		{"lunch lunch", "m2 m1"},
		{"or", "m3"},
		{"before:2010-11-03 OR from:cy@example.org", "m3 m2 m1"},
	}
	for _, flushed := range []bool{false, true} {
		for _, q := range queries {
			if got := strings.Join(b.search(t, q.query), " "); got != q.want {
				t.Errorf("flushed %v: %s: got %q, want %q", flushed, q.query, got, q.want)
			}
		}
		b.flush(t)
	}
}

func TestParseErrors(t *testing.T) {
	a := analyzer(t, None)
	for _, test := range []struct{ query, want string }{
		{"", "at byte 0: want a term"},
		{"  ", "at byte 2: want a term"},
		{"a OR", "at byte 4: want a term"},
		{"OR a", "at byte 0: want a term"},
		{"a AND", "want a term"},
		{"AND a", "before AND"},
		{"-a", "not negated"},
		{"a OR -b", "not negated"},
		{"a -(-b)", "not negated"},
		{"a NOT NOT b", "one NOT"},
		{"(a", "want )"},
		{"a)", `at byte 1: unexpected ")"`},
		{"()", "want a term"},
		{`"a b`, "closing quote"},
		{`""`, "nothing to search"},
		{"!!!", `at byte 3: nothing to search for in "!!!"`},
		{"a*", "2 characters"},
		{"*", "2 characters"},
		{"subject:", "want a term"},
		{`subject:""`, "subject: want a value"},
		{"in:sent", `at byte 0: in: got "sent", want inbox or other`},
		{"is:new", "want read, unread or archived"},
		{"channel:fax", "want email, sms, chat or message"},
		{"after:yesterday", "want a date"},
		{"before:1066-10-14", "want a date"},
		{"tag:" + strings.Repeat("x", 65), "tag: want 1 to 64"},
		{"a\xff", "UTF-8"},
		{strings.Repeat("(", 17) + "a" + strings.Repeat(")", 17), "16 parentheses"},
		{strings.Repeat("a ", 33), "32 terms"},
		{strings.Repeat("a", 1025), "1025 bytes, limit 1024"},
	} {
		_, err := Parse(test.query, a)
		if !errors.Is(err, ErrQuery) || !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("%.40q: got %v, want %q", test.query, err, test.want)
		}
	}
	for _, ok := range []string{strings.Repeat("(", 16) + "a" + strings.Repeat(")", 16), strings.Repeat("a ", 32), strings.Repeat("a", 1024),
		"tag:" + strings.Repeat("x", 64), "ab*", "a -b", "a OR (b -c)"} {
		if _, err := Parse(ok, a); err != nil {
			t.Errorf("%.40q: %v", ok, err)
		}
	}
}

// wish is a query as a test means it: how it is written, and a way to decide it by
// looking at everything a message has.
type wish struct {
	text     string
	positive bool
	is       func(*letter) bool
}

// letter is a message as it was sent, with what became of it.
type letter struct {
	*index.Message
	subject, body string
	file          string
	folder        action.Folder
}

var vocabulary = []string{"red", "reed", "green", "gré", "blue", "a", "rot-grün", "x@y.org", "org"}

func text(r *rand.Rand, least int) string {
	var words []string
	for range between(r, least, 5) {
		words = append(words, pick(r, vocabulary))
	}
	return strings.Join(words, " ")
}

func drawWish(r *rand.Rand, a *Analyzer, depth int) wish {
	most := 8
	if depth > 0 {
		most = 11
	}
	quoted := func(s string) string { return `"` + s + `"` }
	switch between(r, 0, most) {
	case 0, 1:
		w := pick(r, vocabulary)
		return wish{w, true, func(l *letter) bool { return naive(a, w, false, l.subject, l.body) }}
	case 2:
		w := text(r, 1)
		return wish{quoted(w), true, func(l *letter) bool { return naive(a, w, false, l.subject, l.body) }}
	case 3:
		w := pick(r, []string{"re", "gr", "red", "x@y", "rot-gr", "blu", "zz"})
		return wish{w + "*", true, func(l *letter) bool { return naive(a, w, true, l.subject, l.body) }}
	case 4:
		w := text(r, 1)
		return wish{"subject:" + quoted(w), true, func(l *letter) bool { return naive(a, w, false, l.subject) }}
	case 5:
		w := pick(r, vocabulary)
		return wish{"file:" + w, true, func(l *letter) bool { return naive(a, w, false, l.file) }}
	case 6:
		who := pick(r, []action.Participant{me, ann, cy})
		return wish{"from:" + who.String(), true, func(l *letter) bool { return l.Author == who }}
	case 7:
		day := between(r, 1, 9)
		if flip(r) {
			return wish{fmt.Sprintf("after:2010-11-%02d", day), true, func(l *letter) bool { return l.Time >= at(day)-12*3600*1e9 }}
		}
		return wish{fmt.Sprintf("before:2010-11-%02d", day), true, func(l *letter) bool { return l.Time < at(day)-12*3600*1e9 }}
	case 8:
		return pick(r, []wish{
			{"is:unread", true, func(l *letter) bool { return !l.Read }},
			{"in:other", true, func(l *letter) bool { return l.folder == action.FolderOther }},
			{"tag:red", true, func(l *letter) bool { return slices.Contains(l.Tags, "red") }},
		})
	case 9:
		x, y := drawWish(r, a, depth-1), drawWish(r, a, depth-1)
		if !x.positive || !y.positive {
			return x
		}
		return wish{"(" + x.text + " OR " + y.text + ")", true, func(l *letter) bool { return x.is(l) || y.is(l) }}
	case 10:
		x, y := drawWish(r, a, depth-1), drawWish(r, a, depth-1)
		return wish{"(" + x.text + " AND " + y.text + ")", true, func(l *letter) bool { return x.is(l) && y.is(l) }}
	default:
		x, y := drawWish(r, a, depth-1), drawWish(r, a, depth-1)
		return wish{"(" + x.text + " -" + y.text + ")", true, func(l *letter) bool { return x.is(l) && !y.is(l) }}
	}
}

// naive reports whether a phrase is in one of some texts, by laying one beside the
// other at every place.
func naive(a *Analyzer, phrase string, prefix bool, texts ...string) bool {
	parts := func(text string) []string { // without whole addresses, which their parts imply here
		var all []string
		for _, token := range a.Tokens(text) {
			if !strings.Contains(token.Term, "@") {
				all = append(all, token.Term)
			}
		}
		return all
	}
	want := parts(phrase)
	for _, text := range texts {
		have := parts(text)
		for i := 0; i+len(want) <= len(have); i++ {
			same := true
			for j, w := range want {
				same = same && (have[i+j] == w || prefix && j == len(want)-1 && strings.HasPrefix(have[i+j], w))
			}
			if same {
				return true
			}
		}
	}
	return false
}

// TestAgainstNaiveSearch: queries of every shape find what looking at every message
// finds, page after page, however the log was cut into batches. Rows: H104, H106,
// H107 postings are added and not rewritten, I132.
func TestAgainstNaiveSearch(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := dice(rt)
		b := newBox(t, None)
		b.meta, _ = index.NewBatch(index.NewCells(), pick(r, []index.Schema{index.V1, index.V2}))
		letters := map[uint64]*letter{}
		subjects := map[string]string{}
		for i := range between(r, 0, 40) {
			thread := fmt.Sprint("t", between(r, 0, 2))
			if _, ok := subjects[thread]; !ok {
				subjects[thread] = text(r, 0)
				b.do(t, &action.ThreadCreated{Thread: thread, Subject: subjects[thread], Folder: action.FolderInbox})
			}
			id := fmt.Sprint("m", between(r, 0, i))
			switch between(r, 0, 9) {
			case 0:
				b.do(t, &action.Deleted{Target: action.Target{Thread: thread, Messages: []string{id}}})
			case 1:
				b.do(t, &action.Read{Target: action.Target{Thread: thread}, Is: true})
			case 2:
				b.do(t, &action.Tagged{Target: action.Target{Thread: thread, Messages: []string{id}}, Add: []string{"red"}})
			case 3:
				b.do(t, &action.Moved{Thread: thread, Folder: action.FolderOther})
			default:
				m := action.Message{Thread: thread, ID: fmt.Sprint("m", i), Author: pick(r, []action.Participant{me, ann, cy}),
					Channel: action.ChannelChat, Time: at(between(r, 1, 9)), Body: text(r, 0)}
				l := &letter{subject: subjects[thread], body: m.Body}
				if flip(r) {
					l.file = text(r, 0)
					m.Attachments = []action.Attachment{{Blob: "b", Name: l.file}}
				}
				letters[uint64(len(b.log)+1)] = l
				b.do(t, &action.MessageDelivered{Message: m})
			}
			if between(r, 0, 2) == 0 {
				b.flush(t)
			}
		}
		view := b.view(t)
		for range 5 {
			w := drawWish(r, b.words.analyzer, 2)
			var want []index.Message
			for seq, l := range letters {
				l.Message, _ = view.MessageAt(seq)
				thread, _ := view.Thread(l.Thread)
				l.folder = thread.Folder
				if !l.Deleted && w.is(l) {
					want = append(want, *l.Message)
				}
			}
			slices.SortFunc(want, func(x, y index.Message) int {
				return cmp.Or(cmp.Compare(y.Time, x.Time), cmp.Compare(y.Sequence, x.Sequence))
			})
			if diff := gocmp.Diff(want, walk(rt, between(r, 1, 4), w.text, view, b.words, b.words.analyzer)); diff != "" {
				rt.Fatalf("%s (-want +got):\n%s", w.text, diff)
			}
		}
		if err := Check(b.words.analyzer, slices.Values(b.log), view, b.words); err != nil {
			rt.Fatal(err)
		}
	})
}

// walk returns all pages of a query, from cells that hold what it says it reads and
// nothing else.
func walk(t *rapid.T, limit int, text string, view index.View, cells index.Reader, a *Analyzer) []index.Message {
	q, err := Parse(text, a)
	if err != nil {
		t.Fatal(err)
	}
	fetched := index.NewCells()
	for _, r := range q.Ranges() {
		for k, v := range cells.Scan(r[0], r[1]) {
			fetched.Apply(index.Delta{{Qualifier: k, Value: v}})
		}
	}
	var all []index.Message
	var from *index.Cursor
	for {
		page, next, err := q.Run(view, fetched, limit, from)
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, page...); next == nil {
			return all
		}
		if len(page) != limit {
			t.Fatalf("%d on a page that is not the last, want %d", len(page), limit)
		}
		from = next
	}
}

// TestThreads: keywords of a listing. Row: I130 of the criteria, keywords.
func TestThreads(t *testing.T) {
	b := letters(t)
	for _, test := range []struct {
		keywords []string
		want     string
	}{
		{nil, "any"},
		{[]string{"lunch"}, "t1"},
		{[]string{"cafe", "later"}, "t1"}, // in two messages of one thread
		{[]string{"twelve", "invoice"}, ""},
		{[]string{"lunch", "twelve", "FRIDAY"}, "t1"},
		{[]string{"half-past"}, "t1"},
		{[]string{"lunchbox"}, "t2"},
		{[]string{"deleted"}, ""},
		{[]string{"lun*"}, ""}, // no operators
	} {
		within, err := Threads(b.view(t), b.words, b.words.analyzer, test.keywords)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for id := range within {
			got = append(got, id)
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != test.want && (test.want != "any" || within != nil) {
			t.Errorf("%q: got %q, want %q", test.keywords, text, test.want)
		}
		listed, _, err := b.view(t).Threads(index.Filter{Within: within, Limit: 10})
		if want := max(len(within), map[bool]int{true: 2}[within == nil]); err != nil || len(listed) != want {
			t.Errorf("%q: %d threads listed, %v, want %d", test.keywords, len(listed), err, want)
		}
	}
	if _, err := Threads(b.view(t), b.words, b.words.analyzer, []string{"a", "!!"}); !errors.Is(err, ErrQuery) {
		t.Errorf("a keyword of no word: got %v, want ErrQuery", err)
	}
}

// TestMerge: a keyword has never more than MaxParts small cells and a few large ones,
// adding rewrites none below that, and merged or not it finds the same. Row: H107
// added "incrementally".
func TestMerge(t *testing.T) {
	b := newBox(t, None)
	b.do(t, &action.ThreadCreated{Thread: "t", Folder: action.FolderInbox})
	most, rewritten := 0, 0
	for i := range 100 {
		b.do(t, &action.MessageDelivered{Message: action.Message{Thread: "t", ID: fmt.Sprint("m", i), Author: ann, Channel: action.ChannelChat,
			Time: action.Time(i), Body: "common " + fmt.Sprint("word", i)}})
		before := b.cells.Len()
		b.flush(t)
		from, to := parts("bcommon")
		n := 0
		for range b.cells.Scan(from, to) {
			n++
		}
		most = max(most, n)
		if b.cells.Len() < before {
			rewritten++
		}
	}
	if most != MaxParts {
		t.Errorf("%d cells of a keyword at most, want %d", most, MaxParts)
	}
	if rewritten < 4 || rewritten > 8 {
		t.Errorf("merged %d times in 100 flushes", rewritten)
	}
	for i := range 40 { // a large cell between small ones
		body := "common"
		if i == 20 {
			body = strings.Repeat("common ", partBytes)
		}
		b.do(t, &action.MessageDelivered{Message: action.Message{Thread: "t", ID: fmt.Sprint("n", i), Author: ann, Channel: action.ChannelChat, Body: body}})
		b.flush(t)
	}
	if got := b.search(t, "common"); len(got) != 140 || got[0] != "m99" {
		t.Errorf("found %d, %s first", len(got), got[0])
	}
	if err := Check(b.words.analyzer, slices.Values(b.log), b.view(t), b.cells); err != nil {
		t.Error(err)
	}
}

// TestCheck: the check of keywords against the log (A14) catches each cell missing,
// extra or stale, and cells ahead of the log.
func TestCheck(t *testing.T) {
	b := letters(t)
	b.flush(t)
	a, view := b.words.analyzer, b.view(t)
	check := func(cells index.Reader) error { return Check(a, slices.Values(b.log), view, cells) }
	if err := errors.Join(check(b.cells), check(index.NewCells())); err != nil {
		t.Fatal(err)
	}
	faults := 0
	for q, v := range b.cells.Scan(nil, nil) {
		if string(q) == "v" {
			continue
		}
		word, first, _ := firstOf(q)
		for name, planted := range map[string]index.Cell{
			"missing": {Qualifier: q},
			"extra":   {Qualifier: part(string(word)+"x", first), Value: v},
			"stale":   {Qualifier: q, Value: encodeAll(first, []posting{{first + 1, []byte{9}}})},
		} {
			bad := index.NewOverlay(b.cells)
			bad.Set(planted.Qualifier, planted.Value)
			if err := check(bad); !errors.Is(err, ErrDiffers) {
				t.Errorf("%q %s: got %v, want ErrDiffers", q, name, err)
			}
			faults++
		}
	}
	if faults < 50 {
		t.Errorf("%d faults planted", faults)
	}
	if err := Check(a, slices.Values(b.log[:3]), view, b.cells); !errors.Is(err, ErrDiffers) {
		t.Errorf("log shorter than the cells: got %v, want ErrDiffers", err)
	}
}

// TestPurge: a purged message's words are nowhere, others' stay. Row: I133 as far as
// marking goes, and how a job does the rest.
func TestPurge(t *testing.T) {
	b := letters(t)
	b.do(t, &action.Purged{Messages: []string{"m5"}})
	b.flush(t)
	gone := func(seq uint64) bool {
		m, _ := b.view(t).MessageAt(seq)
		return m != nil && m.Purged
	}
	d, err := Purge(b.cells, gone)
	if err != nil {
		t.Fatal(err)
	}
	from, to := parts("bdeleted")
	count := func() (n int) {
		for range b.cells.Scan(from, to) {
			n++
		}
		return n
	}
	if count() != 1 {
		t.Fatal("the word is not there before")
	}
	b.cells.Apply(d)
	if count() != 0 {
		t.Error("the word is still there")
	}
	if got := b.search(t, "lunch"); len(got) != 2 {
		t.Errorf("found %v", got)
	}
	for i, a := range b.log {
		if m := action.MessageOf(a.Do); m != nil && m.ID == "m5" {
			b.log[i] = action.Strip(a)
		}
	}
	if err := Check(b.words.analyzer, slices.Values(b.log), b.view(t), b.cells); err != nil {
		t.Errorf("against the stripped log: %v", err)
	}
	rebuilt, err := Rebuild(b.words.analyzer, slices.Values(b.log), b.view(t))
	if err != nil {
		t.Fatal(err)
	}
	for q, v := range rebuilt.Scan([]byte{fieldAuthor}, []byte{fieldSubject + 1}) {
		all, err := decodePart(nil, q, v)
		if err != nil || slices.ContainsFunc(all, func(p posting) bool { return gone(p.sequence) }) {
			t.Errorf("%q of a stripped log: %v, %v", q, all, err)
		}
	}
}

func TestVersions(t *testing.T) {
	b := letters(t)
	b.flush(t)
	if _, err := NewBatch(b.cells, analyzer(t, English)); !errors.Is(err, ErrLanguage) {
		t.Errorf("another language: got %v, want ErrLanguage", err)
	}
	for value, want := range map[string]error{"\x02": ErrNewer, "\x01": ErrCorrupt, "\x00\x00\x01": ErrCorrupt, "\x01\x00\x01\x01": ErrCorrupt} {
		if _, err := NewBatch(index.NewCells(index.Cell{Qualifier: versionCell, Value: []byte(value)}), analyzer(t, None)); !errors.Is(err, want) {
			t.Errorf("version %q: got %v, want %v", value, err, want)
		}
	}
	if err := b.words.Apply(action.Action{Sequence: 99, Do: &action.AccountClosed{}}, b.view(t)); !errors.Is(err, ErrGap) {
		t.Errorf("an action left out: got %v, want ErrGap", err)
	}
	from, _ := parts("slunch")
	bad := index.NewOverlay(b.cells)
	bad.Set(append(from, "\x00\x00\x00\x00\x00\x00\x00\x01"...), []byte{1, 200, 1})
	q, _ := Parse("lunch", b.words.analyzer)
	if _, _, err := q.Run(b.view(t), bad, 1, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("corrupt cell: got %v, want ErrCorrupt", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{`a OR (b -c) "d e" f*`, "subject:x from:a@b.c in:inbox is:read", `after:2010-11-15 before:"2010-11-15T00:00:00Z"`, "((", `"`, "-", "NOT", "a AND", "tag:é"} {
		f.Add(seed)
	}
	a, err := NewAnalyzer(None)
	if err != nil {
		f.Fatal(err)
	}
	b := letters(f)
	f.Fuzz(func(t *testing.T, text string) {
		q, err := Parse(text, a)
		if err != nil {
			if !errors.Is(err, ErrQuery) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if _, _, err := q.Run(b.view(t), b.words, 10, nil); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func FuzzPostings(f *testing.F) {
	f.Add(encodeAll(1, []posting{{1, []byte{1, 2}}, {9, []byte{3}}}))
	f.Fuzz(func(t *testing.T, value []byte) {
		all, err := decodePart(nil, part("bx", 1), value)
		if err != nil {
			return
		}
		for _, p := range all {
			_, _ = p.positions()
		}
		again, err := decodePart(nil, part("bx", 1), encodeAll(1, all))
		if err != nil || len(again) != len(all) {
			t.Errorf("%x: %d postings, then %d, %v", value, len(all), len(again), err)
		}
	})
}

// large is a mailbox of n messages of 20 words drawn by Zipf's law, flushed each 500.
func large(t testing.TB, n int) *box {
	b := newBox(t, None)
	random := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(random, 1.1, 3, 50_000)
	for i := range n {
		thread := fmt.Sprint("t", i/10)
		if i%10 == 0 {
			b.do(t, &action.ThreadCreated{Thread: thread, Subject: fmt.Sprint("subject", i%100), Folder: action.FolderInbox})
		}
		var body strings.Builder
		for range 20 {
			fmt.Fprintf(&body, "w%d ", zipf.Uint64())
		}
		b.do(t, &action.MessageDelivered{Message: action.Message{Thread: thread, ID: fmt.Sprint("m", i), Author: ann,
			Channel: action.ChannelChat, Time: action.Time(i), Body: body.String()}})
		if i%500 == 499 {
			b.flush(t)
		}
	}
	return b
}

// BenchmarkQuery is on a mailbox of 100,000 messages.
func BenchmarkQuery(b *testing.B) {
	box := large(b, 100_000)
	view := box.view(b)
	for _, text := range []string{"w0", "w10", "w100", "w1000", "w20000", "w0 w1 w2", `"w0 w1"`, "w10*", "w5 -w0", "w1 OR w1000", "w0 is:read", "from:ann w7"} {
		b.Run(text, func(b *testing.B) {
			q, err := Parse(text, box.words.analyzer)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := q.Run(view, box.words, 20, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("words drawn like the messages'", func(b *testing.B) {
		zipf := rand.NewZipf(rand.New(rand.NewPCG(3, 4)), 1.1, 3, 50_000)
		var took []time.Duration
		b.ReportAllocs()
		for b.Loop() {
			begin := time.Now()
			q, err := Parse(fmt.Sprint("w", zipf.Uint64()), box.words.analyzer)
			if err == nil {
				_, _, err = q.Run(view, box.words, 20, nil)
			}
			if err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
		b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
	})
}

func BenchmarkApply(b *testing.B) {
	box := newBox(b, None)
	box.do(b, &action.ThreadCreated{Thread: "t", Subject: "on the weekend", Folder: action.FolderInbox})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		box.do(b, &action.MessageDelivered{Message: action.Message{Thread: "t", ID: fmt.Sprint("m", i), Author: ann, Channel: action.ChannelChat,
			Time: action.Time(i), Body: "see you at the station at nine, bring the tickets"}})
		if i%500 == 499 {
			b.StopTimer()
			box.flush(b)
			b.StartTimer()
		}
	}
}

// counting is a Reader that counts what is read.
type counting struct {
	index.Reader
	gets, scanned *int
}

func (c counting) Get(q []byte) []byte {
	*c.gets++
	return c.Reader.Get(q)
}

func (c counting) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(q, v []byte) bool) {
		for q, v := range c.Reader.Scan(from, to) {
			if *c.scanned++; !yield(q, v) {
				return
			}
		}
	}
}

// TestLittleIsRead: a page of a word that is in every message costs about a page, and
// one of a rare word about its messages, however large the mailbox is.
func TestLittleIsRead(t *testing.T) {
	const n = 3000
	b := newBox(t, None)
	b.do(t, &action.ThreadCreated{Thread: "t", Folder: action.FolderInbox})
	for i := range n {
		body := "common"
		if i%1000 == 7 {
			body = "common rare"
		}
		b.do(t, &action.MessageDelivered{Message: action.Message{Thread: "t", ID: fmt.Sprint("m", i), Author: ann, Channel: action.ChannelChat,
			Time: action.Time(i), Body: body}})
		if i%500 == 0 {
			b.flush(t)
		}
	}
	for query, hits := range map[string]int{"common": 20, "rare": 3, "common -rare": 20, "common rare": 3, `"common rare"`: 3, "absent": 0} {
		q, err := Parse(query, b.words.analyzer)
		if err != nil {
			t.Fatal(err)
		}
		var gets, scanned int
		view, err := index.Open(counting{b.meta, &gets, &scanned})
		if err != nil {
			t.Fatal(err)
		}
		page, _, err := q.Run(view, counting{b.words, &gets, &scanned}, 20, nil)
		if err != nil || len(page) != hits {
			t.Errorf("%s: %d hits, %v, want %d", query, len(page), err, hits)
		}
		if gets+scanned > 80 {
			t.Errorf("%s: %d cells fetched and %d scanned for %d hits of %d messages", query, gets, scanned, hits, n)
		}
	}
}

// TestWalkWhileWritten: a message that comes between pages is not shown on a later one,
// wherever its time puts it.
func TestWalkWhileWritten(t *testing.T) {
	b := newBox(t, None)
	b.do(t, &action.ThreadCreated{Thread: "t", Folder: action.FolderInbox})
	send := func(id string, day int) {
		b.do(t, &action.MessageDelivered{Message: action.Message{Thread: "t", ID: id, Author: ann, Channel: action.ChannelChat, Time: at(day), Body: "news"}})
	}
	send("a", 3)
	send("b", 9)
	for _, text := range []string{"news", "is:unread"} {
		q, err := Parse(text, b.words.analyzer)
		if err != nil {
			t.Fatal(err)
		}
		first, next, err := q.Run(b.view(t), b.words, 1, nil)
		if err != nil || len(first) != 1 || first[0].ID != "b" || next == nil {
			t.Fatalf("%s: first page %v, next %v, %v", text, first, next, err)
		}
		send("late-"+text[:2], 1)
		second, next, err := q.Run(b.view(t), b.words, 2, next)
		if err != nil || len(second) == 0 || second[0].ID != "a" || slices.ContainsFunc(second, func(m index.Message) bool { return m.ID == "late-"+text[:2] }) {
			t.Errorf("%s: second page %v, next %v, %v, want a and not the late one", text, second, next, err)
		}
	}
}
