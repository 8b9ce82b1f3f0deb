package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// recovered is what a directory held.
type recovered struct {
	Checkpoint string
	Entries    []string
	Cut        int64
}

func open(t *testing.T, dir string) (*Journal, recovered) {
	t.Helper()
	j, checkpoint, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.lock.Close() })
	r := recovered{Checkpoint: string(checkpoint)}
	r.Cut, err = j.Replay(func(entry []byte) error {
		r.Entries = append(r.Entries, string(entry))
		return nil
	})
	must(t, err)
	return j, r
}

// commit makes checkpoint stand for all that came before.
func commit(t *testing.T, j *Journal, checkpoint string) {
	t.Helper()
	write, err := j.Rotate()
	must(t, err)
	must(t, write([]byte(checkpoint)))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// abandon is the end by kill -9: nothing is flushed, and the lock is the system's
// to release.
func abandon(j *Journal) { j.lock.Close() }

func TestRecovers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "it")
	j, r := open(t, dir)
	if diff := cmp.Diff(recovered{}, r); diff != "" {
		t.Errorf("of a new directory (-want +got):\n%s", diff)
	}
	must(t, j.Append([]byte("a")))
	must(t, j.Append(nil))
	abandon(j)

	j, r = open(t, dir)
	if diff := cmp.Diff(recovered{Entries: []string{"a", ""}}, r); diff != "" {
		t.Errorf("before a checkpoint (-want +got):\n%s", diff)
	}
	commit(t, j, "one")
	must(t, j.Append([]byte("b")))
	commit(t, j, "two")
	if j.Size() != 0 {
		t.Errorf("got %d bytes of entries after a commit, want none", j.Size())
	}
	must(t, j.Append([]byte("c")))
	must(t, j.Close())

	_, r = open(t, dir)
	if diff := cmp.Diff(recovered{Checkpoint: "two", Entries: []string{"c"}}, r); diff != "" {
		t.Errorf("after two (-want +got):\n%s", diff)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 4 {
		t.Errorf("got %v, %v, want the lock, the checkpoint, the journal that was read, and the next one", files, err)
	}
}

// TestCutAnywhere cuts the journal at every byte: what was whole before the cut is
// there, nothing else is, and what is appended then is read the next time.
func TestCutAnywhere(t *testing.T) {
	var whole []byte
	entries := []string{"first", "second, which is longer", "", "last"}
	for _, e := range entries {
		whole = append(whole, frame([]byte(e))...)
	}
	for n := range len(whole) + 1 {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "journal-0"), whole[:n], 0o600))
		j, r := open(t, dir)
		want, held := []string(nil), 0
		for _, e := range entries {
			if held+headerSize+len(e) > n {
				break
			}
			held += headerSize + len(e)
			want = append(want, e)
		}
		if diff := cmp.Diff(want, r.Entries); diff != "" || r.Cut != int64(n-held) {
			t.Fatalf("cut at %d: got %d bytes cut off, want %d (-want +got):\n%s", n, r.Cut, n-held, diff)
		}
		must(t, j.Append([]byte("more")))
		must(t, j.Close())
		j, r = open(t, dir)
		if got := r.Entries[len(r.Entries)-1]; got != "more" || len(r.Entries) != len(want)+1 {
			t.Fatalf("cut at %d: got %q last of %d, want what was appended then", n, got, len(r.Entries))
		}
		must(t, j.Close())
	}
}

// TestFlippedBit changes each bit of an entry in turn: it and what follows it is
// not believed.
func TestFlippedBit(t *testing.T) {
	good := append(frame([]byte("before")), frame([]byte("hit"))...)
	from := len(frame([]byte("before")))
	for bit := range 8 * (len(good) - from) {
		data := bytes.Clone(good)
		data[from+bit/8] ^= 1 << (bit % 8)
		r := bytes.NewReader(data)
		if _, _, err := next(r, nil); err != nil {
			t.Fatalf("bit %d: the one before: %v", bit, err)
		}
		if got, _, err := next(r, nil); !errors.Is(err, errCut) {
			t.Fatalf("bit %d: got %q, %v, want %v", bit, got, err, errCut)
		}
	}
}

