package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"darklaunch/verdict/judge"
	"darklaunch/verdict/report"
)

// gateFile writes a configuration and returns its name.
func gateFile(t *testing.T, dir, text string) string {
	t.Helper()
	name := filepath.Join(dir, "gate.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// startGate runs gate with a directory for temporary files of its own.
func startGate(t *testing.T, args ...string) (r *running, temp string) {
	t.Helper()
	temp = t.TempDir()
	t.Setenv("TMPDIR", temp)
	return start(t, append([]string{"gate"}, args...)...), temp
}

// isEmpty holds that a gate has left nothing in its directory for temporary files.
func isEmpty(t *testing.T, temp string) {
	t.Helper()
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left in the directory for temporary files: %v, %v", left, err)
	}
}

// gateService is a repository with two versions of a service: what a request
// costs is a constant of the source, which the second commit changes.
func gateService(t *testing.T, base, head int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	source := readFile(t, "testdata/gateserver/main.go")
	git := func(args ...string) {
		cmd := exec.Command("git", append([]string{"-c", "user.name=test", "-c", "user.email=test@example.org"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	git("init", "--quiet", "--initial-branch=main")
	write("go.mod", "module service\n\ngo 1.26\n")
	for i, work := range []int{base, head} {
		text := strings.Replace(source, `"work", 1000`, fmt.Sprintf(`"work", %d`, work), 1)
		if text == source {
			t.Fatal("the service has no work to change")
		}
		write("main.go", fmt.Sprintf("%s\n// %d\n", text, i))
		git("add", "--all")
		git("commit", "--quiet", "--message", fmt.Sprintf("work %d", work))
	}
	return dir
}

// shortGate are rounds that a test has time for, judged by the cost of a request.
const shortGate = `
build: go build -o {out}/server .
start: exec {out}/server -listen 127.0.0.1:{port}
probe: http://127.0.0.1:{port}/
load: http http://127.0.0.1:{port}/ --rate 150/s --for 800ms
rounds: 5
metrics:
  - {name: latency, stat: p50, use: watch}
  - {name: latency, stat: p99, use: watch}
  - {name: errors, use: watch}
  - {name: cpu_per_request, margin: 10%}
`

// TestGate compares two commits, of which the second costs twice as much, and one
// with itself.
func TestGate(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs services")
	}
	for _, tc := range []struct {
		name       string
		base, head int
		never      int
	}{
		{"twice the cost", 4000, 8000, exitDone},
		{"the same", 4000, 4000, exitFail},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := gateService(t, tc.base, tc.head)
			out := filepath.Join(dir, "out")
			file := gateFile(t, dir, "base: {revision: HEAD~1}\nhead: {revision: main}\nhistory: history.jsonl\n"+shortGate)
			r, temp := startGate(t, "--config", file, "--out", out, "--record")
			code, stdout, stderr := r.end()
			if code == tc.never || code == exitCouldNotRun || code == exitUsage {
				t.Fatalf("got exit code %d, want neither that of an error nor %d\n%s%s", code, tc.never, stdout, stderr)
			}
			t.Logf("exit code %d\n%s", code, stdout)
			isEmpty(t, temp)
			text := readFile(t, filepath.Join(out, "verdict.json"))
			checkSchema(t, "report", []byte(text))
			d, err := report.Read([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if d.Rig.Blocks != 5 || d.Mode != judge.Rounds || len(d.Arms) != 2 || d.Arms[0].Name != "HEAD~1" || d.Arms[1].Version == "" {
				t.Errorf("got %d rounds, mode %s, arms %+v, want 5 rounds of two commits", d.Rig.Blocks, d.Mode, d.Arms)
			}
			cost := 0.0
			for _, m := range d.Metrics {
				if m.Name == judge.MetricCPU && m.Effect != nil {
					cost = *m.Effect
				}
			}
			if twice := tc.head > tc.base; twice && cost < 0.2 || !twice && (cost < -0.5 || cost > 0.5) {
				t.Errorf("head costs %.0f %% more, want what was planted", 100*cost)
			}
			for name, want := range map[string]string{"report.html": "</html>", "report.md": "cpu", "junit.xml": "</testsuites>"} {
				if got := readFile(t, filepath.Join(out, name)); !strings.Contains(got, want) {
					t.Errorf("%s lacks %q:\n%s", name, want, got)
				}
			}
			if got := readFile(t, filepath.Join(dir, "history.jsonl")); !strings.Contains(got, `"name":"cpu_per_request"`) {
				t.Errorf("the history lacks the cost of a request:\n%s", got)
			}
			trees, err := exec.Command("git", "-C", dir, "worktree", "list").Output()
			if err != nil || strings.Count(string(trees), "\n") != 1 {
				t.Errorf("worktrees are left: %s, %v", trees, err)
			}
		})
	}
}

// TestGateCannotRun has each thing go wrong that can before there is a verdict.
func TestGateCannotRun(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs services")
	}
	const works = "base: {}\nhead: {}\nload: http http://127.0.0.1:{port}/ --rate 100/s --for 100ms\n"
	for _, tc := range []struct {
		name, config string
		code         int
		want         []string // on stderr
	}{
		{"no such file", "", 1, []string{"no such file"}},
		{"an unknown key", works + "start: a\nstrat: x\n", 2, []string{"gate.yaml:5: strat: unknown key"}},
		{"no start", works, 2, []string{"start: want the command"}},
		{"a load for a shell", "base: {}\nhead: {}\nstart: a\nload: http x --header 'a:b'\n", 2, []string{"gate.yaml:4: load: no shell reads this: want a list"}},
		{"no such margin", works + "start: a\nmetrics: [{name: errors, margin: little}]\n", 2, []string{`"little" is not a margin`}},
		{"a build that fails", works + "start: a\nbuild: echo first; echo ./main.go:3:1 syntax error >&2; exit 1\n", 1, []string{"build base, after it had printed\n\n  first\n  ./main.go:3:1 syntax error\n", "darklaunch: build base: exit status 1\n"}},
		{"head's build fails", works + "start: a\nhead: {build: exit 3}\n", 2, []string{"mapping key"}},
		{"a service that ends", works + "start: echo no database; exit 4\n", 1, []string{"  no database\n", "darklaunch: round 0: start base: exit status 4\n"}},
		{"a service that ends well", works + "start: echo hello\n", 1, []string{"  hello\n", "start base: it ended, with exit status 0\n"}},
		{"no answer", works + "start: echo waiting; sleep 1000\nready-within: 300ms\n", 1, []string{"round 0: start base: no answer from tcp:127.0.0.1:", " within 300ms: dial tcp"}},
		{"a probe that says no", works + "start: sleep 1000\nready-within: 300ms\nprobe: exit 7\n", 1, []string{"no answer from exit 7 within 300ms: exit status "}},
		{"no such revision", works + "start: a\ndir: .\n", 1, []string{"start"}},
		{"a wrong load", "base: {}\nhead: {}\nprobe: exit 0\nstart: sleep 1000\nload: http http://127.0.0.1:{port}/ --rate fast\n", 2, []string{`"fast" is not a rate`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			name := filepath.Join(dir, "gate.yaml")
			if tc.config != "" {
				gateFile(t, dir, tc.config)
			}
			r, temp := startGate(t, "--config", name)
			code, stdout, stderr := r.end()
			if code != tc.code || stdout != "" {
				t.Errorf("got exit code %d and %q on stdout, want %d and nothing; stderr:\n%s", code, stdout, tc.code, stderr)
			}
			for _, want := range tc.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("got on stderr\n%s\nwant %q in it", stderr, want)
				}
			}
			isEmpty(t, temp)
		})
	}
	t.Run("a revision that there isn't", func(t *testing.T) {
		dir := gateService(t, 1, 2)
		r, temp := startGate(t, "--config", gateFile(t, dir, "base: {revision: nowhere}\nhead: {}\nstart: a\nload: http x\n"))
		if code, _, stderr := r.end(); code != 1 || !strings.Contains(stderr, "find the revision of base") {
			t.Errorf("got %d and %q, want 1 and the reason", code, stderr)
		}
		isEmpty(t, temp)
	})
}

// TestGateLeavesNothing ends a gate at each of its stages, politely and not: 11, or
// killed, and no process is left.
func TestGateLeavesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds and runs services")
	}
	// Each stage writes the ids of a process in the group and of one that left it.
	const lingers = `setsid sh -c 'echo $$ >> DIR/pids; exec sleep 1000' & echo $$ >> DIR/pids; trap '' TERM INT; while :; do sleep 1000; done`
	const load = "\nload: http http://127.0.0.1:1/ --rate 100/s --for 1000s\n"
	for stage, config := range map[string]string{
		"build": "base: {}\nhead: {}\nstart: a\nbuild: " + strconv.Quote(lingers) + load,
		"start": "base: {}\nhead: {}\nprobe: exit 1\nstart: " + strconv.Quote(lingers) + load,
		"load":  "base: {}\nhead: {}\nprobe: test -s DIR/pids\nstart: " + strconv.Quote(lingers) + load,
		"stop":  "base: {}\nhead: {}\nstart: exec " + os.Args[0] + " test-service --admin 127.0.0.1:{port}\nstop: " + strconv.Quote(lingers) + "\nload: http http://127.0.0.1:{port}/healthz --rate 100/s --for 100ms\n",
	} {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			t.Run(fmt.Sprintf("%s, %v", stage, sig), func(t *testing.T) {
				dir := t.TempDir()
				file := gateFile(t, dir, "stop-within: 100ms\n"+strings.ReplaceAll(config, "DIR", dir))
				r, temp := startGate(t, "--config", file)
				var pids []int
				waitFor(t, "the stage's processes", func() bool {
					b, _ := os.ReadFile(filepath.Join(dir, "pids"))
					pids = nil
					for _, f := range strings.Fields(string(b)) {
						if pid, err := strconv.Atoi(f); err == nil {
							pids = append(pids, pid)
						}
					}
					return len(pids) >= 2 && strings.HasSuffix(string(b), "\n")
				})
				r.signal(sig)
				code, _, stderr := r.end()
				if sig == syscall.SIGINT {
					if code != exitInconclusive {
						t.Errorf("got exit code %d, want %d: %s", code, exitInconclusive, stderr)
					}
					isEmpty(t, temp)
				}
				for _, pid := range pids {
					waitFor(t, fmt.Sprintf("the end of process %d", pid), func() bool {
						stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
						return err != nil || strings.Contains(string(stat), ") Z ")
					})
				}
			})
		}
	}
}

