package memstore

import (
	"context"
	"errors"
	"time"

	"darklaunch/appserver/store"
	"darklaunch/internal/pause"
)

// Op is a call of a store.
type Op string

// The calls. OpScan comes once a row, without the user.
const (
	OpRead Op = "read"
	OpPut  Op = "put"
	OpScan Op = "scan"
)

// A Fault is what becomes of one call. Its fields may be combined, but for
// Straggle, which stands alone. The zero Fault is none.
type Fault struct {
	Delay    time.Duration // the call reaches the rows so much later
	Before   bool          // it fails before it has done anything
	After    bool          // it fails when all is done
	Late     time.Duration // all is done, but the answer comes so much later
	Straggle time.Duration // a put fails at once, and reaches the rows so much later
	Twice    bool          // a put that is written is sent a second time, and fails
	Stale    int           // a read finds the row as it was so many puts ago, at most 7
}

// Kind names the fields of Fault in counts.
type Kind string

// The kinds, one a field. One is counted when it happens: a put that was
// fenced is not sent twice.
const (
	Delay    Kind = "delay"
	Before   Kind = "before"
	After    Kind = "after"
	Late     Kind = "late"
	Straggle Kind = "straggle"
	Twice    Kind = "twice"
	Stale    Kind = "stale"
)

// ErrInjected is the error of calls that a Fault made fail.
var ErrInjected = errors.New("injected fault")

func (s *Store) fault(op Op, user string) Fault {
	if s.Faults == nil {
		return Fault{}
	}
	return s.Faults(op, user)
}

// before is what happens on the way to the rows.
func (s *Store) before(ctx context.Context, f Fault) error {
	if f.Delay > 0 {
		s.counted(Delay)
		if err := pause.For(ctx, f.Delay); err != nil {
			return err
		}
	}
	if f.Before {
		s.counted(Before)
		return ErrInjected
	}
	return ctx.Err()
}

// after is what happens on the way back.
func (s *Store) after(ctx context.Context, f Fault) error {
	if f.Late > 0 {
		s.counted(Late)
		if err := pause.For(ctx, f.Late); err != nil {
			return err
		}
	}
	if f.After {
		s.counted(After)
		return ErrInjected
	}
	return nil
}

func (s *Store) straggle(f Fault, user string, cur, next store.Fence, cells []store.Cell) error {
	s.counted(Straggle)
	s.late.Go(func() {
		time.Sleep(f.Straggle)
		_ = s.apply(user, cur, next, cells) // nobody waits for its answer
	})
	return ErrInjected
}

func (s *Store) counted(k Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(k)
}

// count is called with mu held.
func (s *Store) count(k Kind) {
	if s.counts == nil {
		s.counts = map[Kind]int{}
	}
	s.counts[k]++
}
