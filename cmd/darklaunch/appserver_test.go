package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"darklaunch/appserver/fence"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/rows"
	"darklaunch/appserver/store/storetest"
	"darklaunch/internal/testenv/hbase"
)

// startStore runs a row store and connects to it.
func startStore(t *testing.T, listen, dir string, args ...string) (*running, string, *rows.Store) {
	t.Helper()
	r := start(t, append([]string{"appserver", "store", "--listen", listen, "--data", dir}, args...)...)
	addr := r.ready("rows")
	s, err := rows.Open(t.Context(), addr, rows.Config{Timeout: 30 * time.Second})
	if err != nil {
		t.Fatalf("%v; stderr: %s", err, r.stderr())
	}
	t.Cleanup(func() { s.Close() })
	return r, addr, s
}

// TestRowStoreConformance has the whole suite go through the process.
func TestRowStoreConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs for seconds")
	}
	r, addr, _ := startStore(t, "127.0.0.1:0", t.TempDir())
	storetest.Run(t, storetest.Target{Lasting: true, Open: func(ctx context.Context) (store.Store, error) {
		return rows.Open(ctx, addr, rows.Config{Timeout: 30 * time.Second})
	}})
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Errorf("got %d, want %d; stderr: %s", code, exitDone, stderr)
	}
}

// A writer owns one row, and appends to it one action at a time.
type writer struct {
	store store.Store
	user  string
	owner fence.Owner
	tags  byte
	id    byte
	epoch uint64
}

func (w *writer) tag() store.Tag {
	w.tags++
	return store.Tag{w.id, w.tags, byte(w.epoch)}
}

// settle makes a put until it is known what became of it.
func (w *writer) settle(ctx context.Context, write fence.Write, cells ...store.Cell) (fence.Step, error) {
	for {
		step := w.owner.Answer(w.store.Put(ctx, w.user, write.Cur, write.Next, cells))
		if step == fence.ReadBack {
			row, err := w.store.Read(ctx, w.user)
			if err != nil {
				return 0, err
			}
			step = w.owner.Saw(row.Fence)
		}
		if step != fence.Again {
			return step, nil
		}
	}
}

func (w *writer) claim(ctx context.Context) error {
	row, err := w.store.Read(ctx, w.user)
	if err != nil {
		return err
	}
	w.epoch = row.Fence.Epoch
	write, err := w.owner.Claim(row.Fence, store.Ring{}, w.tag())
	if err != nil {
		return err
	}
	if step, err := w.settle(ctx, write); err != nil || step != fence.Won {
		return fmt.Errorf("claim: %v, %w", step, err)
	}
	return nil
}

func (w *writer) append(ctx context.Context) (fence.Step, error) {
	write := w.owner.Commit(1, w.tag())
	return w.settle(ctx, write, store.Cell{Family: store.Actions, Qualifier: fmt.Appendf(nil, "%06d", write.Next.Seq), Value: []byte("v")})
}

// TestRowStoreKilled kills the row store again and again between and beside
// acknowledged puts, and starts it at the same address: the same connection goes
// on, and nothing that was acknowledged is missing.
func TestRowStoreKilled(t *testing.T) {
	dir := t.TempDir()
	r, addr, s := startStore(t, "127.0.0.1:0", dir)
	w := &writer{store: s, user: "ann", id: 1}
	if err := w.claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for range 20 {
			if step, err := w.append(t.Context()); err != nil || step != fence.Won {
				t.Fatalf("append: %v, %v", step, err)
			}
		}
		r.signal(syscall.SIGKILL)
		r.end()
		r = start(t, "appserver", "store", "--listen", addr, "--data", dir)
		r.ready("rows")
	}
	if step, err := w.append(t.Context()); err != nil || step != fence.Won {
		t.Fatalf("append after the last start: %v, %v", step, err)
	}
	row, whole, err := store.ReadAll(t.Context(), s, "ann", store.Span{Family: store.Actions})
	if err != nil || !whole || row.Fence.Seq != 61 || len(row.Cells) != 61 {
		t.Errorf("got %v with %d actions, %v, %v, want 61", row.Fence, len(row.Cells), whole, err)
	}
}

