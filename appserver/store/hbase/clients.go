package hbase

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tsuna/gohbase"

	"darklaunch/appserver/store"
)

// A client of gohbase can be stuck, for all rows or for those of one region: open
// calls keep a dead connection alive, its pauses between attempts grow without a
// bound, and where it would have ended the process it leaves a region that nobody
// looks for any more. Whether HBase is away or the client is stuck can be told by
// another client. So a call that has waited for Config.ReadTimeout has a fresh one
// read the same row; once that gets an answer it takes the other's place, and calls
// that have waited so long end.

// replaceEvery is the shortest time between two replacements.
const replaceEvery = 2 * time.Second

// A client is one of gohbase.
type client struct {
	gohbase.Client
	since    time.Time     // when it was made
	replaced chan struct{} // closed when another has taken its place
}

// clients has the client in use.
type clients struct {
	cfg   Config
	fresh func() gohbase.Client
	look  func(ctx context.Context, c gohbase.Client, row []byte) error // reads of a row
	gate  store.Gate
	done  chan struct{}  // closed by close
	wg    sync.WaitGroup // what goes on when the call it was for has ended

	mu     sync.Mutex
	client *client
	trying bool // a fresh client
}

func (c *clients) open(cfg Config) {
	c.cfg, c.done, c.client = cfg, make(chan struct{}), c.make()
}

func (c *clients) make() *client {
	return &client{Client: c.fresh(), since: time.Now(), replaced: make(chan struct{})}
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

// What a call ended with whose outcome is not known.
var (
	errEnded    = errors.New("gohbase gave up") // where it would have ended the process: see TakeLogs
	errReplaced = errors.New("gohbase was stuck")
)

// do makes a call for a row within the time-out.
func do[T any](ctx context.Context, c *clients, row []byte, call func(context.Context, gohbase.Client) (T, error)) (T, error) {
	var none T
	if err := c.gate.Enter(); err != nil {
		return none, err
	}
	defer c.gate.Leave()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	client := c.current()
	answers := begin(ctx, c, client, call)
	slow := time.NewTimer(c.cfg.ReadTimeout)
	defer slow.Stop()
	var replaced chan struct{} // for those who have waited
	for {
		select {
		case a := <-answers:
			if errors.Is(a.err, errEnded) {
				c.doubt(client, row)
			}
			return a.value, a.err
		case <-ctx.Done():
			c.doubt(client, row)
			return none, ctx.Err()
		case <-replaced:
			return none, errReplaced
		case <-slow.C:
			c.doubt(client, row)
			replaced = client.replaced
			slow.Reset(c.cfg.ReadTimeout / 4)
		}
	}
}

type answer[T any] struct {
	value T
	err   error
}

// begin makes a call in a goroutine of its own: gohbase may go on with it after ctx
// has ended, as it writes to a connection whose peer may have stopped reading.
func begin[T any](ctx context.Context, c *clients, client gohbase.Client, call func(context.Context, gohbase.Client) (T, error)) <-chan answer[T] {
	answers := make(chan answer[T], 1)
	c.wg.Go(func() {
		a := answer[T]{err: errEnded}
		defer func() { answers <- a }()
		a.value, a.err = call(ctx, client)
	})
	return answers
}

func (c *clients) current() *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.client
}

// doubt has a fresh client try to read a row that one has no answer for, if that is
// the one in use and no other is being tried.
func (c *clients) doubt(client *client, row []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if client != c.client || c.trying || time.Since(client.since) < replaceEvery {
		return
	}
	c.trying = true
	c.wg.Go(func() { c.try(row) })
}

func (c *clients) try(row []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.ReadTimeout)
	defer cancel()
	fresh := c.make()
	answers := begin(ctx, c, fresh, func(ctx context.Context, g gohbase.Client) (struct{}, error) {
		return struct{}{}, c.look(ctx, g, row)
	})
	err := errEnded
	select {
	case a := <-answers:
		err = a.err
	case <-ctx.Done():
	case <-c.done:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trying = false
	if err != nil { // HBase is away, for this row
		fresh.Close()
		return
	}
	c.cfg.Log.Warn("HBase client replaced", "table", c.cfg.Table)
	old := c.client
	c.client = fresh
	close(old.replaced)
	// Its calls end within their time-out; closed before, it would fail them.
	c.wg.Go(func() {
		select {
		case <-time.After(c.cfg.Timeout):
		case <-c.done:
		}
		old.Close()
	})
}

func (c *clients) close() {
	if !c.gate.Close() {
		return
	}
	close(c.done)
	c.current().Close()
	c.wg.Wait()
	c.current().Close() // if it has been replaced at the last moment
}
