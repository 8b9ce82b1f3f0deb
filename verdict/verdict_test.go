package verdict

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"darklaunch/verdict/judge"
)

// TestVerdicts lets a mirror tell of shadows that are as they should be, slow, failing
// and wrong: the state moves to what is true, and the reasons name it.
func TestVerdicts(t *testing.T) {
	good := fakeRoute{name: "GET /good", pairs: 30, noisy: 0.02}
	for _, tt := range []struct {
		name   string
		bad    fakeRoute
		state  string
		reason string // of the first
		field  string // that gates
	}{
		{"equal", fakeRoute{name: "GET /x", pairs: 30, noisy: 0.02}, "pass", "", ""},
		{"slow", fakeRoute{name: "GET /x", pairs: 30, slower: 0.3}, "fail", judge.ReasonMargin, ""},
		{"failing", fakeRoute{name: "GET /x", pairs: 30, errors: 0.02}, "fail", judge.ReasonMargin, ""},
		{"wrong", fakeRoute{name: "GET /x", pairs: 30, wrong: 0.02, noisy: 0.02}, "fail", "", "json:$.total"},
	} {
		if testing.Short() && tt.name != "wrong" {
			continue // which is the longest way through all of it
		}
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, quick())
				m := newFakeMirror(t, "m1", 7, good, tt.bad)
				m.connect(r)
				pass(9 * time.Minute)
				c := r.Comparison("s1")
				if c == nil || c.State != tt.state {
					t.Fatalf("got %+v, want %s", c, tt.state)
				}
				d := c.Document
				if tt.state == "fail" {
					if len(d.Reasons) == 0 || tt.reason != "" && d.Reasons[0].Code != tt.reason {
						t.Errorf("got reasons %+v, want %s", d.Reasons, tt.reason)
					}
					for _, reason := range d.Reasons {
						if reason.Route == good.name {
							t.Errorf("got %+v, of a route that is as it should be", reason)
						}
					}
				}
				if tt.field != "" {
					i := slices.IndexFunc(d.Differences, func(f judge.Difference) bool { return f.Use == judge.UseGate })
					if i < 0 || d.Differences[i].Field != tt.field || d.Differences[i].Route != tt.bad.name {
						t.Errorf("got differences %+v, want %s", d.Differences, tt.field)
					}
					if !slices.ContainsFunc(d.Reasons, func(r judge.Reason) bool { return strings.Contains(r.Text, tt.field) }) {
						t.Errorf("got reasons %+v, want %s named", d.Reasons, tt.field)
					}
				}
				if got := r.metric("verdict_state", "comparison", "s1", "state", tt.state); got != 1 {
					t.Errorf("got verdict_state %v, want 1", got)
				}
				m.disconnect()
				r.close()
			})
		})
	}
}

// stateDir is a directory in memory, where there are such: a state is synced each
// second, and seconds pass quickly here.
func stateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "darklaunch-verdict-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// copyDir is what kill -9 leaves: all that was written, and nothing that was not.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := stateDir(t)
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// known is what must be the same after a restart.
func known(p *Published) map[string]any {
	var d, running judge.Document
	if p.Document != nil {
		d, running = *p.Document, *p.Running
		d.JudgedAt, running.JudgedAt = time.Time{}, time.Time{}
	}
	mirrors := slices.Clone(p.Mirrors)
	for i := range mirrors {
		mirrors[i].Connected, mirrors[i].Clock = false, 0
	}
	return map[string]any{"state": p.State, "document": d, "running": running, "changes": p.Changes, "counts": p.Counts, "pairs": p.pairs, "mirrors": mirrors}
}

// look returns what is known now, and not at the last look.
func (r *rig) look(name string) *Published {
	r.t.Helper()
	if err := r.order(func() {
		for _, c := range r.comparisons {
			if c.document != nil {
				c.evaluate(time.Now())
			}
			r.publish(c)
		}
	}); err != nil {
		r.t.Fatal(err)
	}
	return r.Comparison(name)
}

// sum adds up the pairs of all routes, by result.
func sum(pairs map[string]routeCounts) map[string]uint64 {
	all := map[string]uint64{}
	for _, n := range pairs {
		for i, result := range pairResults {
			all[result] += n[i]
		}
	}
	return all
}