// TestRowStorePaused stops the row store under a put, whose caller gives up; when
// it goes on, the put is written late. Another server claims the row meanwhile:
// the row is one owner's, and it is not written by the first again.
func TestRowStorePaused(t *testing.T) {
	r, _, s := startStore(t, "127.0.0.1:0", t.TempDir())
	first := &writer{store: s, user: "ann", id: 1}
	if err := first.claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.pause()
	write := first.owner.Commit(1, first.tag())
	patience, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := s.Put(patience, "ann", write.Cur, write.Next, nil)
	r.signal(syscall.SIGCONT)
	if !store.Unknown(err) {
		t.Fatalf("a put to a store that is stopped: got %v, want an unknown outcome", err)
	}
	if step := first.owner.Answer(err); step != fence.ReadBack {
		t.Fatalf("got %v, want to read back", step)
	}
	second := &writer{store: s, user: "ann", id: 2}
	for second.claim(t.Context()) != nil { // the late put may have come between
		second.owner.Drop()
	}
	if step, err := second.append(t.Context()); err != nil || step != fence.Won {
		t.Fatalf("append of the second: %v, %v", step, err)
	}
	row, err := s.Read(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	if step := first.owner.Saw(row.Fence); step != fence.Lost {
		t.Errorf("the first reads %v back: got %v, want lost", row.Fence, step)
	}
	if err := s.Put(t.Context(), "ann", write.Cur, write.Next, nil); !errors.Is(err, store.ErrFenced) {
		t.Errorf("its put once more: got %v, want fenced", err)
	}
}

// TestRowStoreFull starts it with less room on the disk than it wants.
func TestRowStoreFull(t *testing.T) {
	_, _, s := startStore(t, "127.0.0.1:0", t.TempDir(), "--min-free", "1000000GiB")
	err := s.Put(t.Context(), "ann", store.Fence{}, store.Fence{Epoch: 1, Tag: store.Tag{1}}, nil)
	if !errors.Is(err, store.ErrRefused) {
		t.Errorf("a put: got %v, want %v", err, store.ErrRefused)
	}
	if row, err := s.Read(t.Context(), "ann"); err != nil || row.Fence != (store.Fence{}) {
		t.Errorf("a read: got %v, %v, want an absent row", row, err)
	}
}

// TestRowStoreDiskFails gives the process a limit on the size of files: the log can't
// be written, so that it ends, and what it had acknowledged is there afterwards.
func TestRowStoreDiskFails(t *testing.T) {
	dir := t.TempDir()
	// In blocks of 512 bytes or 1 KiB, as the shell has it; of this child alone.
	r := startBy(t, []string{"/bin/sh", "-c", `ulimit -f 2048; exec "$0" "$@"`}, "appserver", "store", "--listen", "127.0.0.1:0", "--data", dir)
	s, err := rows.Open(t.Context(), r.ready("rows"), rows.Config{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var code int
	var stderr string
	go func() { // calls would wait for the process to come back
		defer cancel()
		code, _, stderr = r.end()
	}()
	acked := store.Fence{}
	for i := range 1000 {
		next := store.Fence{Epoch: 1, Seq: uint64(i + 1), Tag: store.Tag{byte(i >> 8), byte(i), 1}}
		cell := store.Cell{Family: store.Actions, Qualifier: fmt.Appendf(nil, "%06d", i), Value: []byte(strings.Repeat(fmt.Sprint(i), 10_000))}
		if err = s.Put(ctx, "ann", acked, next, []store.Cell{cell}); err != nil {
			break
		}
		acked = next
	}
	if !store.Unknown(err) {
		t.Fatalf("the last put: got %v, want an unknown outcome", err)
	}
	<-ctx.Done()
	if code != exitCouldNotRun || !strings.Contains(stderr, "darklaunch: the store cannot go on:") {
		t.Errorf("got %d, want %d, and the reason; stderr: %s", code, exitCouldNotRun, stderr)
	}
	_, _, again := startStore(t, "127.0.0.1:0", dir)
	row, err := again.Read(t.Context(), "ann")
	if err != nil || row.Fence.Seq < acked.Seq {
		t.Errorf("after the next start: %v, %v, want at least %v", row.Fence, err, acked)
	}
	t.Logf("%d puts acknowledged, %d found", acked.Seq, row.Fence.Seq)
}

func TestRowStoreExitCodes(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts a dozen processes")
	}
	dir := t.TempDir()
	_, addr, _ := startStore(t, "127.0.0.1:0", dir)
	file := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const wants = "want memory:, pebble:DIR, rows:HOST:PORT or hbase:HOST:PORT[,HOST:PORT]/TABLE"
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"appserver", 0, ""},
		{"appserver sotre", 2, `unknown command "sotre"`},
		{"appserver store", 2, `"data" not set`},
		{"appserver store --data " + dir, 1, "in use by another process (--data)"},
		{"appserver store --data " + file + "/x", 1, "not a directory (--data)"},
		{"appserver store --data " + file + " --listen nowhere", 2, "is not an address to listen on"},
		{"appserver store --data " + t.TempDir() + " --listen " + addr, 1, "(--listen): the port is in use"},
		{"appserver store --data x --min-free lots", 2, "is not a size"},

		{"appserver init", 2, "want --store, --coordinator or both"},
		{"appserver init --coordinator zk:127.0.0.1:2181", 2, "is not a coordinator: want local:, rows:HOST:PORT or zk:HOST:PORT[,HOST:PORT]/PREFIX"},
		{"appserver init --coordinator zk:127.0.0.1:2181/a/", 2, "is not a coordinator"},
		{"appserver init --coordinator local:", 2, "nothing to make ready in local"},
		{"appserver init --coordinator rows:127.0.0.1:9 --timeout 300ms", 1, "members at 127.0.0.1:9"},
		{"appserver init --coordinator rows:" + addr, 0, ""},
		{"appserver init --coordinator rows:" + addr + " --cells a/b", 2, "--cells:"},
		{"appserver init --coordinator rows:" + addr + " --live " + file + "x", 1, "(--live)"},
		{"appserver init --store memory:", 2, "nothing to make ready in memory"},
		{"appserver init --store cassandra:x", 2, wants},
		{"appserver init --store memory:x", 2, wants},
		{"appserver init --store pebble:", 2, wants},
		{"appserver init --store rows:127.0.0.1", 2, wants},
		{"appserver init --store hbase:127.0.0.1:2181", 2, wants},
		{"appserver init --store hbase:127.0.0.1:2181/a/b", 2, wants},
		{"appserver init --store hbase:127.0.0.1:2181,x/t", 2, wants},
		{"appserver init --store pebble:" + dir + " --regions 0", 2, "--regions: 0 is not a number of regions"},
		{"appserver init --store pebble:" + dir, 1, "in use by another process (--store)"},
		{"appserver init --store pebble:" + filepath.Join(t.TempDir(), "new"), 0, ""},
		{"appserver init --store rows:" + addr, 0, ""},
		{"appserver init --store rows:127.0.0.1:9 --timeout 300ms", 1, "row store at 127.0.0.1:9 does not answer"},
		{"appserver init --store hbase:127.0.0.1:9/t --timeout 300ms", 1, "create table t at 127.0.0.1:9"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			code, _, stderr := start(t, strings.Fields(tc.args)...).end()
			if code != tc.code || !strings.Contains(stderr, tc.want) {
				t.Errorf("got %d and %q on stderr, want %d and %q in it", code, stderr, tc.code, tc.want)
			}
			if lines := strings.Count(stderr, "\n"); tc.code == 0 && lines != 0 || tc.code != 0 && lines != 1 {
				t.Errorf("got %d lines on stderr, want one if it fails and none otherwise: %s", lines, stderr)
			}
		})
	}
}

