package appserver

import (
	"context"
	"fmt"
	"slices"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
)

// Update implements messages.v1.Messages.
func (s *Server) Update(ctx context.Context, r *messagesv1.UpdateRequest) (*messagesv1.UpdateResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Limits.update(r); err != nil {
		return nil, err
	}
	done, err := s.mutate(ctx, u, action.OriginUser, r.GetIdempotencyKey(), digest(r), action.ChannelMessage,
		func(v index.View, _ uint64, _ action.Time) ([]action.Do, error) { return s.change(v, r) })
	if err != nil {
		return nil, err
	}
	return &messagesv1.UpdateResponse{Version: done.Last.Sequence}, nil
}

func (s *Server) change(v index.View, r *messagesv1.UpdateRequest) ([]action.Do, error) {
	t, messages, err := target(v, r.GetThreadId(), r.GetMessageIds(), false)
	if err != nil {
		return nil, err
	}
	at := action.Target{Thread: t.ID, Messages: r.GetMessageIds(), Through: r.GetThrough()}
	var do []action.Do
	c := r.GetChange()
	if c.Read != nil {
		do = append(do, &action.Read{Target: at, Is: c.GetRead()})
	}
	if c.Archived != nil {
		do = append(do, &action.Archived{Target: at, Is: c.GetArchived()})
	}
	if len(c.GetAddTags())+len(c.GetRemoveTags()) > 0 {
		have := [][]string{t.Tags}
		if len(messages) > 0 {
			have = nil
			for _, m := range messages {
				have = append(have, m.Tags)
			}
		}
		for _, tags := range have {
			if n := tagsAfter(tags, c); n > s.cfg.Limits.Tags {
				return nil, invalid("change.add_tags", "there would be %d tags, want at most %d", n, s.cfg.Limits.Tags)
			}
		}
		do = append(do, &action.Tagged{Target: action.Target{Thread: t.ID, Messages: r.GetMessageIds()}, Add: c.GetAddTags(), Remove: c.GetRemoveTags()})
	}
	if c.GetFolder() != messagesv1.Folder_FOLDER_UNSPECIFIED {
		do = append(do, &action.Moved{Thread: t.ID, Folder: action.Folder(c.GetFolder())})
	}
	if c.Muted != nil {
		do = append(do, &action.Muted{Thread: t.ID, Is: c.GetMuted()})
	}
	return do, nil
}

func tagsAfter(have []string, c *messagesv1.Change) int {
	tags := map[string]bool{}
	for _, t := range slices.Concat(have, c.GetAddTags()) {
		tags[t] = true
	}
	for _, t := range c.GetRemoveTags() {
		delete(tags, t)
	}
	return len(tags)
}

// target returns a thread and those of its messages that are named. NOT_FOUND if one
// was never there; or, unless deleted is, one that is not there any more.
func target(v index.View, thread string, ids []string, deleted bool) (*index.Thread, []*index.Message, error) {
	t, err := v.Thread(thread)
	if err != nil {
		return nil, nil, err
	}
	if t == nil || t.Messages == 0 && !deleted {
		return nil, nil, notFound("thread", thread)
	}
	var messages []*index.Message
	for _, id := range ids {
		m, err := v.Message(id)
		if err != nil {
			return nil, nil, err
		}
		if m == nil || m.Thread != thread || m.Deleted && !deleted {
			return nil, nil, notFound("message", id)
		}
		messages = append(messages, m)
	}
	return t, messages, nil
}

// Delete implements messages.v1.Messages.
func (s *Server) Delete(ctx context.Context, r *messagesv1.DeleteRequest) (*messagesv1.DeleteResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Limits.delete(r); err != nil {
		return nil, err
	}
	done, err := s.mutate(ctx, u, action.OriginUser, r.GetIdempotencyKey(), digest(r), action.ChannelMessage,
		func(v index.View, _ uint64, _ action.Time) ([]action.Do, error) {
			t, _, err := target(v, r.GetThreadId(), r.GetMessageIds(), true)
			if err != nil {
				return nil, err
			}
			return []action.Do{&action.Deleted{Target: action.Target{Thread: t.ID, Messages: r.GetMessageIds(), Through: r.GetThrough()}}}, nil
		})
	if err != nil {
		return nil, err
	}
	return &messagesv1.DeleteResponse{Version: done.Last.Sequence}, nil
}

// Subscribe implements messages.v1.Messages.
func (s *Server) Subscribe(ctx context.Context, r *messagesv1.SubscribeRequest) (*messagesv1.SubscribeResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Limits.subscribe(r); err != nil {
		return nil, err
	}
	done, err := s.mutate(ctx, u, action.OriginUser, r.GetIdempotencyKey(), digest(r), action.ChannelMessage,
		func(v index.View, _ uint64, now action.Time) ([]action.Do, error) { return s.subscribe(v, u, r, now) })
	if err != nil {
		return nil, err
	}
	d, ok := done.Last.Do.(*action.Subscribed)
	if !ok {
		return nil, invalid("idempotency_key", "it was used for another request")
	}
	return &messagesv1.SubscribeResponse{Version: done.Last.Sequence, Members: toMembers(d.After)}, nil
}

