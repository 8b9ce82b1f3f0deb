package gate

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"darklaunch/verdict/gate/family"
)

// between is the time from one probe to the next.
const between = 20 * time.Millisecond

// await returns once the service answers.
func (g *gate) await(ctx context.Context, a *arm, f *family.Family, port int, log string) error {
	limit, cancel := context.WithTimeout(ctx, g.Ready)
	defer cancel()
	probe := a.fill(a.Probe, port)
	if probe == "" {
		probe = fmt.Sprintf("tcp:127.0.0.1:%d", port)
	}
	tick := time.NewTicker(between)
	defer tick.Stop()
	var last error // what an answer was missed by, but for one that the limit cut off
	for {
		err := g.probe(limit, a, probe, port)
		if end, _ := limit.Deadline(); last == nil || time.Now().Before(end) {
			last = err
		}
		select {
		case <-f.Over(): // it was another that answered
			return ended(fmt.Sprintf("start %s", a.role), f, log)
		default:
		}
		if err == nil {
			return nil
		}
		select {
		case <-f.Over():
		case <-tick.C:
		case <-limit.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return failed(fmt.Sprintf("start %s", a.role), fmt.Errorf("%w from %s within %v: %v", ErrNoAnswer, probe, g.Ready, last), log)
		}
	}
}

// probe asks once.
func (g *gate) probe(ctx context.Context, a *arm, probe string, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch {
	case strings.HasPrefix(probe, "http://"), strings.HasPrefix(probe, "https://"):
		return probeHTTP(ctx, probe)
	case strings.HasPrefix(probe, "tcp:"):
		c, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(probe, "tcp:"))
		if err != nil {
			return err
		}
		return c.Close()
	}
	return family.Output(g.Supervisor, g.command(a, probe, port, a.out+"/probe.log", syscall.SIGTERM), ctx.Done())
}

func probeHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// A connection of its own: one that is kept would outlive the service.
	t := &http.Transport{DisableKeepAlives: true}
	defer t.CloseIdleConnections()
	resp, err := (&http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // only the status counts
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
