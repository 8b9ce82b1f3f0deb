package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"darklaunch/internal/strictyaml"
)

// A running is the program as a process of its own.
type running struct {
	t      testing.TB
	cmd    *exec.Cmd
	stdout *bufio.Reader
	log    string // the file that stderr goes to, so that it can be read meanwhile
}

// start runs the program with args. The test ends it if it has not ended.
func start(t testing.TB, args ...string) *running {
	t.Helper()
	return startBy(t, nil, args...)
}

// startBy is start by another program, which takes this one and its args as the
// last of its own.
func startBy(t testing.TB, by []string, args ...string) *running {
	t.Helper()
	dir := t.TempDir()
	argv := slices.Concat(by, []string{os.Args[0]}, args)
	r := &running{t: t, cmd: exec.Command(argv[0], argv[1:]...), log: filepath.Join(dir, "stderr")}
	log, err := os.Create(r.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r.cmd.Env = append(os.Environ(), asProgram+"=1", "TMPDIR="+dir)
	r.cmd.Stderr = log
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.stdout = bufio.NewReader(out)
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			r.cmd.Process.Kill()
			r.cmd.Wait()
		}
	})
	return r
}

// ready reads the next line, which must tell of the listener name, and returns its address.
func (r *running) ready(name string) string {
	r.t.Helper()
	line, err := r.stdout.ReadString('\n')
	if err != nil {
		r.t.Fatalf("no ready line for %s: %v; stderr: %s", name, err, r.stderr())
	}
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "ready "+name+" ")
	if !ok {
		r.t.Fatalf("got %q, want a ready line for %s", line, name)
	}
	return addr
}

func (r *running) signal(s os.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// pause stops the program and returns when it is stopped, which the signal alone does
// not wait for. SIGCONT lets it go on.
func (r *running) pause() {
	r.t.Helper()
	r.signal(syscall.SIGSTOP)
	waitFor(r.t, "the program to be stopped", func() bool {
		_, state, _ := strings.Cut(readFile(r.t, fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid)), ") ")
		return strings.HasPrefix(state, "T")
	})
}

// stderr is what the program has written there by now.
func (r *running) stderr() string {
	r.t.Helper()
	return readFile(r.t, r.log)
}

// end waits until the program has ended.
func (r *running) end() (code int, stdout, stderr string) {
	r.t.Helper()
	out, err := io.ReadAll(r.stdout)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		r.t.Fatal(err)
	}
	return r.cmd.ProcessState.ExitCode(), string(out), r.stderr()
}

func TestExitCodes(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() }) // when the parallel cases have ended
	inUse := taken.Addr().String()
	file := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	for _, tc := range []struct {
		args string
		code int
		want string // in the one line on stderr
	}{
		{"version", 0, ""},
		{"schema", 0, ""},
		{"", 0, ""},
		{"version --help", 0, ""},
		{"test-job --for 0s", 0, ""},
		{"test-job --for 0s --verdict 10", 10, "not a pass"},
		{"test-job --for 0s --verdict 11", 11, "not a pass"},

		{"frobnicate", 2, `unknown command "frobnicate"`},
		{"frobnicate --help", 2, `unknown command "frobnicate" for "darklaunch"`},
		{"mirror frobnicate --help", 2, `unknown command "frobnicate" for "darklaunch mirror"`},
		{"versoin", 2, `unknown command "versoin"`},
		{"version x", 2, `"x"`},
		{"help version", 0, ""},
		{"help frobnicate", 2, `no command "frobnicate"`},
		{"help version x", 2, `no command "version x"`},
		{"completion bash", 0, ""},
		{"completion bahs", 2, `unknown command "bahs"`},
		{"version --frob", 2, "--frob"},
		{"schema nothing", 2, "want one of"},
		{"test-job --for soon", 2, `"--for" flag: "soon" is not a duration: want`},
		{"test-job --for -1s", 2, "want a number with a unit"},
		{"test-job --rate 5", 2, `"--rate" flag: "5" is not a rate: want`},
		{"test-job --memory 5MB", 2, `"--memory" flag: "5MB" is not a size: want`},
		{"test-job --sample 120%", 2, `"--sample" flag: "120%" is not a share: want`},
		{"test-job --target nowhere", 2, `"--target" flag: "nowhere" is not an address: want`},
		{"test-job --listen 80", 2, `"--listen" flag: "80" is not an address to listen on: want`},
		{"test-service --log-level loud", 2, "want debug, info, warn or error"},
		{"test-service --log-format xml", 2, `--log-format: unknown log format "xml": want one of`},
		{"test-service --admin 0.0.0.0:0", 2, "needs TLS and a token"},
		{"test-service --admin-tls-cert x", 2, "go together"},

		{"test-service --admin " + inUse, 1, "listen on " + inUse + " (--admin): the port is in use"},
		{"test-service --metrics " + inUse, 1, "listen on " + inUse + " (--metrics): the port is in use"},
		{"test-service --config /nowhere/c.yaml", 1, "read /nowhere/c.yaml (--config): no such file"},
		{"test-service --admin-token @/nowhere/token", 1, "/nowhere/token"},
		{"test-service --admin-token @" + file, 1, file + " holds no token"},
		{"version --json " + file + "/x", 1, "write the result (--json)"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			code, _, stderr := start(t, strings.Fields(tc.args)...).end()
			if code != tc.code {
				t.Errorf("got exit code %d, want %d; stderr: %s", code, tc.code, stderr)
			}
			if !strings.Contains(stderr, tc.want) {
				t.Errorf("got %q on stderr, want %q in it", stderr, tc.want)
			}
			lines := strings.Count(stderr, "\n")
			if tc.code == 0 && lines != 0 || tc.code != 0 && lines != 1 {
				t.Errorf("got %d lines on stderr, want one if it fails and none otherwise: %s", lines, stderr)
			}
		})
	}
}