// TestGateInterrupted ends a gate that has run some rounds: what they came to is
// told, with its reports, and is no pass.
func TestGateInterrupted(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs services for some rounds")
	}
	dir := t.TempDir()
	file := gateFile(t, dir, fmt.Sprintf(`
base: {}
head: {}
quiet: true
start: echo x >> %s/starts; exec %s test-service --admin 127.0.0.1:{port}
probe: http://127.0.0.1:{port}/readyz
load: [http, "http://127.0.0.1:{port}/healthz", --rate, 100/s, --for, 100ms]
metrics: [{name: cpu_per_request, margin: 10%%}]
`, dir, os.Args[0]))
	r, temp := startGate(t, "--config", file, "--out", filepath.Join(dir, "out"))
	waitFor(t, "the second round to begin", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir, "starts"))
		return len(b) >= len("x\n")*4 // three each
	})
	r.signal(syscall.SIGTERM)
	code, stdout, stderr := r.end()
	if code != exitInconclusive || !strings.Contains(stdout, "verdict: inconclusive") {
		t.Errorf("got %d and %q, want %d and the verdict; stderr: %s", code, stdout, exitInconclusive, stderr)
	}
	text := readFile(t, filepath.Join(dir, "out", "verdict.json"))
	checkSchema(t, "report", []byte(text))
	d, err := report.Read([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	interrupted := func(r judge.Reason) bool { return r.Code == judge.ReasonInterrupted }
	if d.Rig.Windows < 1 || !slices.ContainsFunc(d.Reasons, interrupted) {
		t.Errorf("got %d rounds and the reasons %+v, want one and an interruption", d.Rig.Windows, d.Reasons)
	}
	if base := func(g judge.Gate) bool { return g.Name == judge.ReasonRigNoise }; !slices.ContainsFunc(d.Rig.Gates, base) {
		t.Errorf("got the checks %+v, want that of base against itself", d.Rig.Gates)
	}
	isEmpty(t, temp)
}

// TestGateStarter holds that what init writes is a configuration.
func TestGateStarter(t *testing.T) {
	file := gateFile(t, t.TempDir(), gateStarter)
	s, cfg, err := readGate(file)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Base.Revision != "origin/main" || cfg.Looks != 3 || len(s.Load) == 0 || cfg.Head.Env[0] != "GOMAXPROCS=2" || cfg.Judge.Metrics[0].Margin != 0.1 {
		t.Errorf("got %+v, want what the file says", cfg)
	}
}

// TestTellVerdict holds the codes, and what GitHub is told.
func TestTellVerdict(t *testing.T) {
	d := &judge.Document{Schema: judge.Schema, Mode: judge.Rounds, Verdict: judge.Inconclusive, Reasons: []judge.Reason{{Text: "too noisy"}}}
	for _, tc := range []struct {
		v    judge.Verdict
		u    undecided
		code int
	}{
		{judge.Pass, undecidedCode, exitDone}, {judge.Fail, undecidedPass, exitFail}, {judge.Inconclusive, undecidedCode, exitInconclusive},
		{judge.Inconclusive, undecidedPass, exitDone}, {judge.Inconclusive, undecidedFail, exitFail}, {"", undecidedCode, exitInconclusive},
	} {
		d.Verdict = tc.v
		err := verdictError(d, tc.u)
		if got := exitCodeOf(err); got != tc.code {
			t.Errorf("%q, %s: got code %d, want %d", tc.v, tc.u, got, tc.code)
		}
	}
	summary := filepath.Join(t.TempDir(), "summary.md")
	t.Setenv("GITHUB_ACTIONS", "true")
	t.Setenv("GITHUB_STEP_SUMMARY", summary)
	var stdout, stderr strings.Builder
	p := &program{stdout: &stdout, stderr: &stderr}
	d.Verdict = judge.Fail
	if err := p.tellVerdict(&output{program: p, json: "-"}, d, "", undecidedCode); exitCodeOf(err) != exitFail {
		t.Errorf("got %v, want a fail", err)
	}
	if !json.Valid([]byte(stdout.String())) {
		t.Errorf("got %q on stdout, want JSON alone", stdout.String())
	}
	if want := "::error title=darklaunch%3A fail::too noisy\n"; !strings.Contains(stderr.String(), want) {
		t.Errorf("got %q, want %q in it", stderr.String(), want)
	}
	if got := readFile(t, summary); !strings.Contains(got, "too noisy") {
		t.Errorf("got %q in the summary, want the reason", got)
	}
}

func exitCodeOf(err error) int {
	if err == nil {
		return exitDone
	}
	return exitCode(err)
}
