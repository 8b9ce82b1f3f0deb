package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
)

// rowsJob is one worker's part of an offline job: a map over rows, of which worker
// index of total has those of store.Slice. Workers share nothing, and each may be run
// again: what it has done it does not find to do.
type rowsJob struct {
	place        storePlace
	index, total int
	language     string
	// each does the job on one user's row; it reports whether there was something to do.
	each func(ctx context.Context, s store.Store, p *mailbox.Pool, user string) (did bool, err error)
}

// rowsResult is how a part ended.
type rowsResult struct {
	Schema string            `json:"schema"`
	Index  int               `json:"index"`
	Total  int               `json:"total"`
	Users  int               `json:"users"`    // rows read
	Done   int               `json:"done"`     // in which there was something to do, all of which was done
	Failed map[string]string `json:"failed"`   // by user; another run tries them again
	Whole  bool              `json:"complete"` // no row was left out
}

func (j *rowsJob) define(cmd *cobra.Command) {
	f := cmd.Flags()
	storeVar(f, &j.place, "store", "the store: pebble:DIR (its server stopped), rows:HOST:PORT or hbase:ZOOKEEPER[,ZOOKEEPER]/TABLE")
	f.IntVar(&j.index, "index", 0, "which `part` of --total, from 0 (default 0)")
	f.IntVar(&j.total, "total", 1, "how many `parts` the rows are divided into, for as many workers")
	f.StringVar(&j.language, "language", "", "`language` of the servers' search")
	_ = cmd.MarkFlagRequired("store") // fails for a flag that there isn't
}

func (j *rowsJob) check() error {
	if j.total < 1 || j.total > 1<<16 || j.index < 0 || j.index >= j.total {
		return usageErrorf("--index %d --total %d: want 0 to total-1, and a total of 1 to %d", j.index, j.total, 1<<16)
	}
	return nil
}

func (j *rowsJob) run(ctx context.Context) (r rowsResult, err error) {
	s, err := j.place.open(ctx, nil)
	if err != nil {
		return r, fmt.Errorf("%w (--store)", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return j.over(ctx, s)
}

// over does the part's rows of a store.
func (j *rowsJob) over(ctx context.Context, s store.Store) (rowsResult, error) {
	r := rowsResult{Index: j.index, Total: j.total, Failed: map[string]string{}}
	pool, err := mailbox.New(mailbox.Config{Store: s, Job: true, Language: j.language, CacheBytes: 64 << 20})
	if err != nil {
		return r, usageErrorf("--language: %v", err)
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { _ = pool.Run(background) })
	defer running.Wait()
	defer stop()
	for row, err := range s.Scan(ctx, store.Slice(j.index, j.total)) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return r, fmt.Errorf("read the users: %w", err)
		}
		r.Users++
		if row.Fence.Flags&store.Sealed != 0 { // the user has moved
			continue
		}
		switch did, err := j.each(ctx, s, pool, row.User); {
		case err != nil:
			r.Failed[row.User] = oneLine(err)
		case did:
			r.Done++
		}
	}
	r.Whole = true
	return r, nil
}

// tell prints a result, and returns the error that it is.
func (j *rowsJob) tell(out *output, machine any, r rowsResult, text string) error {
	if err := out.result(machine); err != nil {
		return err
	}
	tellBroken(out.text(), r.Failed)
	fmt.Fprintf(out.text(), "%s; %d of %d mailboxes changed, %d failed\n", text, r.Done, r.Users, len(r.Failed))
	if len(r.Failed) > 0 {
		return fmt.Errorf("%d of %d mailboxes failed: run it again", len(r.Failed), r.Users)
	}
	return nil
}

const appserverPurgeLong = `Remove the contents of messages that were deleted longer ago than --older-than: from
the log, from metadata and from keywords. What a message was (ids, author, time) stays,
so that its id is never free again. One that is still to be delivered waits.

Servers may go on meanwhile: a mailbox that has something to remove is taken from its
server for a moment, which takes it back when it is next asked. With --index and --total
several workers share the rows. It may be interrupted, and run again.`

// purgeResult is the machine form of appserver purge.
type purgeResult struct {
	rowsResult
	Messages int   `json:"messages"`
	Bytes    int64 `json:"bytes"` // of contents removed
}

// purgeJob is a rowsJob that purges.
type purgeJob struct {
	rowsJob
	olderThan time.Duration
	removed   mailbox.Purged
}

func (p *program) appserverPurge() *cobra.Command {
	j := &purgeJob{}
	var out *output
	cmd := &cobra.Command{
		Use:     "purge --store STORE",
		Short:   "Remove the contents of deleted messages",
		Long:    appserverPurgeLong,
		Example: "  darklaunch appserver purge --store rows:127.0.0.1:7400 --older-than 720h",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := j.check(); err != nil {
				return err
			}
			j.each = j.purge
			r, err := j.run(cmd.Context())
			if err != nil {
				return err
			}
			r.Schema = "appserver-purge/v1"
			return j.tell(out, purgeResult{r, j.removed.Messages, j.removed.Bytes}, r,
				fmt.Sprintf("%d messages purged, %d bytes", j.removed.Messages, j.removed.Bytes))
		},
	}
	j.define(cmd)
	durationVar(cmd.Flags(), &j.olderThan, "older-than", 30*24*time.Hour, "keep the contents of what was deleted later than this ago")
	out = p.outputVar(cmd.Flags())
	return cmd
}

func (j *purgeJob) purge(ctx context.Context, s store.Store, p *mailbox.Pool, user string) (bool, error) {
	before := time.Now().Add(-j.olderThan)
	due, err := mailbox.Purgeable(ctx, s, user, before)
	if err != nil {
		return false, err
	}
	if due.Messages == 0 { // but keywords may be left from a purge that was interrupted
		return rebuild(ctx, s, p, user)
	}
	removed, err := p.Purge(ctx, action.User(user), before)
	j.removed.Messages += removed.Messages
	j.removed.Bytes += removed.Bytes
	return removed.Messages > 0, err
}

const appserverRebuildLong = `Make the metadata of mailboxes anew from their logs where it is of an older schema
than this program's. Servers may go on meanwhile, and do the same by themselves for each
mailbox that they load: this is for the others. With --index and --total several workers
share the rows. It may be interrupted, and run again.`

func (p *program) appserverRebuild() *cobra.Command {
	j := &rowsJob{each: rebuild}
	var out *output
	cmd := &cobra.Command{
		Use:     "rebuild --store STORE",
		Short:   "Bring the metadata of mailboxes to the newest schema",
		Long:    appserverRebuildLong,
		Example: "  darklaunch appserver rebuild --store rows:127.0.0.1:7400",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := j.check(); err != nil {
				return err
			}
			r, err := j.run(cmd.Context())
			if err != nil {
				return err
			}
			r.Schema = "appserver-rebuild/v1"
			return j.tell(out, r, r, fmt.Sprintf("metadata brought to schema %d", index.Latest))
		},
	}
	j.define(cmd)
	out = p.outputVar(cmd.Flags())
	return cmd
}

// rebuild makes one mailbox's metadata and keywords anew if they are of an older schema
// or written in part.
func rebuild(ctx context.Context, s store.Store, p *mailbox.Pool, user string) (bool, error) {
	old, err := mailbox.Outdated(ctx, s, user)
	if err != nil || !old {
		return false, err
	}
	return true, p.Flush(ctx, action.User(user))
}
