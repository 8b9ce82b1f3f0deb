package appserver

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/appserver/mailbox"
)

// Send implements messages.v1.Messages.
func (s *Server) Send(ctx context.Context, r *messagesv1.SendRequest) (*messagesv1.SendResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Limits.send(r, s.cfg.TrustedIDs); err != nil {
		return nil, err
	}
	d := &draft{s: s, r: r, author: action.Participant{User: u}, channel: channelOf(r.GetChannel())}
	for _, p := range participantsOf(r.GetRecipients()) {
		if p != d.author && !slices.Contains(d.recipients, p) {
			d.recipients = append(d.recipients, p)
		}
	}
	done, err := s.mutate(ctx, u, action.OriginUser, r.GetIdempotencyKey(), digest(r, "wait"), d.channel, d.decide)
	if err != nil {
		return nil, err
	}
	sent, ok := done.Last.Do.(*action.MessageCreated)
	if !ok {
		return nil, invalid("idempotency_key", "it was used for another request")
	}
	if r.GetWait() == messagesv1.Wait_WAIT_DELIVERED {
		if err := s.delivered(ctx, u, done.Last.Sequence, r.GetIdempotencyKey()); err != nil {
			return nil, err
		}
	}
	return &messagesv1.SendResponse{ThreadId: sent.Thread, MessageId: sent.ID, Time: toTime(sent.Time), Version: done.Last.Sequence,
		Recipients: toParticipants(sent.Recipients)}, nil
}

func (s *Server) delivered(ctx context.Context, u action.User, sequence uint64, key string) error {
	ctx, span := s.tracer.Start(ctx, "delivered")
	defer span.End()
	defer s.metrics.stage("delivered")()
	if err := s.pool.Delivered(ctx, u, sequence); err != nil {
		// The message was sent; what is not known is whether it is delivered.
		return grpcError(fmt.Errorf("%w: %w", mailbox.ErrUnknown, err), key)
	}
	return nil
}

// draft is a message that is being sent.
type draft struct {
	s          *Server
	r          *messagesv1.SendRequest
	author     action.Participant
	recipients []action.Participant // as the request names them, without doubles and the author
	channel    action.Channel
}

// decide turns the draft into actions on the mailbox as it is.
func (d *draft) decide(v index.View, _ uint64, now action.Time) ([]action.Do, error) {
	if err := d.room(v); err != nil {
		return nil, err
	}
	key, assigned := d.r.GetIdempotencyKey(), d.r.GetAssigned()
	m := action.Message{ID: assigned.GetMessageId(), Thread: d.r.GetThreadId(), Author: d.author, Channel: d.channel, Time: now,
		Body: d.r.GetBody(), Attachments: attachmentsOf(d.r.GetAttachments())}
	if m.ID == "" {
		m.ID = action.MessageID(d.author.User, key)
	}
	if t := timeOf(assigned.GetTime()); t != nil {
		m.Time = *t
	}
	if known, err := v.Message(m.ID); err != nil {
		return nil, err
	} else if known != nil {
		return nil, withDetails(codes.AlreadyExists, "the mailbox has a message of this id", &errdetails.ResourceInfo{ResourceType: "message", ResourceName: m.ID})
	}
	mayBegin := m.Thread == "" || assigned.GetThreadId() != ""
	if m.Thread == "" {
		m.Thread = assigned.GetThreadId()
	}
	if m.Thread == "" {
		m.Thread = action.ThreadID(d.author.User, key)
	}
	t, states, member, err := present(v, d.author.User, m.Thread)
	switch {
	case err != nil:
		return nil, err
	case t == nil && !mayBegin:
		return nil, notFound("thread", m.Thread)
	case t == nil:
		return d.begin(m)
	case !member && assigned.GetThreadId() == "":
		return nil, notMember(m.Thread)
	}
	return d.reply(m, t, states)
}

// room holds the mailbox's capacity.
func (d *draft) room(v index.View) error {
	if d.s.cfg.Capacity == 0 {
		return nil
	}
	stats, err := v.Stats()
	if err != nil {
		return err
	}
	if stats.Bytes < d.s.cfg.Capacity {
		return nil
	}
	return withDetails(codes.ResourceExhausted, "the mailbox is full", &errdetails.QuotaFailure{
		Violations: []*errdetails.QuotaFailure_Violation{{Subject: "mailbox", Description: "delete something first"}}})
}

