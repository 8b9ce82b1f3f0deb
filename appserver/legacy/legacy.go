// Package legacy is what the old Inbox (inbox) and the old Chat (chat) have in
// common: a directory of data, ids and times of their own, and metrics. They are the
// live side of a dark launch: simple, correct systems that a new one replaces. The new
// one knows their ids under the names that Name makes.
//
// A directory is in Pebble (https://github.com/cockroachdb/pebble), and one process's.
// A change is one batch, made one after the other and synced together with those that
// wait at the same time. A read may see a change that is not synced yet; who made it is
// answered when it is.
package legacy

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"darklaunch/internal/wire"
)

// Kind says which system a directory is of.
type Kind string

// The kinds.
const (
	Inbox Kind = "inbox"
	Chat  Kind = "chat"
)

// Name is what the new system calls an id of the old one.
func Name(k Kind, id string) string { return string(k) + ":" + id }

// What the systems' methods return, wrapped.
var (
	// ErrInvalid: a request is wrong; nothing was done.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: the user has no such thing.
	ErrNotFound = errors.New("not found")
	// ErrExists: an assigned id is there already.
	ErrExists = errors.New("id exists")
)

// What Open returns, wrapped.
var (
	// ErrInUse: another process has the directory.
	ErrInUse = errors.New("in use by another process")
	// ErrKind: the directory holds something else.
	ErrKind = errors.New("it holds something else")
)

// Stamp is what tells a change: an id that no other has, and its time in
// milliseconds since 1970. Of changes that one server stamped both grow.
type Stamp struct {
	ID   uint64
	Time int64
}

// Text is the id as clients see it.
func (s Stamp) Text() string { return FormatID(s.ID) }

// FormatID is an id as clients see it.
func FormatID(id uint64) string { return strconv.FormatUint(id, 10) }

// ParseID is the inverse of FormatID: it takes what that makes of ids above 0.
func ParseID(s string) (id uint64, ok bool) {
	id, err := strconv.ParseUint(s, 10, 64)
	return id, err == nil && id > 0 && FormatID(id) == s
}

// ParseStamp returns the stamp that a caller assigns, nil if both texts are empty.
func ParseStamp(id, millis string) (*Stamp, error) {
	if id == "" && millis == "" {
		return nil, nil
	}
	n, ok := ParseID(id)
	t, err := strconv.ParseInt(millis, 10, 64)
	if !ok || err != nil || t < 0 || t > maxTime {
		return nil, fmt.Errorf("%w: assigned %q at %q: want a number above 0, and milliseconds since 1970", ErrInvalid, id, millis)
	}
	return &Stamp{n, t}, nil
}

// maxTime is the end of the year 2261, in milliseconds: nanoseconds of 64 bits, which
// the new system counts in, go no further.
const maxTime = 9214646400000 - 1

// Position says how far data goes.
type Position struct {
	Stamp       // of the last change
	Closed bool // the server ended in order: nothing came after ClosedAt
	// ClosedAt is when it ended, in milliseconds since 1970.
	ClosedAt int64
}

// At is a time after which the data lacks what may have happened: when its server
// ended, or, if it did not end in order, its last change.
func (p Position) At() time.Time {
	if p.Closed {
		return time.UnixMilli(p.ClosedAt)
	}
	return time.UnixMilli(p.Time)
}

// Config of a Data.
type Config struct {
	// AcceptAssigned: stamps that callers assign are taken.
	AcceptAssigned bool
	// ReadOnly: nothing is changed, and the directory must be there.
	ReadOnly bool
	// NoSync: changes are not synced one by one but when Data is closed; for filling a
	// directory that can be filled again.
	NoSync bool
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// FS is where the directory is. Nil means the machine's file system.
	FS vfs.FS
	// Log gets what an operator should know. Nil means nobody.
	Log *slog.Logger
}

