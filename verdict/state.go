package verdict

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/pairstream"
	"darklaunch/verdict/join"
	"darklaunch/verdict/journal"
)

// checkpoint is all comparisons, as the journal keeps them.
type checkpoint struct {
	Version     int
	Comparisons []comparisonState
}

const checkpointVersion = 1

func parseCheckpoint(b []byte) (cp checkpoint, err error) {
	if err := json.Unmarshal(b, &cp); err != nil {
		return cp, err
	}
	if cp.Version != checkpointVersion {
		return cp, fmt.Errorf("version %d, want %d", cp.Version, checkpointVersion)
	}
	return cp, nil
}

// open reads the state.
func (s *Server) open() error {
	j, last, err := journal.Open(s.cfg.State)
	if err != nil {
		return fmt.Errorf("open the state (%s): %w", s.cfg.State, err)
	}
	if err := s.recover(j, last); err != nil {
		j.Close()
		return fmt.Errorf("read the state (%s): %w", s.cfg.State, err)
	}
	s.journal = j
	return nil
}

func (s *Server) recover(j *journal.Journal, last []byte) error {
	if last != nil {
		cp, err := parseCheckpoint(last)
		if err != nil {
			return err
		}
		for _, state := range cp.Comparisons {
			c, err := restoreComparison(state, &s.cfg)
			if err != nil {
				return err
			}
			s.comparisons[c.key] = c
			for _, m := range c.mirrors.Mirrors() {
				s.mirrors[m.ID] = c
			}
		}
	}
	n := 0
	cut, err := j.Replay(func(b []byte) error {
		e, err := parseEntry(b)
		if err != nil {
			return err
		}
		n++
		s.again(e)
		return nil
	})
	if err != nil {
		return err
	}
	now := time.Now()
	for _, c := range s.comparisons {
		for _, m := range c.mirrors.Mirrors() {
			c.mirrors.Left(m.ID, m.Last)
		}
		if c.document == nil && !c.evaluated.IsZero() {
			c.evaluate(now)
		}
		if k := len(c.changes); s.hook != nil && k > 0 && c.changes[k-1].Number > c.told {
			s.hook.tell(c.changes[k-1])
		}
		s.publish(c)
	}
	if last != nil || n > 0 {
		s.log.Info("state read", "comparisons", len(s.comparisons), "entries", n, "cut", cut)
	}
	return nil
}

// again applies an entry of the journal. What was wrong with it the first time is
// wrong with it now.
func (s *Server) again(e entry) {
	switch e.kind {
	case began:
		h := new(pairv1.Header)
		if proto.Unmarshal(e.body, h) == nil {
			_ = s.began(h, e.at)
		}
	case window:
		if r, err := pairstream.Decode(e.body); err == nil && join.Check(r.GetWindow()) == nil {
			_ = s.window(e, r.GetWindow())
		}
	case pair:
		if o, err := parseCompared(e.body); err == nil {
			_ = s.pair(e, o)
		}
	case shed:
		s.shed(e)
	case ended:
		s.ended(e)
	case closed:
		if c := s.comparisons[e.who]; c != nil {
			s.take(c, e.at)
		}
	case renewed:
		if c := s.comparisons[e.who]; c != nil {
			c.renew()
		}
	case notified:
		if c := s.comparisons[e.who]; c != nil {
			c.told = max(c.told, e.sequence)
		}
	}
}

// maxJournal is how large the journal may grow between checkpoints, in bytes.
const maxJournal = 64 << 20

// write puts an entry in the journal.
func (s *Server) write(e entry) {
	if s.journal == nil {
		return
	}
	s.buf = e.append(s.buf[:0])
	s.check(s.journal.Append(s.buf))
}

// check logs the first of a row of failures of the journal. Judging goes on: a
// verdict that does not survive a restart is better than none.
func (s *Server) check(err error) {
	if err != nil && !s.broken {
		s.log.Error("state not written", "err", err)
	}
	s.broken = err != nil
	s.metrics.stateBroken.Set(float64(flag(s.broken)))
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// keep has another goroutine do what waits for the disk, if it is not still doing
// so. kept gets the result.
func (s *Server) keep(f func() error) bool {
	if s.keeping {
		return false
	}
	s.keeping = true
	s.helpers.Go(func() { s.kept <- f() })
	return true
}

// commit writes a checkpoint, now or once what is being written has been.
func (s *Server) commit() {
	if s.journal == nil {
		return
	}
	if s.owed = s.keeping; s.owed {
		return
	}
	state, err := s.checkpoint()
	if err != nil {
		s.check(err)
		return
	}
	write, err := s.journal.Rotate()
	if err != nil {
		s.check(err)
		return
	}
	s.keep(func() error { return write(state) })
}

// done takes the result of what keep was given.
func (s *Server) done(err error) {
	s.keeping = false
	s.check(err)
	if s.owed {
		s.commit()
	}
}

func (s *Server) checkpoint() ([]byte, error) {
	cp := checkpoint{Version: checkpointVersion}
	for _, key := range slices.Sorted(maps.Keys(s.comparisons)) {
		state, err := s.comparisons[key].state()
		if err != nil {
			return nil, err
		}
		cp.Comparisons = append(cp.Comparisons, state)
	}
	return json.Marshal(cp)
}

// close writes what is known, and lets go of the state.
func (s *Server) close() error {
	if s.journal == nil {
		return nil
	}
	for s.commit(); s.keeping; {
		s.done(<-s.kept)
	}
	if err := s.journal.Close(); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	if s.broken {
		return errors.New("the state could not be written")
	}
	return nil
}
