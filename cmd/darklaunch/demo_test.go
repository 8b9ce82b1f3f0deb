package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"darklaunch/appserver/fault"
	"darklaunch/verdict/judge"
)

// rehearse runs a demo to its end and returns what it came to. On a machine that is
// busy with other tests it may be slow; what it says of answers and mailboxes holds.
func rehearse(t *testing.T, args ...string) (code int, text string, d judge.Document) {
	t.Helper()
	dir := t.TempDir()
	code, text, stderr := start(t, append([]string{"demo", "--for", "60s", "--out", dir}, args...)...).end()
	if code == exitCouldNotRun || code == exitUsage {
		t.Fatalf("got %d; stdout: %s; stderr: %s", code, text, stderr)
	}
	if err := json.Unmarshal([]byte(readFile(t, filepath.Join(dir, "verdict.json"))), &d); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"report.html", "report.md", "junit.xml", "config/mirror.yaml", "logs/mirror.log", "consistency.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("--out: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("the data of the demo are left behind")
	}
	return code, text, d
}

// trusted reports whether all conditions held under which a verdict is one.
func trusted(d judge.Document) bool {
	return !slices.ContainsFunc(d.Rig.Gates, func(g judge.Gate) bool { return !g.OK })
}

// TestDemo rehearses a dark launch of a system that is right: each mailbox equals the
// old one, and no gating difference is found. Rows K148-K161, A8.
func TestDemo(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs for more than a minute")
	}
	code, text, d := rehearse(t)
	wantRight(t, text, d)
	t.Logf("ended with %d: %s of %d pairs in %d blocks; %+v", code, d.Verdict, d.Rig.Pairs, d.Rig.Blocks, d.Reasons)
}

// wantRight wants that a demo found nothing wrong with answers and mailboxes.
func wantRight(t *testing.T, text string, d judge.Document) {
	t.Helper()
	found := regexp.MustCompile(`of (\d+) sampled users compared, (\d+) differ, of which (\d+) are of users known`).FindStringSubmatch(text)
	if found == nil || found[1] == "0" || found[2] != found[3] {
		t.Errorf("got %s, want all mailboxes alike but those of users who are known to have missed something", text)
	}
	for _, r := range d.Reasons {
		if r.Code == judge.ReasonDifference || r.Code == reasonConsistency || r.Code == judge.ReasonMargin && r.Metric == judge.MetricDifferences {
			t.Errorf("a system that is right: got %+v", r)
		}
	}
	if d.Rig.Pairs < 300 {
		t.Errorf("got %d pairs, want the traffic of the sample", d.Rig.Pairs)
	}
}

// TestDemoFault plants a fault, and wants it found by the field that it makes wrong.
func TestDemoFault(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs for more than a minute")
	}
	code, _, d := rehearse(t, "--fault", "wrong-unread")
	if code != exitFail && trusted(d) {
		t.Errorf("got %d and %s, want a fail", code, d.Verdict)
	}
	if code != exitFail {
		t.Logf("this machine is too busy for a verdict: %+v", d.Reasons)
	}
	if !slices.ContainsFunc(d.Differences, func(f judge.Difference) bool { return strings.Contains(f.Field, "unread") && f.Tier == judge.Confirmed }) {
		t.Errorf("got %+v, want the field that is wrong among the differences", d.Differences)
	}
}

// TestDemoFaults plants each fault, and wants it found with its symptom among the first
// three reasons.
func TestDemoFaults(t *testing.T) {
	if os.Getenv("DARKLAUNCH_FULL") == "" {
		t.Skip("set DARKLAUNCH_FULL=1: runs for a quarter of an hour on a machine that does nothing else")
	}
	faults, err := demoFaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Run(f.Name, func(t *testing.T) {
			code, _, d := rehearse(t, "--fault", f.Name, "--for", "90s")
			wantFound(t, f.Name, code, d)
		})
	}
}

// wantFound wants a verdict to have found a fault, with its symptom among the first
// three reasons.
func wantFound(t *testing.T, name string, code int, d judge.Document) {
	t.Helper()
	faults, err := demoFaults()
	if err != nil {
		t.Fatal(err)
	}
	f := faults[slices.IndexFunc(faults, func(f demoFault) bool { return f.Name == name })]
	first := d.Reasons[:min(3, len(d.Reasons))]
	t.Logf("%d: %+v", code, first)
	if code != exitFail || !slices.ContainsFunc(first, func(r judge.Reason) bool {
		return strings.Contains(strings.Join([]string{r.Code, r.Metric, r.Route, r.Text}, " "), f.Symptom)
	}) {
		t.Errorf("got %d and %+v, want a fail with %q among the first reasons", code, first, f.Symptom)
	}
}

// TestDemoInterrupted ends a demo in its middle, and wants nothing left of it.
func TestDemoInterrupted(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts a dozen processes")
	}
	dir := t.TempDir()
	r := start(t, "demo", "--out", dir)
	for line := ""; !strings.HasPrefix(line, "load:"); {
		var err error
		if line, err = r.stdout.ReadString('\n'); err != nil {
			t.Fatalf("got %v; %s", err, readFile(t, r.log))
		}
	}
	at := readyLines(filepath.Join(dir, "logs", "mirror.log"))["admin"]
	if at == "" {
		t.Fatal("the mirror told no address")
	}
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitInconclusive || !strings.Contains(stderr, "cut short") {
		t.Errorf("got %d, %s, want %d and why", code, stderr, exitInconclusive)
	}
	waitFor(t, "all of its processes to end", func() bool {
		found, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(found, func(name string) bool {
			b, err := os.ReadFile(name)
			return err == nil && strings.Contains(string(b), dir)
		})
	})
}

func TestDemoRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		"is not a fault": {"--fault", "none"},
		"one at a time":  {"--fault", "slow-search", "--fault", "slow-large"},
		"too short":      {"--for", "10s"},
		"100 at least":   {"--users", "3"},
		"--out":          {"--out", "/dev/null/x"},
	} {
		began := time.Now()
		if code, _, stderr := start(t, append([]string{"demo"}, args...)...).end(); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%v: got %d, %s (after %v), want %d and %q", args, code, stderr, time.Since(began), exitUsage, want)
		}
	}
}

// TestFaultsAreTold holds that the faults that are told are those that there are.
func TestFaultsAreTold(t *testing.T) {
	faults, err := demoFaults()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range faults {
		if f.Does == "" || f.Symptom == "" {
			t.Errorf("%s: say what it does and what shows it", f.Name)
		}
		names = append(names, f.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, fault.Names()) {
		t.Errorf("told are %v, there are %v", names, fault.Names())
	}
}
