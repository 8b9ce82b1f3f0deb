package mirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"time"

	"darklaunch/mirror/lanes"
)

// ErrKillFile is returned by Resume while the kill file is there.
var ErrKillFile = errors.New("the kill file is there")

// stage is a place at which tests let a mirror panic.
type stage uint8

const (
	stageRequest stage = iota
	stageAnswer
	stageDone
	stageOffer
	stageSend
	stagePair
	numStages
)

func (m *Mirror) at(s stage) {
	if m.fail != nil {
		m.fail(s)
	}
}

// switches say whether mirroring is on, and why not.
type switches struct {
	m *Mirror

	mu       sync.Mutex
	operator bool         // told to be off
	file     bool         // the kill file is there
	harm     string       // how live was hurt; off until resumed
	held     bool         // by a switchback
	fault    lanes.Reason // Panic or Memory: off until resumed
	off      lanes.Reason // in force
}

// Kill switches mirroring off: copies that are pending are dropped, and nothing
// is sent, from before it returns until Resume.
func (m *Mirror) Kill() {
	m.log.Warn("mirroring off", "by", "operator")
	m.switches.set(func(s *switches) { s.operator = true })
}

// Resume switches mirroring on again, whatever switched it off but the kill
// file: while that is there, it returns ErrKillFile. Users who did meanwhile
// what should have been copied are tainted.
func (m *Mirror) Resume() error {
	m.switches.mu.Lock()
	there := m.switches.file
	m.switches.mu.Unlock()
	if there {
		return fmt.Errorf("%s: %w", m.cfg.KillFile, ErrKillFile)
	}
	m.log.Info("mirroring on", "by", "operator")
	m.switches.set(func(s *switches) { s.operator, s.harm, s.fault = false, "", lanes.NotDropped })
	m.harm.resumed()
	return nil
}

// fault switches mirroring off and abandons all decoders.
func (s *switches) faulty(why lanes.Reason) {
	s.set(func(s *switches) { s.fault = why })
}

// set changes the switches and does what follows.
func (s *switches) set(change func(*switches)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
	off := s.fault
	if off == lanes.NotDropped && (s.operator || s.file || s.harm != "") {
		off = lanes.Killed
	}
	if off == s.off {
		return
	}
	s.off = off
	s.m.off.Store(uint32(off))
	s.send()
	if off == lanes.NotDropped {
		s.m.lanes.On()
	} else {
		s.m.lanes.Off(off)
	}
	s.darken(off == lanes.Panic || off == lanes.Memory)
}

// send says whether copies leave; mu is held.
func (s *switches) send() {
	sending := !s.held && s.off == lanes.NotDropped
	if s.m.sending.Swap(sending) != sending {
		s.m.harm.turns.Add(1)
	}
}

// why says why mirroring is off, in a word and, of the guard, in a sentence.
func (s *switches) why() (word, sentence string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off == lanes.Killed && s.harm != "" && !s.operator && !s.file {
		return "guard", s.harm
	}
	return s.off.String(), ""
}

// darken abandons all decoders, or lets new connections have theirs again. What
// passes in between is not read, so that anything may have been missed.
func (s *switches) darken(dark bool) {
	if s.m.dark.Swap(dark) == dark {
		return
	}
	for _, f := range s.m.fronts {
		if dark {
			f.relay.Darken()
		} else {
			f.relay.Recycle(s.m.cfg.Recycle)
		}
	}
	s.m.lanes.MissedAll()
}

// panicked switches mirroring off after a panic beside the relay. Only the
// first is logged until mirroring is resumed.
func (m *Mirror) panicked(part string, v any, stack []byte) {
	m.metrics.panics.WithLabelValues(part).Inc()
	m.switches.mu.Lock()
	first := m.switches.fault != lanes.Panic
	m.switches.mu.Unlock()
	if first {
		m.log.Error("mirroring off after a panic", "part", part, "panic", fmt.Sprint(v), "stack", string(stack))
	}
	m.switches.faulty(lanes.Panic)
}

// guarded runs f, and reports whether it panicked.
func (m *Mirror) guarded(part string, f func()) (failed bool) {
	defer func() {
		if v := recover(); v != nil {
			failed = true
			m.panicked(part, v, debug.Stack())
		}
	}()
	f()
	return false
}

const (
	// watchEvery is how late the kill file or a want of memory may be noticed.
	watchEvery = 100 * time.Millisecond
	// memoryShare of the limit is what switches mirroring off.
	memoryShare = 0.9
)

// watch looks at the kill file and at memory until ctx ends.
func (s *switches) watch(ctx context.Context) error {
	limit := memoryLimit()
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			s.readFile()
			s.readMemory(memoryUsed(), limit)
		}
	}
}

func (s *switches) readFile() {
	if s.m.cfg.KillFile == "" {
		return
	}
	_, err := os.Stat(s.m.cfg.KillFile)
	there := !errors.Is(err, os.ErrNotExist) // what can't be looked at may be there
	s.mu.Lock()
	before := s.file
	s.mu.Unlock()
	if there != before {
		s.m.log.Warn("kill file", "path", s.m.cfg.KillFile, "there", there)
		s.set(func(s *switches) { s.file = there })
	}
}

func (s *switches) readMemory(used, limit float64) {
	s.mu.Lock()
	fault := s.fault
	s.mu.Unlock()
	if used > memoryShare*limit && fault == lanes.NotDropped {
		s.m.log.Error("mirroring off for want of memory", "used", used, "limit", limit)
		s.faulty(lanes.Memory)
	}
}

// memoryUsed is what the runtime's own limit is about: all that it has mapped
// and not given back, in bytes.
func memoryUsed() float64 {
	read := []runtimemetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	runtimemetrics.Read(read)
	return float64(read[0].Value.Uint64() - read[1].Value.Uint64())
}

// memoryLimit is the lower of GOMEMLIMIT and the control group's limit, in
// bytes; infinite if there is neither.
func memoryLimit() float64 {
	limit := math.Inf(1)
	if n := debug.SetMemoryLimit(-1); n < math.MaxInt64 {
		limit = float64(n)
	}
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
			limit = min(limit, float64(n))
		}
	}
	return limit
}

// hold keeps copies from leaving, for a slice of a switchback.
func (m *Mirror) hold(on bool) {
	m.lanes.Hold(on)
	m.switches.mu.Lock()
	defer m.switches.mu.Unlock()
	m.switches.held = on
	m.switches.send()
}
