// Package journal keeps on disk what a verdict has taken in, so that its end, by
// kill -9 or by power, loses nothing that was accepted.
//
// A directory holds:
//
//	checkpoint  what all before journal N amounts to: replaced whole, by rename
//	journal-N   what has come since, in order, and journal-N+1 what came while the
//	            next checkpoint was being written: read again at a start
//
// Every record carries its length and a CRC-32C. A write that was cut short is the
// end of a journal and is cut off at the next start. Nothing that waits for the disk
// is in the way of Append: Sync and writing a checkpoint are for another goroutine.
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
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// MaxRecord is the longest record, in bytes. A longer one is not written, as it could
// not be read.
const MaxRecord = 256 << 20

// ErrInUse is returned by Open for a directory that another process has open.
var ErrInUse = errors.New("the directory is in use by another verdict")

// Journal is an open directory. Append, Size, Rotate and Replay are for one goroutine;
// Sync and what Rotate returns may be called by another one.
type Journal struct {
	dir     string
	lock    *os.File
	old     []string                // journals that were there at the start, to be replayed
	number  uint64                  // of entries
	entries atomic.Pointer[os.File] // journal-number
	size    int64                   // of entries, in bytes
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
	if err := j.find(); err != nil {
		return nil, err
	}
	return checkpoint, j.create(j.number)
}

// find lists the journals to be replayed, and removes those that the checkpoint
// stands for. The next one gets a number of its own, so that none is appended to
// whose end may be cut short.
func (j *Journal) find() error {
	all, err := filepath.Glob(j.path("journal-*"))
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, name := range all {
		n, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(name), "journal-"), 10, 64)
		if err != nil {
			continue // nobody of ours made it
		}
		if n < j.number {
			if err := os.Remove(name); err != nil {
				return err
			}
			continue
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		j.old = append(j.old, j.entriesPath(n))
		j.number = n + 1
	}
	return nil
}

func (j *Journal) create(number uint64) error {
	f, err := os.OpenFile(j.entriesPath(number), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	j.number, j.size = number, 0
	j.entries.Store(f)
	return nil
}

// Replay calls f with each entry since the checkpoint, in order; the bytes are its
// own until it returns. It is to be called once, before the first Append. cut is how
// many bytes of writes that were cut short were left out. An error is f's, or of
// the file system.
func (j *Journal) Replay(f func(entry []byte) error) (cut int64, err error) {
	for _, name := range j.old {
		n, err := replay(name, f)
		if err != nil {
			return 0, err
		}
		cut += n
	}
	return cut, nil
}

func replay(name string, f func(entry []byte) error) (cut int64, err error) {
	file, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	r := bufio.NewReaderSize(file, 64<<10)
	left := info.Size()
	var buf []byte
	for {
		entry, n, err := next(r, buf)
		if errors.Is(err, errCut) {
			return left, nil
		}
		if err == nil {
			err = f(entry)
		}
		if err != nil {
			return 0, err
		}
		left -= int64(n)
		buf = entry
	}
}

func (j *Journal) path(name string) string { return filepath.Join(j.dir, name) }

func (j *Journal) entriesPath(number uint64) string {
	return j.path("journal-" + strconv.FormatUint(number, 10))
}

// Append adds an entry. It has reached the system when Append returns, and so
// survives the end of this process; Sync makes it survive that of the machine.
func (j *Journal) Append(entry []byte) error {
	if len(entry) > MaxRecord {
		return fmt.Errorf("an entry of %d bytes, more than %d", len(entry), MaxRecord)
	}
	f := j.entries.Load()
	n, err := f.Write(frame(entry))
	if err != nil {
		// A part of it would hide all that comes after.
		_, back := f.Seek(j.size, io.SeekStart)
		return errors.Join(err, f.Truncate(j.size), back)
	}
	j.size += int64(n)
	return nil
}

// Size returns how many bytes of entries there are since the last Rotate.
func (j *Journal) Size() int64 { return j.size }

// Sync returns when all entries since the last Rotate are on the disk.
func (j *Journal) Sync() error {
	if err := j.entries.Load().Sync(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil // it was rotated away meanwhile, and commit sees to it
}

// Rotate begins a new journal, and returns a function that makes a checkpoint of the
// moment of Rotate stand for all entries before, durably. Until it has, entries
// before and after are read again at a start. It is to be called once, and not at the
// same time as that of another Rotate.
func (j *Journal) Rotate() (commit func(checkpoint []byte) error, err error) {
	before := j.entries.Load()
	if err := j.create(j.number + 1); err != nil {
		return nil, err
	}
	number := j.number
	return func(checkpoint []byte) error {
		// If the checkpoint does not come to be, these entries are needed.
		if err := errors.Join(before.Sync(), before.Close(), j.write(number, checkpoint)); err != nil {
			return err
		}
		return j.remove(number)
	}, nil
}

// write puts a checkpoint in the place of the last one.
func (j *Journal) write(number uint64, content []byte) error {
	if len(content)+8 > MaxRecord {
		return fmt.Errorf("a checkpoint of %d bytes, more than %d", len(content), MaxRecord)
	}
	beside := j.path("checkpoint.new")
	f, err := os.OpenFile(beside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(frame(append(binary.LittleEndian.AppendUint64(nil, number), content...)))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(beside, j.path("checkpoint")); err != nil {
		return err
	}
	return j.syncDir()
}

// remove removes the journals before number.
func (j *Journal) remove(number uint64) error {
	all, err := filepath.Glob(j.path("journal-*"))
	if err != nil {
		return err
	}
	for _, name := range all {
		n, err := strconv.ParseUint(strings.TrimPrefix(filepath.Base(name), "journal-"), 10, 64)
		if err == nil && n < number {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
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
	f := j.entries.Load()
	return errors.Join(f.Sync(), f.Close(), j.lock.Close())
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