// TestCrash lets the program panic in its command, in a part and in a
// goroutine that nobody watches: never a verdict or a success, and where we
// can catch it one line and a file with the stack.
func TestCrash(t *testing.T) {
	for _, where := range []string{"command", "part", "goroutine"} {
		t.Run(where, func(t *testing.T) {
			code, _, stderr := start(t, "test-service", "--panics", where).end()
			if code == exitDone || code == exitFail || code == exitInconclusive {
				t.Errorf("a crash ended with %d", code)
			}
			if !strings.Contains(stderr, "boom") {
				t.Errorf("got %q on stderr, want the reason", stderr)
			}
			if where == "goroutine" {
				return // the runtime ends the process and tells all it knows
			}
			if code != exitCouldNotRun || strings.Count(stderr, "\n") != 1 {
				t.Errorf("got code %d and %q, want %d and one line", code, stderr, exitCouldNotRun)
			}
			_, file, _ := strings.Cut(strings.TrimSuffix(stderr, ")\n"), "its stack is in ")
			if stack, err := os.ReadFile(file); err != nil || !bytes.Contains(stack, []byte("main_test.go")) {
				t.Errorf("stack file %q: got %q, %v, want the stack of the panic", file, stack, err)
			}
		})
	}
}

func TestReadyLinesShowTheRealPort(t *testing.T) {
	r := start(t, "test-service", "--metrics", "127.0.0.1:0")
	admin, metrics := r.ready("admin"), r.ready("metrics")
	for _, url := range []string{"http://" + admin + "/readyz", "http://" + metrics + "/metrics"} {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatalf("said to be ready: %v", err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: got %s, want 200", url, resp.Status)
		}
	}
	resp, err := http.Get("http://" + metrics + "/api/v1/state")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("state on the metrics listener: got %s, want 404", resp.Status)
	}
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Errorf("a service that was stopped ended with %d, want %d; stderr: %s", code, exitDone, stderr)
	}
}

// TestNothingIsReadyThatDoesNotStart has one listener that can be opened and
// one that cannot.
func TestNothingIsReadyThatDoesNotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	code, stdout, stderr := start(t, "test-service", "--metrics", taken.Addr().String()).end()
	if code != exitCouldNotRun || stdout != "" {
		t.Errorf("got %d and %q on stdout, want %d and no ready line; stderr: %s", code, stdout, exitCouldNotRun, stderr)
	}
}

func TestNoAdminListenerWhereNoneIsWanted(t *testing.T) {
	r := start(t, "test-service", "--admin=", "--metrics", "127.0.0.1:0")
	r.ready("metrics")
	r.signal(syscall.SIGTERM)
	if code, stdout, stderr := r.end(); code != exitDone || stdout != "" {
		t.Errorf("got %d and %q after the metrics listener, want %d and nothing; stderr: %s", code, stdout, exitDone, stderr)
	}
}

