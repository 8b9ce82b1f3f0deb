// Package hostile asks of a mirroring proxy what its users must not feel: a
// shadow that is broken. It stands between its own client, its own live service
// and its own shadow, which misbehaves in one way after another, sends the same
// stream of requests through the proxy each time, and compares every answer
// with the one that live gives when asked directly.
//
// It counts as well what the shadow saw and did. A fault that did not happen is
// reported as such: a proxy that copies nothing passes nothing.
package hostile

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"darklaunch/bench/hostile/shadows"
	"darklaunch/bench/side"
)

// A Proxy is what is put to the test.
type Proxy struct {
	Name     string
	Protocol shadows.Protocol

	// Start starts it between clients and live, host:port, with all requests
	// copied to shadow: host:port, or https://host:port where the shadow shall be
	// spoken to through TLS that is not verified, or "" for no mirroring.
	Start func(live, shadow string) (*Instance, error)
}

// An Instance is a proxy that runs.
type Instance struct {
	Addr string // host:port for clients
	Stop func() // ends it

	// Pid is the process whose memory and descriptors, its children's too, are
	// told; zero is none.
	Pid int
	// Ledger returns what the proxy says of its copies; nil if it says nothing.
	Ledger func() (Ledger, error)
}

// A Ledger is a proxy's own account of its copies.
type Ledger struct{ Offered, Sent, Dropped, Pending float64 }

func (l Ledger) balanced() bool { return l.Offered == l.Sent+l.Dropped+l.Pending }

// A Config says how much is sent.
type Config struct {
	Seed  uint64
	Calls int     // requests a state
	Conns int     // connections that small ones are sent over, in turn
	Rate  float64 // requests a second
	// Patience is how long an answer may take. A connection on which one took
	// longer is given up, and what it had left to send is not sent: with the same
	// effect a client's pool of connections runs dry.
	Patience time.Duration
	MaxBody  int // bytes of the largest body in the stream
	// Upload is the bytes of an upload against a shadow that stops reading. For
	// gRPC it is a stream of messages of 64 KiB.
	Upload int
	States []shadows.State // nil means all
}

// Full returns the size of a real run: 10,000 requests a state, bodies up to 32
// MiB. With a proxy that stalls it takes half an hour.
func Full() Config {
	return Config{Seed: 1, Calls: 10_000, Conns: 256, Rate: 1000, Patience: 5 * time.Second, MaxBody: 32 << 20, Upload: 64 << 20}
}

// CI returns a size that takes a second a state.
func CI() Config {
	return Config{Seed: 1, Calls: 250, Conns: 16, Rate: 500, Patience: 1500 * time.Millisecond, MaxBody: 8 << 20, Upload: 16 << 20}
}

// A Row is what became of the stream in one state.
type Row struct {
	State shadows.State
	Sent  int // of Config.Calls; the rest had no connection left

	Answered  int // by live, in time
	TimedOut  int
	Failed    int // otherwise: reset, or answered by another than live
	Different int // answered otherwise than live does, and than with mirroring off
	Altered   int // answered otherwise than live does, as with mirroring off

	P50, P99 time.Duration // of answered small calls, from when they were due
	Slowed   bool          // half of them took as long as a slow shadow, and with mirroring off they did not

	Shadow shadows.Evidence
	Bitten bool // the state's fault happened; true where there is none

	Ledger        *Ledger // nil: the proxy says nothing
	Before, After side.Usage
	Examples      []string // of what went wrong, at most three
}

// Hurt reports whether clients noticed the shadow.
func (r Row) Hurt() bool { return r.TimedOut+r.Failed+r.Different > 0 || r.Slowed }

// An Upload is what became of one large request.
type Upload struct {
	State    shadows.State
	Answered bool
	Err      string
	Took     time.Duration
	// Held is how many copies the shadow had stopped reading, with more under way,
	// when the upload began; HeldAfter when it was over.
	Held, HeldAfter int64
}

// A Report is what a proxy did in all states.
type Report struct {
	Proxy    Proxy
	Config   Config
	P50, P99 time.Duration // of live without a proxy
	Rows     []Row
	Uploads  []Upload
}

