package ops

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// trail is the order in which parts stopped.
type trail struct {
	mu    sync.Mutex
	names []string
}

// part notes in the trail when it has stopped, which takes a while, and
// returns err.
func (tr *trail) part(name string, takes time.Duration, err error) Part {
	return Part{Name: name, Run: func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(takes)
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.names = append(tr.names, name)
		return err
	}}
}

func TestRunStopsInReverseOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var tr trail
		start := time.Now()
		err := Run(ctx, nil, 10*time.Second,
			tr.part("store", time.Second, nil),
			tr.part("server", 2*time.Second, context.Canceled),
			tr.part("listener", 3*time.Second, nil))
		if err != nil {
			t.Errorf("got error %v, want none", err)
		}
		if diff := cmp.Diff([]string{"listener", "server", "store"}, tr.names); diff != "" {
			t.Errorf("order of stopping (-want +got):\n%s", diff)
		}
		if got, want := time.Since(start), time.Minute+6*time.Second; got != want {
			t.Errorf("took %v, want %v: each part waits for the one after it", got, want)
		}
	})
}

func TestRunFirstReturnStopsTheRest(t *testing.T) {
	broken := errors.New("broken")
	later := errors.New("later")
	for _, tc := range []struct {
		name       string
		first      error
		onStop     error
		want       error
		wantLogged string
	}{
		{name: "failure", first: broken, want: broken},
		{name: "canceled before it was told to stop", first: context.Canceled, want: context.Canceled},
		{name: "canceled while stopping", first: nil, onStop: context.Canceled, want: nil},
		{name: "work done", first: nil, want: nil},
		{name: "failure while stopping", first: nil, onStop: later, want: later},
		{name: "two failures", first: broken, onStop: later, want: broken, wantLogged: "later"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tr trail
				var logged bytes.Buffer
				log := slog.New(slog.NewTextHandler(&logged, nil))
				err := Run(t.Context(), log, time.Second,
					tr.part("other", 0, tc.onStop),
					Part{Name: "job", Run: func(context.Context) error { return tc.first }})
				if !errors.Is(err, tc.want) {
					t.Errorf("got error %v, want %v", err, tc.want)
				}
				if len(tr.names) != 1 {
					t.Errorf("stopped %q, want the other part", tr.names)
				}
				if !strings.Contains(logged.String(), tc.wantLogged) {
					t.Errorf("logged %q, want %q in it", logged.String(), tc.wantLogged)
				}
			})
		})
	}
}

func TestRunDrainLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var tr trail
		start := time.Now()
		err := Run(ctx, nil, 10*time.Second,
			tr.part("first", 0, nil),
			tr.part("stuck", time.Hour, nil),
			tr.part("last", time.Second, nil))
		if !errors.Is(err, ErrDrain) || !strings.Contains(err.Error(), "first, stuck") {
			t.Errorf("got error %v, want ErrDrain that names first and stuck", err)
		}
		if got, want := time.Since(start), time.Minute+10*time.Second; got != want {
			t.Errorf("gave up after %v, want %v", got, want)
		}
		time.Sleep(2 * time.Hour) // the stuck part ends before the bubble may
	})
}

func TestRunPanicIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tr trail
		err := Run(t.Context(), nil, time.Second,
			tr.part("other", 0, nil),
			Part{Name: "bad", Run: func(context.Context) error { panic("boom") }})
		p, ok := errors.AsType[*PanicError](err)
		if !ok || p.Part != "bad" || p.Value != "boom" || !bytes.Contains(p.Stack, []byte("ops_test.go")) {
			t.Errorf("got %v, want the panic of bad with its stack", err)
		}
		if len(tr.names) != 1 {
			t.Errorf("stopped %q, want the other part stopped in order", tr.names)
		}
	})
}

func TestNewLoggerFormats(t *testing.T) {
	for format, want := range map[string]string{"text": "msg=hello", "json": `"msg":"hello"`} {
		var b bytes.Buffer
		log, err := NewLogger(&b, slog.LevelWarn, format)
		if err != nil {
			t.Fatal(err)
		}
		log.Info("not this")
		log.Warn("hello")
		if got := b.String(); !strings.Contains(got, want) || strings.Contains(got, "not this") {
			t.Errorf("%s: logged %q, want only %q", format, got, want)
		}
	}
	if _, err := NewLogger(nil, 0, "xml"); err == nil || !strings.Contains(err.Error(), "json") {
		t.Errorf("got error %v, want one that names the formats", err)
	}
}
