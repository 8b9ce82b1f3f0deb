// Command mirror measures what mirroring costs beside nginx, on loopback, in
// turns:
//
//	go run ./bench/mirror [-for 3s] [-rounds 5] [-conns 32] [-record]
//
// It needs nginx and wrk, which plays requests of 1,000 users in a closed loop.
// Live and shadow are nginx. It prints requests a second, CPU a request of the
// whole proxy by /proc/PID/task/*/schedstat, and how many of the requests came
// to the shadow. -record puts the table into bench/RESULTS.md.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"darklaunch/bench/side"
)

var (
	duration = flag.Duration("for", 3*time.Second, "length of one measurement")
	rounds   = flag.Int("rounds", 5, "measurements of each proxy")
	conns    = flag.Int("conns", 32, "connections of the load")
	record   = flag.Bool("record", false, "put the table into bench/RESULTS.md")
	keep     = flag.String("profile", "", "`file` for a CPU profile of the mirror at 100 %")
)

func main() {
	flag.Parse()
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, "mirror:", err)
		os.Exit(1)
	}
}

// rig is the services around a proxy.
type rig struct{ dir, live, shadow, program string }

func measure() error {
	dir, err := os.MkdirTemp("", "mirrorbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := rig{dir: dir, program: filepath.Join(dir, "darklaunch")}
	if out, err := exec.Command("go", "build", "-o", r.program, "./cmd/darklaunch").CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "load.lua"), []byte(script), 0o600); err != nil {
		return err
	}
	for _, addr := range []*string{&r.live, &r.shadow} {
		if *addr, err = freeAddr(); err != nil {
			return err
		}
		stop, _, err := r.nginx(1, fmt.Sprintf(`server { listen %s; location / { return 200 "%s"; }
			location = /count { stub_status; } }`, *addr, strings.Repeat("x", 200)), *addr)
		if err != nil {
			return err
		}
		defer stop()
	}
	results, err := side.Interleave(*rounds,
		side.Variant{Name: "nginx, no mirror", Run: func() (map[string]float64, error) { return r.once(r.plain) }},
		side.Variant{Name: "darklaunch, 0 % copied", Run: func() (map[string]float64, error) { return r.once(r.ours("0%")) }},
		side.Variant{Name: "nginx, mirror", Run: func() (map[string]float64, error) { return r.once(r.mirrored) }},
		side.Variant{Name: "darklaunch, 100 % copied", Run: func() (map[string]float64, error) { return r.once(r.ours("100%")) }},
	)
	if err != nil {
		return err
	}
	text := side.Machine() + ", `go run ./bench/mirror`\n\n" + results.Table("nginx, no mirror",
		side.Column{Measure: "cpu", Title: "CPU µs a request", Format: "%.1f"},
		side.Column{Measure: "rate", Title: "requests/s", Format: "%.0f"},
		side.Column{Measure: "copied", Title: "copied", Format: "%.2f"})
	fmt.Print(text)
	if *record {
		return side.Record("bench/RESULTS.md", "mirror", "## Mirroring\n\n"+text)
	}
	return nil
}

// script makes wrk play a thousand users.
const script = `
local all, n = {}, 0
init = function() for i = 1, 1000 do all[i] = wrk.format("GET", "/inbox", {["x-user"] = "user-" .. i}) end end
request = function() n = n % 1000 + 1; return all[n] end
`

type starter func(listen string) (stop func(), pid int, err error)

const proxying = `proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://`

func (r *rig) plain(listen string) (func(), int, error) {
	return r.nginx(2, fmt.Sprintf("upstream live { server %s; keepalive 256; }\nserver { listen %s; location / { %slive; } }", r.live, listen, proxying), listen)
}

func (r *rig) mirrored(listen string) (func(), int, error) {
	return r.nginx(2, fmt.Sprintf(`upstream live { server %s; keepalive 256; } upstream shadow { server %s; keepalive 256; }
server { listen %s; location / { mirror /shadow; mirror_request_body on; %slive; }
location = /shadow { internal; %sshadow$request_uri; } }`, r.live, r.shadow, listen, proxying, proxying), listen)
}

func (r *rig) ours(share string) starter {
	return func(listen string) (func(), int, error) {
		admin := "127.0.0.1:0"
		if *keep != "" && share == "100%" {
			admin = "127.0.0.1:18699"
			time.AfterFunc(*duration/4, func() { profile("http://" + admin) })
		}
		return start(listen, r.program, "mirror", "--listen", listen, "--live", r.live, "--shadow", r.shadow,
			"--key", "header:x-user", "--sample", share, "--admin", admin, "--drain-timeout", "1s")
	}
}

func profile(admin string) {
	resp, err := http.Get(fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", admin, int(max(duration.Seconds()/2, 1))))
	if err != nil {
		return // there is none, then
	}
	defer resp.Body.Close()
	if f, err := os.Create(*keep); err == nil {
		io.Copy(f, resp.Body)
		f.Close()
	}
}

func (r *rig) nginx(workers int, server, addr string) (func(), int, error) {
	dir, err := os.MkdirTemp(r.dir, "nginx")
	if err != nil {
		return nil, 0, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; worker_processes %d; pid %[2]s/nginx.pid; error_log stderr crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_body_temp_path %[2]s/b; proxy_temp_path %[2]s/p;
fastcgi_temp_path %[2]s/f; uwsgi_temp_path %[2]s/u; scgi_temp_path %[2]s/s;
%[3]s }
`, workers, dir, server)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, 0, err
	}
	return start(addr, "nginx", "-c", conf, "-p", dir)
}

var (
	wrkCount = regexp.MustCompile(`(\d+) requests in`)
	handled  = regexp.MustCompile(`(?m)^ \d+ \d+ (\d+)`)
)

func (r *rig) once(proxy starter) (map[string]float64, error) {
	listen, err := freeAddr()
	if err != nil {
		return nil, err
	}
	stop, pid, err := proxy(listen)
	if err != nil {
		return nil, err
	}
	defer stop()
	before, err := side.CPU(pid)
	if err != nil {
		return nil, err
	}
	shadowBefore, err := count(r.shadow)
	if err != nil {
		return nil, err
	}
	out, err := exec.Command("wrk", "-t1", fmt.Sprintf("-c%d", *conns), fmt.Sprintf("-d%ds", max(1, int(duration.Seconds()))),
		"-s", filepath.Join(r.dir, "load.lua"), "http://"+listen+"/inbox").CombinedOutput()
	m := wrkCount.FindSubmatch(out)
	if err != nil || m == nil || strings.Contains(string(out), "Non-2xx") {
		return nil, fmt.Errorf("wrk: %v: %s", err, out)
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		return nil, err
	}
	after, err := side.CPU(pid)
	if err != nil {
		return nil, err
	}
	shadowAfter, err := count(r.shadow)
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		"cpu": float64((after - before).Nanoseconds()) / 1e3 / n, "rate": n / duration.Seconds(),
		"copied": (shadowAfter - shadowBefore - 1) / n, // the count is a request too
	}, nil
}

// count is how many requests an nginx has handled.
func count(addr string) (float64, error) {
	resp, err := http.Get("http://" + addr + "/count")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	m := handled.FindSubmatch(b)
	if m == nil {
		return 0, fmt.Errorf("count of %s: %s", addr, b)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// start runs a program until stop is called, and returns when addr accepts.
func start(addr string, args ...string) (stop func(), pid int, err error) {
	cmd := exec.Command(args[0], args[1:]...)
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

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
