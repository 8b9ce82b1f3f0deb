package rows_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"darklaunch/appserver/cell"
	"darklaunch/appserver/cell/celltest"
	"darklaunch/appserver/cell/rows"
	"darklaunch/appserver/store/memstore"
	rowstore "darklaunch/appserver/store/rows"
	"darklaunch/internal/faultnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers from a file of members until the test ends or stop is called.
func serve(t *testing.T, file, addr string) (at string, stop func()) {
	t.Helper()
	registry, err := cell.NewRegistry(cell.RegistryConfig{Timeout: celltest.Timeout, File: file})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := rowstore.NewServer(&memstore.Store{}, rows.NewServer(registry).RegisterTo).Serve(ctx, l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	wg.Go(func() { _ = registry.Run(ctx) })
	stop = func() { cancel(); wg.Wait() }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// place is the membership of one row-store process.
type place struct{ addr string }

func (p place) Client(t *testing.T) (c cell.Coordinator, cut, mend func()) {
	t.Helper()
	proxy, err := faultnet.Listen(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	cut = func() {
		proxy.Set(faultnet.ToTarget, faultnet.Faults{Swallow: true})
		proxy.Set(faultnet.ToClient, faultnet.Faults{Swallow: true})
	}
	mend = func() {
		if proxy.Count(faultnet.Swallowed) == 0 {
			t.Error("a link was cut, and nothing was lost on it")
		}
		proxy.Set(faultnet.ToTarget, faultnet.Faults{})
		proxy.Set(faultnet.ToClient, faultnet.Faults{})
		proxy.Cut() // its streams have gaps
	}
	return rows.New(proxy.Addr()), cut, mend
}

func (p place) SetConfig(t *testing.T, b []byte) {
	t.Helper()
	if err := rows.New(p.addr).SetConfig(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	celltest.Run(t, func(t *testing.T) celltest.Place {
		addr, _ := serve(t, filepath.Join(t.TempDir(), "members"), "127.0.0.1:0")
		return place{addr}
	})
}

// TestStartedAgain: sessions outlive the process that keeps them, as do the numbers.
func TestStartedAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "members")
	addr, stop := serve(t, file, "127.0.0.1:0")
	s, err := rows.New(addr).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Register(ctx, "1", []byte("one")); err != nil {
		t.Fatal(err)
	}
	before, changed, err := s.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	serve(t, file, addr)
	if err := s.Touch(ctx); err != nil {
		t.Fatalf("the session is over: %v", err)
	}
	select {
	case <-changed: // who watched is to look again
	case <-ctx.Done():
		t.Fatal("the watch was lost")
	}
	after, _, err := s.Read(ctx)
	if err != nil || after.At != before.At || string(after.Records["1"]) != "one" {
		t.Errorf("after a start there is %+v, %v, want %+v", after, err, before)
	}
}

// TestRefused sends what no member of ours would.
func TestRefused(t *testing.T) {
	addr, _ := serve(t, filepath.Join(t.TempDir(), "members"), "127.0.0.1:0")
	s, err := rows.New(addr).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"no name":       s.Register(t.Context(), "", nil),
		"a long name":   s.Register(t.Context(), strings.Repeat("a", 129), nil),
		"a long record": s.Register(t.Context(), "a", make([]byte, 64<<10+1)),
	} {
		if err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := rows.New(addr).SetConfig(t.Context(), make([]byte, 64<<10+1)); err == nil {
		t.Error("a long configuration was taken")
	}
}

func TestNobodyThere(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := rows.New("127.0.0.1:1").Open(ctx); err == nil || !strings.Contains(err.Error(), "members at 127.0.0.1:1") {
		t.Errorf("got %v, want who does not answer", err)
	}
	if _, err := rows.New("127.0.0.1:1").Open(ctx); errors.Is(err, cell.ErrExpired) {
		t.Errorf("got %v", err)
	}
}