func TestSignals(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run("service drains on "+sig.String(), func(t *testing.T) {
			r := start(t, "test-service")
			r.ready("admin")
			r.signal(sig)
			if code, _, stderr := r.end(); code != exitDone {
				t.Errorf("got %d, want %d; stderr: %s", code, exitDone, stderr)
			}
		})
	}
	t.Run("a second signal exits at once", func(t *testing.T) {
		r := start(t, "test-service", "--stubborn", "--drain-timeout", "1h")
		admin := r.ready("admin")
		r.signal(syscall.SIGTERM)
		// The admin pages stay up while the work drains; the signal has been taken when the log says so.
		waitFor(t, "the first signal to be taken", func() bool {
			resp, err := http.Get("http://" + admin + "/healthz")
			if err != nil {
				t.Fatalf("the admin pages went before the work: %v", err)
			}
			resp.Body.Close()
			return strings.Contains(r.stderr(), "once more")
		})
		r.signal(syscall.SIGINT)
		if code, _, _ := r.end(); code != exitCouldNotRun {
			t.Errorf("got %d, want %d", code, exitCouldNotRun)
		}
	})
	t.Run("the drain limit", func(t *testing.T) {
		r := start(t, "test-service", "--stubborn", "--drain-timeout", "50ms")
		r.ready("admin")
		r.signal(syscall.SIGTERM)
		if code, _, stderr := r.end(); code != exitCouldNotRun || !strings.Contains(stderr, "work: not drained in time") {
			t.Errorf("got %d and %q, want %d and the part that did not drain", code, stderr, exitCouldNotRun)
		}
	})
	t.Run("an interrupted judgement is inconclusive", func(t *testing.T) {
		result := filepath.Join(t.TempDir(), "result.json")
		r := start(t, "test-job", "--json", result)
		r.ready("job")
		r.signal(syscall.SIGINT)
		code, stdout, stderr := r.end()
		if code != exitInconclusive || !strings.Contains(stdout, "the result") {
			t.Errorf("got %d and %q, want %d and the result so far; stderr: %s", code, stdout, exitInconclusive, stderr)
		}
		if got := readFile(t, result); !strings.Contains(got, `"verdict": 11`) {
			t.Errorf("result file: got %q, want the verdict", got)
		}
	})
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	waitWithin(t, 30*time.Second, what, cond)
}

func waitWithin(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", limit, what)
		}
	}
}

func readFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestJSONGoesWhereItIsSent(t *testing.T) {
	t.Run("stdout", func(t *testing.T) {
		code, stdout, stderr := start(t, "test-job", "--for", "0s", "--json", "-").end()
		var got map[string]int
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitDone {
			t.Errorf("got %d and %q on stdout, want only JSON: %v", code, stdout, err)
		}
		if stderr != "ready job started\nthe result\n" {
			t.Errorf("got %q on stderr, want the text", stderr)
		}
	})
	t.Run("ready lines make way", func(t *testing.T) {
		r := start(t, "test-service", "--json", "-")
		waitFor(t, "the ready line on stderr", func() bool { return strings.Contains(r.stderr(), "ready admin 127.0.0.1:") })
		r.signal(syscall.SIGTERM)
		if code, stdout, _ := r.end(); code != exitDone || stdout != "" {
			t.Errorf("got %d and %q on stdout, want nothing there", code, stdout)
		}
	})
	t.Run("file", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "v.json")
		if code, stdout, stderr := start(t, "version", "--json", name).end(); code != exitDone || stdout == "" {
			t.Fatalf("got %d, %q, %q, want the text too", code, stdout, stderr)
		}
		var v versionResult
		if err := strictyaml.Parse([]byte(readFile(t, name)), schemaText("version"), &v); err != nil {
			t.Errorf("the result breaks its own schema: %v", err)
		}
		left, err := os.ReadDir(filepath.Dir(name))
		if err != nil || len(left) != 1 {
			t.Errorf("got %v, %v in the directory, want only the result", left, err)
		}
	})
}

// TestProgressOnlyOnATerminal gives the program a terminal, and then none.
func TestProgressOnlyOnATerminal(t *testing.T) {
	const bar = "working for"
	if _, _, stderr := start(t, "test-job", "--for", "0s").end(); strings.Contains(stderr, bar) {
		t.Errorf("without a terminal: got %q, want no progress", stderr)
	}
	got, code := onTerminal(t, "test-job", "--for", "0s")
	if code != exitDone || !strings.Contains(got, bar) || !strings.HasSuffix(got, "\r\x1b[K") {
		t.Errorf("on a terminal: got %d, %q, want a progress line that is removed at the end", code, got)
	}
}

// onTerminal runs the program with a terminal for its stderr, and returns what
// it drew there and its exit code.
func onTerminal(t *testing.T, args ...string) (drawn string, code int) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("this machine has no pseudo terminals: %v", err)
	}
	defer ours.Close()
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stderr = theirs
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	// What was drawn comes in pieces, and then an error: nobody has the terminal.
	all, err := io.ReadAll(ours)
	if !errors.Is(err, unix.EIO) {
		t.Errorf("got %v from the terminal, want EIO at its end", err)
	}
	if err := cmd.Wait(); err != nil && !cmd.ProcessState.Exited() {
		t.Fatal(err)
	}
	return string(all), cmd.ProcessState.ExitCode()
}