func (s *Server) subscribe(v index.View, u action.User, r *messagesv1.SubscribeRequest, now action.Time) ([]action.Do, error) {
	t, have, member, err := present(v, u, r.GetThreadId())
	switch {
	case err != nil:
		return nil, err
	case t == nil:
		return nil, notFound("thread", r.GetThreadId())
	case !member:
		return nil, notMember(t.ID)
	}
	me := action.Participant{User: u}
	change := action.Membership{Thread: t.ID}
	stamp := stampAfter(have)
	for _, p := range participantsOf(r.GetMembers()) {
		joins := action.MemberState{Member: action.Member{Participant: p, Kind: kindOf(p), Joined: now, AddedBy: me}, Stamp: stamp, By: me}
		if isMember(have, p) || slices.Contains(change.States, joins) {
			continue
		}
		if p.Email != "" && t.ReplyHandler == "" {
			change.ReplyHandler = s.replyHandler(t.ID)
		}
		change.States = append(change.States, joins)
	}
	merged, _ := action.MergeMembers(have, change.States)
	change.After = index.Present(merged)
	if n := len(change.After); n > s.cfg.Limits.Members {
		return nil, invalid("members", "the thread would have %d members, want at most %d", n, s.cfg.Limits.Members)
	}
	if len(change.States) > 0 {
		change.Notify = others(change.After, me)
	}
	return []action.Do{&action.Subscribed{Membership: change}}, nil
}

// others are members but one.
func others(members []action.Member, me action.Participant) []action.Participant {
	var all []action.Participant
	for _, m := range members {
		if m.Participant != me {
			all = append(all, m.Participant)
		}
	}
	return all
}

// Unsubscribe implements messages.v1.Messages.
func (s *Server) Unsubscribe(ctx context.Context, r *messagesv1.UnsubscribeRequest) (*messagesv1.UnsubscribeResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Limits.unsubscribe(r, u); err != nil {
		return nil, err
	}
	done, err := s.mutate(ctx, u, action.OriginUser, r.GetIdempotencyKey(), digest(r), action.ChannelMessage,
		func(v index.View, _ uint64, _ action.Time) ([]action.Do, error) { return unsubscribe(v, u, r) })
	if err != nil {
		return nil, err
	}
	d, ok := done.Last.Do.(*action.Unsubscribed)
	if !ok {
		return nil, invalid("idempotency_key", "it was used for another request")
	}
	return &messagesv1.UnsubscribeResponse{Version: done.Last.Sequence, Members: toMembers(d.After)}, nil
}

func unsubscribe(v index.View, u action.User, r *messagesv1.UnsubscribeRequest) ([]action.Do, error) {
	me := action.Participant{User: u}
	who := me
	if r.GetMember() != nil {
		who = participantOf(r.GetMember())
	}
	t, have, member, err := present(v, u, r.GetThreadId())
	switch {
	case err != nil:
		return nil, err
	case t == nil:
		return nil, notFound("thread", r.GetThreadId())
	case !member:
		return nil, notMember(t.ID)
	}
	at := slices.IndexFunc(have, func(s action.MemberState) bool { return s.Participant == who && !s.Left })
	if at < 0 {
		return nil, notFound("member", who.String())
	}
	left := have[at]
	left.Left, left.Stamp, left.By = true, stampAfter(have), me
	merged, _ := action.MergeMembers(have, []action.MemberState{left})
	after := index.Present(merged)
	return []action.Do{&action.Unsubscribed{Membership: action.Membership{Thread: t.ID, States: []action.MemberState{left}, After: after, Notify: others(after, me)}}}, nil
}

// deliver validates what another part of the application brings.
func (l Limits) deliver(r *messagesv1.DeliverRequest) error {
	var v violations
	v.key(r.GetIdempotencyKey())
	v.id("thread_id", r.GetThreadId())
	v.check(len(r.GetSubject()) <= l.Subject && line(r.GetSubject()), "subject", "want at most %d bytes of text without control characters", l.Subject)
	for i, m := range r.GetMembers() {
		field := fmt.Sprintf("members[%d]", i)
		v.participant(field+".member.participant", m.GetMember().GetParticipant())
		v.participant(field+".member.added_by", m.GetMember().GetAddedBy())
		v.participant(field+".by", m.GetBy())
		v.check(m.GetStamp() > 0, field+".stamp", "want 1 or more")
		v.time(field+".member.joined_time", m.GetMember().GetJoinedTime())
	}
	if m := r.GetMessage(); m != nil {
		v.id("message.message_id", m.GetMessageId())
		v.participant("message.author", m.GetAuthor())
		v.check(len(m.GetBody()) <= l.Body, "message.body", "%d bytes, want at most %d", len(m.GetBody()), l.Body)
		v.check(text(m.GetBody()), "message.body", "want UTF-8 without NUL")
		v.attachments(m.GetAttachments(), l)
		v.time("message.time", m.GetTime())
	}
	return v.err()
}
