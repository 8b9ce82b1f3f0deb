package rig

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"darklaunch/internal/testenv"
)

// A Backend answers what is sent through a proxy, or by a generator.
type Backend struct {
	Addr  string
	Admin string // see bench/backend; empty for Web
	count func() (float64, error)
}

// Count is how many requests it has had.
func (b *Backend) Count() (float64, error) { return b.count() }

// webServer is an nginx that answers 200 bytes at / and 64 KiB at /64k. It does
// not take so long a word, so a variable is repeated.
const webServer = `
worker_processes 2;
events { worker_connections 10000; }
http {
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {{dir}}/body; proxy_temp_path {{dir}}/proxy; fastcgi_temp_path {{dir}}/fastcgi;
  uwsgi_temp_path {{dir}}/uwsgi; scgi_temp_path {{dir}}/scgi;
  map $uri $kib { default KIB; }
  map $uri $large { default "LARGE"; }
  server {
    listen {{addr "main"}} backlog=4096;
    location = / { return 200 "SMALL"; }
    location = /64k { return 200 $large; }
  }
  server { listen {{addr "status"}}; location / { stub_status; } }
}
`

// Web starts an nginx that answers 200 bytes at / and 64 KiB at /64k.
func Web(t testing.TB) *Backend {
	t.Helper()
	kib := strings.Repeat("x", 1<<10)
	s := testenv.Nginx(t, strings.NewReplacer("KIB", kib, "LARGE", strings.Repeat("${kib}", 64), "SMALL", kib[:200]).Replace(webServer))
	status := s.AddrOf("status")
	return &Backend{Addr: s.Addr, count: func() (float64, error) {
		return ask("http://"+status+"/", regexp.MustCompile(`\d+ \d+ (\d+)`))
	}}
}

// Echo starts bench/backend, which speaks gRPC at Addr and HTTP/1.1 at Admin.
func Echo(t testing.TB) *Backend {
	t.Helper()
	s, err := Start(t, Build(t, "darklaunch/bench/backend"), "--admin", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &Backend{Addr: s.Addr, Admin: s.Admin, count: func() (float64, error) {
		return ask("http://"+s.Admin+"/count", regexp.MustCompile(`(\d+)`))
	}}
}

// ask gets a page and finds a number in it.
func ask(url string, re *regexp.Regexp) (float64, error) {
	resp, err := http.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	m := re.FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%s says %q", url, text)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}
