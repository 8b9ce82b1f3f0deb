// Package journal keeps on disk what a verdict has taken in, so that its end, by
// kill -9 or by power, loses nothing that was accepted.
//
// A directory holds two files:
//
//	checkpoint  what all that came before amounts to: replaced whole, by rename
//	journal-N   what has come since checkpoint N, in order: read again at a start
//
// Every record carries its length and a CRC-32C. A write that was cut short is the
// end of the journal and is cut off at the next start.
//
// It is append, read all at the start, forget: nothing is looked up by key, and
// what is kept fits into memory. A key-value store would bring compaction, caches
// and 15 MB of code to give what append and rename give.
package journal

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// MaxRecord is the longest record, in bytes.
const MaxRecord = 64 << 20

var (
	// ErrInUse is returned by Open for a directory that another process has open.
	ErrInUse = errors.New("the directory is in use by another verdict")
	// ErrNotCommitted is returned by Commit.
	ErrNotCommitted = errors.New("checkpoint not written")
)

// Journal is an open directory. It is not safe for concurrent use.
type Journal struct {
	dir     string
	lock    *os.File
	number  uint64   // of the checkpoint in force
	entries *os.File // journal-number
	size    int64    // of entries, in bytes
}

// Open opens dir, makes it if it is missing, and returns the last checkpoint, nil
// if there is none. ErrInUse: another process has dir. Other errors are of the file
// system, or say that the checkpoint is damaged.
func Open(dir string) (*Journal, []byte, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, nil, fmt.Errorf("%w: %s", ErrInUse, dir)
	}
	j := &Journal{dir: dir, lock: lock}
	checkpoint, err := j.open()
	if err != nil {
		lock.Close()
		return nil, nil, fmt.Errorf("read state: %w", err)
	}
	return j, checkpoint, nil
}

func (j *Journal) open() (checkpoint []byte, err error) {
	data, err := os.ReadFile(j.path("checkpoint"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		record, n, err := next(bytes.NewReader(data), nil)
		if err != nil || n != len(data) || len(record) < 8 {
			// Rename replaced it whole, so this is no write that was cut short.
			return nil, fmt.Errorf("%s is damaged: move the directory away to start anew", j.path("checkpoint"))
		}
		j.number = binary.LittleEndian.Uint64(record)
		checkpoint = record[8:]
	}
	// Others are of a Commit that did not come to its end, or just did.
	all, err := filepath.Glob(j.path("journal-*"))
	if err != nil {
		return nil, err
	}
	for _, name := range all {
		if name != j.entriesPath(j.number) {
			if err := os.Remove(name); err != nil {
				return nil, err
			}
		}
	}
	j.entries, err = os.OpenFile(j.entriesPath(j.number), os.O_CREATE|os.O_RDWR, 0o600)
	return checkpoint, err
}

// Replay calls f with each entry since the checkpoint, in order; the bytes are its
// own until it returns. It is to be called once, before the first Append. cut is how
// many bytes of a write that was cut short were at the end. An error is f's, or of
// the file.
func (j *Journal) Replay(f func(entry []byte) error) (cut int64, err error) {
	r := bufio.NewReaderSize(j.entries, 64<<10)
	var buf []byte
	for {
		entry, n, err := next(r, buf)
		if errors.Is(err, errCut) {
			break
		}
		if err == nil {
			err = f(entry)
		}
		if err != nil {
			return 0, err
		}
		j.size += int64(n)
		buf = entry
	}
	info, err := j.entries.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size() - j.size, j.rewind()
}

func (j *Journal) path(name string) string { return filepath.Join(j.dir, name) }

func (j *Journal) entriesPath(number uint64) string {
	return j.path("journal-" + strconv.FormatUint(number, 10))
}

// Append adds an entry. It has reached the system when Append returns, and so
// survives the end of this process; Sync makes it survive that of the machine.
func (j *Journal) Append(entry []byte) error {
	n, err := j.entries.Write(frame(entry))
	if err != nil {
		// A part of it would hide all that comes after.
		return errors.Join(err, j.rewind())
	}
	j.size += int64(n)
	return nil
}

// rewind cuts off what is after the last whole entry.
func (j *Journal) rewind() error {
	_, err := j.entries.Seek(j.size, io.SeekStart)
	return errors.Join(j.entries.Truncate(j.size), err)
}

// Size returns how many bytes of entries there are since the last checkpoint.
func (j *Journal) Size() int64 { return j.size }

// Sync returns when all entries are on the disk.
func (j *Journal) Sync() error { return j.entries.Sync() }

// Commit makes checkpoint stand for all entries so far. An error that wraps
// ErrNotCommitted left all as it was; after another one the checkpoint is in force
// and may not survive the end of the machine.
func (j *Journal) Commit(checkpoint []byte) error {
	next := j.number + 1
	entries, err := j.prepare(next, checkpoint)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotCommitted, err)
	}
	old := j.entries
	j.number, j.entries, j.size = next, entries, 0
	if err := errors.Join(old.Close(), j.syncDir()); err != nil {
		return err // the next start removes old, and until then it may be needed
	}
	return os.Remove(old.Name())
}

func (j *Journal) prepare(number uint64, checkpoint []byte) (entries *os.File, err error) {
	beside := j.path("checkpoint.new")
	f, err := os.OpenFile(beside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(frame(append(binary.LittleEndian.AppendUint64(nil, number), checkpoint...)))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	entries, err = os.OpenFile(j.entriesPath(number), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(beside, j.path("checkpoint")); err != nil {
		return nil, errors.Join(err, entries.Close())
	}
	return entries, nil
}

func (j *Journal) syncDir() error {
	d, err := os.Open(j.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close lets go of the directory.
func (j *Journal) Close() error {
	return errors.Join(j.entries.Sync(), j.entries.Close(), j.lock.Close())
}

// A record is its length and the CRC-32C of length and content, each in four
// bytes, little endian, and its content.
const headerSize = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func frame(content []byte) []byte {
	out := make([]byte, headerSize, headerSize+len(content))
	binary.LittleEndian.PutUint32(out, uint32(len(content)))
	out = append(out, content...)
	binary.LittleEndian.PutUint32(out[4:], checksum(out[:4], content))
	return out
}

func checksum(length, content []byte) uint32 {
	return crc32.Update(crc32.Checksum(length, castagnoli), castagnoli, content)
}

// errCut is the end of what can be believed.
var errCut = errors.New("no whole record")

// next reads a record into buf, if it is large enough, and returns it and how many
// bytes of r it took. It allocates what has come and not what is announced.
func next(r io.Reader, buf []byte) (content []byte, n int, err error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, 0, cutOr(err)
	}
	size := int(binary.LittleEndian.Uint32(header[:]))
	if size > MaxRecord {
		return nil, 0, errCut
	}
	content = buf[:0]
	for len(content) < size {
		from, more := len(content), min(size-len(content), 1<<20)
		content = append(content, make([]byte, more)...)
		if _, err := io.ReadFull(r, content[from:]); err != nil {
			return nil, 0, cutOr(err)
		}
	}
	if checksum(header[:4], content) != binary.LittleEndian.Uint32(header[4:]) {
		return nil, 0, errCut
	}
	return content, headerSize + size, nil
}

func cutOr(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errCut
	}
	return err
}
