// Package pebble keeps rows in a directory of this machine, in the embedded
// store of that name (https://github.com/cockroachdb/pebble). One process has the
// directory to itself. An acknowledged put has been synced to the disk: one batch
// a put, and puts of different users that wait at the same time share a sync.
package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"darklaunch/appserver/store"
)

// Config says how a directory is kept.
type Config struct {
	// Cache is how many bytes of blocks are held in memory. Zero means 64 MiB.
	Cache int64

	// MinFree is how many bytes the disk must have free for puts to be taken;
	// with less they fail with ErrRefused. Pebble itself can't go on without
	// room for its log. Zero means 64 MiB.
	MinFree uint64

	// Fatal is called when Pebble can't go on, for want of a disk that works; it
	// must end the process, whose next start recovers all that was acknowledged.
	// Nil means that the reason is logged and the process exits with code 1.
	Fatal func(error)

	// FS is where the directory is. Nil means the machine's file system.
	FS vfs.FS

	// Log gets what an operator should know. Nil means nobody.
	Log *slog.Logger
}

// ErrLocked is returned by Open where another store has the directory.
var ErrLocked = errors.New("in use by another process")

// Store is a store.Store.
type Store struct {
	dir     string
	db      *pebble.DB
	lock    *pebble.Lock
	fs      vfs.FS
	minFree uint64
	gate    store.Gate
	turns   turns
}

// Open opens the store in dir, and makes it if need be. It recovers what a
// process that ended without Close had acknowledged.
func Open(dir string, cfg Config) (*Store, error) {
	if cfg.Cache == 0 {
		cfg.Cache = 64 << 20
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = 64 << 20
	}
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.FS.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("open store in %s: %w", dir, err)
	}
	lock, err := pebble.LockDirectory(dir, cfg.FS)
	if err != nil {
		if pathErr, ok := errors.AsType[*os.PathError](err); ok { // no file to lock: not a matter of who has it
			return nil, fmt.Errorf("open store in %s: %w", dir, pathErr)
		}
		return nil, fmt.Errorf("open store in %s: %w", dir, ErrLocked)
	}
	db, err := pebble.Open(dir, options(cfg, lock))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store in %s: %w", dir, err), lock.Close())
	}
	return &Store{dir: dir, db: db, lock: lock, fs: cfg.FS, minFree: cfg.MinFree}, nil
}

func options(cfg Config, lock *pebble.Lock) *pebble.Options {
	logger := logger{cfg.Log, cfg.Fatal}
	o := &pebble.Options{
		FS:                 cfg.FS,
		Lock:               lock,
		CacheSize:          cfg.Cache,
		FormatMajorVersion: pebble.FormatValueSeparation,
		MemTableSize:       32 << 20,
		Logger:             logger,
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { cfg.Log.Warn("pebble background work failed", "err", err) },
			WriteStallBegin: func(i pebble.WriteStallBeginInfo) { cfg.Log.Warn("pebble stalls writes", "reason", i.Reason) },
		},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // bits a key: one in a hundred absent fences is looked for
	}
	return o
}

// logger passes on what Pebble says of its own accord.
type logger struct {
	log   *slog.Logger
	fatal func(error)
}

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("pebble", "says", fmt.Sprintf(format, args...))
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("pebble", "says", fmt.Sprintf(format, args...))
}

func (l logger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	if l.fatal != nil {
		l.fatal(err)
	}
	l.log.Error("pebble cannot go on", "err", err)
	os.Exit(1)
}

