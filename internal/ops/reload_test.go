package ops

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
)

func TestReload(t *testing.T) {
	broken := errors.New("c.yaml:3: rate: want a number")
	results := make(chan error)         // what the next reading comes to
	states := make(chan ReloadState, 1) // what was known when it began
	var r *Reload
	r = NewReload(nil, func() error {
		states <- r.State()
		return <-results
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	hangUp := func(result error) ReloadState {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		results <- result
		return <-states
	}

	first := hangUp(broken)
	if first.Error != "" || first.Loaded.IsZero() {
		t.Errorf("at the start: %+v, want loaded and no error", first)
	}
	failed := hangUp(nil) // begins when the failure has been noted
	if failed.Error != broken.Error() || failed.Failed.IsZero() || !failed.Loaded.Equal(first.Loaded) {
		t.Errorf("after a bad file: %+v, want its error and the configuration of %v", failed, first.Loaded)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("got %v, want no error", err)
	}
	if s := r.State(); s.Error != "" || !s.Loaded.After(first.Loaded) {
		t.Errorf("after a good file: %+v, want it loaded and no error", s)
	}
}
