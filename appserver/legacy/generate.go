package legacy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// Generated is a made-up message of a made-up user.
type Generated struct {
	Kind     Kind
	Time     int64 // milliseconds since 1970
	From     string
	To       []string // of an Inbox's new thread, and of Chat
	Subject  string   // of an Inbox's new thread
	Body     string
	Reply    int  // in the Inbox: which earlier message, counted from 0, it replies to; -1 begins a thread
	Read     bool // by all recipients
	Filtered bool // belongs in the recipients' other folder
}

// Generate calls yield with the messages of users u0 to u(n-1), in order of time, which
// ends at end, in milliseconds. The same arguments give the same. Who is how active is
// log-normal, with few who write much, as are the sizes of messages, with a median of
// some 25 words; contacts are few and favour the popular; threads are mostly short, and
// the older ones read.
func Generate(n int, seed uint64, end int64, yield func(Generated) error) error {
	r := rand.New(rand.NewPCG(seed, 0x6c6567616379))
	w := newWords(r)
	activity := make([]float64, n)
	total := 0.0
	for i := range activity {
		activity[i] = math.Exp(r.NormFloat64())
		total += activity[i]
	}
	contacts := make([][]int, n)
	for i := range contacts {
		for range 2 + int(math.Exp(1+0.7*r.NormFloat64())) {
			// The square favours low numbers: the popular ones.
			f := r.Float64()
			if c := int(f * f * float64(n)); c != i {
				contacts[i] = append(contacts[i], c)
			}
		}
	}
	type thread struct{ last int } // message
	threads := make([][]*thread, n)
	messages := n * 15
	const year = 365 * 24 * 3600 * 1000
	step := int64(max(year/max(messages, 1), 1))
	at := end - step*int64(messages)
	inboxed := 0
	for k := range messages {
		author := pick(r, activity, total)
		if len(contacts[author]) == 0 {
			continue
		}
		g := Generated{Time: at + int64(k)*step + r.Int64N(step), From: name(author), Reply: -1, Read: k < messages*9/10, Body: w.text(int(math.Exp(3.2 + r.NormFloat64())))}
		peer := contacts[author][r.IntN(len(contacts[author]))]
		mine := threads[author]
		switch {
		case r.Float64() < 0.5:
			g.Kind, g.To, g.Body = Chat, []string{name(peer)}, w.text(int(math.Exp(1.6+0.8*r.NormFloat64())))
		case len(mine) > 0 && r.Float64() < 0.6:
			t := mine[len(mine)-1-r.IntN(min(len(mine), 5))]
			g.Kind, g.Reply = Inbox, t.last
			t.last = inboxed
		default:
			g.Kind, g.Subject, g.To = Inbox, w.text(2+r.IntN(5)), []string{name(peer)}
			members := []int{author, peer}
			for r.Float64() < 0.25 && len(members) < 8 {
				if c := contacts[author][r.IntN(len(contacts[author]))]; !slices.Contains(members, c) {
					members = append(members, c)
					g.To = append(g.To, name(c))
				}
			}
			g.Filtered = r.Float64() < 0.05
			t := &thread{last: inboxed}
			for _, m := range members {
				threads[m] = append(threads[m], t)
			}
		}
		if g.Kind == Inbox {
			inboxed++
		}
		if err := yield(g); err != nil {
			return err
		}
	}
	return nil
}

func name(i int) string { return fmt.Sprintf("u%d", i) }

// pick draws an index by weight.
func pick(r *rand.Rand, weights []float64, total float64) int {
	at := r.Float64() * total
	for i, w := range weights {
		if at -= w; at < 0 {
			return i
		}
	}
	return len(weights) - 1
}

// words are a made-up language: some words of it make most of a text.
type words struct {
	r     *rand.Rand
	all   []string
	which *rand.Zipf
}

func newWords(r *rand.Rand) *words {
	w := &words{r: r}
	const consonants, vowels = "bdfghklmnprstvz", "aeiou"
	for range 3000 {
		var b strings.Builder
		for range 1 + r.IntN(3) {
			b.WriteByte(consonants[r.IntN(len(consonants))])
			b.WriteByte(vowels[r.IntN(len(vowels))])
		}
		if r.IntN(3) == 0 {
			b.WriteByte(consonants[r.IntN(len(consonants))])
		}
		w.all = append(w.all, b.String())
	}
	w.which = rand.NewZipf(r, 1.1, 3, uint64(len(w.all)-1))
	return w
}

// text returns 1 to 4,000 words.
func (w *words) text(n int) string {
	var b strings.Builder
	for i := range min(max(n, 1), 4000) {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(w.all[w.which.Uint64()])
	}
	return b.String()
}