// TestKilled kills the server again and again, at moments that mean nothing to it:
// what it knows after each start is what it knew, and it ends where one ends that was
// never killed.
func TestKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		route := fakeRoute{name: "GET /x", pairs: 20, wrong: 0.05, noisy: 0.05}
		cfg := quick()
		cfg.Judge.MinDuration, cfg.Judge.WarmUp, cfg.Judge.WarmUpShare = 2*time.Minute, -1, -1
		cfg.State = stateDir(t)
		whole := newRig(t, cfg) // the same traffic goes to it, and it is never killed
		other := cfg
		other.State = stateDir(t)
		killed := newRig(t, other)
		a, b := newFakeMirror(t, "m1", 7, route), newFakeMirror(t, "m1", 7, route)
		a.connect(whole)
		b.connect(killed)
		runs := []time.Duration{400 * time.Millisecond, 7300 * time.Millisecond, 61 * time.Second, 10 * time.Second, 95500 * time.Millisecond, 200 * time.Second}
		if testing.Short() {
			runs = runs[2:5]
		}
		for i, run := range runs {
			pass(run)
			before := killed.look("s1")
			dir := copyDir(t, other.State)
			// The network breaks with the process.
			b.disconnect()
			killed.close()
			other.State = dir
			killed = newRig(t, other)
			synctest.Wait()
			after := killed.Comparison("s1")
			if before == nil || after == nil {
				t.Fatalf("restart %d: got %v after %v", i, after, before)
			}
			if diff := cmp.Diff(known(before), known(after)); diff != "" {
				t.Fatalf("restart %d (-before +after):\n%s", i, diff)
			}
			b.connect(killed)
		}
		pass(4 * time.Minute)
		got, want := killed.Comparison("s1"), whole.Comparison("s1")
		if got.State != "fail" || want.State != "fail" {
			t.Errorf("got %s and %s, want fail of both", got.State, want.State)
		}
		// A mirror that comes back begins a second anew, so that one may be missing of
		// each time, and one at the end.
		restarts := uint64(len(runs))
		for result, n := range sum(want.pairs) {
			if have := sum(got.pairs)[result]; result == "same" && (have > n || have+20*(restarts+1) < n) {
				t.Errorf("got %d pairs, want %d or a little less", have, n)
			}
		}
		if got.Counts.Lost != 0 || got.Counts.Late != 0 {
			t.Errorf("got %+v, want nothing lost", got.Counts)
		}
		a.disconnect()
		b.disconnect()
		whole.close()
		killed.close()
	})
}

// TestBrokenRig holds that evidence which can't be trusted makes no verdict, whatever
// it says, and that the reason is named.
func TestBrokenRig(t *testing.T) {
	for _, tt := range []struct {
		name, reason string
		change       func(m *fakeMirror)
		each         func(m *fakeMirror) // second
	}{
		{"records are lost", judge.ReasonStream, nil, func(m *fakeMirror) { m.sequence++ }},
		{"the mirror chose not to show pairs", "", nil, func(m *fakeMirror) { m.sequence += 3; m.budget += 3 }},
		{"copies are dropped by load", judge.ReasonDropped, nil, func(m *fakeMirror) { m.dropped += 2 }},
		{"the clock is away", judge.ReasonClock, func(m *fakeMirror) { m.skew = 9 * time.Second }, nil},
		{"the clock is far away", judge.ReasonNoData, func(m *fakeMirror) { m.skew = time.Hour }, nil},
	} {
		if testing.Short() && tt.reason != judge.ReasonStream {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := quick()
				cfg.Judge.MinDuration, cfg.Judge.WarmUp, cfg.Judge.WarmUpShare = 2*time.Minute, -1, -1
				cfg.Judge.Metrics = []judge.Rule{{Name: judge.MetricErrors, Margin: 0.05}, {Name: judge.MetricDifferences, Margin: 0.05}, {Name: judge.MetricLatency, Margin: 0.5, Use: judge.UseWatch}}
				cfg.Join.Window = 5 * time.Second
				r := newRig(t, cfg)
				m := newFakeMirror(t, "m1", 7, fakeRoute{name: "GET /x", pairs: 10})
				m.each = tt.each
				if tt.change != nil {
					tt.change(m)
				}
				m.connect(r)
				pass(6 * time.Minute)
				c := r.Comparison("s1")
				var codes []string
				if c.Document != nil {
					for _, reason := range c.Document.Reasons {
						codes = append(codes, reason.Code)
					}
				}
				switch {
				case tt.reason == "" && c.State != "pass":
					t.Errorf("got %s, %q, want pass", c.State, codes)
				case tt.reason == judge.ReasonNoData && c.State != "warming":
					t.Errorf("got %s, want nothing judged of what is of another time", c.State)
				case tt.reason != "" && tt.reason != judge.ReasonNoData && (c.State == "pass" || c.State == "fail" || !slices.Contains(codes, tt.reason)):
					t.Errorf("got %s, %q, want no verdict, and %s", c.State, codes, tt.reason)
				}
				m.disconnect()
				r.close()
			})
		})
	}
}