// Data is an open directory. Its methods may be called from any number of goroutines.
type Data struct {
	cfg  Config
	dir  string
	db   *pebble.DB
	lock *pebble.Lock

	mu   sync.Mutex
	last Stamp
	pos  Position // as it was opened
}

var (
	keyKind   = []byte("\x00kind")
	keyLast   = []byte("\x00last")
	keyClosed = []byte("\x00closed")
)

// form is the version of what a directory holds.
const form = " 1"

// Open opens the directory of a system, and makes it if need be. ErrInUse, ErrKind.
func Open(dir string, kind Kind, cfg Config) (*Data, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Data{cfg: cfg, dir: dir}
	if err := d.open(kind); err != nil {
		return nil, errors.Join(fmt.Errorf("open the old %s in %s: %w", kind, dir, err), d.closeAll())
	}
	return d, nil
}

func (d *Data) open(kind Kind) error {
	files, err := d.cfg.FS.List(d.dir)
	switch {
	case errors.Is(err, os.ErrNotExist) && !d.cfg.ReadOnly:
		if err := d.cfg.FS.MkdirAll(d.dir, 0o755); err != nil {
			return err
		}
	case err != nil:
		return err
	case len(files) > 0:
		if found, err := pebble.Peek(d.dir, d.cfg.FS); err != nil || !found.Exists {
			return ErrKind
		}
	}
	if d.lock, err = pebble.LockDirectory(d.dir, d.cfg.FS); err != nil {
		if pathErr, ok := errors.AsType[*os.PathError](err); ok { // no file to lock: not a matter of who has it
			return pathErr
		}
		return ErrInUse
	}
	logger := logger{d.cfg.Log}
	d.db, err = pebble.Open(d.dir, &pebble.Options{
		FS: d.cfg.FS, Lock: d.lock, ReadOnly: d.cfg.ReadOnly, ErrorIfNotExists: d.cfg.ReadOnly,
		FormatMajorVersion: pebble.FormatValueSeparation, CacheSize: 32 << 20, MemTableSize: 16 << 20, Logger: logger,
	})
	if errors.Is(err, pebble.ErrDBDoesNotExist) {
		return ErrKind
	}
	if err != nil {
		return err
	}
	return d.begin(kind)
}

// begin looks at what the directory is, and takes it.
func (d *Data) begin(kind Kind) error {
	want := string(kind) + form
	switch found, err := Get(d.db, keyKind); {
	case err != nil:
		return err
	case found == nil:
		it, err := d.db.NewIter(nil)
		if err != nil {
			return err
		}
		empty := !it.First()
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return err
		}
		if !empty || d.cfg.ReadOnly {
			return ErrKind
		}
	case string(found) != want:
		return fmt.Errorf("%w: %q, want %q", ErrKind, found, want)
	}
	last, err := Get(d.db, keyLast)
	if err != nil {
		return err
	}
	if last != nil {
		c := wire.Reader(last)
		d.last.walk(c)
		if _, err := c.Close(); err != nil {
			return fmt.Errorf("last stamp: %w", err)
		}
	}
	closed, err := Get(d.db, keyClosed)
	if err != nil {
		return err
	}
	d.pos.Stamp = d.last
	if d.pos.ClosedAt, err = strconv.ParseInt(string(closed), 10, 64); err == nil {
		d.pos.Closed = true
	}
	if d.cfg.ReadOnly {
		return nil
	}
	b := d.db.NewBatch()
	_ = b.Set(keyKind, []byte(want), nil) // a batch in memory takes all
	_ = b.Delete(keyClosed, nil)
	return b.Commit(pebble.Sync)
}

func (s *Stamp) walk(c *wire.Coder) {
	wire.Uint(c, &s.ID)
	wire.Int(c, &s.Time)
}

