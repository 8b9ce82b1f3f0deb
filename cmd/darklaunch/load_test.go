package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"darklaunch/loadgen"
)

// quick is a load that ends soon, whatever the target does.
const quick = " --rate 100/s --for 300ms --timeout 500ms"

// endLoad runs load with args, words separated by spaces.
func endLoad(t *testing.T, args string) (code int, r *loadgen.Result, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "result.json")
	code, _, text = start(t, append([]string{"load"}, strings.Fields(args+" --json "+file)...)...).end()
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return code, nil, text
	}
	r = new(loadgen.Result)
	if err := json.Unmarshal(b, r); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	checkSums(t, r)
	checkSchema(t, "load", b)
	return code, r, text
}

// checkSums holds what the contract says of every result.
func checkSums(t *testing.T, r *loadgen.Result) {
	t.Helper()
	failed := uint64(0)
	for _, n := range r.Errors {
		failed += n
	}
	if r.Sent != r.OK+failed+r.InFlight {
		t.Errorf("sent %d is not ok %d + errors %d + in flight %d", r.Sent, r.OK, failed, r.InFlight)
	}
	if r.Planned != nil && *r.Planned != r.Sent+r.Shed {
		t.Errorf("planned %d is not sent %d + shed %d", *r.Planned, r.Sent, r.Shed)
	}
}

// listenRaw serves each connection by handle, and closes it thereafter.
func listenRaw(t *testing.T, handle func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
	return l.Addr().String()
}

// readRequest waits for the end of a request's head.
func readRequest(c net.Conn) bool {
	_, err := c.Read(make([]byte, 4096))
	return err == nil
}

func TestLoadCallsEveryTargetAndJudges(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts some forty processes")
	}
	t.Parallel()
	var served atomic.Int64
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		if r.URL.Path == "/echo" {
			b, _ := io.ReadAll(r.Body)
			if r.Method != "PUT" || r.Header.Get("X-User") != "ann" || string(b) != "hello" {
				w.WriteHeader(http.StatusTeapot)
			}
		}
		if r.URL.Path == "/broken" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer good.Close()
	secure := httptest.NewUnstartedServer(good.Config.Handler)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	defer secure.Close()

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health.NewServer())
	reflection.Register(g)
	go g.Serve(l)
	defer g.Stop()
	ls, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gs := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&secure.TLS.Certificates[0])))
	healthpb.RegisterHealthServer(gs, health.NewServer())
	reflection.Register(gs)
	go gs.Serve(ls)
	defer gs.Stop()
	check := "grpc " + l.Addr().String() + " --call grpc.health.v1.Health/Check"

	for _, tc := range []struct {
		name, args string
		code       int
		want       string // in what is on stderr
		ok         uint64 // calls
	}{
		{"http", "http " + good.URL + quick, 0, "", 30},
		{"objectives kept", "http " + good.URL + quick + " --objective p50<5s --objective errors<1%", 0, "", 30},
		{"constant", "http " + good.URL + quick + " --arrival constant", 0, "", 30},
		{"requests", "http " + good.URL + " --rate 100/s --requests 17", 0, "", 17},
		{"warm-up is not counted", "http " + good.URL + quick + " --warmup 200ms", 0, "", 30},
		{"request", "http " + good.URL + "/echo --method PUT --header X-User:ann --body hello" + quick, 0, "", 30},
		{"another request", "http " + good.URL + "/echo --method PUT --header X-User:bob --body hello" + quick, 0, "", 0},
		{"errors are no reason without an objective", "http " + good.URL + "/broken" + quick, 0, "", 0},
		{"objective broken by errors", "http " + good.URL + "/broken" + quick + " --objective errors<1%", 10, "verdict fail: errors<1%: 100%, 30 of 30", 0},
		{"objective broken by time", "http " + good.URL + quick + " --objective max<1ns", 10, "verdict fail: max<1ns", 30},
		{"TLS", "http " + secure.URL + quick + " --insecure", 0, "", 30},
		{"HTTP/2", "http " + secure.URL + quick + " --insecure --http2", 0, "", 30},
		{"grpc by reflection", check + quick + ` --data {"service":""}`, 0, "", 30},
		{"grpc by TLS", "grpc https://" + ls.Addr().String() + " --call grpc.health.v1.Health/Check --insecure" + quick, 0, "", 30},
		{"grpc status", check + quick + ` --data {"service":"unknown"} --objective errors<1%`, 10, "errors<1%: 100%", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, r, text := endLoad(t, tc.args+" --timeout 10s") // these answer, if late on a busy machine
			// A machine that was too slow for 100 calls a second says so, and is no fault of the program.
			if strings.Contains(text, "released calls late") {
				t.Logf("the generator had no processor: %s", text)
				code = tc.code
			} else if !strings.Contains(text, tc.want) {
				t.Errorf("got %q on stderr, want %q in it", text, tc.want)
			}
			if code != tc.code {
				t.Errorf("got exit code %d, want %d: %s", code, tc.code, text)
			}
			if r == nil || r.OK != tc.ok || r.Sent == 0 {
				t.Errorf("got %+v, want %d calls answered well", r, tc.ok)
			}
		})
	}
	if served.Load() == 0 {
		t.Error("the server was never asked")
	}
	t.Run("more than any machine makes", func(t *testing.T) {
		code, r, text := endLoad(t, "http "+good.URL+" --rate 2000000/s --for 100ms --conns 4 --timeout 1s")
		if code != exitInconclusive || r == nil || !strings.Contains(text, "verdict inconclusive") {
			t.Errorf("got %d, %q, want inconclusive", code, text)
		}
	})
	t.Run("max", func(t *testing.T) {
		code, r, text := endLoad(t, "http "+good.URL+" --rate max --for 200ms --conns 2")
		if code != 0 || r.OK == 0 || r.Planned != nil || r.Lag != nil {
			t.Errorf("got %d, %q, %+v, want calls without a plan and a lag", code, text, r)
		}
	})
}

