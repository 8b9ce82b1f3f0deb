package guard

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// block is a block of sound traffic, of which so much failed in each group.
func block(sending bool, unsampled, sampled uint64) Block {
	return Block{
		Sending: sending, Set: true, Overhead: 100 * time.Microsecond, Chunks: 10_000,
		Unsampled: Traffic{10_000, unsampled}, Sampled: Traffic{1_000, sampled},
	}
}

func with(b Block, change func(*Block)) Block {
	change(&b)
	return b
}

func held(b Block) Block { return with(b, func(b *Block) { b.Held = true }) }

func slow(b Block, d time.Duration) Block { return with(b, func(b *Block) { b.Overhead = d }) }

func times(n int, b Block) (all []Block) {
	for range n {
		all = append(all, b)
	}
	return all
}

func join(lists ...[]Block) (all []Block) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// TestJudge plays blocks to a guard and wants it to find harm at the last one,
// and not before; or not at all.
func TestJudge(t *testing.T) {
	sound := block(true, 100, 10)
	off := held(block(false, 100, 10))
	before := block(false, 100, 10)
	for _, tt := range []struct {
		name   string
		cfg    Config
		blocks []Block
		harm   Symptom
		why    string
	}{
		{"sound, no baseline", Config{}, times(50, sound), "", ""},
		{"errors beyond the limit", Config{}, times(3, block(true, 4000, 400)), Errors, "40.00 % of its exchanges, over the limit of 25.00 %, in 3 blocks"},
		{"a limit of one's own", Config{Errors: 0.005, Blocks: 1}, times(1, sound), Errors, "0.50 %"},
		{"live that has always failed", Config{}, times(50, block(true, 2000, 200)), "", ""},
		{"twice is an accident", Config{}, join(times(2, block(true, 4000, 400)), times(1, sound), times(2, block(true, 4000, 400))), "", ""},
		{"a quiet block does not acquit", Config{}, join(times(2, block(true, 4000, 400)), times(1, Block{Sending: true}), times(1, block(true, 4000, 400))), Errors, "3 blocks"},
		{"overhead beyond the limit", Config{}, times(3, slow(sound, 51*time.Millisecond)), Overhead, "51ms at the 99th percentile, over the limit of 50ms"},
		{"overhead of too little", Config{}, times(50, with(slow(sound, time.Second), func(b *Block) { b.Chunks = 99 })), "", ""},

		{"on against off, sound", Config{}, join(times(5, off), times(50, sound)), "", ""},
		{"on against off, errors", Config{}, join(times(3, off), times(3, block(true, 300, 30))), Errors, "3.00 % of its exchanges, against 1.00 % while nothing is sent"},
		{"on against off, too little to tell", Config{}, join(times(3, off), times(50, with(sound, func(b *Block) { b.Unsampled, b.Sampled = Traffic{100, 5}, Traffic{} }))), "", ""},
		{"on against off, errors below the margin", Config{}, join(times(20, off), times(50, block(true, 190, 19))), "", ""},
		{"on against off, off is bad too", Config{}, join(times(3, held(block(false, 4000, 400))), times(50, block(true, 4000, 400))), "", ""},
		{"on against off, overhead", Config{}, join(times(3, off), times(3, slow(sound, 2*time.Millisecond))), Overhead, "2ms at the 99th percentile, against 100µs"},
		{"on against off, overhead below the margin", Config{}, join(times(3, off), times(50, slow(sound, time.Millisecond))), "", ""},
		{"on against off, a slow machine", Config{}, join(times(3, slow(off, 60*time.Millisecond)), times(50, slow(sound, 100*time.Millisecond))), "", ""},
		{"too few off", Config{}, join(times(2, off), times(50, block(true, 300, 30))), "", ""},

		{"before and after, sound", Config{}, join(times(5, before), times(50, sound)), "", ""},
		{"before and after, of the sampled", Config{}, join(times(5, before), times(3, block(true, 100, 100))), Errors, "+9.00 points more often than others', against +0.00"},
		{"before and after, of all", Config{}, join(times(5, before), times(50, block(true, 1000, 100))), "", ""},
		{"before and after, sampled were always worse", Config{}, join(times(5, block(false, 100, 100)), times(50, block(true, 100, 100))), "", ""},
		{"before and after, overhead has its limit", Config{}, join(times(5, before), times(3, slow(sound, time.Second))), Overhead, "limit"},
		{"sample not set before", Config{}, join(times(5, with(before, func(b *Block) { b.Set = false })), times(50, block(true, 100, 100))), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := New(tt.cfg)
			for i, b := range tt.blocks {
				harm, why := g.Judge(b)
				last := i == len(tt.blocks)-1
				switch {
				case !last && harm != "":
					t.Fatalf("block %d: got %s, %s, before the end", i, harm, why)
				case last && (harm != tt.harm || !strings.Contains(why, tt.why)):
					t.Errorf("got %q, %q, want %q, %q", harm, why, tt.harm, tt.why)
				}
			}
		})
	}
}

// TestSeeded keeps blocks out of the baseline that come after users were seeded.
func TestSeeded(t *testing.T) {
	g := New(Config{})
	for range 3 {
		g.Judge(block(false, 100, 10))
	}
	g.Seeded()
	for range 50 {
		g.Judge(block(false, 100, 1000))
	}
	for i := range 3 {
		if harm, _ := g.Judge(block(true, 100, 100)); (harm == Errors) != (i == 2) {
			t.Errorf("block %d: got %q", i, harm)
		}
	}
	if g.Evidence() != Baseline || g.Bad() != 3 {
		t.Errorf("got %s, %d bad", g.Evidence(), g.Bad())
	}
	g.Resumed()
	if harm, _ := g.Judge(block(true, 100, 100)); harm != "" || g.Bad() != 1 {
		t.Errorf("after a resume: got %q, %d bad, want to begin anew", harm, g.Bad())
	}
}

// TestNoFalseAlarm draws traffic whose errors have nothing to do with sending.
func TestNoFalseAlarm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		permille := rapid.Uint64Range(0, 200).Draw(t, "errors")
		g := New(Config{})
		for i := range 200 {
			n := rapid.Uint64Range(0, 5000).Draw(t, "requests")
			off := i%10 == 0
			// What a binomial draw would be off by, three times in four.
			spread := rapid.Float64Range(-1.15, 1.15).Draw(t, "luck")
			p := float64(permille) / 1000
			deviation := spread * math.Sqrt(p*(1-p)*float64(n))
			failed := uint64(min(float64(n), max(0, p*float64(n)+deviation)))
			b := Block{Sending: !off, Held: off, Set: true, Chunks: 1000, Overhead: time.Millisecond, Unsampled: Traffic{n, failed}}
			if harm, why := g.Judge(b); harm != "" {
				t.Fatalf("block %d: %s: %s", i, harm, why)
			}
		}
	})
}