func TestSighupReadsTheConfigurationAgain(t *testing.T) {
	config := filepath.Join(t.TempDir(), "c.yaml")
	write := func(text string) {
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("level: 1\n")
	r := start(t, "test-service", "--config", config)
	admin := r.ready("admin")
	failure := func() string {
		resp, err := http.Get("http://" + admin + "/api/v1/state")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var state struct{ Config struct{ Error string } }
		if err := json.NewDecoder(resp.Body).Decode(&state); err != nil {
			t.Fatal(err)
		}
		return state.Config.Error
	}
	if got := failure(); got != "" {
		t.Fatalf("at the start: got %q, want no error", got)
	}
	write("level: 1\nlevle: 2\n")
	r.signal(syscall.SIGHUP)
	waitFor(t, "the bad file to be seen", func() bool { return failure() != "" })
	if got, want := failure(), config+":2: levle: unknown key"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	write("level: 2\n")
	r.signal(syscall.SIGHUP)
	waitFor(t, "the good file to be seen", func() bool { return failure() == "" })
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Errorf("got %d, want %d; stderr: %s", code, exitDone, stderr)
	}
}

func TestBadConfigurationIsAUsageError(t *testing.T) {
	config := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(config, []byte("# a comment\nlevel: high\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := start(t, "test-service", "--config", config).end()
	if want := config + ":2: level: got string, want integer"; code != exitUsage || !strings.Contains(stderr, want) {
		t.Errorf("got %d and %q, want %d and %q", code, stderr, exitUsage, want)
	}
}

// TestBuiltBinary goes through the Go tool's own build, as users get it.
func TestBuiltBinary(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: links the program")
	}
	bin := filepath.Join(t.TempDir(), "darklaunch")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	out, err := exec.Command(bin, "version", "--json", "-").Output()
	if err != nil {
		t.Fatal(err)
	}
	var v versionResult
	if err := strictyaml.Parse(out, schemaText("version"), &v); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	if v.Go != runtime.Version() || v.Modules["github.com/prometheus/client_golang"] == "" {
		t.Errorf("got %+v, want our Go and the modules that are linked", v)
	}
	err = exec.Command(bin, "--nonsense").Run()
	if failed, ok := errors.AsType[*exec.ExitError](err); !ok || failed.ExitCode() != exitUsage {
		t.Errorf("a wrong flag: got %v, want exit code %d", err, exitUsage)
	}
}

// TestHelp holds what --help promises: every command, those of the flag library
// included, has an example, and every flag is explained.
func TestHelp(t *testing.T) {
	var missing []string
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.InitDefaultHelpFlag()
		if cmd.Example == "" {
			missing = append(missing, cmd.CommandPath()+": example")
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				missing = append(missing, cmd.CommandPath()+" --"+f.Name+": explanation")
			}
			// An empty default is none; every other one is on the flag's line, text in quotes.
			if empty := regexp.MustCompile(`(?m)--` + f.Name + ` .*\(default (\[\])?\)$`); empty.MatchString(cmd.Flags().FlagUsages()) {
				missing = append(missing, cmd.CommandPath()+" --"+f.Name+": a default that is none is told")
			}
			shown := regexp.MustCompile("(?m)--" + f.Name + ` .*\(default "?` + regexp.QuoteMeta(f.DefValue) + `"?\)$`)
			inWords := f.DefValue == "0" && strings.Contains(f.Usage, "(default: ")
			if f.DefValue != "" && f.DefValue != "[]" && !inWords && f.Value.Type() != "bool" && !shown.MatchString(cmd.Flags().FlagUsages()) {
				missing = append(missing, cmd.CommandPath()+" --"+f.Name+": default")
			}
		})
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	p := &program{stdout: io.Discard, stderr: io.Discard}
	bad := func(*program) *cobra.Command {
		cmd := &cobra.Command{Use: "bad", Run: func(*cobra.Command, []string) {}}
		cmd.Flags().String("odd", "", "")
		cmd.Flags().StringArray("none", nil, "some (default [])")
		return cmd
	}
	walk(p.root([]subcommand{(*program).testService, bad}))
	if diff := cmp.Diff([]string{"darklaunch bad: example", "darklaunch bad --none: a default that is none is told", "darklaunch bad --odd: explanation"}, missing); diff != "" {
		t.Errorf("missing, but for what was planted (-want +got):\n%s", diff)
	}
}
