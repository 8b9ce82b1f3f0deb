package mirror

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"darklaunch/mirror/lanes"
)

// TestDarkConnections switches off for want of memory while connections are open:
// they stay dark after a resume, and are counted, until they end or are recycled
// between two messages.
func TestDarkConnections(t *testing.T) {
	for name, recycle := range map[string]bool{"left": false, "recycled": true} {
		t.Run(name, func(t *testing.T) {
			answer := make(chan bool)
			live, shadow := newService(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					<-answer
				}
				answerOK(w, r)
			}), newService(t, nil)
			r := newRig(t, Config{Recycle: recycle}, live, shadow)
			unobserved := func() float64 { return r.metric("mirror_connections_unobserved") }
			cs := clients(4, false)
			defer closeIdle(cs)
			get := func(c *http.Client, path string) {
				t.Helper()
				resp, err := c.Get("http://" + r.addr(0) + path)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if b, err := io.ReadAll(resp.Body); string(b) != "ok" {
					t.Errorf("%s: got %q, %v", path, b, err)
				}
			}
			for _, c := range cs {
				get(c, "/before")
			}
			if got := unobserved(); got != 0 {
				t.Fatalf("got %v unobserved before, want none", got)
			}
			r.switches.readMemory(91, 100)
			waitFor(t, "the connections to be dark", func() bool { return unobserved() == 4 })
			slow := make(chan bool)
			go func() { get(cs[0], "/slow"); close(slow) }()
			waitFor(t, "live to be asked", func() bool { return strings.HasSuffix(last(live).path, "/slow") })
			if err := r.Resume(); err != nil {
				t.Fatal(err)
			}
			before := requests(r)
			if recycle {
				waitFor(t, "those between messages to be closed", func() bool { return unobserved() == 1 })
			} else {
				get(cs[1], "/dark")
				if got := unobserved(); got != 4 || requests(r) != before {
					t.Errorf("after a resume: got %v unobserved, %d seen; want all dark still", got, requests(r)-before)
				}
			}
			close(answer)
			<-slow // and its answer was whole
			if recycle {
				waitFor(t, "the last to be closed", func() bool { return unobserved() == 0 })
			}
			closeIdle(cs)
			get(cs[2], "/after")
			waitFor(t, "a new connection to be seen", func() bool { return requests(r) == before+1 })
			waitFor(t, "the dark ones to be gone", func() bool { return unobserved() == 0 })
			if recycle {
				if got := r.metric(`mirror_connections_closed_total{front="mirror",reason="recycled"}`); got != 4 {
					t.Errorf("got %v recycled, want 4", got)
				}
			}
		})
	}
}

func last(s *service) (r request) {
	if all := s.requests(); len(all) > 0 {
		r = all[len(all)-1]
	}
	return r
}

// TestMemoryStaysOff until an operator resumes, and goes off again if that was
// too early.
func TestMemoryStaysOff(t *testing.T) {
	live, shadow := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{}, live, shadow)
	for range 2 {
		r.switches.readMemory(91, 100)
		if got := r.Status().Off; got != lanes.Memory.String() {
			t.Fatalf("got off %q, want memory", got)
		}
		r.switches.readMemory(10, 100)
		if got := r.Status().Off; got != lanes.Memory.String() {
			t.Fatalf("got off %q when there was memory again, want it to wait for an operator", got)
		}
		if err := r.Resume(); err != nil {
			t.Fatal(err)
		}
		if s := r.Status(); !s.Enabled {
			t.Fatalf("off for %s after a resume", s.Off)
		}
	}
}

// TestCodesFromTheStart has a configured route's series before its first request.
func TestCodesFromTheStart(t *testing.T) {
	live, shadow := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Fronts: []Front{{Routes: []Route{{Pattern: "POST /send"}, {Pattern: "/pkg.Box/Step"}, {Pattern: "/any"}}}}}, live, shadow)
	for _, series := range []string{
		`code="200",front="mirror",method="POST",route="POST /send"`, `code="500",front="mirror",method="POST",route="POST /send"`,
		`code="error",front="mirror",method="POST",route="POST /send"`, `code="canceled",front="mirror",method="POST",route="POST /send"`,
		`code="0",front="mirror",method="POST",route="/pkg.Box/Step"`, `code="14",front="mirror",method="POST",route="/pkg.Box/Step"`,
		`code="error",front="mirror",method="GET",route="/any"`,
	} {
		if got := r.metric("mirror_requests_total{" + series + "}"); got != 0 {
			t.Errorf("%s: got %v, want 0", series, got)
		}
	}
	for _, code := range []string{"error", "timeout", "canceled"} {
		if got := r.metric(`mirror_backend_requests_total{code="` + code + `",role="shadow",route="POST /send"}`); got != 0 {
			t.Errorf("%s: got %v, want 0", code, got)
		}
	}
	r.do("PUT", "ann", "/learned", "") // of others with the first request
	waitFor(t, "it to be counted", func() bool { return requests(r) == 1 })
	if got := r.metric(`mirror_requests_total{code="503",front="mirror",method="PUT",route="PUT /learned"}`); got != 0 {
		t.Errorf("got %v, want 0", got)
	}
}
