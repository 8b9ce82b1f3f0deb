package hbase

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tsuna/gohbase"

	"darklaunch/appserver/store"
)

// fake is a client that does nothing but close.
type fake struct {
	gohbase.Client
	closed atomic.Bool
}

func (f *fake) Close() { f.closed.Store(true) }

// pool is one of fakes. The made are those that came into being, and away whether
// HBase answers none of them.
type pool struct {
	clients
	mu   sync.Mutex
	made []*fake
	away atomic.Bool
}

func newPool() *pool {
	p := &pool{}
	p.fresh = func() gohbase.Client {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.made = append(p.made, &fake{})
		return p.made[len(p.made)-1]
	}
	p.look = func(ctx context.Context, _ gohbase.Client, _ []byte) error {
		if !p.away.Load() {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}
	p.open(Config{}.withDefaults())
	return p
}

// count returns how many clients were made, and how many of these are open.
func (p *pool) count() (made, open int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.made {
		if !f.closed.Load() {
			open++
		}
	}
	return len(p.made), open
}

var row = []byte("row")

func ok(context.Context, gohbase.Client) (int, error) { return 1, nil }

func stuck(ctx context.Context, _ gohbase.Client) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// TestReplaced has calls for one row without an answer, among others that get theirs:
// the client is replaced within the read time-out of HBase's return, these calls end,
// and the old client is closed later.
func TestReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		p.away.Store(true)
		var calls sync.WaitGroup
		over := make(chan struct{})
		calls.Go(func() {
			for { // another row
				select {
				case <-over:
					return
				case <-time.After(10 * time.Millisecond):
				}
				if _, err := do(t.Context(), &p.clients, row, ok); err != nil {
					t.Error(err)
				}
			}
		})
		for range 5 {
			if _, err := do(t.Context(), &p.clients, row, stuck); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("while HBase is away: got %v, want the deadline", err)
			}
		}
		if made, open := p.count(); made < 6 || open > 2 {
			t.Errorf("while HBase is away: %d clients were made, %d are open, want some tried and closed again", made, open)
		}
		p.away.Store(false)
		begin := time.Now()
		_, err := do(t.Context(), &p.clients, row, stuck)
		if took := time.Since(begin); !errors.Is(err, errReplaced) || took > 2*p.cfg.ReadTimeout {
			t.Errorf("the last stuck call: got %v after %v, want %v", err, took, errReplaced)
		}
		if _, open := p.count(); open != 2 {
			t.Errorf("%d clients are open, want the old one too", open)
		}
		time.Sleep(p.cfg.Timeout + 1)
		synctest.Wait()
		if _, open := p.count(); open != 1 {
			t.Errorf("%d clients are open a while later, want 1", open)
		}
		close(over)
		calls.Wait()
		p.close()
		if _, open := p.count(); open != 0 {
			t.Errorf("%d clients are open after the end", open)
		}
		if _, err := do(t.Context(), &p.clients, row, ok); !errors.Is(err, store.ErrClosed) {
			t.Errorf("a call after close: got %v, want %v", err, store.ErrClosed)
		}
	})
}

// TestNotReplacedTooOften has many short calls end without an answer.
func TestNotReplacedTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		start := time.Now()
		for time.Since(start) < 9*time.Second {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			do(ctx, &p.clients, row, stuck)
			cancel()
			synctest.Wait()
		}
		if got, _ := p.count(); got != 1+4 {
			t.Errorf("%d clients made in 9s, want %d", got, 1+4)
		}
		p.close()
	})
}

// TestCallThatIgnoresItsContext returns to the caller all the same.
func TestCallThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		p.away.Store(true)
		let := make(chan struct{})
		_, err := do(t.Context(), &p.clients, row, func(context.Context, gohbase.Client) (int, error) { <-let; return 1, nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline", err)
		}
		close(let)
		p.close()
	})
}

// TestFatal has gohbase's logger end the process: it ends the call instead, which
// fails with the reason in the log.
func TestFatal(t *testing.T) {
	var log bytes.Buffer
	TakeLogs(slog.New(slog.NewTextHandler(&log, nil)))
	defer TakeLogs(nil)
	p := newPool()
	defer p.close()
	_, err := do(t.Context(), &p.clients, row, func(context.Context, gohbase.Client) (int, error) {
		logrus.WithField("key", "secret-user").WithField("region", "r1").Fatal("unknown error occured")
		return 1, nil
	})
	if !errors.Is(err, errEnded) || !store.Unknown(err) {
		t.Errorf("got %v, want %v, and unknown", err, errEnded)
	}
	line := log.String()
	if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "unknown error occured") || !strings.Contains(line, "region=r1") {
		t.Errorf("got %q in the log, want the reason", line)
	}
	if strings.Contains(line, "secret-user") {
		t.Errorf("got %q in the log, want no user", line)
	}
}
