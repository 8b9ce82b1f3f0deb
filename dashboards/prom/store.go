package prom

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
)

// What refuses a sample; a target's error is one of these where it applies.
var (
	errNoRoom     = errors.New("disk is full")
	errManySeries = errors.New("too many series in memory")
)

// guarded takes samples while the disk has room and memory too. A disk that is
// really full would leave half a record in the log, and all that came after it
// would be lost at the next start.
type guarded struct {
	to        storage.Appendable
	dir       string
	reserve   uint64
	maxSeries int64
	free      func(dir string) (uint64, error)

	open    atomic.Bool // the log has been read: what is in it is not refused
	series  atomic.Int64
	refused atomic.Int64 // when a series was refused last, Unix ns

	mu     sync.Mutex
	looked time.Time
	room   error // what the last look said
	failed error // of the last commit
}

// recheck is how old a look at the disk may be.
const recheck = time.Second

// Appender implements storage.Appendable.
func (g *guarded) Appender(ctx context.Context) storage.Appender {
	if err := g.check(); err != nil {
		return refusing{err}
	}
	return committing{g.to.Appender(ctx), g}
}

// check says why no sample can be taken now.
func (g *guarded) check() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); now.Sub(g.looked) > recheck {
		g.looked, g.room = now, g.look()
	}
	return g.room
}

func (g *guarded) look() error {
	have, err := g.free(g.dir)
	if err != nil {
		return fmt.Errorf("%s can't be looked at: %w", g.dir, err)
	}
	if have < g.reserve {
		return fmt.Errorf("%w: %s has %d MiB free, and samples are taken from %d MiB on", errNoRoom, g.dir, have>>20, g.reserve>>20)
	}
	return nil
}

// trouble is why samples are not written at this time, nil if they are.
func (g *guarded) trouble() error {
	if err := g.check(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed
}

// free is how many bytes a user who is not root can still write.
func free(dir string) (uint64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// PreCreation implements tsdb.SeriesLifecycleCallback.
func (g *guarded) PreCreation(labels.Labels) error {
	if !g.open.Load() || g.series.Load() < g.maxSeries {
		return nil
	}
	g.refused.Store(time.Now().UnixNano())
	return fmt.Errorf("%w: %d are allowed", errManySeries, g.maxSeries)
}

// PostCreation implements tsdb.SeriesLifecycleCallback.
func (g *guarded) PostCreation(labels.Labels) { g.series.Add(1) }

// PostDeletion implements tsdb.SeriesLifecycleCallback.
func (g *guarded) PostDeletion(gone map[chunks.HeadSeriesRef]labels.Labels) {
	g.series.Add(-int64(len(gone)))
}

// committing notes how the commit went: upstream logs it and goes on.
type committing struct {
	storage.Appender
	g *guarded
}

func (a committing) Commit() error {
	err := a.Appender.Commit()
	a.g.mu.Lock()
	defer a.g.mu.Unlock()
	a.g.failed = err
	return err
}

// refusing is an Appender that takes nothing, and says why.
type refusing struct{ err error }

func (a refusing) Append(storage.SeriesRef, labels.Labels, int64, float64) (storage.SeriesRef, error) {
	return 0, a.err
}

func (a refusing) AppendHistogram(storage.SeriesRef, labels.Labels, int64, *histogram.Histogram, *histogram.FloatHistogram) (storage.SeriesRef, error) {
	return 0, a.err
}

func (a refusing) AppendExemplar(storage.SeriesRef, labels.Labels, exemplar.Exemplar) (storage.SeriesRef, error) {
	return 0, a.err
}

func (a refusing) UpdateMetadata(storage.SeriesRef, labels.Labels, metadata.Metadata) (storage.SeriesRef, error) {
	return 0, a.err
}

func (a refusing) AppendSTZeroSample(storage.SeriesRef, labels.Labels, int64, int64) (storage.SeriesRef, error) {
	return 0, a.err
}

func (a refusing) AppendHistogramSTZeroSample(storage.SeriesRef, labels.Labels, int64, int64, *histogram.Histogram, *histogram.FloatHistogram) (storage.SeriesRef, error) {
	return 0, a.err
}

func (refusing) SetOptions(*storage.AppendOptions) {}
func (refusing) Commit() error                     { return nil }
func (refusing) Rollback() error                   { return nil }

// reasonFile says in a block that was set aside why it was.
const reasonFile = "WHY-SET-ASIDE"

// maxVerified is how many bytes of blocks are read in full at a start, newest
// first: a second's work at most. Of the rest, index and headers are.
const maxVerified = 256 << 20

// setAside moves the blocks of dir that can't be read out of the way: upstream
// would not start with one. It returns a condition for each that is there, those
// of earlier starts included, so that it is said until someone removes it.
func setAside(dir string, log *slog.Logger) ([]Condition, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	budget := int64(maxVerified)
	for _, e := range slices.Backward(entries) { // their names begin with their time
		if _, err := ulid.ParseStrict(e.Name()); err != nil || !e.IsDir() {
			continue
		}
		if bad := readBlock(filepath.Join(dir, e.Name()), &budget); bad != nil {
			log.Warn("block set aside", "block", e.Name(), "err", bad)
			if err := moveAside(dir, e.Name(), bad); err != nil {
				return nil, fmt.Errorf("set block %s aside: %w", e.Name(), err)
			}
		}
	}
	return setAsideBefore(dir)
}

func moveAside(dir, block string, why error) error {
	to := filepath.Join(dir, lostAndFound)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, block), filepath.Join(to, block)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, block, reasonFile), []byte(short(why.Error())+"\n"), 0o644)
}

func setAsideBefore(dir string) (all []Condition, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, lostAndFound))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		at := filepath.Join(dir, lostAndFound, e.Name())
		why, err := os.ReadFile(filepath.Join(at, reasonFile))
		if err != nil {
			why = []byte("why is not known")
		}
		c := Condition{Kind: BlockSetAside, Text: fmt.Sprintf("block %s can't be read and was set aside, %s: %s", e.Name(), at, strings.TrimSpace(string(why)))}
		if info, err := e.Info(); err == nil {
			c.Since = info.ModTime()
		}
		all = append(all, c)
	}
	return all, nil
}

// readBlock opens a block and, if it is within budget, reads all of its chunks,
// which carry check sums. It returns what is wrong with it, and takes what was
// read from the budget.
func readBlock(dir string, budget *int64) (err error) {
	defer func() {
		if v := recover(); v != nil { // upstream's decoders trust lengths
			err = fmt.Errorf("reading it panicked: %v", v)
		}
	}()
	b, err := tsdb.OpenBlock(nil, dir, nil, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	if *budget -= b.Size(); *budget < 0 {
		return nil
	}
	series, err := b.Index()
	if err != nil {
		return err
	}
	defer series.Close()
	data, err := b.Chunks()
	if err != nil {
		return err
	}
	defer data.Close()
	return readSeries(series, data)
}

func readSeries(series tsdb.IndexReader, data tsdb.ChunkReader) error {
	name, value := index.AllPostingsKey()
	all, err := series.Postings(context.Background(), name, value)
	if err != nil {
		return err
	}
	var metas []chunks.Meta
	var of labels.ScratchBuilder
	for all.Next() {
		if err := series.Series(all.At(), &of, &metas); err != nil {
			return err
		}
		for _, m := range metas {
			if _, _, err := data.ChunkOrIterable(m); err != nil {
				return err
			}
		}
	}
	return all.Err()
}
