// Package reference makes the calls of package transport through net/http and
// grpc-go: the same operations, the same driver, nothing of the same code. It
// costs many times as much, and is there to be compared with: a run that tells
// another story over it has found a fault in one of the two.
//
// It has a goroutine a call, and no connections by user or by number of calls.
package reference

import (
	"context"
	"errors"
	"sync"
	"time"

	"darklaunch/loadgen/transport"
)

// outcome is what became of a call. It is the call's goroutine's until done.
type outcome struct {
	call     *transport.Call
	canceled bool // nobody wants it any more; guarded by Driver.mu
	stop     context.CancelFunc

	sent, done time.Duration
	class      transport.Class
	code       int
	received   int64
	messages   int
	answer     []byte
}

// caller makes one call and fills in its outcome.
type caller interface {
	call(ctx context.Context, c *transport.Call, o *outcome)
	close()
}

// Driver is a driver for the engine. One goroutine uses it.
type Driver struct {
	clock   transport.Clock
	caller  caller
	wake    *transport.Waker
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	wg      sync.WaitGroup
	running map[*transport.Call]*outcome
	handed  []*transport.Call

	mu   sync.Mutex
	done []*outcome
}

// New returns a Driver for the same configuration that transport.New takes.
// PerUser and CallsPerConn are refused.
func New(cfg transport.Config, clock transport.Clock) (*Driver, error) {
	if cfg.PerUser || cfg.CallsPerConn != 0 {
		return nil, errors.New("reference: no connections by user or by number of calls")
	}
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	w, err := transport.NewWaker()
	if err != nil {
		return nil, err
	}
	d := &Driver{clock: clock, wake: w, running: map[*transport.Call]*outcome{}}
	d.ctx, d.stop = context.WithCancel(context.Background())
	cfg = cfg.WithDefaults()
	if cfg.Protocol == transport.GRPC {
		d.caller, err = newGRPC(cfg, clock)
	} else {
		d.caller = newHTTP(cfg, clock)
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return d, nil
}

// Start begins a call at once.
func (d *Driver) Start(c *transport.Call) {
	ctx, stop := context.WithCancel(d.ctx)
	o := &outcome{call: c, stop: stop, sent: -1, answer: c.Answer[:0]}
	c.Sent, c.Tried = -1, true
	d.running[c] = o
	own := *c // the caller may have the call back before its goroutine has ended
	d.wg.Go(func() {
		defer stop()
		d.caller.call(ctx, &own, o)
		o.done = d.clock.Now()
		d.mu.Lock()
		d.done = append(d.done, o)
		d.mu.Unlock()
		d.wake.Wake()
	})
}

// Poll waits until a call has ended or until the given time.
func (d *Driver) Poll(until time.Duration) []*transport.Call {
	d.handed = d.handed[:0]
	d.collect()
	if wait := until - d.clock.Now(); len(d.handed) == 0 && wait > 0 {
		d.wake.Wait(wait)
		d.collect()
	}
	return d.handed
}

func (d *Driver) collect() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.done {
		if o.canceled {
			continue
		}
		c := o.call
		delete(d.running, c)
		c.Sent, c.Done, c.Class, c.Code = o.sent, o.done, o.class, o.code
		c.Received, c.Messages, c.Answer = o.received, o.messages, o.answer
		d.handed = append(d.handed, c)
	}
	d.done = d.done[:0]
}

// Cancel gives a call up.
func (d *Driver) Cancel(c *transport.Call) {
	o := d.running[c]
	delete(d.running, c)
	d.mu.Lock()
	o.canceled = true
	d.mu.Unlock()
	o.stop()
}

// Close gives up all calls and waits for their goroutines.
func (d *Driver) Close() {
	d.stop()
	d.wg.Wait()
	d.caller.close()
	d.wake.Close()
}
