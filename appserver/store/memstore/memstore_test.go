package memstore_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
	"darklaunch/appserver/store/storetest"
)

// TestConformance: the store keeps the contract as all of them do. Rows B14, D55.
func TestConformance(t *testing.T) {
	storetest.Run(t, storetest.Target{Open: func(context.Context) (store.Store, error) { return &memstore.Store{}, nil }})
}

// TestConformanceWithHistory keeps the versions that stale reads need.
func TestConformanceWithHistory(t *testing.T) {
	storetest.Run(t, storetest.Target{Open: func(context.Context) (store.Store, error) {
		return &memstore.Store{Faults: func(memstore.Op, string) memstore.Fault { return memstore.Fault{} }}, nil
	}})
}

var (
	first  = store.Fence{Epoch: 1, Tag: store.Tag{1}}
	second = store.Fence{Epoch: 1, Seq: 1, Tag: store.Tag{2}}
	cells  = []store.Cell{{Family: store.Actions, Qualifier: []byte("1"), Value: []byte("hello")}}
)

// TestFaults injects one fault into a put that follows the first, or into the
// read after it, and looks at the call, the row, the time and the count.
func TestFaults(t *testing.T) {
	tests := []struct {
		name    string
		op      memstore.Op
		fault   memstore.Fault
		kind    memstore.Kind
		err     error         // of the call
		fence   store.Fence   // of the row at once
		settled store.Fence   // of the row in the end
		took    time.Duration // the call
	}{
		{"delay", memstore.OpPut, memstore.Fault{Delay: time.Second}, memstore.Delay, nil, second, second, time.Second},
		{"delay beyond the deadline", memstore.OpPut, memstore.Fault{Delay: time.Hour}, memstore.Delay, context.DeadlineExceeded, first, first, time.Minute},
		{"before", memstore.OpPut, memstore.Fault{Before: true}, memstore.Before, memstore.ErrInjected, first, first, 0},
		{"after", memstore.OpPut, memstore.Fault{After: true}, memstore.After, memstore.ErrInjected, second, second, 0},
		{"late", memstore.OpPut, memstore.Fault{Late: time.Second}, memstore.Late, nil, second, second, time.Second},
		{"late beyond the deadline", memstore.OpPut, memstore.Fault{Late: time.Hour}, memstore.Late, context.DeadlineExceeded, second, second, time.Minute},
		{"straggle", memstore.OpPut, memstore.Fault{Straggle: time.Second}, memstore.Straggle, memstore.ErrInjected, first, second, 0},
		{"twice", memstore.OpPut, memstore.Fault{Twice: true}, memstore.Twice, memstore.ErrInjected, second, second, 0},
		{"stale", memstore.OpRead, memstore.Fault{Stale: 1}, memstore.Stale, nil, first, second, 0},
		{"stale, before all", memstore.OpRead, memstore.Fault{Stale: 5}, memstore.Stale, nil, store.Fence{}, second, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				armed := false
				s := &memstore.Store{Faults: func(op memstore.Op, user string) memstore.Fault {
					if armed && op == tt.op {
						armed = false
						return tt.fault
					}
					return memstore.Fault{}
				}}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := s.Put(ctx, "ann", store.Fence{}, first, nil); err != nil {
					t.Fatal(err)
				}
				armed = true
				start := time.Now()
				if err := s.Put(ctx, "ann", first, second, cells); !errors.Is(err, tt.err) {
					t.Errorf("got %v, want %v", err, tt.err)
				}
				if got := time.Since(start); got != tt.took {
					t.Errorf("it took %v, want %v", got, tt.took)
				}
				hold(t, s, tt.fence)
				if got := s.Injected(); !cmp.Equal(got, map[memstore.Kind]int{tt.kind: 1}) {
					t.Errorf("injected %v, want one %v", got, tt.kind)
				}
				time.Sleep(2 * time.Second)
				hold(t, s, tt.settled)
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// hold wants a row of that fence, with its cells.
func hold(t *testing.T, s *memstore.Store, want store.Fence) {
	t.Helper()
	row, err := s.Read(context.Background(), "ann", store.Span{Family: store.Actions})
	if err != nil {
		t.Fatal(err)
	}
	if row.Fence != want || len(row.Cells) != int(want.Seq) {
		t.Errorf("the row has %v and %d cells, want %v", row.Fence, len(row.Cells), want)
	}
}

// TestStragglerIsFenced has a put arrive after its row has moved on.
func TestStragglerIsFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fault := memstore.Fault{}
		s := &memstore.Store{Faults: func(memstore.Op, string) memstore.Fault { return fault }}
		ctx := t.Context()
		if err := s.Put(ctx, "ann", store.Fence{}, first, nil); err != nil {
			t.Fatal(err)
		}
		fault = memstore.Fault{Straggle: time.Second}
		if err := s.Put(ctx, "ann", first, second, cells); !store.Unknown(err) {
			t.Fatalf("got %v, want an unknown outcome", err)
		}
		fault = memstore.Fault{}
		claim := store.Fence{Epoch: 2, Tag: store.Tag{3}}
		if err := s.Put(ctx, "ann", first, claim, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		hold(t, s, claim)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
