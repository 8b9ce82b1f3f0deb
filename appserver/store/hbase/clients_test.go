package hbase

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
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

// pool is one of fakes.
func pool() (*clients, *[]*fake) {
	var made []*fake
	c := &clients{}
	c.fresh = func() gohbase.Client {
		made = append(made, &fake{})
		return made[len(made)-1]
	}
	c.open(Config{}.withDefaults())
	return c, &made
}

func ok(context.Context, gohbase.Client) (int, error) { return 1, nil }

func stuck(ctx context.Context, _ gohbase.Client) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// TestReplaced has calls without an answer until the client is replaced, and the
// old one closed when its calls have ended.
func TestReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, made := pool()
		for range stuckAfter - 1 {
			_, err := do(t.Context(), c, stuck)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the deadline", err)
			}
		}
		if _, err := do(t.Context(), c, ok); err != nil { // it works after all
			t.Error(err)
		}
		for range stuckAfter {
			if len(*made) != 1 {
				t.Fatalf("%d clients made, want 1", len(*made))
			}
			do(t.Context(), c, stuck)
		}
		if len(*made) != 2 || (*made)[0].closed.Load() {
			t.Errorf("after %d calls without answer: %d clients made, want 2; the first closed: %v", stuckAfter, len(*made), (*made)[0].closed.Load())
		}
		time.Sleep(c.cfg.Timeout + 1)
		synctest.Wait()
		if !(*made)[0].closed.Load() {
			t.Error("the old client is not closed")
		}
		c.close()
		if !(*made)[1].closed.Load() {
			t.Error("the client in use is not closed")
		}
		if _, err := do(t.Context(), c, ok); !errors.Is(err, store.ErrClosed) {
			t.Errorf("a call after close: got %v, want %v", err, store.ErrClosed)
		}
	})
}

// TestNotReplacedTooOften has many short calls end without an answer.
func TestNotReplacedTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, made := pool()
		start := time.Now()
		for time.Since(start) < 10*time.Second {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			do(ctx, c, stuck)
			cancel()
		}
		if got, want := len(*made), 1+3; got != want {
			t.Errorf("%d clients made in 10s, want %d", got, want)
		}
		c.close()
	})
}

// TestCallThatIgnoresItsContext returns to the caller all the same.
func TestCallThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pool()
		let := make(chan struct{})
		_, err := do(t.Context(), c, func(context.Context, gohbase.Client) (int, error) { <-let; return 1, nil })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline", err)
		}
		close(let)
		c.close()
	})
}

// TestFatal has gohbase's logger end the process: it ends the call instead, which
// fails with the reason in the log.
func TestFatal(t *testing.T) {
	var log bytes.Buffer
	TakeLogs(slog.New(slog.NewTextHandler(&log, nil)))
	defer TakeLogs(nil)
	c, _ := pool()
	defer c.close()
	_, err := do(t.Context(), c, func(context.Context, gohbase.Client) (int, error) {
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