// Problems lists what is wrong: clients that noticed the shadow, faults that did
// not happen, accounts that do not add up.
func (r *Report) Problems() []string {
	var p []string
	for _, row := range r.Rows {
		if row.Slowed {
			p = append(p, fmt.Sprintf("%s: half of the small requests took more than %v", row.State, row.P50.Round(time.Millisecond)))
		}
		if row.TimedOut+row.Failed+row.Different > 0 {
			p = append(p, fmt.Sprintf("%s: of %d requests %d were answered; %d timed out, %d failed, %d were not sent, %d answers differ",
				row.State, r.Config.Calls, row.Answered, row.TimedOut, row.Failed, r.Config.Calls-row.Sent, row.Different))
		}
		if !row.Bitten {
			p = append(p, fmt.Sprintf("%s: the fault did not happen: 0 %s", row.State, row.State.Bites()))
		}
		if row.Ledger != nil && !row.Ledger.balanced() {
			p = append(p, fmt.Sprintf("%s: the proxy's account does not add up: %+v", row.State, *row.Ledger))
		}
	}
	for _, u := range r.Uploads {
		if !u.Answered {
			p = append(p, fmt.Sprintf("%s: an upload of %s was not answered: %s", u.State, size(r.Config.Upload), u.Err))
		}
		if u.State == shadows.StopsReading && u.Held == 0 {
			p = append(p, fmt.Sprintf("%s: no copy was under way when the shadow stopped", u.State))
		}
	}
	return p
}

// Run sends the stream through the proxy once for each state, starting the proxy
// anew each time, and the uploads after that. An error means that the suite
// could not do its work; what the proxy did is in the report.
func Run(p Proxy, cfg Config) (*Report, error) {
	if cfg.States == nil {
		cfg.States = shadows.All()
	}
	s := newStream(cfg.Seed, cfg.Calls, cfg.MaxBody)
	v, err := startLive(p.Protocol, s)
	if err != nil {
		return nil, err
	}
	defer v.stop()
	t := &trial{proxy: p, cfg: cfg, stream: s, live: v, report: &Report{Proxy: p, Config: cfg}}
	t.direct = t.send(v.addr)
	for i, o := range t.direct {
		if o.err != nil {
			return nil, fmt.Errorf("request %d sent straight to live: %w", i, o.err)
		}
	}
	t.report.P50, t.report.P99 = t.latency(t.direct)
	for _, state := range cfg.States {
		if err := t.state(state); err != nil {
			return t.report, fmt.Errorf("%s, %s: %w", p.Name, state, err)
		}
	}
	for _, state := range []shadows.State{shadows.Off, shadows.Fast, shadows.StopsReading} {
		if err := t.upload(state); err != nil {
			return t.report, fmt.Errorf("%s, upload, %s: %w", p.Name, state, err)
		}
	}
	return t.report, nil
}

// A trial is a Run under way.
type trial struct {
	proxy       Proxy
	cfg         Config
	stream      *stream
	live        *live
	direct, off []outcome // without the proxy; with it and without mirroring
	report      *Report
}

// with starts a shadow and the proxy before it, and ends both after do.
func (t *trial) with(state shadows.State, do func(*shadows.Shadow, *Instance) error) error {
	sh, err := shadows.New(state, t.proxy.Protocol)
	if err != nil {
		return err
	}
	defer sh.Close()
	to := sh.Addr
	if state == shadows.Off {
		to = ""
	}
	in, err := t.proxy.Start(t.live.addr, to)
	if err != nil {
		return err
	}
	defer in.Stop()
	return do(sh, in)
}

func (t *trial) state(state shadows.State) error {
	return t.with(state, func(sh *shadows.Shadow, in *Instance) error {
		row := Row{State: state, Before: usage(in)}
		outcomes := t.send(in.Addr)
		if state == shadows.Off {
			t.off = outcomes
			row.Bitten = true
		} else {
			row.Bitten = sh.Bitten(3 * time.Second) // a copy may leave after live has answered
		}
		row.After, row.Shadow = usage(in), sh.Evidence()
		row.P50, row.P99 = t.latency(outcomes)
		if t.off != nil {
			off, _ := t.latency(t.off)
			// Who waits for a slow shadow waits so long at least; a busy machine comes
			// near it in no state, but near a smaller bound in any.
			row.Slowed = state == shadows.Slow && off < shadows.SlowFor/2 && row.P50 >= shadows.SlowFor
		}
		t.judge(&row, outcomes)
		if in.Ledger != nil && state != shadows.Off {
			l, err := in.Ledger()
			if err != nil {
				return err
			}
			row.Ledger = &l
		}
		t.report.Rows = append(t.report.Rows, row)
		return nil
	})
}

// usage is zero where it cannot be told.
func usage(in *Instance) side.Usage {
	if in.Pid == 0 {
		return side.Usage{}
	}
	u, err := side.UsageOf(in.Pid)
	if err != nil {
		return side.Usage{}
	}
	return u
}

