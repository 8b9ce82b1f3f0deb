package load

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"darklaunch/bench/rig"
	"darklaunch/internal/testenv"
	"darklaunch/internal/testenv/install"
)

// conns and streams are what generators may have under way at once: 64
// connections of HTTP/1.1, or 4 of gRPC with 64 calls on each.
const (
	conns     = 64
	grpcConns = 4
	streams   = 64
)

// A task is what a generator does.
type task struct {
	grpc bool
	addr string
	rate float64 // a second; 0 is as fast as it goes
	d    time.Duration
	dir  string // for files
}

func (j task) seconds() string { return strconv.FormatFloat(j.d.Seconds(), 'f', -1, 64) + "s" }

// A report is what a generator says of a task, and what it cost.
type report struct {
	rig.Load
	Max time.Duration // 0: it does not say
	cpu time.Duration
	rss int64 // bytes, the largest
}

// A generator is one of the programs compared.
type generator struct {
	name  string
	path  string
	paced bool // it can hold a rate
	args  func(task) ([]string, error)
	parse func(out []byte, j task) (report, error)
}

// run runs it and adds what the kernel charged.
func (g generator) run(t testing.TB, j task) (report, error) {
	j.dir = t.TempDir()
	args, err := g.args(j)
	if err != nil {
		return report{}, err
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(g.path, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "K6_NO_USAGE_REPORT=true")
	if err := testenv.Launcher(t).StartCommand(cmd, 0); err != nil {
		return report{}, err
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 11 { // inconclusive is a result
		return report{}, fmt.Errorf("%s %s: %w\n%s%s", g.name, strings.Join(args, " "), err, errs.Bytes(), out.Bytes())
	}
	r, err := g.parse(out.Bytes(), j)
	if err != nil {
		return r, fmt.Errorf("%s: %w\n%s", g.name, err, errs.Bytes())
	}
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.rss = u.Maxrss << 10
	}
	return r, nil
}

// generators returns those for a protocol that can be had here, and says which
// cannot.
func generators(t testing.TB, grpc bool) []generator {
	tools := testenv.Need(t, install.Wrk, install.H2load)
	var gs []generator
	tool := func(pkg, version string, make func(path string) []generator) {
		path, err := rig.GoTool(t, pkg, version)
		if err != nil {
			t.Logf("left out: %v", err)
			return
		}
		gs = append(gs, make(path)...)
	}
	if !grpc {
		gs = append(gs, wrk(tools[0]))
	}
	gs = append(gs, h2load(tools[1]))
	if grpc {
		tool("github.com/bojand/ghz/cmd/ghz", "v0.120.0", func(path string) []generator {
			return []generator{ghz("ghz", path), ghz("ghz --async", path, "--async")}
		})
	} else {
		tool("github.com/rakyll/hey", "v0.1.4", func(path string) []generator { return []generator{hey(path)} })
	}
	tool("go.k6.io/k6", "v1.8.1", func(path string) []generator {
		return []generator{k6("k6, 64 users", path, 64), k6("k6, 2,000 users", path, 2000)}
	})
	path, err := rig.Darklaunch(t, "load")
	if err != nil {
		t.Logf("left out: %v", err)
		return gs
	}
	return append(gs, darklaunch(path))
}

func wrk(path string) generator {
	return generator{name: "wrk", path: path,
		args: func(j task) ([]string, error) {
			return []string{"-t", "1", "-c", strconv.Itoa(conns), "-d", j.seconds(), "--latency", "http://" + j.addr + "/"}, nil
		},
		parse: func(out []byte, _ task) (report, error) {
			l, err := rig.ParseWrk(string(out))
			return report{Load: l}, err
		},
	}
}

func h2load(path string) generator {
	return generator{name: "h2load", path: path, paced: true,
		args: func(j task) ([]string, error) {
			h := rig.H2load{URL: "http://" + j.addr + "/", HTTP1: true, Clients: conns, Rate: j.rate, For: j.d}
			if j.grpc {
				h = rig.H2load{URL: "http://" + j.addr + "/bench.Echo/Call", GRPC: true, Clients: grpcConns, Streams: streams, Rate: j.rate, For: j.d,
					Data: filepath.Join(j.dir, "body")}
				msg := make([]byte, 5+len(message))
				binary.BigEndian.PutUint32(msg[1:], uint32(len(message)))
				copy(msg[5:], message)
				if err := os.WriteFile(h.Data, msg, 0o600); err != nil {
					return nil, err
				}
			}
			return h.Args(filepath.Join(j.dir, "log")), nil
		},
		parse: func(out []byte, j task) (report, error) {
			l, err := rig.ParseH2load(string(out))
			if err != nil {
				return report{}, err
			}
			l.P50, l.P99, err = rig.Logged(filepath.Join(j.dir, "log"))
			return report{Load: l}, err
		},
	}
}

var (
	heyStatus   = regexp.MustCompile(`\[(\d+)\]\s+(\d+) responses`)
	heyRate     = regexp.MustCompile(`Requests/sec:\s+([\d.]+)`)
	heyQuantile = regexp.MustCompile(`(50|99)%+ in ([\d.]+) secs`)
	heySlowest  = regexp.MustCompile(`Slowest:\s+([\d.]+) secs`)
)

func hey(path string) generator {
	return generator{name: "hey", path: path, paced: true,
		args: func(j task) ([]string, error) {
			args := []string{"-z", j.seconds(), "-c", strconv.Itoa(conns)}
			if j.rate > 0 {
				args = append(args, "-q", strconv.FormatFloat(j.rate/conns, 'f', -1, 64))
			}
			return append(args, "http://"+j.addr+"/"), nil
		},
		parse: func(out []byte, _ task) (report, error) {
			var r report
			for _, m := range heyStatus.FindAllSubmatch(out, -1) {
				n := float(m[2])
				if m[1][0] == '2' {
					r.Requests += n
				} else {
					r.Failed += n
				}
			}
			if m := heyRate.FindSubmatch(out); m != nil {
				r.Rate = float(m[1])
			}
			for _, m := range heyQuantile.FindAllSubmatch(out, -1) {
				if string(m[1]) == "50" {
					r.P50 = seconds(float(m[2]))
				} else {
					r.P99 = seconds(float(m[2]))
				}
			}
			if m := heySlowest.FindSubmatch(out); m != nil {
				r.Max = seconds(float(m[1]))
			}
			if r.Requests == 0 {
				return r, fmt.Errorf("no answer:\n%s", out)
			}
			return r, nil
		},
	}
}

// message is the body of a gRPC call: field 1, 197 bytes.
var message = append([]byte{0x0a, 197, 1}, bytes.Repeat([]byte("x"), 197)...)

func ghz(name, path string, more ...string) generator {
	return generator{name: name, path: path, paced: true,
		args: func(j task) ([]string, error) {
			file, data, err := rig.EchoProto(j.dir)
			args := []string{"--insecure", "--proto", file, "--call", "bench.Echo.Call", "-d", data,
				"-c", strconv.Itoa(grpcConns * streams), "--connections", strconv.Itoa(grpcConns), "-z", j.seconds(), "--duration-stop", "wait", "-O", "json"}
			if j.rate > 0 {
				args = append(append(args, "-r", strconv.FormatFloat(j.rate, 'f', -1, 64)), more...)
			}
			return append(args, j.addr), err
		},
		parse: func(out []byte, _ task) (report, error) {
			var v struct {
				Count   float64
				RPS     float64
				Slowest time.Duration
				Codes   map[string]float64 `json:"statusCodeDistribution"`
				Latency []struct {
					Percentage int
					Latency    time.Duration
				} `json:"latencyDistribution"`
			}
			if err := json.Unmarshal(out, &v); err != nil {
				return report{}, err
			}
			r := report{Load: rig.Load{Requests: v.Codes["OK"], Failed: v.Count - v.Codes["OK"], Rate: v.RPS}, Max: v.Slowest}
			for _, l := range v.Latency {
				switch l.Percentage {
				case 50:
					r.P50 = l.Latency
				case 99:
					r.P99 = l.Latency
				}
			}
			if r.Requests == 0 {
				return r, fmt.Errorf("no answer: %s", out)
			}
			return r, nil
		},
	}
}

// k6Script is filled in with the options, the set-up, the call, and the names of
// the metrics that count calls and measure them.
const k6Script = `
import http from 'k6/http';
import grpc from 'k6/net/grpc';
const client = new grpc.Client();
%s
export const options = { discardResponseBodies: true, summaryTrendStats: ['p(50)', 'p(99)', 'max'], scenarios: { s: %s } };
let connected = false;
export default function () {
  %s
}
export function handleSummary(data) {
  return { stdout: JSON.stringify({ count: data.metrics.iterations.values, time: data.metrics.%s.values, dropped: data.metrics.dropped_iterations }) };
}
`

func k6(name, path string, users int) generator {
	return generator{name: name, path: path, paced: true,
		args: func(j task) ([]string, error) {
			scenario := fmt.Sprintf(`{ executor: 'constant-vus', vus: %d, duration: '%s' }`, conns, j.seconds())
			if j.rate > 0 {
				scenario = fmt.Sprintf(`{ executor: 'constant-arrival-rate', rate: %.0f, timeUnit: '1s', duration: '%s', preAllocatedVUs: 64, maxVUs: %d }`, j.rate, j.seconds(), users)
			}
			setup, call, metric := "", "http.get('http://"+j.addr+"/');", "http_req_duration"
			if j.grpc {
				file, data, err := rig.EchoProto(j.dir)
				if err != nil {
					return nil, err
				}
				setup = fmt.Sprintf("client.load(['%s'], '%s');", filepath.Dir(file), filepath.Base(file))
				call = fmt.Sprintf("if (!connected) { client.connect('%s', { plaintext: true }); connected = true; }\n  client.invoke('bench.Echo/Call', %s);", j.addr, data)
				metric = "grpc_req_duration"
			}
			script := filepath.Join(j.dir, "script.js")
			return []string{"run", "--quiet", "--no-usage-report", script},
				os.WriteFile(script, fmt.Appendf(nil, k6Script, setup, scenario, call, metric), 0o600)
		},
		parse: func(out []byte, j task) (report, error) {
			var v struct {
				Count   struct{ Count, Rate float64 }
				Time    map[string]float64
				Dropped struct{ Values struct{ Count float64 } }
			}
			if err := json.Unmarshal(out, &v); err != nil {
				return report{}, fmt.Errorf("%w in %s", err, out)
			}
			ms := func(name string) time.Duration { return seconds(v.Time[name] / 1000) }
			return report{Load: rig.Load{Requests: v.Count.Count, Rate: v.Count.Count / j.d.Seconds(), P50: ms("p(50)"), P99: ms("p(99)")}, Max: ms("max")}, nil
		},
	}
}

func darklaunch(path string) generator {
	return generator{name: "darklaunch load", path: path, paced: true,
		args: func(j task) ([]string, error) {
			s := rig.Steady{Addr: j.addr, GRPC: j.grpc, Conns: conns, Rate: j.rate, For: j.d}
			if j.grpc {
				s.Conns, s.Streams = grpcConns, streams
			}
			return s.Args(j.dir)
		},
		parse: func(out []byte, j task) (report, error) {
			l, longest, err := rig.ParseSteady(out, j.d)
			return report{Load: l, Max: longest}, err
		},
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// float reads digits and a point.
func float(b []byte) float64 {
	x, _ := strconv.ParseFloat(string(b), 64)
	return x
}
