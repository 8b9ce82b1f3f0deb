package rig

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"darklaunch/internal/testenv"
)

// A Load is what a generator says of one run.
type Load struct {
	Requests float64 // answered
	Failed   float64 // not answered, or answered otherwise than with success
	Rate     float64 // answered a second
	P50, P99 time.Duration
}

// Wrk asks a URL for d over conns connections, as fast as they go.
func Wrk(t testing.TB, url string, conns int, d time.Duration) (Load, error) {
	t.Helper()
	return ParseWrk(testenv.Wrk(t, "-t", "1", "-c", strconv.Itoa(conns), "-d", strconv.Itoa(int(d.Seconds()))+"s", "--latency", url))
}

var (
	wrkRequests = regexp.MustCompile(`(\d+) requests in`)
	wrkRate     = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	wrkStatus   = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	wrkErrors   = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkQuantile = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([\d.]+)(us|ms|s)\s*$`)
)

// ParseWrk reads what wrk --latency prints.
func ParseWrk(out string) (Load, error) {
	l := Load{Requests: number(wrkRequests, out), Rate: number(wrkRate, out), Failed: number(wrkStatus, out)}
	if m := wrkErrors.FindStringSubmatch(out); m != nil {
		for _, s := range m[1:] {
			n, _ := strconv.ParseFloat(s, 64) // digits
			l.Failed += n
		}
	}
	for _, m := range wrkQuantile.FindAllStringSubmatch(out, -1) {
		d, err := time.ParseDuration(m[2] + m[3])
		if err != nil {
			return l, err
		}
		if m[1] == "50" {
			l.P50 = d
		} else {
			l.P99 = d
		}
	}
	if l.Requests == 0 {
		return l, fmt.Errorf("wrk had no answer:\n%s", out)
	}
	return l, nil
}

// An H2load is a run of h2load.
type H2load struct {
	URL     string
	HTTP1   bool
	Data    string // the file sent with POST; empty is GET
	GRPC    bool
	Clients int
	Streams int     // under way at once for each client
	Rate    float64 // requests a second of all clients together; 0 is as fast as they go
	For     time.Duration
}

// Run runs it; latencies are from the sending, as h2load logs them.
func (h H2load) Run(t testing.TB) (Load, error) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "h2load.log")
	l, err := ParseH2load(testenv.H2load(t, h.Args(log)...))
	if err != nil {
		return l, err
	}
	l.P50, l.P99, err = Logged(log)
	return l, err
}

// Args are h2load's, with its log in a file.
func (h H2load) Args(log string) []string {
	args := []string{"-c", strconv.Itoa(h.Clients), "-m", strconv.Itoa(max(1, h.Streams)), "-D", strconv.FormatFloat(h.For.Seconds(), 'f', -1, 64), "--log-file=" + log}
	if h.HTTP1 {
		args = append(args, "--h1")
	}
	if h.Data != "" {
		args = append(args, "-d", h.Data)
	}
	if h.GRPC {
		args = append(args, "-H", "content-type: application/grpc", "-H", "te: trailers")
	}
	if h.Rate > 0 {
		args = append(args, "--rps="+strconv.FormatFloat(h.Rate/float64(h.Clients), 'f', -1, 64))
	}
	return append(args, h.URL)
}

var (
	h2Requests = regexp.MustCompile(`requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded`)
	h2Rate     = regexp.MustCompile(`finished in [\d.]+m?s, ([\d.]+) req/s`)
)

// ParseH2load reads what h2load prints; its latencies are in its log.
func ParseH2load(out string) (Load, error) {
	m := h2Requests.FindStringSubmatch(out)
	if m == nil {
		return Load{}, fmt.Errorf("h2load says nothing of requests:\n%s", out)
	}
	done, _ := strconv.ParseFloat(m[1], 64)
	ok, _ := strconv.ParseFloat(m[2], 64)
	if ok == 0 {
		return Load{}, fmt.Errorf("h2load had no answer:\n%s", out)
	}
	return Load{Requests: ok, Failed: done - ok, Rate: number(h2Rate, out)}, nil
}

// Logged reads the quantiles of the third column of h2load's log, microseconds.
func Logged(file string) (p50, p99 time.Duration, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	var all []int
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 {
			continue
		}
		us, err := strconv.Atoi(fields[2])
		if err != nil {
			return 0, 0, fmt.Errorf("log of h2load: %w", err)
		}
		all = append(all, us)
	}
	if err := lines.Err(); err != nil || len(all) == 0 {
		return 0, 0, fmt.Errorf("log of h2load has %d lines: %w", len(all), err)
	}
	slices.Sort(all)
	at := func(q int) time.Duration { return time.Duration(all[len(all)*q/100]) * time.Microsecond }
	return at(50), at(99), nil
}

// A Steady is a run of darklaunch load with requests that are due at an even rate,
// whatever becomes of those before: latency is from then on.
type Steady struct {
	Addr           string
	GRPC           bool    // calls bench.Echo/Call with 200 bytes, else GET / of HTTP/1.1
	Conns, Streams int     // of HTTP/1.1 there are no streams
	Rate           float64 // requests a second; 0 is a closed loop, as fast as it goes
	For            time.Duration
}

// Args are those of darklaunch; a file that they name is written in dir.
func (s Steady) Args(dir string) ([]string, error) {
	args := []string{"load", "http", "http://" + s.Addr + "/", "--conns", strconv.Itoa(s.Conns)}
	if s.GRPC {
		file, data, err := EchoProto(dir)
		if err != nil {
			return nil, err
		}
		args = []string{"load", "grpc", s.Addr, "--call", "bench.Echo/Call", "--data", data, "--proto", file,
			"--conns", strconv.Itoa(s.Conns), "--streams", strconv.Itoa(s.Streams)}
	}
	rate := "max"
	if s.Rate > 0 {
		rate = strconv.FormatFloat(s.Rate, 'f', -1, 64) + "/s"
		args = append(args, "--arrival", "constant")
	}
	return append(args, "--rate", rate, "--for", s.For.String(), "--warmup", "0s", "--json", "-"), nil
}

// Run runs it.
func (s Steady) Run(t testing.TB) (Load, error) {
	t.Helper()
	path, err := Darklaunch(t, "load")
	if err != nil {
		return Load{}, err
	}
	args, err := s.Args(t.TempDir())
	if err != nil {
		return Load{}, err
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := testenv.Launcher(t).StartCommand(cmd, 0); err != nil {
		return Load{}, err
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 11 { // inconclusive is a result
		return Load{}, fmt.Errorf("darklaunch %s: %w\n%s", strings.Join(args, " "), err, errs.Bytes())
	}
	l, _, err := ParseSteady(out.Bytes(), s.For)
	return l, err
}

// ParseSteady reads the result of a run of d.
func ParseSteady(out []byte, d time.Duration) (l Load, longest time.Duration, err error) {
	var v struct {
		OK       float64
		Sent     float64
		Response struct{ P50, P99, Max float64 } `json:"response_s"`
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return l, 0, fmt.Errorf("%w in %s", err, out)
	}
	if v.OK == 0 {
		return l, 0, fmt.Errorf("no answer: %s", out)
	}
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	l = Load{Requests: v.OK, Failed: v.Sent - v.OK, Rate: v.OK / d.Seconds(), P50: seconds(v.Response.P50), P99: seconds(v.Response.P99)}
	return l, seconds(v.Response.Max), nil
}

// echoProto declares the call of Echo for generators that want to know.
const echoProto = `syntax = "proto3";
package bench;
message Note { string text = 1; }
service Echo { rpc Call(Note) returns (Note); }
`

// EchoProto writes what declares bench.Echo/Call into dir and returns its path,
// and as JSON a message of 200 bytes.
func EchoProto(dir string) (path, data string, err error) {
	path = filepath.Join(dir, "echo.proto")
	return path, `{"text":"` + strings.Repeat("x", 197) + `"}`, os.WriteFile(path, []byte(echoProto), 0o600)
}

// number is the first group of a match, or 0.
func number(re *regexp.Regexp, out string) float64 {
	m := re.FindStringSubmatch(out)
	if m == nil {
		return 0
	}
	n, _ := strconv.ParseFloat(m[1], 64) // digits and a point
	return n
}
