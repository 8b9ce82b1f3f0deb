package appserver

import (
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
)

// What is on the wire and what is in the log differ in form alone. Requests are
// validated before they are converted.

func participantOf(p *messagesv1.Participant) action.Participant {
	if email := p.GetEmail(); email != "" {
		at := strings.LastIndexByte(email, '@')
		return action.Participant{Email: email[:at+1] + strings.ToLower(email[at+1:])}
	}
	return action.Participant{User: action.User(p.GetUser())}
}

func participantsOf(ps []*messagesv1.Participant) []action.Participant {
	var all []action.Participant
	for _, p := range ps {
		all = append(all, participantOf(p))
	}
	return all
}

func toParticipant(p action.Participant) *messagesv1.Participant {
	if p.Email != "" {
		return &messagesv1.Participant{Address: &messagesv1.Participant_Email{Email: p.Email}}
	}
	return &messagesv1.Participant{Address: &messagesv1.Participant_User{User: string(p.User)}}
}

func toParticipants(ps []action.Participant) []*messagesv1.Participant {
	var all []*messagesv1.Participant
	for _, p := range ps {
		all = append(all, toParticipant(p))
	}
	return all
}

func toTime(t action.Time) *timestamppb.Timestamp { return timestamppb.New(t.Time()) }

// timeOf is a timestamp as the log counts; nil for none.
func timeOf(t *timestamppb.Timestamp) *action.Time {
	if t == nil {
		return nil
	}
	at, _ := action.TimeOf(t.AsTime()) // within range: it was validated
	return &at
}

func toMember(m action.Member) *messagesv1.Member {
	return &messagesv1.Member{Participant: toParticipant(m.Participant), Kind: messagesv1.Member_Kind(m.Kind),
		JoinedTime: toTime(m.Joined), AddedBy: toParticipant(m.AddedBy)}
}

func toMembers(ms []action.Member) []*messagesv1.Member {
	var all []*messagesv1.Member
	for _, m := range ms {
		all = append(all, toMember(m))
	}
	return all
}

func memberOf(m *messagesv1.Member) action.Member {
	w := action.Member{Participant: participantOf(m.GetParticipant()), Kind: action.MemberKind(m.GetKind()), AddedBy: participantOf(m.GetAddedBy())}
	if t := timeOf(m.GetJoinedTime()); t != nil {
		w.Joined = *t
	}
	return w
}

func toStates(states []action.MemberState) []*messagesv1.MembershipState {
	var all []*messagesv1.MembershipState
	for _, s := range states {
		all = append(all, &messagesv1.MembershipState{Member: toMember(s.Member), Left: s.Left, Stamp: s.Stamp, By: toParticipant(s.By)})
	}
	return all
}

func statesOf(states []*messagesv1.MembershipState) []action.MemberState {
	var all []action.MemberState
	for _, s := range states {
		all = append(all, action.MemberState{Member: memberOf(s.GetMember()), Left: s.GetLeft(), Stamp: s.GetStamp(), By: participantOf(s.GetBy())})
	}
	return all
}

func attachmentOf(a *messagesv1.Attachment) action.Attachment {
	return action.Attachment{Blob: a.GetBlobId(), Name: a.GetName(), MediaType: a.GetMediaType(), Size: a.GetSizeBytes(), SHA256: string(a.GetSha256())}
}

func attachmentsOf(as []*messagesv1.Attachment) []action.Attachment {
	var all []action.Attachment
	for _, a := range as {
		all = append(all, attachmentOf(a))
	}
	return all
}

func toAttachment(a action.Attachment) *messagesv1.Attachment {
	return &messagesv1.Attachment{BlobId: a.Blob, Name: a.Name, MediaType: a.MediaType, SizeBytes: a.Size, Sha256: []byte(a.SHA256)}
}

func toAttachments(as []action.Attachment) []*messagesv1.Attachment {
	var all []*messagesv1.Attachment
	for _, a := range as {
		all = append(all, toAttachment(a))
	}
	return all
}

func channelOf(c messagesv1.Channel) action.Channel {
	if c == messagesv1.Channel_CHANNEL_UNSPECIFIED {
		return action.ChannelMessage
	}
	return action.Channel(c)
}

// toMessage is a message as it came: without what a copy has changed since.
func toMessage(m *action.Message, sequence uint64, logged action.Time) *messagesv1.Message {
	w := &messagesv1.Message{
		MessageId: m.ID, ThreadId: m.Thread, Sequence: sequence, Author: toParticipant(m.Author), Channel: messagesv1.Channel(m.Channel),
		Body: m.Body, Attachments: toAttachments(m.Attachments), Time: toTime(m.Time), LogTime: toTime(logged), Reply: m.Reply,
	}
	if len(m.LargeBody) > 0 {
		w.LargeBody = toAttachment(m.LargeBody[0])
	}
	return w
}

// toEntity is a message by its entity, whose snippet is all of the body or its
// beginning.
func toEntity(e *index.Message) *messagesv1.Message {
	return &messagesv1.Message{
		MessageId: e.ID, ThreadId: e.Thread, Sequence: e.Sequence, Author: toParticipant(e.Author), Channel: messagesv1.Channel(e.Channel),
		Body: e.Snippet, Time: toTime(e.Time), LogTime: toTime(e.LogTime), Reply: e.Reply, Read: e.Read, Archived: e.Archived, Tags: e.Tags,
	}
}
