package hbase_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/hrpc"

	"darklaunch/internal/testenv"
	"darklaunch/internal/testenv/hbase"
)

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard) // gohbase tells of every retry
	testenv.Main(m)
}

// shapes are what a client must not be able to tell apart.
var shapes = []struct {
	name  string
	start func(testing.TB, hbase.Hold) *hbase.Server
	aim   time.Duration // from the request to the first put
}{
	{"standalone", hbase.Standalone, 25 * time.Second},
	{"cluster", hbase.Cluster, 60 * time.Second},
}

func TestOperations(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			start := time.Now()
			srv := shape.start(t, hbase.Shared)
			db := open(t, srv, "operations")
			db.put(t, "row", "1")
			took := time.Since(start)
			t.Logf("first put into a table of its own %.1fs after the request (aim: %v)", took.Seconds(), shape.aim)
			if took > 3*shape.aim { // other packages' tests run beside this
				t.Errorf("the first put took %v, want less than %v", took, 3*shape.aim)
			}
			operate(t, db)
		})
	}
}

func operate(t *testing.T, db *table) {
	if got := db.get(t, "row"); got != "1" {
		t.Errorf("get after put: got %q, want %q", got, "1")
	}
	checks := []struct {
		row, expect, next string
		want              bool
	}{
		{"row", "1", "2", true},
		{"row", "1", "3", false},
		{"fresh", "", "first", true},
		{"fresh", "", "second", false},
	}
	for _, c := range checks {
		if got := db.checkAndPut(t, c.row, c.expect, c.next); got != c.want {
			t.Errorf("check %s = %q and put %q: got %v, want %v", c.row, c.expect, c.next, got, c.want)
		}
	}
	for i := range 20 {
		db.put(t, fmt.Sprintf("scan%02d", i), "v")
	}
	if got := db.scan(t, "scan05", "scan15"); len(got) != 10 || got[0] != "scan05" || got[9] != "scan14" {
		t.Errorf("scan [scan05, scan15) = %v", got)
	}
	if got := db.get(t, "row"); got != "2" {
		t.Errorf("get after check-and-put: got %q, want %q", got, "2")
	}
}

// TestPausedRegionServer stops a region server under writers until the cluster
// has given its regions away, lets it go on, and looks for every write that was
// acknowledged.
func TestPausedRegionServer(t *testing.T) {
	srv := hbase.Cluster(t, hbase.Alone)
	db := open(t, srv, "paused", "c", "f", "k", "p", "u")
	w := startWriters(t, db, 8)
	w.awaitMore(t, 30)

	srv.Stop(hbase.Region1)
	stopped := time.Now()
	w.awaitStall(t, 2*time.Second)
	// Acknowledged by the other server, while this one is stopped.
	w.awaitMore(t, 30)
	t.Logf("every writer goes on %.1fs after the stop", time.Since(stopped).Seconds())
	srv.Continue(hbase.Region1)
	w.awaitMore(t, 30)
	acked := w.stop(t)

	rows := db.scan(t, "", "")
	lost := 0
	for _, row := range acked {
		if _, found := slices.BinarySearch(rows, row); !found {
			lost++
		}
	}
	t.Logf("%d writes acknowledged, %d lost", len(acked), lost)
	if lost > 0 {
		t.Errorf("%d of %d acknowledged writes are lost", lost, len(acked))
	}
}

// TestKilledStandalone kills the one process: what was acknowledged is there
// when it is back.
func TestKilledStandalone(t *testing.T) {
	srv := hbase.Standalone(t, hbase.Alone)
	db := open(t, srv, "killed")
	for i := range 50 {
		db.put(t, fmt.Sprint(i), "v")
	}
	srv.Kill(hbase.Only)
	srv.Restart(hbase.Only)
	again := dial(t, srv, db.name)
	if got := len(again.scan(t, "", "")); got != 50 {
		t.Errorf("%d of 50 acknowledged rows after kill and restart", got)
	}
}

// TestWhole takes a killed region server for granted: who held the cluster
// before it must have handed back two.
func TestWhole(t *testing.T) {
	t.Run("hurt", func(t *testing.T) { hbase.Cluster(t, hbase.Alone).Kill(hbase.Region2) })
	t.Run("next", func(t *testing.T) {
		srv := hbase.Cluster(t, hbase.Alone)
		srv.Stop(hbase.Region2) // fails if it is dead
		srv.Continue(hbase.Region2)
	})
}

// A table is one of the test's own, with one family and one column.
type table struct {
	name   string
	client gohbase.Client
}

// open makes a table with the given splits.
func open(t *testing.T, srv *hbase.Server, name string, splits ...string) *table {
	t.Helper()
	admin := gohbase.NewAdminClient(srv.Quorum)
	name = fmt.Sprintf("testenv-%s-%d", name, time.Now().UnixNano())
	var keys [][]byte
	for _, s := range splits {
		keys = append(keys, []byte(s))
	}
	families := map[string]map[string]string{"f": {"VERSIONS": "1"}}
	err := admin.CreateTable(hrpc.NewCreateTable(t.Context(), []byte(name), families, hrpc.SplitKeys(keys)))
	if err != nil {
		t.Fatalf("make table %s: %v", name, err)
	}
	return dial(t, srv, name)
}