// Close lets go of the directory, and notes when. No call may be under way.
func (d *Data) Close() error {
	var err error
	if !d.cfg.ReadOnly {
		err = d.db.Set(keyClosed, strconv.AppendInt(nil, d.cfg.Now().UnixMilli(), 10), pebble.Sync)
	}
	if err = errors.Join(err, d.closeAll()); err != nil {
		return fmt.Errorf("close %s: %w", d.dir, err)
	}
	return nil
}

func (d *Data) closeAll() (err error) {
	if d.db != nil {
		err = d.db.Close()
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// Position returns how far the data went when it was opened.
func (d *Data) Position() Position { return d.pos }

// View calls read with the data as they are at one moment.
func (d *Data) View(read func(pebble.Reader) error) error {
	s := d.db.NewSnapshot()
	return errors.Join(read(s), s.Close())
}

// Do makes a change: decide writes it into a batch, which is also read as the data with
// the change. It is durable when Do returns without an error. An error of decide is
// returned as it is, and nothing is changed. assigned is nil, or the change's stamp;
// then ErrInvalid where that is not taken.
func (d *Data) Do(assigned *Stamp, decide func(*pebble.Batch, Stamp) error) (Stamp, error) {
	b := d.db.NewIndexedBatch()
	s, err := d.apply(b, assigned, decide)
	if err == nil && !d.cfg.NoSync {
		err = b.SyncWait()
	}
	return s, errors.Join(err, b.Close())
}

func (d *Data) apply(b *pebble.Batch, assigned *Stamp, decide func(*pebble.Batch, Stamp) error) (Stamp, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stamp{d.last.ID + 1, max(d.last.Time+1, d.cfg.Now().UnixMilli())}
	if assigned != nil {
		if !d.cfg.AcceptAssigned {
			return Stamp{}, fmt.Errorf("%w: this server takes no assigned ids and times (--accept-assigned)", ErrInvalid)
		}
		s = *assigned
	}
	if err := decide(b, s); err != nil {
		return Stamp{}, err
	}
	last := Stamp{max(d.last.ID, s.ID), max(d.last.Time, s.Time)}
	c := wire.Writer(nil)
	last.walk(c)
	value, _ := c.Close() // a writer has no errors of its own
	_ = b.Set(keyLast, value, nil)
	var err error
	if d.cfg.NoSync {
		err = d.db.Apply(b, pebble.NoSync)
	} else {
		err = d.db.ApplyNoSyncWait(b, pebble.Sync)
	}
	if err == nil {
		d.last = last
	}
	return s, err
}

// Get returns a copy of the value of key, nil if there is none.
func Get(r pebble.Reader, key []byte) ([]byte, error) {
	value, done, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return append([]byte{}, value...), done.Close()
}

// Scan calls each with the keys that begin with prefix, less prefix, and their
// values, in order from the key prefix+from on, until it returns io.EOF or another
// error, which alone is returned. What each gets is its until it returns.
func Scan(r pebble.Reader, prefix, from []byte, each func(rest, value []byte) error) error {
	start := append(append([]byte{}, prefix...), from...)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: start, UpperBound: end(prefix)})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err == nil {
			err = each(it.Key()[len(prefix):], value)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, it.Close())
		}
	}
	return errors.Join(it.Error(), it.Close())
}

// end is the first key behind all that begin with prefix, nil if there is none.
func end(prefix []byte) []byte {
	e := append([]byte{}, prefix...)
	for len(e) > 0 && e[len(e)-1] == 0xff {
		e = e[:len(e)-1]
	}
	if len(e) == 0 {
		return nil
	}
	e[len(e)-1]++
	return e
}

// logger passes on what Pebble says of its own accord.
type logger struct{ log *slog.Logger }

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("pebble", "says", fmt.Sprintf(format, args...))
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("pebble", "says", fmt.Sprintf(format, args...))
}

func (l logger) Fatalf(format string, args ...any) {
	l.log.Error("pebble cannot go on", "err", fmt.Errorf(format, args...))
	os.Exit(1)
}