// Read implements store.Store.
func (s *Store) Read(ctx context.Context, user string, spans ...store.Span) (row store.Row, err error) {
	if err := store.CheckRead(user, spans); err != nil {
		return store.Row{}, err
	}
	// Pebble shows a batch before it is synced. A read takes its turn, so that
	// it finds no put of this row on its way.
	if err := s.enter(ctx, user); err != nil {
		return store.Row{}, fmt.Errorf("read row of %q: %w", user, err)
	}
	defer s.leave(user)
	prefix := rowPrefix(store.RowKey(user))
	it, err := s.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: prefix, UpperBound: rowEnd(prefix)})
	if err != nil {
		return store.Row{}, fmt.Errorf("read row of %q: %w", user, err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	return readRow(ctx, it, user, prefix, spans)
}

// enter begins a call that has the row until leave.
func (s *Store) enter(ctx context.Context, user string) error {
	if err := s.gate.Enter(); err != nil {
		return err
	}
	if err := s.turns.take(ctx, user); err != nil {
		s.gate.Leave()
		return err
	}
	return nil
}

func (s *Store) leave(user string) {
	s.turns.give(user)
	s.gate.Leave()
}

// readRow reads the row whose keys begin with prefix.
func readRow(ctx context.Context, it *pebble.Iterator, user string, prefix []byte, spans []store.Span) (store.Row, error) {
	row := store.Row{User: user}
	fail := func(err error) (store.Row, error) {
		return store.Row{}, fmt.Errorf("read row of %q: %w", user, err)
	}
	key := fenceKey(prefix)
	if it.SeekGE(key) && bytes.Equal(it.Key(), key) {
		fence, err := store.DecodeFence(it.Value())
		if err != nil {
			return fail(err)
		}
		row.Fence = fence
	}
	if err := it.Error(); err != nil {
		return fail(err)
	}
	err := row.Fill(spans, func(s store.Span) iter.Seq2[store.Cell, error] { return cellsOf(ctx, it, prefix, s) })
	if err != nil {
		return fail(err)
	}
	return row, nil
}

// cellsOf walks through the cells of a span.
func cellsOf(ctx context.Context, it *pebble.Iterator, prefix []byte, s store.Span) iter.Seq2[store.Cell, error] {
	return func(yield func(store.Cell, error) bool) {
		family := append(bytes.Clone(prefix), byte(s.Family))
		for ok := it.SeekGE(append(bytes.Clone(family), s.From...)); ok; ok = it.Next() {
			qualifier, in := bytes.CutPrefix(it.Key(), family)
			if !in || len(s.To) > 0 && bytes.Compare(qualifier, s.To) >= 0 {
				break
			}
			value, err := it.ValueAndErr()
			if err == nil {
				err = ctx.Err()
			}
			// The iterator's bytes are gone at its next step.
			own := append(append(make([]byte, 0, len(qualifier)+len(value)), qualifier...), value...)
			n := len(qualifier)
			if !yield(store.Cell{Family: s.Family, Qualifier: own[:n:n], Value: own[n:]}, err) {
				return
			}
		}
		if err := it.Error(); err != nil {
			yield(store.Cell{}, err)
		}
	}
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	if err := store.CheckPut(user, cur, next, cells); err != nil {
		return err
	}
	if err := s.enter(ctx, user); err != nil {
		return fmt.Errorf("put to row of %q: %w", user, err)
	}
	// A sync can't be called off, and a disk may hang: the put goes on when its
	// caller has given up, and keeps its turn.
	done := make(chan error, 1)
	go func() {
		defer s.leave(user)
		done <- s.put(user, cur, next, cells)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("put to row of %q: %w", user, err)
	}
	return nil
}

func (s *Store) put(user string, cur, next store.Fence, cells []store.Cell) error {
	prefix := rowPrefix(store.RowKey(user))
	fence, err := s.fence(prefix)
	if err != nil {
		return err
	}
	if fence != cur {
		return store.ErrFenced
	}
	if err := s.room(); err != nil {
		return err
	}
	b := s.db.NewBatch()
	defer b.Close()
	key := make([]byte, 0, len(prefix)+256)
	for _, c := range cells {
		key = append(append(append(key[:0], prefix...), byte(c.Family)), c.Qualifier...)
		// A batch in memory takes all it is given.
		if len(c.Value) == 0 {
			_ = b.Delete(key, nil)
		} else {
			_ = b.Set(key, c.Value, nil)
		}
	}
	_ = b.Set(fenceKey(prefix), next.AppendFence(nil), nil)
	return b.Commit(pebble.Sync)
}

func (s *Store) fence(prefix []byte) (store.Fence, error) {
	value, closer, err := s.db.Get(fenceKey(prefix))
	if errors.Is(err, pebble.ErrNotFound) {
		return store.Fence{}, nil
	}
	if err != nil {
		return store.Fence{}, err
	}
	defer closer.Close()
	return store.DecodeFence(value)
}

// room tells why there is none for a put.
func (s *Store) room() error {
	usage, err := s.fs.GetDiskUsage(s.dir)
	if err != nil || usage.AvailBytes >= s.minFree {
		return nil // file systems in memory don't know
	}
	return fmt.Errorf("%d bytes free, want %d: %w", usage.AvailBytes, s.minFree, store.ErrRefused)
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, r store.Range, spans ...store.Span) iter.Seq2[store.Row, error] {
	return func(yield func(store.Row, error) bool) {
		if err := store.CheckSpans(spans); err != nil {
			yield(store.Row{}, err)
			return
		}
		if err := s.scan(ctx, r, spans, func(row store.Row) bool { return yield(row, nil) }); err != nil {
			yield(store.Row{}, fmt.Errorf("scan: %w", err))
		}
	}
}

func (s *Store) scan(ctx context.Context, r store.Range, spans []store.Span, yield func(store.Row) bool) (err error) {
	if err := s.gate.Enter(); err != nil {
		return err
	}
	defer s.gate.Leave()
	bounds := &pebble.IterOptions{LowerBound: escape(nil, r.From)}
	if len(r.To) > 0 {
		bounds.UpperBound = escape(nil, r.To)
	}
	it, err := s.db.NewIterWithContext(ctx, bounds)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	// The iterator may see batches that are not synced yet. The log is synced in
	// order: with this record they are.
	if err := s.db.LogData(nil, pebble.Sync); err != nil {
		return err
	}
	for ok := it.First(); ok; {
		if err := ctx.Err(); err != nil {
			return err
		}
		prefix, user, err := splitKey(it.Key())
		if err != nil {
			return err
		}
		row, err := readRow(ctx, it, user, prefix, spans)
		if err != nil {
			return err
		}
		if !yield(row) {
			return nil
		}
		ok = it.SeekGE(rowEnd(prefix))
	}
	return it.Error()
}

// Close implements store.Store.
func (s *Store) Close() error {
	if !s.gate.Close() {
		return nil
	}
	if err := errors.Join(s.db.Close(), s.lock.Close()); err != nil {
		return fmt.Errorf("close store in %s: %w", s.dir, err)
	}
	return nil
}
