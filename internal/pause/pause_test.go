package pause

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended, end := context.WithCancel(t.Context())
		end()
		soon, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		for _, c := range []struct {
			ctx   context.Context
			d     time.Duration
			takes time.Duration
			want  error
		}{
			{t.Context(), time.Minute, time.Minute, nil},
			{t.Context(), 0, 0, nil},
			{t.Context(), -time.Minute, 0, nil},
			{ended, time.Minute, 0, context.Canceled},
			{ended, 0, 0, context.Canceled},
			{soon, time.Minute, 0, context.DeadlineExceeded}, // a minute is over
		} {
			start := time.Now()
			if err := For(c.ctx, c.d); !errors.Is(err, c.want) || time.Since(start) != c.takes {
				t.Errorf("%v: got %v after %v, want %v after %v", c.d, err, time.Since(start), c.want, c.takes)
			}
		}
		later, stopLater := context.WithTimeout(t.Context(), time.Second)
		defer stopLater()
		start := time.Now()
		if err := For(later, time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("a context that ends: got %v after %v, want its error after a second", err, time.Since(start))
		}
	})
}