// TestInterruptedCommit stops a commit at each of its steps: the state is the one
// before or the one after, with what came meanwhile, and never a mixture.
func TestInterruptedCommit(t *testing.T) {
	for _, tt := range []struct {
		name string
		stop func(dir string, j *Journal, write func([]byte) error) error
		want recovered
	}{
		{"nothing written", func(string, *Journal, func([]byte) error) error { return nil }, recovered{Checkpoint: "old", Entries: []string{"entry", "meanwhile"}}},
		{"half written", func(dir string, _ *Journal, _ func([]byte) error) error {
			return os.WriteFile(filepath.Join(dir, "checkpoint.new"), frame([]byte("abcdefghnew"))[:9], 0o600)
		}, recovered{Checkpoint: "old", Entries: []string{"entry", "meanwhile"}}},
		{"renamed", func(_ string, j *Journal, _ func([]byte) error) error {
			return j.write(j.number, []byte("new"))
		}, recovered{Checkpoint: "new", Entries: []string{"meanwhile"}}},
		{"done", func(_ string, _ *Journal, write func([]byte) error) error { return write([]byte("new")) },
			recovered{Checkpoint: "new", Entries: []string{"meanwhile"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			j, _ := open(t, dir)
			commit(t, j, "old")
			must(t, j.Append([]byte("entry")))
			write, err := j.Rotate()
			must(t, err)
			must(t, j.Append([]byte("meanwhile")))
			must(t, tt.stop(dir, j, write))
			abandon(j)
			j, r := open(t, dir)
			if diff := cmp.Diff(tt.want, r); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			must(t, j.Append([]byte("goes on")))
			abandon(j)
			j, r = open(t, dir)
			if n := len(r.Entries); n != len(tt.want.Entries)+1 || r.Entries[n-1] != "goes on" {
				t.Errorf("afterwards: got %+v", r)
			}
			commit(t, j, "newer")
			must(t, j.Close())
			if _, r = open(t, dir); r.Checkpoint != "newer" || len(r.Entries) != 0 {
				t.Errorf("at last: got %+v", r)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	if _, _, err := Open(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want %v", err, ErrInUse)
	}
	must(t, j.Close())
	must(t, os.WriteFile(filepath.Join(dir, "checkpoint"), []byte("not one"), 0o600))
	if _, _, err := Open(dir); err == nil {
		t.Error("a damaged checkpoint was taken for none")
	}
	if _, _, err := Open("/proc/nowhere"); err == nil {
		t.Error("got no error where nothing can be written")
	}
}

// TestFullDisk lets a write stop in the middle of an entry: the next ones are read
// nevertheless.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	must(t, j.Append([]byte("whole")))
	// Past this size the system refuses to write, as a full disk does.
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &limit))
	small := unix.Rlimit{Cur: uint64(j.Size()) + 11, Max: limit.Max}
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &small))
	err := j.Append(bytes.Repeat([]byte("x"), 100))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))
	if err == nil {
		t.Fatal("the write was not refused, so that nothing is tested")
	}
	must(t, j.Append([]byte("after")))
	must(t, j.Close())
	_, r := open(t, dir)
	if diff := cmp.Diff([]string{"whole", "after"}, r.Entries); diff != "" || r.Cut != 0 {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzNext(f *testing.F) {
	f.Add(append(frame([]byte("a")), frame(nil)...))
	f.Add([]byte("\xff\xff\xff\xff12345"))
	f.Add([]byte("\x00\x00\x00\x0312345"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var again []byte
		for r := bytes.NewReader(data); ; {
			content, n, err := next(r, nil)
			if err != nil {
				break
			}
			if n != headerSize+len(content) {
				t.Errorf("got %d bytes of a record of %d", n, len(content))
			}
			again = append(again, frame(content)...)
		}
		if !bytes.HasPrefix(data, again) {
			t.Error("the records are not what was read")
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	j, _, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{200, 128 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			entry := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := j.Append(entry); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
