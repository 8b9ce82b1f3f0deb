package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
	"darklaunch/appserver/store/storetest"
	"darklaunch/internal/ops"
)

// TestInstrumentedConformance: counting changes nothing.
func TestInstrumentedConformance(t *testing.T) {
	storetest.Run(t, storetest.Target{Open: func(context.Context) (store.Store, error) {
		return store.Instrument(&memstore.Store{}, prometheus.NewRegistry(), nil), nil
	}})
}

func TestMetrics(t *testing.T) {
	ctx := t.Context()
	reg := prometheus.NewRegistry()
	tracing := ops.NewTracing(ops.TracingConfig{Service: "test"})
	fault := memstore.Fault{}
	s := store.Instrument(&memstore.Store{Faults: func(memstore.Op, string) memstore.Fault { return fault }}, reg, tracing.Tracer())
	first := store.Fence{Epoch: 1, Tag: store.Tag{1}}
	second := store.Fence{Epoch: 1, Seq: 1, Tag: store.Tag{2}}
	cells := []store.Cell{
		{Family: store.Actions, Qualifier: []byte("1"), Value: []byte("hello")},
		{Family: store.Outbox, Qualifier: []byte("1")},
	}
	for _, put := range []struct {
		cur, next store.Fence
		fault     memstore.Fault
		err       error
	}{
		{store.Fence{}, first, memstore.Fault{}, nil},
		{store.Fence{}, second, memstore.Fault{}, store.ErrFenced},
		{first, second, memstore.Fault{Before: true}, memstore.ErrInjected},
		{first, first, memstore.Fault{}, store.ErrInvalid},
	} {
		fault = put.fault
		if err := s.Put(ctx, "ann", put.cur, put.next, cells); !errors.Is(err, put.err) {
			t.Fatalf("got %v, want %v", err, put.err)
		}
	}
	fault = memstore.Fault{}
	if _, err := s.Read(ctx, "ann", store.Span{Family: store.Actions}); err != nil {
		t.Fatal(err)
	}
	for _, err := range s.Scan(ctx, store.Range{}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	got := gather(t, reg)
	for name, want := range map[string]float64{
		`store_operations_total{op="put",result="ok"}`:      1,
		`store_operations_total{op="put",result="fenced"}`:  1,
		`store_operations_total{op="put",result="unknown"}`: 1,
		`store_operations_total{op="put",result="invalid"}`: 1,
		`store_operations_total{op="put",result="refused"}`: 0,
		`store_operations_total{op="read",result="ok"}`:     1,
		`store_operations_total{op="scan",result="ok"}`:     1,
		`store_cells_written_total{family="fence"}`:         1,
		`store_cells_written_total{family="actions"}`:       1,
		`store_cells_written_total{family="outbox"}`:        1,
		`store_cells_written_total{family="keywords"}`:      0,
		`store_bytes_total{op="put"}`:                       7,
		`store_bytes_total{op="read"}`:                      6,
		`store_bytes_total{op="scan"}`:                      0,
		`store_operation_seconds{op="put"}`:                 4,
		`store_operation_seconds{op="read"}`:                1,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (there: %v), want %v", name, value, ok, want)
		}
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

// gather returns the value of each series: of a histogram, how many it has seen.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName() + "{"
			for i, l := range m.GetLabel() {
				if i > 0 {
					name += ","
				}
				name += l.GetName() + `="` + l.GetValue() + `"`
			}
			values[name+"}"] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}
