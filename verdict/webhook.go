package verdict

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// webhook tells one address of changes. What waits is bounded, as is how often and
// how long each change is told: a dead address costs its changes, and never the
// judgement.
type webhook struct {
	url     string
	client  *http.Client
	log     *slog.Logger
	metrics *serverMetrics
	queue   chan Change
	told    func(Change) // called when a change was told, or given up
	pause   time.Duration
}

const (
	hookQueue   = 32
	hookTries   = 4
	hookTimeout = 5 * time.Second
	hookPause   = time.Second // and twice that, and four times
)

func newWebhook(url string, log *slog.Logger, m *serverMetrics, told func(Change)) *webhook {
	return &webhook{
		url: url, log: log, metrics: m, told: told, queue: make(chan Change, hookQueue), pause: hookPause,
		client: &http.Client{
			Timeout: hookTimeout,
			// Where a change is told is configured, and not for another server to say.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// tell puts a change in the queue.
func (h *webhook) tell(c Change) {
	select {
	case h.queue <- c:
	default: // judging must not wait for whom it tells
		h.metrics.hookDropped.Inc()
		h.log.Warn("change not told", "comparison", c.Comparison, "verdict", c.Verdict, "err", "too many are waiting")
	}
}

// run tells changes until ctx ends.
func (h *webhook) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-h.queue:
			err := h.send(ctx, c)
			if ctx.Err() != nil {
				return // it will be told at the next start
			}
			if err != nil {
				h.metrics.hookFailed.Inc()
				h.log.Warn("change not told", "comparison", c.Comparison, "verdict", c.Verdict, "err", err)
			} else {
				h.metrics.hookSent.Inc()
			}
			h.told(c)
		}
	}
}

// send tells a change, several times if need be.
func (h *webhook) send(ctx context.Context, c Change) error {
	body, err := json.Marshal(c)
	if err != nil {
		return err
	}
	pause := h.pause
	for try := 1; ; try++ {
		err := h.post(ctx, body)
		if err == nil || try == hookTries {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		pause *= 2
	}
}

func (h *webhook) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("webhook answered %s", resp.Status)
	}
	return nil
}
