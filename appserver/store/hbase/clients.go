package hbase

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tsuna/gohbase"

	"darklaunch/appserver/store"
)

// A client of gohbase can be stuck: open calls keep a dead connection alive, and
// its pauses between attempts grow up to many seconds. So after some calls in a
// row that ended with their deadline it is replaced by a fresh one, but not more
// often than regions take to move.
const (
	stuckAfter   = 3 // calls
	replaceEvery = 3 * time.Second
)

// clients has the client in use.
type clients struct {
	cfg   Config
	fresh func() gohbase.Client
	gate  store.Gate
	done  chan struct{}  // closed by close
	wg    sync.WaitGroup // what goes on when the call it was for has ended

	mu       sync.Mutex
	client   gohbase.Client
	since    time.Time // when it was made
	failures int       // calls in a row that ended with their deadline
}

func (c *clients) open(cfg Config) {
	c.cfg, c.done = cfg, make(chan struct{})
	c.client, c.since = c.fresh(), time.Now()
}

// dial returns a client, which connects when it is used.
func dial(cfg Config) gohbase.Client {
	return gohbase.NewClient(cfg.Quorum,
		gohbase.RpcQueueSize(1), // a lone read would wait for others to join it
		gohbase.RegionReadTimeout(cfg.ReadTimeout),
		gohbase.RegionLookupTimeout(cfg.Timeout),
		gohbase.ZookeeperTimeout(cfg.Timeout),
	)
}

// errEnded is the error of a call that gohbase ended together with its
// goroutine, where it would have ended the process: see TakeLogs.
var errEnded = errors.New("gohbase gave up")

// do makes a call within the time-out. gohbase may go on with it after ctx has
// ended: it writes to a connection whose peer may have stopped reading.
func do[T any](ctx context.Context, c *clients, call func(context.Context, gohbase.Client) (T, error)) (T, error) {
	var none T
	if err := c.gate.Enter(); err != nil {
		return none, err
	}
	defer c.gate.Leave()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	client := c.current()
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	c.wg.Go(func() {
		a := answer{err: errEnded}
		defer func() { answers <- a }()
		a.value, a.err = call(ctx, client)
	})
	var a answer
	select {
	case a = <-answers:
	case <-ctx.Done():
		a.err = ctx.Err()
	}
	c.ended(client, a.err)
	return a.value, a.err
}

func (c *clients) current() gohbase.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.client
}

// ended learns from how a call has ended.
func (c *clients) ended(client gohbase.Client, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if client != c.client {
		return // of one that is no longer in use
	}
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errEnded) {
		c.failures = 0
		return
	}
	c.failures++
	if c.failures < stuckAfter || time.Since(c.since) < replaceEvery {
		return
	}
	c.cfg.Log.Warn("HBase client replaced", "table", c.cfg.Table, "calls without answer", c.failures)
	c.client, c.since, c.failures = c.fresh(), time.Now(), 0
	// Its calls end within their time-out; closed before, it would fail them.
	c.wg.Go(func() {
		select {
		case <-time.After(c.cfg.Timeout):
		case <-c.done:
		}
		client.Close()
	})
}

func (c *clients) close() {
	if !c.gate.Close() {
		return
	}
	close(c.done)
	c.current().Close()
	c.wg.Wait()
}
