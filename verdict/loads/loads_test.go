package loads

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/loadgen"
	"darklaunch/verdict/judge"
)

// result is a run of 1,200 calls of one operation.
func result(t *testing.T, took time.Duration, censored int64) *loadgen.Result {
	t.Helper()
	encode := func(d time.Duration, n int64) string {
		h := hist.New()
		h.RecordN(d, n)
		b, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	f := loadgen.Figures{Sent: 1200, OK: 1200 - uint64(censored)}
	return &loadgen.Result{
		Plan: "p", Duration: 10, Total: 1, Ops: map[string]loadgen.Figures{"read": f},
		Histograms: map[string]loadgen.Histograms{"read": {Response: encode(took, 1200-censored), ResponseCensored: encode(10*time.Second, censored), Pacing: encode(time.Microsecond, 1200)}},
	}
}

func TestWindow(t *testing.T) {
	base, head := result(t, 20*time.Millisecond, 0), result(t, 30*time.Millisecond, 100)
	head.Duration = 9
	w, err := Window(Run{"base", base}, Run{"head", head})
	if err != nil {
		t.Fatal(err)
	}
	read := w.Routes["read"]
	if w.Length != 9*time.Second || read.Latency[judge.Head].Timeouts != 100 || read.Latency[judge.Head].Durations.Count() != 1100 ||
		read.Calls[judge.Head] != (judge.Calls{Total: 1200, Failed: 100}) || read.Calls[judge.Base] != (judge.Calls{Total: 1200}) || w.Rig.Lateness.Count() != 2400 {
		t.Errorf("got %+v, %+v", w, read)
	}
	for name, change := range map[string]func(*loadgen.Result){
		"damaged":         func(r *loadgen.Result) { r.Histograms["read"] = loadgen.Histograms{Response: "!"} },
		"no histogram":    func(r *loadgen.Result) { delete(r.Histograms, "read") },
		"more calls":      func(r *loadgen.Result) { r.Ops["read"] = loadgen.Figures{Sent: 1201} },
		"more ok than so": func(r *loadgen.Result) { r.Ops["read"] = loadgen.Figures{Sent: 1200, OK: 1201} },
	} {
		bad := result(t, time.Millisecond, 0)
		change(bad)
		if _, err := Window(Run{"base", base}, Run{"bad.json", bad}); err == nil || !strings.Contains(err.Error(), "bad.json: operation read") {
			t.Errorf("%s: got %v, want an error that names the file and the operation", name, err)
		}
	}
}

func TestPair(t *testing.T) {
	named := func(names string) (runs []Run) {
		for _, n := range strings.Fields(names) {
			runs = append(runs, Run{Name: n})
		}
		return runs
	}
	for _, c := range []struct{ base, head, pairs, left string }{
		{"a b c", "a b c", "a-a b-b c-c", ""},
		{"a b", "x y", "a-x b-y", ""},
		{"a b c", "b c d", "b-b c-c", "a d"},
		{"a b", "a", "a-a", "b"},
		{"a b", "x", "", "a b x"},
	} {
		pairs, left := pair(named(c.base), named(c.head))
		var got []string
		for _, p := range pairs {
			got = append(got, p[0].Name+"-"+p[1].Name)
		}
		if strings.Join(got, " ") != c.pairs || strings.Join(left, " ") != c.left {
			t.Errorf("%q with %q: got %v, left %v, want %q, left %q", c.base, c.head, got, left, c.pairs, c.left)
		}
	}
}

func TestJudge(t *testing.T) {
	runs := func(took time.Duration, censored int64) (all []Run) {
		for i := range 6 {
			all = append(all, Run{fmt.Sprint(i), result(t, took+time.Duration(i%2)*took/100, censored)})
		}
		return all
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		name string
		head []Run
		want judge.Verdict
	}{
		{"same", runs(20*time.Millisecond, 0), judge.Pass},
		{"slower", runs(30*time.Millisecond, 0), judge.Fail},
		{"given up", runs(20*time.Millisecond, 100), judge.Fail}, // their errors tell, where p99 can't
	} {
		d, err := Judge(c.name, judge.Config{}, runs(20*time.Millisecond, 0), c.head, at)
		if err != nil {
			t.Fatal(err)
		}
		if d.Verdict != c.want || d.Rig.Blocks != 6 {
			t.Errorf("%s: got %s %v of %d blocks, want %s", c.name, d.Verdict, d.Reasons, d.Rig.Blocks, c.want)
		}
	}
	if _, err := Judge("", judge.Config{}, nil, runs(time.Millisecond, 0), at); err == nil {
		t.Error("no base: got no error")
	}
}
