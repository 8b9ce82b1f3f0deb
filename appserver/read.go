package appserver

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/search"
)

// maxPage is the size in bytes at which a page of messages ends early.
const maxPage = 1 << 20

// ListThreads implements messages.v1.Messages. It looks the threads up in an index,
// then reads the entities of those: row F82 to F84 of the checklist.
func (s *Server) ListThreads(ctx context.Context, r *messagesv1.ListThreadsRequest) (*messagesv1.ListThreadsResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Limits.listThreads(r); err != nil {
		return nil, err
	}
	from, err := cursor(u, r)
	if err != nil {
		return nil, err
	}
	f := index.Filter{
		Folder: action.Folder(r.GetFolder()), Unread: r.Unread, Archived: r.Archived, Tags: r.GetTags(), Authors: participantsOf(r.GetAuthors()),
		Since: timeOf(r.GetSince()), Until: timeOf(r.GetUntil()), OldestFirst: r.GetOrder() == messagesv1.Order_ORDER_OLDEST_FIRST,
		Limit: s.cfg.Limits.pageSize(r.GetPageSize()), After: from,
	}
	a := &messagesv1.ListThreadsResponse{}
	var bodies []uint64
	err = s.read(ctx, u, "list", func(m *mailbox.State) error {
		if len(r.GetKeywords()) > 0 {
			if f.Within, err = search.Threads(m.View, m.Words, s.analyzer, r.GetKeywords()); errors.Is(err, search.ErrQuery) {
				return invalid("keywords", "%v", err)
			} else if err != nil {
				return err
			}
		}
		threads, next, err := m.View.Threads(f)
		if err != nil {
			return err
		}
		a.Version, a.Threads, bodies = m.View.Version().Sequence, nil, nil
		size := 0
		for i := range threads {
			t, newest, err := toThread(m.View, u, &threads[i])
			if err != nil {
				return err
			}
			if size += proto.Size(t); i > 0 && size > maxPage {
				last := threads[i-1]
				next = &index.Cursor{Time: last.Newest, Thread: last.ID, Version: began(from, a.Version)}
				break
			}
			if newest != nil && !newest.Whole {
				bodies = append(bodies, newest.Sequence)
			}
			a.Threads = append(a.Threads, t)
		}
		a.NextPageToken = token(u, r, next)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if from == nil && f.Folder == action.FolderInbox {
		// Who opens the Inbox reads what is in it next.
		s.pool.Preload(u, bodies)
	}
	return a, nil
}

// began is the version of the mailbox when a walk began of which a page shows version.
func began(from *index.Cursor, version uint64) uint64 {
	if from != nil {
		return from.Version
	}
	return version
}

// toThread is a thread as u's copy has it, and the entity of its newest message.
func toThread(v index.View, u action.User, t *index.Thread) (*messagesv1.Thread, *index.Message, error) {
	states, err := v.Members(t)
	if err != nil {
		return nil, nil, err
	}
	w := &messagesv1.Thread{
		ThreadId: t.ID, Subject: t.Subject, Folder: messagesv1.Folder(t.Folder), MessageCount: int32(t.Messages), UnreadCount: int32(t.Unread),
		Archived: t.IsArchived(), Muted: t.Muted, Tags: t.Tags, Members: toMembers(index.Present(states)),
		Subscribed: isMember(states, action.Participant{User: u}), ReplyHandler: t.ReplyHandler, NewestTime: toTime(t.Newest),
	}
	newest, err := v.MessageAt(t.NewestSequence)
	if err == nil && newest != nil {
		w.Snippet = newest.Snippet
	}
	return w, newest, err
}

// GetThread implements messages.v1.Messages. Entities come from memory, bodies too
// where they are short or were read lately, else from the log.
func (s *Server) GetThread(ctx context.Context, r *messagesv1.GetThreadRequest) (*messagesv1.GetThreadResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Limits.getThread(r); err != nil {
		return nil, err
	}
	from, err := cursor(u, r)
	if err != nil {
		return nil, err
	}
	a := &messagesv1.GetThreadResponse{}
	var page []index.Message
	var next *index.Cursor
	err = s.read(ctx, u, "thread", func(m *mailbox.State) error {
		t, err := m.View.Thread(r.GetThreadId())
		if err != nil {
			return err
		}
		if t == nil || t.Messages == 0 {
			return notFound("thread", r.GetThreadId())
		}
		if a.Thread, _, err = toThread(m.View, u, t); err != nil {
			return err
		}
		a.Version = m.View.Version().Sequence
		page, next, err = m.View.Messages(t.ID, r.GetOrder() == messagesv1.Order_ORDER_OLDEST_FIRST, s.cfg.Limits.pageSize(r.GetPageSize()), from)
		return err
	})
	if err != nil {
		return nil, err
	}
	bodies, err := s.bodies(ctx, u, page)
	if err != nil {
		return nil, err
	}
	size := 0
	for i := range page {
		m := bodies[i]
		if size += proto.Size(m); i > 0 && size > maxPage {
			last := page[i-1]
			next = &index.Cursor{Time: last.Time, Sequence: last.Sequence, Version: began(from, a.Version)}
			break
		}
		a.Messages = append(a.Messages, m)
	}
	a.NextPageToken = token(u, r, next)
	return a, nil
}

// bodies returns messages whole. One whose contents were purged meanwhile has none.
func (s *Server) bodies(ctx context.Context, u action.User, page []index.Message) ([]*messagesv1.Message, error) {
	var sequences []uint64
	all := make([]*messagesv1.Message, len(page))
	for i := range page {
		if all[i] = toEntity(&page[i]); !page[i].Whole {
			sequences = append(sequences, page[i].Sequence)
		}
	}
	if len(sequences) == 0 {
		return all, nil
	}
	ctx, span := s.tracer.Start(ctx, "bodies")
	defer span.End()
	defer s.metrics.stage("bodies")()
	found, err := s.pool.Actions(ctx, u, sequences)
	if err != nil {
		return nil, grpcError(err, "")
	}
	for i := range page {
		if m := action.MessageOf(found[page[i].Sequence].Do); m != nil && !page[i].Whole {
			all[i].Body, all[i].Attachments = m.Body, toAttachments(m.Attachments)
			if len(m.LargeBody) > 0 {
				all[i].LargeBody = toAttachment(m.LargeBody[0])
			}
		}
	}
	return all, nil
}

// Search implements messages.v1.Messages.
func (s *Server) Search(ctx context.Context, r *messagesv1.SearchRequest) (*messagesv1.SearchResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Limits.search(r); err != nil {
		return nil, err
	}
	query, err := search.Parse(r.GetQuery(), s.analyzer)
	if err != nil {
		return nil, invalid("query", "%v", err)
	}
	from, err := cursor(u, r)
	if err != nil {
		return nil, err
	}
	a := &messagesv1.SearchResponse{}
	err = s.read(ctx, u, "search", func(m *mailbox.State) error {
		hits, next, err := query.Run(m.View, m.Words, s.cfg.Limits.pageSize(r.GetPageSize()), from)
		if err != nil {
			return err
		}
		a.Version, a.NextPageToken = m.View.Version().Sequence, token(u, r, next)
		for i := range hits {
			h := &hits[i]
			a.Hits = append(a.Hits, &messagesv1.SearchResponse_Hit{ThreadId: h.Thread, MessageId: h.ID, Author: toParticipant(h.Author), Time: toTime(h.Time)})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// MailboxStats implements messages.v1.Messages.
func (s *Server) MailboxStats(ctx context.Context, _ *messagesv1.MailboxStatsRequest) (*messagesv1.MailboxStatsResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	a := &messagesv1.MailboxStatsResponse{CapacityLimitBytes: s.cfg.Capacity}
	err = s.read(ctx, u, "stats", func(m *mailbox.State) error {
		stats, err := m.View.Stats()
		a.CapacityUsedBytes, a.Messages, a.Threads = stats.Bytes, int32(stats.Messages), int32(stats.Threads)
		a.Replies, a.Friends, a.Version = int32(stats.Replies), int32(stats.Friends), m.View.Version().Sequence
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// FolderStats implements messages.v1.Messages.
func (s *Server) FolderStats(ctx context.Context, _ *messagesv1.FolderStatsRequest) (*messagesv1.FolderStatsResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	a := &messagesv1.FolderStatsResponse{}
	err = s.read(ctx, u, "stats", func(m *mailbox.State) error {
		a.Folders, a.Version = nil, m.View.Version().Sequence
		for _, folder := range action.Folders {
			f, err := m.View.Folder(folder)
			if err != nil {
				return err
			}
			w := &messagesv1.FolderStatsResponse_Stats{
				Folder: messagesv1.Folder(folder), Threads: int32(f.Threads), Messages: int32(f.Messages), UnreadThreads: int32(f.UnreadThreads),
				UnreadMessages: int32(f.UnreadMessages), ArchivedThreads: int32(f.ArchivedThreads), Counted: folder == action.FolderInbox,
			}
			if newest, ok := m.View.NewestIn(folder); ok {
				w.NewestTime = toTime(newest)
			}
			a.Folders = append(a.Folders, w)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// UnreadCounts implements messages.v1.Messages.
func (s *Server) UnreadCounts(ctx context.Context, _ *messagesv1.UnreadCountsRequest) (*messagesv1.UnreadCountsResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	a := &messagesv1.UnreadCountsResponse{}
	err = s.read(ctx, u, "stats", func(m *mailbox.State) error {
		f, err := m.View.Folder(action.FolderInbox)
		a.Threads, a.Messages, a.Version = int32(f.CountedThreads), int32(f.CountedMessages), m.View.Version().Sequence
		return err
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Watch implements messages.v1.Messages.
func (s *Server) Watch(r *messagesv1.WatchRequest, stream messagesv1.Messages_WatchServer) error {
	u, err := caller(stream.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	var moved atomic.Bool
	var ending sync.WaitGroup
	defer ending.Wait()
	defer cancel()
	ending.Go(func() {
		select {
		case <-s.ended:
			moved.Store(true)
			cancel()
		case <-ctx.Done():
		}
	})
	err = s.pool.Watch(ctx, u, r.After, func(sequence uint64) error {
		at, _ := action.TimeOf(s.now())
		return stream.Send(&messagesv1.WatchResponse{Sequence: sequence, LogTime: toTime(at), Event: &messagesv1.WatchResponse_Started_{Started: &messagesv1.WatchResponse_Started{}}})
	}, func(a action.Action) error {
		event := toEvent(u, a)
		if event == nil {
			return nil
		}
		return stream.Send(event)
	})
	switch {
	case moved.Load():
		return grpcError(mailbox.ErrClosed, "")
	case errors.Is(err, context.Canceled):
		return nil // the reader has left
	}
	return grpcError(err, "")
}

// toEvent is an action as a reader sees it; nil if that sees nothing.
func toEvent(u action.User, a action.Action) *messagesv1.WatchResponse {
	w := &messagesv1.WatchResponse{Sequence: a.Sequence, LogTime: toTime(a.Time)}
	changed := func(t action.Target, c *messagesv1.Change) {
		w.Event = &messagesv1.WatchResponse_Changed_{Changed: &messagesv1.WatchResponse_Changed{
			ThreadId: t.Thread, MessageIds: t.Messages, Through: t.Through, Change: c}}
	}
	switch d := a.Do.(type) {
	case *action.ThreadCreated:
		w.Event = toMembership(d.Thread, d.Members)
	case *action.MessageCreated:
		m := toMessage(&d.Message, a.Sequence, a.Time)
		m.Read = true
		w.Event = &messagesv1.WatchResponse_Message{Message: m}
	case *action.MessageDelivered:
		w.Event = &messagesv1.WatchResponse_Message{Message: toMessage(&d.Message, a.Sequence, a.Time)}
	case *action.Read:
		changed(d.Target, &messagesv1.Change{Read: &d.Is})
	case *action.Archived:
		changed(d.Target, &messagesv1.Change{Archived: &d.Is})
	case *action.Tagged:
		changed(d.Target, &messagesv1.Change{AddTags: d.Add, RemoveTags: d.Remove})
	case *action.Moved:
		changed(action.Target{Thread: d.Thread}, &messagesv1.Change{Folder: messagesv1.Folder(d.Folder)})
	case *action.Muted:
		changed(action.Target{Thread: d.Thread}, &messagesv1.Change{Muted: &d.Is})
	case *action.Deleted:
		w.Event = &messagesv1.WatchResponse_Deleted_{Deleted: &messagesv1.WatchResponse_Deleted{ThreadId: d.Thread, MessageIds: d.Messages, Through: d.Through}}
	case *action.Subscribed:
		if len(d.States) > 0 {
			w.Event = toMembership(d.Thread, d.States)
		}
	case *action.Unsubscribed:
		w.Event = toMembership(d.Thread, d.States)
	}
	if w.Event == nil {
		return nil
	}
	return w
}

func toMembership(thread string, states []action.MemberState) *messagesv1.WatchResponse_Membership_ {
	m := &messagesv1.WatchResponse_Membership{ThreadId: thread}
	for _, s := range states {
		if s.Left {
			m.Left = append(m.Left, toParticipant(s.Participant))
		} else {
			m.Joined = append(m.Joined, toMember(s.Member))
		}
	}
	return &messagesv1.WatchResponse_Membership_{Membership: m}
}