// judge sorts the outcomes.
func (t *trial) judge(row *Row, outcomes []outcome) {
	example := func(i int, format string, args ...any) {
		if len(row.Examples) < 3 {
			row.Examples = append(row.Examples, fmt.Sprintf("request %d: ", i)+fmt.Sprintf(format, args...))
		}
	}
	for i, o := range outcomes {
		if o.sent {
			row.Sent++
		}
		switch {
		case !o.sent:
		case o.timedOut():
			row.TimedOut++
			example(i, "no answer within %v", t.cfg.Patience)
		case o.err != nil:
			row.Failed++
			example(i, "%v", o.err)
		default:
			row.Answered++
			switch {
			case o.answer == t.direct[i].answer:
			case row.State == shadows.Off || t.off != nil && o.answer == t.off[i].answer:
				row.Altered++
				if row.State == shadows.Off {
					example(i, "answered\n%s\nwhere live answers\n%s", o.answer, t.direct[i].answer)
				}
			default:
				row.Different++
				example(i, "answered\n%s\nwhere live answers\n%s", o.answer, t.direct[i].answer)
			}
		}
	}
}

// latency is of the small calls that were answered.
func (t *trial) latency(outcomes []outcome) (p50, p99 time.Duration) {
	var took []time.Duration
	for i, o := range outcomes {
		if o.sent && o.err == nil && t.stream.call(i).small() {
			took = append(took, o.took)
		}
	}
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
}

// uploaders is how many large requests are under way at once, each on a
// connection of its own.
const uploaders = 4

// send sends the whole stream to an address and returns what became of it.
func (t *trial) send(addr string) []outcome {
	outcomes := make([]outcome, t.cfg.Calls)
	lanes := make([][]int, t.cfg.Conns+uploaders)
	uploads := 0
	for i := range outcomes {
		lane := i % t.cfg.Conns
		if t.stream.call(i).upload() {
			lane = t.cfg.Conns + uploads%uploaders
			uploads++
		}
		lanes[lane] = append(lanes[lane], i)
	}
	start := time.Now()
	var wg sync.WaitGroup
	for n, lane := range lanes {
		wg.Go(func() {
			c := newCaller(t.proxy.Protocol, t.stream, addr)
			defer c.close()
			for _, i := range lane {
				at := start.Add(due(i, t.cfg.Rate))
				time.Sleep(time.Until(at))
				o := &outcomes[i]
				o.sent = true
				o.answer, o.err = c.do(t.stream.call(i), t.cfg.Patience)
				o.took = time.Since(at)
				if n >= t.cfg.Conns {
					c.close()
				} else if o.timedOut() {
					return
				}
			}
		})
	}
	wg.Wait()
	return outcomes
}

// opener is the bytes of the request whose copy the shadow stops reading before
// the upload begins: a proxy that sends a copy after live's answer, or none of
// one so large as the upload, has a copy under way by this one.
const opener = 512 << 10

// upload sends one large request, alone on its connection.
func (t *trial) upload(state shadows.State) error {
	return t.with(state, func(sh *shadows.Shadow, in *Instance) error {
		up := Upload{State: state}
		var wg sync.WaitGroup
		defer wg.Wait()
		if state == shadows.StopsReading {
			first := newCaller(t.proxy.Protocol, t.stream, in.Addr)
			wg.Go(func() {
				defer first.close()
				_, _ = first.do(uploadCall(firstUpload, opener), t.cfg.Patience) // what counts is its copy
			})
			sh.Bitten(5 * time.Second)
			up.Held = sh.Evidence().Bites
		}
		c := uploadCall(firstUpload+1, t.cfg.Upload)
		want, err := t.once(t.live.addr, c)
		if err != nil {
			return fmt.Errorf("straight to live: %w", err)
		}
		start := time.Now()
		got, err := t.once(in.Addr, c)
		up.Took = time.Since(start)
		if state == shadows.StopsReading {
			up.HeldAfter = sh.Evidence().Bites
		}
		up.Answered = err == nil && got == want
		switch {
		case errors.Is(err, errNoAnswer):
			up.Err = fmt.Sprintf("none within %v", t.cfg.Patience)
		case err != nil:
			up.Err = err.Error()
		case got != want:
			up.Err = fmt.Sprintf("%q where live answers %q", got, want)
		}
		t.report.Uploads = append(t.report.Uploads, up)
		return nil
	})
}

// errNoAnswer is a time-out in its own words.
var errNoAnswer = errors.New("no answer in time")

func (t *trial) once(addr string, c call) (string, error) {
	caller := newCaller(t.proxy.Protocol, t.stream, addr)
	defer caller.close()
	answer, err := caller.do(c, t.cfg.Patience)
	if (outcome{err: err}).timedOut() {
		err = errNoAnswer
	}
	return answer, err
}