// TestLoadOutlivesBadTargets meets everything that a target may do wrong: each is
// told from the others, counted, and bounded in time.
func TestLoadOutlivesBadTargets(t *testing.T) {
	t.Parallel()
	never := make(chan struct{})
	t.Cleanup(func() { close(never) }) // when the parallel cases have ended
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	secure.StartTLS()
	t.Cleanup(secure.Close)
	targets := map[string]string{ // class of error: URL
		"connect": "http://" + refused.Addr().String(),
		"tls":     secure.URL,
		"protocol": "http://" + listenRaw(t, func(c net.Conn) {
			if readRequest(c) {
				io.WriteString(c, "220 mail.example ESMTP\r\n")
			}
		}),
		"reset": "http://" + listenRaw(t, func(c net.Conn) {
			if readRequest(c) {
				c.(*net.TCPConn).SetLinger(0)
			}
		}),
		"timeout": "http://" + listenRaw(t, func(c net.Conn) { <-never }),
		"too_large or timeout": "http://" + listenRaw(t, func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			chunk := "1000\r\n" + strings.Repeat("x", 4096) + "\r\n"
			for {
				if _, err := io.WriteString(c, chunk); err != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		}),
		"reset or protocol": "http://" + listenRaw(t, func(c net.Conn) {}), // closed at once
	}
	for class, url := range targets {
		t.Run(class, func(t *testing.T) {
			t.Parallel()
			begin := time.Now()
			code, r, text := endLoad(t, "http "+url+quick+" --objective errors<1%")
			if r == nil || r.OK != 0 || r.Sent+r.Shed != 30 {
				t.Fatalf("got %+v, %s: want 30 calls, none answered well", r, text)
			}
			seen := uint64(0)
			for _, c := range strings.Split(class, " or ") {
				seen += r.Errors[c]
			}
			if n := r.Errors["timeout"]; class == "tls" && seen > 0 {
				seen += n // handshakes that a busy machine did not get to
			}
			if seen != r.Sent {
				t.Errorf("got errors %v, want %d of %s", r.Errors, r.Sent, class)
			}
			if code != exitFail && code != exitInconclusive {
				t.Errorf("got exit code %d, want no pass: %s", code, text)
			}
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("took %v for a load of 300ms", took)
			}
		})
	}
	t.Run("no connection and no objective", func(t *testing.T) {
		code, r, text := endLoad(t, "http "+targets["connect"]+quick)
		if code != exitCouldNotRun || r == nil || !strings.Contains(text, "no connection to") || !strings.Contains(text, "30 connect") {
			t.Errorf("got %d, %v, %q, want that it could not run, and the result", code, r, text)
		}
	})
	t.Run("a quantile that is not known does not pass", func(t *testing.T) {
		code, r, text := endLoad(t, "http "+targets["timeout"]+quick+" --objective p99<20s")
		if code != exitInconclusive || r == nil || len(r.Response.Censored) == 0 {
			t.Errorf("got %d, %q, want inconclusive and censored times", code, text)
		}
	})
}

func TestLoadRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("{{{"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health.NewServer())
	reflection.Register(g)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	addr := l.Addr().String()
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"http", 2, "accepts 1 arg"},
		{"http ftp://x/", 2, "want a URL that begins with http://"},
		{"http 127.0.0.1:80/x", 2, "127.0.0.1:80/x: want a URL that begins with http://"},
		{"http http://127.0.0.1:1/ --rate 5", 2, "is not a rate: want"},
		{"http http://127.0.0.1:1/ --rate 1000000000000/s", 2, "--rate: want at most"},
		{"http http://127.0.0.1:1/ --rate max --objective p99<1s", 2, "--rate max has no plan"},
		{"http http://127.0.0.1:1/ --rate max --requests 5", 2, "--rate max goes by time"},
		{"http http://127.0.0.1:1/ --for 1s --requests 5", 2, "exclude each other"},
		{"http http://127.0.0.1:1/ --for 0s", 2, "--for 0s"},
		{"http http://127.0.0.1:1/ --conns 0", 2, "--conns: want 1 or more"},
		{"http http://127.0.0.1:1/ --objective p42<1s", 2, "want mean, p50"},
		{"http http://127.0.0.1:1/ --objective errors<1s", 2, "want a share"},
		{"http http://127.0.0.1:1/ --arrival bursty", 2, "want poisson or constant"},
		{"http http://127.0.0.1:1/ --header Host", 2, "want NAME:VALUE"},
		{"http http://127.0.0.1:1/ --header Content-Length:4", 2, "the transport's own"},
		{"http http://127.0.0.1:1/ --method A=B,C", 2, "is not a token"},
		{"http http://127.0.0.1:1/ --body @/nowhere/body", 2, "read /nowhere/body (--body): no such file"},
		{"http http://no-such-host.invalid/" + quick, 1, "no-such-host.invalid"},
		{"grpc " + addr, 2, "want package.Service/Method"},
		{"grpc nowhere --call a.B/C", 2, "want host:port"},
		{"grpc " + addr + " --call grpc.health.v1.Health/Chekc", 2, "has Check, List, Watch"},
		{"grpc " + addr + " --call no.Such/Method", 1, "no.Such"},
		{"grpc " + addr + " --call grpc.health.v1.Health/Check --data {\"servise\":1}", 2, `unknown field "servise"`},
		{"grpc " + addr + " --call a.B/C --proto " + bad, 2, "--proto: bad:1:1"},
		{"grpc " + addr + " --call a.B/C --proto /nowhere/x.proto", 2, "no such file"},
		{"grpc " + addr + " --call a.B/C --descriptors " + bad, 2, "not a FileDescriptorSet"},
		{"grpc " + addr + " --call a.B/C --proto a --descriptors b", 2, "none of the others can be"},
		{"merge", 2, "requires at least 1 arg"},
		{"merge " + bad, 2, "not a result of load"},
		{"merge /nowhere/r.json", 2, "no such file"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			code, _, stderr := start(t, append([]string{"load"}, strings.Fields(tc.args)...)...).end()
			if code != tc.code || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("got %d and %q, want %d and a line with %q", code, stderr, tc.code, tc.want)
			}
		})
	}
}

