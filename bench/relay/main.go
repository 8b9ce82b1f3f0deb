// Command relay measures what the live path of the mirror costs beside nginx
// and HAProxy, all of them started by it, on loopback, in turns:
//
//	go run ./bench/relay [-for 3s] [-rounds 3] [-only REGEXP]
//
// It needs nginx, haproxy, wrk and h2load. Load is a closed loop of 64
// connections (HTTP/1.1) or 4 connections of 16 streams (gRPC). It prints the
// median of the rounds: requests a second, and CPU a request by
// /proc/PID/task/*/schedstat, over all processes of the proxy.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"darklaunch/mirror/relay"
)

var (
	duration = flag.Duration("for", 3*time.Second, "length of one measurement")
	rounds   = flag.Int("rounds", 3, "measurements of each proxy")
	only     = flag.String("only", ".", "`regexp` of the proxies to measure")
	serve    = flag.String("serve", "", "internal: be this proxy")
	listen   = flag.String("listen", "127.0.0.1:0", "internal: where")
	live     = flag.String("live", "", "internal: what is behind it")
)

func main() {
	flag.Parse()
	if *serve != "" {
		fail(proxy(*serve))
		return
	}
	fail(measure())
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

// contender is a proxy that is measured.
type contender struct {
	name    string
	command func(dir, listen, live string, isGRPC bool) ([]string, error)
}

var contenders = []contender{
	{"nginx", nginxProxy},
	{"haproxy", haproxy},
	{"loops-bare", ours},
	{"loops", ours},
	{"goroutines-bare", ours},
	{"goroutines", ours},
}

// proxy is one of ours: loops or goroutines, bare or with an observer that
// counts bytes.
func proxy(name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if name == "grpc" {
		return echo(ctx)
	}
	cfg := relay.Config{Front: "bench", Listen: *listen, Live: []string{*live}, DrainTimeout: time.Millisecond}
	cfg.Portable = strings.HasPrefix(name, "goroutines")
	if !strings.HasSuffix(name, "-bare") {
		cfg.Observe = func(relay.Info) relay.Observer { return new(counting) }
	}
	if n, err := strconv.Atoi(os.Getenv("LOOPS")); err == nil {
		cfg.Loops = n
	}
	r, err := relay.New(cfg)
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// echo is a grpc-go server that answers every call with its request.
func echo(ctx context.Context) error {
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var m wrapperspb.BytesValue
		if err := stream.RecvMsg(&m); err != nil {
			return err
		}
		return stream.SendMsg(&m)
	}))
	context.AfterFunc(ctx, s.Stop)
	return s.Serve(ln)
}

type counting struct{ bytes [2]int }

func (c *counting) Chunk(side relay.Side, _ time.Time, p []byte) { c.bytes[side] += len(p) }
func (c *counting) EOF(relay.Side, time.Time)                    {}
func (c *counting) Close(relay.Cause, time.Time)                 {}
func (c *counting) State() (string, bool)                        { return relay.HTTP1, true }

func ours(string, string, string, bool) ([]string, error) { return nil, nil }

func nginxProxy(dir, listen, live string, isGRPC bool) ([]string, error) {
	server := fmt.Sprintf(`upstream live { server %s; keepalive 256; }
server { listen %s; location / { proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://live; } }`, live, listen)
	if isGRPC {
		server = fmt.Sprintf(`upstream live { server %s; keepalive 256; }
server { listen %s http2; location / { grpc_pass grpc://live; } }`, live, listen)
	}
	return nginx(dir, 2, server)
}

func nginx(dir string, workers int, server string) ([]string, error) {
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; worker_processes %d; pid %s/nginx.pid; error_log stderr crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_body_temp_path %s/b; proxy_temp_path %s/p;
fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s;
%s }
`, workers, dir, dir, dir, dir, dir, dir, server)
	return []string{"nginx", "-c", conf, "-p", dir}, os.WriteFile(conf, []byte(text), 0o600)
}

func haproxy(dir, listen, live string, isGRPC bool) ([]string, error) {
	conf := filepath.Join(dir, "haproxy.cfg")
	h2 := ""
	if isGRPC {
		h2 = " proto h2"
	}
	text := fmt.Sprintf(`global
  nbthread 2
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  http-reuse always
frontend f
  bind %s%s
  default_backend b
backend b
  server live %s%s
