package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"darklaunch/internal/ops"
	"darklaunch/loadgen"
	"darklaunch/loadgen/transport"
)

// runLoad makes the run and tells what it came to; then may be nil and gets the
// result before it is judged.
func (p *program) runLoad(ctx context.Context, what string, cfg loadgen.Config, f *judgeFlags, then func(*loadgen.Result) error) error {
	s, err := p.newService(ctx, "load", f.service, f.out)
	if err != nil {
		return err
	}
	cfg.Registerer = s.registry
	var r *loadgen.Result
	s.state = func() any { return map[string]string{"run": what} }
	err = s.run(ctx, ops.Part{Name: "load", Run: func(ctx context.Context) (err error) {
		defer p.watchLoad(s, cfg)()
		r, err = loadgen.Run(ctx, cfg)
		return err
	}})
	if err != nil || r == nil {
		if context.Cause(ctx) != nil && (err == nil || errors.Is(err, context.Canceled)) {
			err = context.Cause(ctx)
		}
		if len(cfg.Objectives) > 0 && errors.Is(err, errSignalled) {
			return &codedError{exitInconclusive, err}
		}
		return err
	}
	explainLateness(r)
	printResult(f.out.text(), what, r)
	if err := f.out.result(r); err != nil {
		return err
	}
	if then != nil {
		if err := then(r); err != nil {
			return err
		}
	}
	return verdictOf(r, cfg.Transport.Addr)
}

// verdictOf is how the program ends for r. addr is empty if it is not known.
func verdictOf(r *loadgen.Result, addr string) error {
	unreached := r.Errors[transport.Connect.String()] + r.Errors[transport.TLS.String()]
	if len(r.Objectives) == 0 && r.Sent > 0 && unreached == r.Sent {
		return fmt.Errorf("no connection to %s: all of %d calls failed, %s", addr, r.Sent, errorsOf(&r.Figures))
	}
	reasons := strings.Join(r.Reasons, "; ")
	switch r.Verdict {
	case loadgen.Fail:
		return &codedError{exitFail, fmt.Errorf("verdict fail: %s", reasons)}
	case loadgen.Inconclusive:
		return &codedError{exitInconclusive, fmt.Errorf("verdict inconclusive: %s", reasons)}
	}
	return nil
}

// explainLateness says how much this machine could hold, where the generator fell
// further and further behind: the calls that were sent, in the time that it
// took. A single stall is not that: then most calls are in time.
func explainLateness(r *loadgen.Result) {
	if r.Verdict != loadgen.Inconclusive || r.Pacing == nil || r.Pacing.P99 < 1e-3 {
		return
	}
	if r.Lag.Max < 0.05*r.Duration || r.Lag.P50 < r.Lag.Max/4 {
		return
	}
	held := float64(r.Sent) / (r.Duration + r.Lag.Max)
	r.Reasons = append(r.Reasons, fmt.Sprintf("generator-limited: this machine held about %.0f/s of %.0f/s", held, r.Rate.Target))
}

// watchLoad draws a line on a terminal while a load runs, until stop is called.
func (p *program) watchLoad(s *service, cfg loadgen.Config) (stop func()) {
	line := newProgress(p.stderr)
	if !line.on {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer line.end()
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		began, last, lastAt := time.Now(), 0.0, time.Now()
		for {
			select {
			case <-quit:
				return
			case now := <-tick.C:
				all, bad, open := s.loadCounts()
				line.show("%s of %s · %.0f/s · %.0f calls · %.0f errors · %.0f under way",
					now.Sub(began).Round(time.Second), cfg.Warmup+cfg.For, (all-last)/now.Sub(lastAt).Seconds(), all, bad, open)
				last, lastAt = all, now
			}
		}
	}()
	return func() { close(quit); <-done }
}

// loadCounts reads the run's own metrics.
func (s *service) loadCounts() (calls, errors, open float64) {
	families, err := s.registry.Gather()
	if err != nil {
		return 0, 0, 0
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch f.GetName() {
			case "loadgen_inflight_requests":
				open += m.GetGauge().GetValue()
			case "loadgen_requests_total":
				n := m.GetCounter().GetValue()
				calls += n
				for _, l := range m.GetLabel() {
					if l.GetName() == "outcome" && l.GetValue() != transport.OK.String() {
						errors += n
					}
				}
			}
		}
	}
	return calls, errors, open
}

// withoutPath is err without the file's name, where our line has that already.
func withoutPath(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}
