package mirror

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"darklaunch/mirror/lanes"
	"darklaunch/mirror/sample"
)

// endless answers paths that end in Watch by a stream that goes on until the
// request is gone, a message each interval, and others at once.
func endless(interval time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "Watch") {
			answerOK(w, r)
			return
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		for r.Context().Err() == nil {
			w.Write(grpcMessage("event"))
			w.(http.Flusher).Flush()
			select {
			case <-time.After(interval):
			case <-r.Context().Done():
			}
		}
	}
}

// watch begins a stream of user's, of which stop is the end.
func (r *rig) watch(user, path, method, contentType string) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, method, "http://"+r.addr(0)+path, bytes.NewReader(grpcMessage("q")))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("x-user", user)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Te", "trailers")
	c := clients(1, strings.HasPrefix(contentType, "application/grpc"))[0]
	resp, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { io.Copy(io.Discard, resp.Body) })
	stop = sync.OnceFunc(func() {
		cancel()
		resp.Body.Close()
		reading.Wait()
		c.CloseIdleConnections()
	})
	r.t.Cleanup(stop)
	return stop
}

// watchDescriptors declares /pkg.Box/Watch, a stream of the server's without side
// effects.
func watchDescriptors(t *testing.T) *sample.Descriptors {
	t.Helper()
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{
		Name: proto.String("box.proto"), Package: proto.String("pkg"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Box"), Method: []*descriptorpb.MethodDescriptorProto{{
			Name: proto.String("Watch"), InputType: proto.String(".pkg.M"), OutputType: proto.String(".pkg.M"), ServerStreaming: proto.Bool(true),
			Options: &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()},
		}}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	d, err := sample.ParseDescriptors(set)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestStreams copies streams while they go on, and their users' other exchanges
// beside them.
func TestStreams(t *testing.T) {
	const grpc = "application/grpc"
	for _, tt := range []struct {
		name, path, method, contentType string
		cfg                             func(*testing.T) Config
	}{
		{"by descriptors", "/pkg.Box/Watch", "POST", grpc, func(t *testing.T) Config { return Config{Descriptors: watchDescriptors(t)} }},
		{"by route", "/Watch", "GET", "text/plain", func(*testing.T) Config {
			return Config{Fronts: []Front{{Routes: []Route{{Pattern: "GET /Watch", Stream: true}}}}}
		}},
		{"of events", "/Watch", "GET", "text/event-stream", func(*testing.T) Config { return Config{} }},
		{"of a second", "/Watch", "GET", "text/plain", func(*testing.T) Config { return Config{} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			live, shadow := newService(t, endless(50*time.Millisecond)), newService(t, endless(time.Hour))
			cfg := tt.cfg(t)
			cfg.ShadowTimeout = 20 * time.Second // longer than what must not wait for it
			r := newRig(t, cfg, live, shadow)
			stop := r.watch("ann", tt.path, tt.method, tt.contentType)
			waitFor(t, "the copy of a stream that goes on", func() bool { return len(shadow.requests()) == 1 })
			if got := shadow.requests()[0]; got.path != tt.path || got.role != "shadow" || got.body != string(grpcMessage("q")) {
				t.Errorf("got %+v, want the request", got)
			}
			start := time.Now()
			r.get("ann", "/next")
			waitFor(t, "the user's next copy", func() bool { return len(shadow.requests()) == 2 })
			if waited := time.Since(start); waited > 15*time.Second {
				t.Errorf("the next copy waited for %v", waited)
			}
			stop()
			waitFor(t, "live's stream to be seen to end", func() bool { return requests(r) == 2 })
			waitFor(t, "the lane to be free while the shadow's stream goes on", func() bool { return r.lanes.Snapshot().Lanes == 0 })
			if s := r.lanes.Snapshot(); s.Offered[lanes.Shadow] != 2 || s.Sent[lanes.Shadow] != 2 || s.Copies != 1 {
				t.Errorf("got %+v, want each offered and sent once, and the stream held", s)
			}
			if wrong := identity(scrape(t, r.registry)); wrong != nil {
				t.Error(wrong)
			}
		})
	}
}

// TestStreamsAreBounded begins more than may be under way: the rest is dropped,
// ordinary copies go on, and a role is not blamed for what is cut.
func TestStreamsAreBounded(t *testing.T) {
	const most, begun = 4, 30
	live, shadow := newService(t, endless(time.Hour)), newService(t, endless(time.Hour))
	r := newRig(t, Config{
		InFlight: most, ShadowTimeout: 500 * time.Millisecond,
		Fronts: []Front{{Routes: []Route{{Pattern: "GET /Watch", Stream: true}}}},
	}, live, shadow)
	var stops []func()
	for i := range begun {
		stops = append(stops, r.watch(user(i), "/Watch", "GET", "text/plain"))
	}
	waitFor(t, "streams to be cut", func() bool {
		return scrape(t, r.registry)[`mirror_backend_requests_total{code="canceled",role="shadow",route="GET /Watch"}`] >= most
	})
	r.get("ann", "/next")
	r.settled(begun + 1)
	s := r.lanes.Snapshot()
	dropped := s.Dropped[lanes.Shadow][lanes.Streaming]
	if sent := s.Sent[lanes.Shadow]; sent+dropped != begun+1 || sent < most+1 || dropped == 0 {
		t.Errorf("got %d sent, %d dropped as streaming, want %d together and some of each", sent, dropped, begun+1)
	}
	if got := r.metric(`mirror_breaker_state{role="shadow",state="closed"}`); got != 1 {
		t.Error("the breaker is open")
	}
	for _, stop := range stops {
		stop()
	}
	waitFor(t, "live's streams to be seen to end", func() bool { return requests(r) == begun+1 })
	if got := r.lanes.Snapshot().Offered[lanes.Shadow]; got != begun+1 {
		t.Errorf("got %d offered, want %d", got, begun+1)
	}
}

// TestClientStream copies a stream of the client's when it has ended, within the
// budget of a body; one beyond is dropped as streaming.
func TestClientStream(t *testing.T) {
	live, shadow := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Unsafe: true, MaxBody: 4 << 10}, live, shadow)
	upload := func(messages int) {
		t.Helper()
		pr, pw := io.Pipe()
		req, err := http.NewRequest("POST", "http://"+r.addr(0)+"/pkg.Box/Upload", pr)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("x-user", "ann")
		req.Header.Set("Content-Type", "application/grpc")
		go func() {
			for i := range messages {
				pw.Write(grpcMessage(strings.Repeat("x", 1000) + strconv.Itoa(i)))
			}
			pw.Close()
		}()
		c := clients(1, true)[0]
		defer c.CloseIdleConnections()
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	upload(3)
	r.settled(1)
	if got := shadow.requests(); len(got) != 1 || strings.Count(got[0].body, strings.Repeat("x", 1000)) != 3 {
		t.Fatalf("got %d copies, want one of three messages", len(got))
	}
	upload(6)
	if s := r.settled(2); s.Dropped[lanes.Shadow][lanes.Streaming] != 1 || s.Sent[lanes.Shadow] != 1 {
		t.Errorf("got %+v, want what is too long dropped as streaming", s.Dropped[lanes.Shadow])
	}
}