`, listen, h2, live, h2)
	return []string{"haproxy", "-q", "-f", conf}, os.WriteFile(conf, []byte(text), 0o600)
}

func measure() error {
	pick, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "relaybench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	backend := freeAddr()
	args, err := nginx(dir, 1, fmt.Sprintf(`server { listen %s; location / { return 200 "%s"; } }`, backend, strings.Repeat("x", 200)))
	if err != nil {
		return err
	}
	stop, _, err := start(args, backend)
	if err != nil {
		return err
	}
	defer stop()
	grpcLive := freeAddr()
	stopGRPC, _, err := start([]string{os.Args[0], "-serve", "grpc", "-listen", grpcLive}, grpcLive)
	if err != nil {
		return err
	}
	defer stopGRPC()
	for _, isGRPC := range []bool{false, true} {
		target := backend
		if isGRPC {
			target = grpcLive
		}
		if err := compare(pick, target, isGRPC); err != nil {
			return err
		}
	}
	return nil
}

type result struct{ rate, cpu float64 }

func compare(pick *regexp.Regexp, live string, isGRPC bool) error {
	results := make(map[string][]result)
	for range *rounds {
		for _, c := range contenders {
			if !pick.MatchString(c.name) {
				continue
			}
			r, err := c.once(live, isGRPC)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			results[c.name] = append(results[c.name], r)
		}
	}
	fmt.Printf("\n%-16s %10s %12s\n", map[bool]string{false: "HTTP/1.1", true: "gRPC"}[isGRPC], "req/s", "CPU us/req")
	for _, c := range contenders {
		rs := results[c.name]
		if len(rs) == 0 {
			continue
		}
		slices.SortFunc(rs, func(a, b result) int { return int(1000 * (a.cpu - b.cpu)) })
		fmt.Printf("%-16s %10.0f %12.2f   (%.2f to %.2f)\n", c.name, rs[len(rs)/2].rate, rs[len(rs)/2].cpu, rs[0].cpu, rs[len(rs)-1].cpu)
	}
	return nil
}

func (c contender) once(live string, isGRPC bool) (result, error) {
	dir, err := os.MkdirTemp("", "relaybench")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	addr := freeAddr()
	args, err := c.command(dir, addr, live, isGRPC)
	if err != nil {
		return result{}, err
	}
	if args == nil {
		args = []string{os.Args[0], "-serve", c.name, "-listen", addr, "-live", live}
	}
	stop, pid, err := start(args, addr)
	if err != nil {
		return result{}, err
	}
	defer stop()
	before := cpu(pid)
	n, err := load(dir, addr, isGRPC)
	if err != nil {
		return result{}, err
	}
	used := cpu(pid) - before
	return result{rate: float64(n) / duration.Seconds(), cpu: float64(used) / 1e3 / float64(n)}, nil
}

var (
	wrkCount    = regexp.MustCompile(`(\d+) requests in`)
	h2loadCount = regexp.MustCompile(`(\d+) succeeded, (\d+) failed`)
)

// load returns how many requests were answered.
func load(dir, addr string, isGRPC bool) (int, error) {
	secs := strconv.Itoa(max(1, int(duration.Seconds())))
	if !isGRPC {
		out, err := exec.Command("wrk", "-t1", "-c64", "-d"+secs+"s", "http://"+addr+"/").CombinedOutput()
		m := wrkCount.FindSubmatch(out)
		if err != nil || m == nil {
			return 0, fmt.Errorf("wrk: %v: %s", err, out)
		}
		return strconv.Atoi(string(m[1]))
	}
	body := filepath.Join(dir, "body")
	message, err := proto.Marshal(wrapperspb.Bytes(make([]byte, 197)))
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(body, append([]byte{0, 0, 0, 0, byte(len(message))}, message...), 0o600); err != nil {
		return 0, err
	}
	out, err := exec.Command("h2load", "-t1", "-c4", "-m16", "-D", secs, "-d", body, "-H", "content-type: application/grpc",
		"-H", "te: trailers", "http://"+addr+"/bench.Bench/Echo").CombinedOutput()
	m := h2loadCount.FindSubmatch(out)
	if err != nil || m == nil {
		return 0, fmt.Errorf("h2load: %v: %s", err, out)
	}
	return strconv.Atoi(string(m[1]))
}

// start runs args until stop is called, and returns when addr accepts.
func start(args []string, addr string) (stop func(), pid int, err error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return stop, cmd.Process.Pid, nil
		}
	}
	stop()
	return nil, 0, fmt.Errorf("%s does not accept on %s", args[0], addr)
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	defer l.Close()
	return l.Addr().String()
}

// cpu is what the process and its children have run, in ns.
func cpu(pid int) (sum int64) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, t := range tasks {
		stat, _ := os.ReadFile(t + "/schedstat")
		ns, _, _ := strings.Cut(string(stat), " ")
		n, _ := strconv.ParseInt(ns, 10, 64)
		sum += n
		children, _ := os.ReadFile(t + "/children")
		for child := range strings.FieldsSeq(string(children)) {
			if id, err := strconv.Atoi(child); err == nil {
				sum += cpu(id)
			}
		}
	}
	return sum
}