// TestLoadInterrupted ends a long load by SIGINT: what there was by then is told.
func TestLoadInterrupted(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	defer s.Close()
	for objective, want := range map[string]int{"": exitDone, " --objective p99<10s": exitInconclusive} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			served.Store(0)
			file := filepath.Join(t.TempDir(), "result.json")
			r := start(t, strings.Fields("load http "+s.URL+" --rate 100/s --for 1h --json "+file+objective)...)
			waitFor(t, "calls", func() bool { return served.Load() > 10 })
			r.signal(syscall.SIGINT)
			code, stdout, stderr := r.end()
			if !strings.Contains(stdout, "interrupted") || !strings.Contains(readFile(t, file), `"interrupted": true`) {
				t.Errorf("got %q, want that it was interrupted", stdout)
			}
			if code != want && !strings.Contains(stderr, "released calls late") {
				t.Errorf("got exit code %d, want %d: %s", code, want, stderr)
			}
		})
	}
}

// TestLoadMetrics reads the metrics of a run that goes on.
func TestLoadMetrics(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	r := start(t, strings.Fields("load http "+s.URL+" --rate 200/s --for 1h --metrics 127.0.0.1:0")...)
	url := "http://" + r.ready("metrics") + "/metrics"
	waitFor(t, "requests to be counted", func() bool {
		resp, err := http.Get(url)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		return strings.Contains(text, `loadgen_target_requests_per_second{scenario="adhoc"} 200`) &&
			strings.Contains(text, `loadgen_requests_total{channel="none",code="200",op="request",outcome="ok",scenario="adhoc"}`) &&
			!strings.Contains(text, `loadgen_requests_total{channel="none",code="200",op="request",outcome="ok",scenario="adhoc"} 0`+"\n")
	})
	r.signal(syscall.SIGTERM)
	r.end()
}

// TestLoadMerge merges a result with a copy of itself as another worker would have written it.
func TestLoadMerge(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	_, one, text := endLoad(t, "http "+s.URL+quick)
	if one == nil {
		t.Fatal(text)
	}
	dir := t.TempDir()
	var files []string
	for i := range 2 {
		w := *one
		w.Index, w.Total = i, 2
		b, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, filepath.Join(dir, fmt.Sprint(i)))
		if err := os.WriteFile(files[i], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, both, text := endLoad(t, "merge "+strings.Join(files, " ")); both == nil || both.Sent != 2*one.Sent || both.Response.P50 != one.Response.P50 {
		t.Errorf("got %+v, %s, want twice the calls with the same median", both, text)
	}
	if code, half, text := endLoad(t, "merge "+files[0]); code != exitInconclusive || half == nil || !strings.Contains(text, "1 of 2 workers") {
		t.Errorf("got %d, %q, want that a worker is missing", code, text)
	}
}

// TestGeneratorLimited tells a machine that falls further and further behind from one that stalled once.
func TestGeneratorLimited(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name           string
		lagP50, lagMax float64
		want           string
	}{
		{"behind", 0.5, 1, "generator-limited: this machine held about 1000/s of 2000/s"},
		{"a stall", 0.001, 1, ""},
	} {
		r := &loadgen.Result{Verdict: loadgen.Inconclusive, Duration: 1, Rate: loadgen.Rate{Target: 2000}}
		r.Sent, r.Lag, r.Pacing = 2000, &loadgen.Times{P50: tc.lagP50, Max: tc.lagMax}, &loadgen.Times{P99: 0.9}
		explainLateness(r)
		if got := strings.Join(r.Reasons, ""); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}
