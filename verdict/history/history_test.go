package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"darklaunch/verdict/judge"
)

// noise is n values around mean with a relative deviation of 3 %.
func noise(r *rand.Rand, n int, mean float64) (v []float64) {
	for range n {
		v = append(v, mean*(1+0.03*r.NormFloat64()))
	}
	return v
}

// TestSplit plants changes and finds each within two runs of its place, in at
// least 95 of 100 seeds; where there is none, or one too small to matter, it finds
// none in as many.
func TestSplit(t *testing.T) {
	for _, tc := range []struct {
		name   string
		levels []float64
		want   []int
	}{
		{"none", []float64{1, 1, 1}, nil},
		{"up 20 %", []float64{1, 1.2}, []int{30}},
		{"up and back", []float64{1, 1.2, 1}, []int{30, 60}},
		{"down", []float64{1, 0.8}, []int{30}},
		{"too small to matter", []float64{1, 1.02}, nil},
	} {
		right := 0
		for seed := range uint64(100) {
			r := rand.New(rand.NewPCG(seed, 1))
			var v []float64
			for _, level := range tc.levels {
				v = append(v, noise(r, 30, level)...)
			}
			got := Split(v)
			near := len(got) == len(tc.want)
			for i := range min(len(got), len(tc.want)) {
				near = near && got[i] >= tc.want[i]-2 && got[i] <= tc.want[i]+2
			}
			if near {
				right++
			}
		}
		if right < 95 {
			t.Errorf("%s: right for %d of 100 seeds, want 95", tc.name, right)
		}
	}
}

func TestSplitOfLittle(t *testing.T) {
	for _, v := range [][]float64{nil, {1}, {1, 2, 3}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {0, 0, 0, 0, 0, 0, 0, 0}} {
		if got := Split(v); got != nil {
			t.Errorf("%v: got %v, want no change", v, got)
		}
	}
	if got := Split([]float64{1, 1, 1, 1, 2, 2, 2, 2}); !slices.Equal(got, []int{4}) {
		t.Errorf("a step without noise: got %v, want 4", got)
	}
}

func document(at time.Time, commit, cpu string, p99 float64) *judge.Document {
	return &judge.Document{JudgedAt: at, Arms: []judge.Arm{{Role: judge.Base}, {Role: judge.Head, Version: commit, Plan: "p", Fingerprint: map[string]string{"cpu": cpu}}},
		Metrics: []judge.Metric{
			{Name: "latency", Stat: "p99", Route: "/", Unit: "s", Blocks: 2, Values: judge.Values{Head: &p99},
				Series: []judge.Point{{Values: judge.Values{Head: new(p99 - 1)}}, {Values: judge.Values{Head: new(p99 + 1)}}}},
			{Name: "errors", Route: "/"}}}
}

// TestChanges records a branch on two machines: only what one machine saw is
// compared.
func TestChanges(t *testing.T) {
	var file strings.Builder
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 40 {
		cpu, p99 := "a", 100.0
		if i%4 == 3 {
			cpu, p99 = "b", 1000
		}
		if i >= 20 {
			p99 *= 1.3
		}
		b, err := Encode(Of(document(day.AddDate(0, 0, i), fmt.Sprintf("c%d", i), cpu, p99+float64(i%3))))
		if err != nil {
			t.Fatal(err)
		}
		file.Write(b)
	}
	last, err := Encode(Of(document(day.AddDate(0, 0, 40), "c40", "a", 131)))
	if err != nil {
		t.Fatal(err)
	}
	file.Write(last)
	file.WriteString(`{"time":"2026-`) // of a run that was killed
	records, err := Read(strings.NewReader(file.String()))
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != 41 || records[0].SD == 0 || records[0].Blocks != 2 {
		t.Fatalf("got %d records, the first %+v", len(records), records[0])
	}
	got := Changes(records)
	if len(got) != 1 || got[0].Commit != "c20" || got[0].Effect() < 0.25 || got[0].Effect() > 0.35 {
		t.Errorf("got %+v, want one change of 30 %% at c20", got)
	}
	if got := Changes(nil); got != nil {
		t.Errorf("of nothing: got %v", got)
	}
}

func TestReadRefuses(t *testing.T) {
	for text, want := range map[string]string{"\n{\n": "line 2", `{"time":"x"}` + "\n": "line 1", `{"novel":1}` + "\n": "novel"} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", text, err, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("")
	f.Add(`{"time":"2026-01-01T00:00:00Z","commit":"c","fingerprint":"f","name":"latency","route":"/","unit":"s","value":1,"sd":0,"blocks":1}` + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		records, err := Read(strings.NewReader(text))
		if err != nil {
			return
		}
		Changes(records)
		b, err := Encode(records)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Read(strings.NewReader(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(records, again); diff != "" {
			t.Errorf("(-once +twice):\n%s", diff)
		}
	})
}
