package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestWriteFileReplacesPlainFilesWhole(t *testing.T) {
	name := filepath.Join(t.TempDir(), "result.json")
	if err := os.WriteFile(name, []byte("something longer"), 0o640); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(name) // who reads the old one goes on reading it
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := writeFile(name, []byte("new")); err != nil {
		t.Fatal(err)
	}
	old := make([]byte, 100)
	n, err := held.Read(old)
	if err != nil || string(old[:n]) != "something longer" {
		t.Errorf("the old file: got %q, %v, want it untouched", old[:n], err)
	}
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, name); got != "new" || info.Mode().Perm() != 0o640 {
		t.Errorf("got %q with mode %v, want the new text with the old mode", got, info.Mode())
	}
}

// TestWriteFileLeavesOtherFilesInPlace: a link stands for /dev/stdout, which is
// one, and a pipe for a device.
func TestWriteFileLeavesOtherFilesInPlace(t *testing.T) {
	dir := t.TempDir()
	t.Run("link", func(t *testing.T) {
		link, target := filepath.Join(dir, "link"), filepath.Join(dir, "target")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"first text", "second"} { // the target is not there, and then it is
			if err := writeFile(link, []byte(text)); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
				t.Errorf("the link: got %v, %v, want a link still", info.Mode(), err)
			}
			if got := readFile(t, target); got != text {
				t.Errorf("got %q in the target, want %q", got, text)
			}
		}
	})
	t.Run("pipe", func(t *testing.T) {
		pipe := filepath.Join(dir, "pipe")
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		reader, err := os.OpenFile(pipe, os.O_RDWR, 0) // so that neither end waits for the other
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if err := writeFile(pipe, []byte("text")); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(pipe); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
			t.Fatalf("the pipe: got %v, %v, want a pipe still", info.Mode(), err)
		}
		got := make([]byte, 100)
		if n, err := reader.Read(got); err != nil || string(got[:n]) != "text" {
			t.Errorf("got %q, %v through the pipe, want the text", got[:n], err)
		}
	})
	t.Run("directory", func(t *testing.T) {
		if err := writeFile(dir, []byte("text")); err == nil {
			t.Error("wrote over a directory")
		}
	})
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 {
		t.Errorf("got %v, %v in the directory, want link, target and pipe", left, err)
	}
}