// begin starts a thread in the Inbox, where one's own threads lie.
func (d *draft) begin(m action.Message) ([]action.Do, error) {
	states, handler, err := d.join(nil, m.Thread, m.Time)
	if err != nil {
		return nil, err
	}
	return []action.Do{
		&action.ThreadCreated{Thread: m.Thread, Subject: d.r.GetSubject(), Folder: action.FolderInbox, ReplyHandler: handler, Members: states},
		&action.MessageCreated{Message: m, Recipients: d.to(states)},
	}, nil
}

// reply adds to a thread. With an assigned thread, who is no member becomes one; a
// reply to a thread in Other shows that it belongs in the Inbox.
func (d *draft) reply(m action.Message, t *index.Thread, states []action.MemberState) ([]action.Do, error) {
	var do []action.Do
	m.Reply = true
	if d.r.GetAssigned().GetThreadId() != "" {
		news, handler, err := d.join(states, m.Thread, m.Time)
		if err != nil {
			return nil, err
		}
		if len(news) > 0 {
			change := action.Membership{Thread: m.Thread, States: news}
			if t.ReplyHandler == "" {
				change.ReplyHandler = handler
			}
			states, _ = action.MergeMembers(states, news)
			// Those who are in the thread hear of it by the message, which brings its members.
			do = append(do, &action.Subscribed{Membership: change})
		}
	}
	if t.Folder == action.FolderOther {
		do = append(do, &action.Moved{Thread: m.Thread, Folder: action.FolderInbox})
	}
	return append(do, &action.MessageCreated{Message: m, Recipients: d.to(states)}), nil
}

// join returns the states of the author and recipients who are no members, and the
// thread's reply handler if one of them needs it.
func (d *draft) join(have []action.MemberState, thread string, at action.Time) (states []action.MemberState, handler string, err error) {
	stamp := stampAfter(have)
	for _, p := range append([]action.Participant{d.author}, d.recipients...) {
		if isMember(have, p) {
			continue
		}
		if p.Email != "" {
			handler = d.s.replyHandler(thread)
		}
		states = append(states, action.MemberState{Member: action.Member{Participant: p, Kind: kindOf(p), Joined: at, AddedBy: d.author}, Stamp: stamp, By: d.author})
	}
	if n := len(index.Present(have)) + len(states); n > d.s.cfg.Limits.Members {
		return nil, "", invalid("recipients", "the thread would have %d members, want at most %d", n, d.s.cfg.Limits.Members)
	}
	slices.SortFunc(states, func(a, b action.MemberState) int { return a.Participant.Compare(b.Participant) })
	return states, handler, nil
}

// to is to whom a message goes: the members without the author, unless alone.
func (d *draft) to(states []action.MemberState) []action.Participant {
	var to []action.Participant
	for _, m := range index.Present(states) {
		if m.Participant != d.author {
			to = append(to, m.Participant)
		}
	}
	if len(to) == 0 {
		to = []action.Participant{d.author}
	}
	return to
}

// Deliver implements messages.v1.Delivery.
func (s *Server) Deliver(ctx context.Context, r *messagesv1.DeliverRequest) (*messagesv1.DeliverResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Limits.deliver(r); err != nil {
		return nil, err
	}
	return s.deliver(ctx, u, r)
}

func (s *Server) deliver(ctx context.Context, u action.User, r *messagesv1.DeliverRequest) (*messagesv1.DeliverResponse, error) {
	d := &arrival{r: r, user: u}
	// The key alone says what is delivered: the members that come with a message may be
	// more on a later attempt, and whoever has a message of this id has it.
	request := action.DigestOf([]byte(r.GetIdempotencyKey()))
	channel := action.ChannelMessage
	if r.GetMessage() != nil {
		channel = channelOf(r.GetMessage().GetChannel())
	}
	done, err := s.mutate(ctx, u, action.OriginDelivery, r.GetIdempotencyKey(), request, channel, d.decide)
	if err != nil {
		return nil, err
	}
	outcome := messagesv1.DeliverResponse_OUTCOME_TAKEN
	if _, refused := done.Last.Do.(*action.MessageRefused); refused {
		outcome = messagesv1.DeliverResponse_OUTCOME_LEFT
	}
	return &messagesv1.DeliverResponse{Version: done.Last.Sequence, Outcome: outcome}, nil
}

// arrival is something that is delivered to a mailbox.
type arrival struct {
	r    *messagesv1.DeliverRequest
	user action.User
}

