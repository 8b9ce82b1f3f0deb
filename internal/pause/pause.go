// Package pause waits, unless there is a reason not to.
package pause

import (
	"context"
	"time"
)

// For returns after d, or when ctx ends: then with ctx's error. Nothing is waited for
// if d is not positive.
func For(ctx context.Context, d time.Duration) error {
	if d <= 0 || ctx.Err() != nil {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err()
}
