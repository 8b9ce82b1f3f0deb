package ops

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Reload reads a configuration again when the process gets a SIGHUP.
type Reload struct {
	log  *slog.Logger
	load func() error
	hup  chan os.Signal

	mu    sync.Mutex
	state ReloadState
}

// ReloadState is how the last readings went, for the state page.
type ReloadState struct {
	Loaded time.Time `json:"loaded"`          // when the configuration in force was read
	Failed time.Time `json:"failed,omitzero"` // when the last reading failed, zero if it did not
	Error  string    `json:"error,omitempty"` // why
}

// NewReload calls load at each SIGHUP. A load that fails must have changed
// nothing: the configuration from before stays in force, the error is logged
// and kept in State. The caller has read the configuration once already. From
// here on a SIGHUP no longer ends the process, even before Run.
func NewReload(log *slog.Logger, load func() error) *Reload {
	r := &Reload{log: logger(log), load: load, hup: make(chan os.Signal, 1), state: ReloadState{Loaded: time.Now()}}
	signal.Notify(r.hup, syscall.SIGHUP)
	return r
}

// Run carries out what the signals ask for until ctx ends.
func (r *Reload) Run(ctx context.Context) error {
	defer signal.Stop(r.hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.hup:
			r.reload()
		}
	}
}

func (r *Reload) reload() {
	err := r.load()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.state.Failed, r.state.Error = time.Now(), err.Error()
		r.log.Error("configuration not changed", "err", err)
		return
	}
	r.state = ReloadState{Loaded: time.Now()}
	r.log.Info("configuration read again")
}

// State tells how the last readings went.
func (r *Reload) State() ReloadState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}
