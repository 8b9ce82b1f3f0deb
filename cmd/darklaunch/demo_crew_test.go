package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testCrew(t *testing.T) *crew {
	t.Helper()
	t.Setenv(asProgram, "1") // for the supervisor, and for what it runs
	exe := os.Args[0]
	c := &crew{supervisor: []string{exe, "gate", "supervise"}, self: exe, logs: t.TempDir()}
	t.Cleanup(c.stop)
	return c
}

// TestCrew holds that processes are started, found, missed and ended.
func TestCrew(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts processes")
	}
	c := testCrew(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := os.WriteFile(filepath.Join(c.logs, "store.log"), []byte("ready rows 127.0.0.1:1\nready metrics 127.0.0.1:1\n"), 0o644); err != nil {
		t.Fatal(err) // of a demo before
	}
	at, err := c.start(ctx, "store", []string{"rows", "metrics"}, "appserver", "store", "--listen", "127.0.0.1:0", "--data", t.TempDir(), "--metrics", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + at["metrics"] + "/healthz"
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := c.lost(); err != nil {
		t.Errorf("while all run: %v", err)
	}
	if err := c.do(ctx, "check", "appserver", "check", "--store", "rows:"+at["rows"]); err != nil {
		t.Errorf("a command that ends well: %v", err)
	}
	if err := c.do(ctx, "wrong", "appserver", "check", "--store", "it's no store"); err == nil || !strings.Contains(err.Error(), "it's no store") {
		t.Errorf("a command that fails: got %v, want its last words", err)
	}
	if _, err := c.start(ctx, "twice", []string{"rows"}, "appserver", "store", "--listen", at["rows"], "--data", t.TempDir()); err == nil || !strings.Contains(err.Error(), "twice ended") {
		t.Errorf("an address that is taken: got %v, want that it ended, and why", err)
	}
	if err := c.lost(); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("one has ended: got %v, want it told", err)
	}
	why := errors.New("enough")
	enough, end := context.WithCancelCause(ctx)
	end(why)
	if _, err := c.start(enough, "never", []string{"nothing"}, "appserver", "store", "--listen", "127.0.0.1:0", "--data", t.TempDir()); !errors.Is(err, why) {
		t.Errorf("an interrupt: got %v, want %v", err, why)
	}
	c.stop()
	if resp, err := http.Get(url); err == nil {
		resp.Body.Close()
		t.Error("after the stop: the store still answers")
	}
}

func TestReadyLines(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	text := "ready a 127.0.0.1:1\nsomething else\nready b 127.0.0.1:2\nready c 127.0.0.1:3"
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := readyLines(log)
	if len(got) != 2 || got["a"] != "127.0.0.1:1" || got["b"] != "127.0.0.1:2" {
		t.Errorf("got %v, want the two lines that are whole", got)
	}
	if got := readyLines(log + ".none"); len(got) != 0 {
		t.Errorf("no file: got %v", got)
	}
}
