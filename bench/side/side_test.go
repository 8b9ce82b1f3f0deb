package side

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestCPU burns a known amount by the process's own count.
func TestCPU(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Skipf("no schedstat on this system: %v", err)
	}
	const least = 20 * time.Millisecond
	after := before
	for deadline := time.Now().Add(30 * time.Second); after < before+least; {
		if time.Now().After(deadline) {
			t.Fatalf("counted %v in 30 s of work", after-before)
		}
		for i, end := 0, time.Now().Add(time.Millisecond); time.Now().Before(end); i++ {
		}
		if after, err = CPU(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := CPU(1 << 30); err == nil {
		t.Error("counted a process that there isn't")
	}
}

func TestInterleave(t *testing.T) {
	var order []string
	variant := func(name string, values ...float64) Variant {
		return Variant{name, func() (map[string]float64, error) {
			order = append(order, name)
			x := values[0]
			values = values[1:]
			return map[string]float64{"cost": x, "rate": 1000 / x}, nil
		}}
	}
	r, err := Interleave(3, variant("base", 10, 20, 40), variant("ours", 5, 16, 10))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(order, " "), "base ours ours base base ours"; got != want {
		t.Errorf("ran %s, want %s", got, want)
	}
	if got := r.Median("base", "cost"); got != 20 {
		t.Errorf("median: got %v, want 20", got)
	}
	// The ratio is taken within each round: 0.5, 0.8, 0.25; of the medians it would be 0.5 as well by chance of 10 ÷ 20.
	if mid, low, high := r.Ratio("ours", "base", "cost"); mid != 0.5 || low != 0.25 || high != 0.8 {
		t.Errorf("ratio: got %v [%v, %v], want 0.5 [0.25, 0.8]", mid, low, high)
	}
	if diff := cmp.Diff([]float64{-5, -4, -30}, r.Differences("ours", "base", "cost")); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	want := `| | µs a request | ÷ base | requests/s |
|---|---:|---:|---:|
| base | 20.0 | 1.00 [1.00, 1.00] | 50 |
| ours | 10.0 | 0.50 [0.25, 0.80] | 100 |
`
	got := r.Table("base", Column{"cost", "µs a request", "%.1f"}, Column{"rate", "requests/s", "%.0f"})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// TestClaim: a claim about what was not measured says so, one that the rounds do
// not agree on is not settled.
func TestClaim(t *testing.T) {
	value := func(xs ...float64) func() (map[string]float64, error) {
		return func() (map[string]float64, error) {
			x := xs[0]
			xs = xs[1:]
			return map[string]float64{"cpu": x}, nil
		}
	}
	r, err := Interleave(3, Variant{"base", value(10, 10, 10)}, Variant{"new", value(5, 6, 8)})
	if err != nil {
		t.Fatal(err)
	}
	r.Variants = append(r.Variants, "once")
	r.values["once"] = map[string][]float64{"cpu": {1}}
	for _, tt := range []struct {
		c    Claim
		want string
	}{
		{Claim{"new", "base", 0.9}, "* new ≤ 0.90 × base: 0.60 [0.50, 0.80], holds.\n"},
		{Claim{"new", "base", 0.7}, "* new ≤ 0.70 × base: 0.60 [0.50, 0.80], not settled.\n"},
		{Claim{"new", "base", 0.4}, "* new ≤ 0.40 × base: 0.60 [0.50, 0.80], **does not hold**.\n"},
		{Claim{"once", "base", 0.4}, "* once ≤ 0.40 × base: 0.10 [0.10, 0.10], not settled by so few rounds.\n"},
		{Claim{"newer", "base", 0.4}, "* newer ≤ 0.40 × base: not there yet.\n"},
	} {
		if got := tt.c.Text(r, "cpu"); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

func TestCommand(t *testing.T) {
	got := command([]string{"/tmp/b1/mirror.test", "-test.paniconexit0", "-test.testlogfile=/tmp/x", "-test.timeout=30m0s", "-test.run=^$", "-test.bench=.", "-rounds", "1"}, "bench/mirror.test")
	if want := "go test -run=^$ -bench=. -rounds 1 ./bench/mirror"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := Command(); !strings.HasSuffix(got, " ./bench/side") {
		t.Errorf("got %q, want this package named", got)
	}
}

// TestUsage: this process holds memory and its descriptors, one more when a file
// is opened.
func TestUsage(t *testing.T) {
	before, err := UsageOf(os.Getpid())
	if err != nil {
		t.Skipf("no /proc on this system: %v", err)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	after, err := UsageOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if before.RSS < 1<<20 || after.Descriptors != before.Descriptors+1 {
		t.Errorf("got %+v and %+v with one file more", before, after)
	}
	if _, err := UsageOf(1 << 30); err == nil {
		t.Error("told of a process that there isn't")
	}
}

func TestRecordReplacesItsSectionAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "RESULTS.md")
	for _, s := range [][2]string{{"a", "one"}, {"b", "two"}, {"a", "three"}} {
		if err := Record(file, s[0], s[1]); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := "\n<!-- a -->\nthree\n<!-- end of a -->\n\n<!-- b -->\ntwo\n<!-- end of b -->\n"
	if diff := cmp.Diff(want, string(b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := os.WriteFile(file, []byte("<!-- a -->\nbroken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Record(file, "a", "x"); err == nil {
		t.Error("a section without an end was replaced")
	}
}

// TestPaired: a pair that the machine spoilt moves little, and few pairs settle
// nothing.
func TestPaired(t *testing.T) {
	of := func(n int) []float64 {
		x := make([]float64, n)
		for i := range x {
			x[i] = 3 + float64(i%5-2)
			if i == 0 {
				x[i] = 1e6 // spoilt
			}
		}
		return x
	}
	for n, want := range map[int]string{0: "not settled", 1: "not settled", 5: "not settled", 20: "holds", 400: "holds"} {
		i := Paired(of(n))
		if got := Said(i.Lower, i.Upper, 5); got != want {
			t.Errorf("%d pairs about 3: got %+v, which %s, want that at most 5 %s", n, i, got, want)
		}
		if n >= 20 && (i.Centre < 2 || i.Centre > 4) {
			t.Errorf("%d pairs about 3: got the centre %v", n, i.Centre)
		}
	}
	if i := Paired(make([]float64, 1000)); i != (Interval{}) {
		t.Errorf("a thousand pairs, too many for ranks: got %+v, want 0", i)
	}
	if i := Paired(of(20)); Said(i.Lower, i.Upper, 1) != "**does not hold**" {
		t.Errorf("got %+v, want that it is more than 1", i)
	}
}