func (d *arrival) decide(v index.View, _ uint64, _ action.Time) ([]action.Do, error) {
	id := d.r.GetThreadId()
	t, have, _, err := present(v, d.user, id)
	if err != nil {
		return nil, err
	}
	news := statesOf(d.r.GetMembers())
	merged, changed := action.MergeMembers(have, news)
	in := isMember(merged, action.Participant{User: d.user})
	var do []action.Do
	message := d.message(merged)
	switch {
	case t == nil && in:
		folder, err := route(v, message)
		if err != nil {
			return nil, err
		}
		do = append(do, &action.ThreadCreated{Thread: id, Subject: d.r.GetSubject(), Folder: folder, ReplyHandler: d.r.GetReplyHandler(), Members: merged})
	case t != nil && (len(changed) > 0 || message == nil):
		do = append(do, membership(id, changed, d.r.GetReplyHandler()))
	}
	switch {
	case message != nil && in:
		do = append(do, message)
	case message != nil:
		do = append(do, &action.MessageRefused{Thread: id, Message: message.ID})
	case len(do) == 0: // a change of a thread that this mailbox never had, and has no part in
		do = append(do, &action.MessageRefused{Thread: id, Message: d.r.GetIdempotencyKey()})
	}
	return do, nil
}

// membership is a change as one heard of it.
func membership(thread string, changed []action.MemberState, handler string) action.Do {
	m := action.Membership{Thread: thread, States: changed, ReplyHandler: handler}
	if slices.ContainsFunc(changed, func(s action.MemberState) bool { return !s.Left }) || len(changed) == 0 {
		return &action.Subscribed{Membership: m}
	}
	return &action.Unsubscribed{Membership: m}
}

// message is what is delivered, nil if only members changed. Mail to the thread's
// reply handler goes on to the other members.
func (d *arrival) message(states []action.MemberState) *action.MessageDelivered {
	w := d.r.GetMessage()
	if w == nil {
		return nil
	}
	m := &action.MessageDelivered{Message: action.Message{Thread: d.r.GetThreadId(), ID: w.GetMessageId(), Author: participantOf(w.GetAuthor()),
		Channel: channelOf(w.GetChannel()), Reply: w.GetReply(), Body: w.GetBody(), Attachments: attachmentsOf(w.GetAttachments())}}
	if t := timeOf(w.GetTime()); t != nil {
		m.Time = *t
	}
	if w.GetLargeBody() != nil {
		m.LargeBody = []action.Attachment{attachmentOf(w.GetLargeBody())}
	}
	if d.r.GetRelay() {
		for _, member := range index.Present(states) {
			if p := member.Participant; p != m.Author && p != (action.Participant{User: d.user}) {
				m.Relay = append(m.Relay, p)
			}
		}
	}
	return m
}

// A signal says where a new thread belongs, or nothing.
type signal struct {
	name string
	says func(v index.View, m *action.MessageDelivered) (action.Folder, error)
}

// signals are asked in order; the first that says something decides. A thread that
// is there stays where it is, whatever comes.
var signals = []signal{
	{"an event without a message", func(_ index.View, m *action.MessageDelivered) (action.Folder, error) {
		if m == nil {
			return action.FolderInbox, nil
		}
		return action.FolderNone, nil
	}},
	{"written by a user, by whichever channel", func(_ index.View, m *action.MessageDelivered) (action.Folder, error) {
		if m.Author.User != "" {
			return action.FolderInbox, nil
		}
		return action.FolderNone, nil
	}},
	{"mail from an address that this user has written to", func(v index.View, m *action.MessageDelivered) (action.Folder, error) {
		// Only they share a thread in which this user has written.
		known, _, err := v.Threads(index.Filter{Authors: []action.Participant{m.Author}, Limit: 1, Folder: action.FolderInbox})
		if err != nil || len(known) == 0 {
			return action.FolderNone, err
		}
		return action.FolderInbox, nil
	}},
	{"a stranger", func(index.View, *action.MessageDelivered) (action.Folder, error) { return action.FolderOther, nil }},
}

// route returns the folder of a thread that a delivery begins.
func route(v index.View, m *action.MessageDelivered) (action.Folder, error) {
	for _, s := range signals {
		if folder, err := s.says(v, m); err != nil || folder != action.FolderNone {
			return folder, err
		}
	}
	return action.FolderOther, nil
}