// TestRowStoreAdmin reads what it counts.
func TestRowStoreAdmin(t *testing.T) {
	r := start(t, "appserver", "store", "--listen", "127.0.0.1:0", "--data", t.TempDir(), "--metrics", "127.0.0.1:0")
	metrics, addr := r.ready("metrics"), r.ready("rows")
	s, err := rows.Open(t.Context(), addr, rows.Config{Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Put(t.Context(), "ann", store.Fence{}, store.Fence{Epoch: 1, Tag: store.Tag{1}}, nil); err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, want := range []string{`store_operations_total{op="put",result="ok"} 1`, `store_cells_written_total{family="fence"} 1`} {
		if !strings.Contains(page, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

// TestInitHBase makes a table, and finds it there the second time.
func TestInitHBase(t *testing.T) {
	srv := hbase.Standalone(t, hbase.Shared)
	place := fmt.Sprintf("hbase:%s/init-%d", srv.Quorum, time.Now().UnixNano())
	for _, want := range []string{place + " created, 3 regions\n", place + " was there already\n"} {
		code, stdout, stderr := start(t, "appserver", "init", "--store", place, "--regions", "3").end()
		if code != exitDone || stdout != want {
			t.Errorf("got %d and %q, want %d and %q; stderr: %s", code, stdout, exitDone, want, stderr)
		}
	}
}

func TestStorePlace(t *testing.T) {
	for _, text := range []string{"memory:", "pebble:/var/lib/x:y", "rows:localhost:7400", "rows:[::1]:7400", "hbase:a:2181,b:2181/messages.v1"} {
		place, err := parseStorePlace(text)
		if err != nil || place.String() != text {
			t.Errorf("%s: got %v, %v", text, place, err)
		}
	}
}