// dial connects with a read time-out well below the calls' deadlines: else the
// connection to a stopped server is kept for ever.
func dial(t *testing.T, srv *hbase.Server, name string) *table {
	client := gohbase.NewClient(srv.Quorum, gohbase.RpcQueueSize(1), gohbase.RegionReadTimeout(1500*time.Millisecond))
	t.Cleanup(client.Close)
	return &table{name: name, client: client}
}

func cell(v string) map[string]map[string][]byte {
	return map[string]map[string][]byte{"f": {"q": []byte(v)}}
}

func (b *table) tryPut(ctx context.Context, row, value string) error {
	put, err := hrpc.NewPutStr(ctx, b.name, row, cell(value))
	if err != nil {
		return err
	}
	_, err = b.client.Put(put)
	return err
}

func (b *table) put(t *testing.T, row, value string) {
	t.Helper()
	if err := b.tryPut(t.Context(), row, value); err != nil {
		t.Fatalf("put %s: %v", row, err)
	}
}

func (b *table) get(t *testing.T, row string) string {
	t.Helper()
	get, err := hrpc.NewGetStr(t.Context(), b.name, row)
	if err != nil {
		t.Fatal(err)
	}
	result, err := b.client.Get(get)
	if err != nil {
		t.Fatalf("get %s: %v", row, err)
	}
	if len(result.Cells) != 1 {
		t.Fatalf("get %s: %d cells, want 1", row, len(result.Cells))
	}
	return string(result.Cells[0].Value)
}

func (b *table) checkAndPut(t *testing.T, row, expect, next string) bool {
	t.Helper()
	put, err := hrpc.NewPutStr(t.Context(), b.name, row, cell(next))
	if err != nil {
		t.Fatal(err)
	}
	ok, err := b.client.CheckAndPut(put, "f", "q", []byte(expect))
	if err != nil {
		t.Fatalf("check and put %s: %v", row, err)
	}
	return ok
}

// scan returns the rows in [from, to), in order; an empty to has no end.
func (b *table) scan(t *testing.T, from, to string) []string {
	t.Helper()
	scan, err := hrpc.NewScanRangeStr(t.Context(), b.name, from, to)
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	scanner := b.client.Scan(scan)
	for {
		result, err := scanner.Next()
		if err == io.EOF {
			return rows
		}
		if err != nil {
			t.Fatalf("scan %s: %v", b.name, err)
		}
		rows = append(rows, string(result.Cells[0].Row))
	}
}

// writers put rows of their own all over a table, and keep a ledger of what was
// acknowledged.
type writers struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	acked []string
	each  []tally
}

// A tally is one writer's.
type tally struct {
	acked int
	last  time.Time
}

func startWriters(t *testing.T, db *table, n int) *writers {
	ctx, cancel := context.WithCancel(t.Context())
	w := &writers{cancel: cancel, each: make([]tally, n)}
	for i := range n {
		w.each[i].last = time.Now()
		w.wg.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				row := fmt.Sprintf("%c-%d-%d", 'a'+k%26, i, k)
				call, done := context.WithTimeout(ctx, 4*time.Second)
				if db.tryPut(call, row, "v") == nil {
					w.mu.Lock()
					w.acked = append(w.acked, row)
					w.each[i] = tally{w.each[i].acked + 1, time.Now()}
					w.mu.Unlock()
				}
				done()
			}
		})
	}
	t.Cleanup(func() { w.stop(t) })
	return w
}

func (w *writers) stop(t *testing.T) []string {
	w.cancel()
	w.wg.Wait()
	return w.acked
}

// await polls a condition on the writers' ledger.
func (w *writers) await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(45 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		w.mu.Lock()
		ok := holds()
		w.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within 45s: %s", what)
		}
	}
}

// awaitMore waits until every writer has n more acknowledgements. With 26 and
// more they are from all regions.
func (w *writers) awaitMore(t *testing.T, n int) {
	t.Helper()
	w.mu.Lock()
	start := slices.Clone(w.each)
	w.mu.Unlock()
	w.await(t, fmt.Sprintf("%d more acknowledgements for every writer", n), func() bool {
		for i := range w.each {
			if w.each[i].acked < start[i].acked+n {
				return false
			}
		}
		return true
	})
}

// awaitStall waits until every writer has been without an acknowledgement for
// so long: the fault has been felt.
func (w *writers) awaitStall(t *testing.T, d time.Duration) {
	t.Helper()
	w.await(t, fmt.Sprintf("all writers stalled for %v", d), func() bool {
		return !slices.ContainsFunc(w.each, func(e tally) bool { return time.Since(e.last) < d })
	})
}
