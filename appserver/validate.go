package appserver

import (
	"fmt"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/search"
)

// Limits bound what one request may hold. Zero fields are the defaults of
// messages.v1.
type Limits struct {
	Body            int // bytes of a message's body; 64 KiB
	Subject         int // bytes; 1 KiB
	Recipients      int // of a Send; 100
	Members         int // of a thread; 250
	Attachments     int // of a message; 25
	Tags            int // of a thread or message; 32
	TagBytes        int // of one tag; 64
	MessageIDs      int // of a request; 100
	Authors         int // of a filter; 16
	Keywords        int // of a filter; 16
	KeywordBytes    int // of one keyword; 64
	PageSize        int // the most things on a page; 100
	DefaultPageSize int // what page_size 0 means; 20
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&l.Body, 64 << 10}, {&l.Subject, 1 << 10}, {&l.Recipients, 100}, {&l.Members, 250}, {&l.Attachments, 25},
		{&l.Tags, 32}, {&l.TagBytes, 64}, {&l.MessageIDs, 100}, {&l.Authors, 16}, {&l.Keywords, 16}, {&l.KeywordBytes, 64},
		{&l.PageSize, 100}, {&l.DefaultPageSize, 20},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return l
}

// The lengths that are part of the API, whatever a server is set to.
const (
	maxID        = 128
	maxUser      = 256
	maxEmail     = 254
	maxKey       = 128
	maxBlob      = 256
	maxFileName  = 255
	maxMediaType = 255
	sha256Bytes  = 32
	maxRequest   = 4 << 20  // of a message of gRPC
	maxHeaders   = 32 << 10 // of a call's metadata, as HTTP/2 counts it (RFC 9113, 6.5.2)
)

// violations collects what is wrong with a request, all of it, so that a caller
// need not find out one by one.
type violations struct {
	found []*errdetails.BadRequest_FieldViolation
}

func (v *violations) add(field, format string, args ...any) {
	v.found = append(v.found, &errdetails.BadRequest_FieldViolation{Field: field, Description: fmt.Sprintf(format, args...)})
}

// check adds a violation unless ok.
func (v *violations) check(ok bool, field, format string, args ...any) {
	if !ok {
		v.add(field, format, args...)
	}
}

// err is INVALID_ARGUMENT with the violations, or nil if there are none.
func (v *violations) err() error {
	if len(v.found) == 0 {
		return nil
	}
	return withDetails(codes.InvalidArgument, v.found[0].Field+": "+v.found[0].Description, &errdetails.BadRequest{FieldViolations: v.found})
}

// invalid is the error of a single violation.
func invalid(field, format string, args ...any) error {
	var v violations
	v.add(field, format, args...)
	return v.err()
}

func printable(s string, most int) bool {
	return s != "" && len(s) <= most && strings.IndexFunc(s, func(r rune) bool { return r < '!' || r > '~' }) < 0
}

// line reports whether s is UTF-8 without control characters.
func line(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// text reports whether s is UTF-8 without NUL.
func text(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func validEmail(s string) bool {
	if len(s) > maxEmail || strings.ContainsFunc(s, unicode.IsControl) {
		return false
	}
	a, err := mail.ParseAddress(s)
	return err == nil && a.Name == "" && a.Address == s
}

func (v *violations) key(s string) {
	v.check(printable(s, maxKey), "idempotency_key", "want 1 to %d bytes of printable ASCII", maxKey)
}

func (v *violations) id(field, s string) {
	v.check(printable(s, maxID), field, "want 1 to %d bytes of printable ASCII", maxID)
}

func (v *violations) participant(field string, p *messagesv1.Participant) {
	switch a := p.GetAddress().(type) {
	case *messagesv1.Participant_User:
		v.check(printable(a.User, maxUser), field+".user", "want 1 to %d bytes of printable ASCII", maxUser)
	case *messagesv1.Participant_Email:
		v.check(validEmail(a.Email), field+".email", "want an address as name@host.example, at most %d bytes", maxEmail)
	default:
		v.add(field, "want a user or an email address")
	}
}

func (v *violations) participants(field string, ps []*messagesv1.Participant, most int) {
	if len(ps) > most {
		v.add(field, "%d of them, want at most %d", len(ps), most)
		return
	}
	for i, p := range ps {
		v.participant(fmt.Sprintf("%s[%d]", field, i), p)
	}
}

func (v *violations) tags(field string, tags []string, l Limits) {
	if len(tags) > l.Tags {
		v.add(field, "%d tags, want at most %d", len(tags), l.Tags)
		return
	}
	for i, t := range tags {
		v.check(t != "" && len(t) <= l.TagBytes && line(t), fmt.Sprintf("%s[%d]", field, i), "want 1 to %d bytes of text without control characters", l.TagBytes)
	}
}

func (v *violations) messageIDs(ids []string, l Limits) {
	if len(ids) > l.MessageIDs {
		v.add("message_ids", "%d of them, want at most %d", len(ids), l.MessageIDs)
		return
	}
	for i, id := range ids {
		v.id(fmt.Sprintf("message_ids[%d]", i), id)
	}
}

func (v *violations) time(field string, t *timestamppb.Timestamp) {
	if t == nil {
		return
	}
	// Nanoseconds of 64 bits hold the years from 1678 to 2262.
	at := t.AsTime()
	v.check(t.IsValid() && at.Year() > 1678 && at.Year() < 2262, field, "want a time between the years 1679 and 2261")
}

func (v *violations) attachments(as []*messagesv1.Attachment, l Limits) {
	if len(as) > l.Attachments {
		v.add("attachments", "%d of them, want at most %d", len(as), l.Attachments)
		return
	}
	for i, a := range as {
		field := fmt.Sprintf("attachments[%d]", i)
		v.check(a.GetBlobId() != "" && len(a.GetBlobId()) <= maxBlob && utf8.ValidString(a.GetBlobId()), field+".blob_id", "want 1 to %d bytes", maxBlob)
		v.check(len(a.GetName()) <= maxFileName && line(a.GetName()) && !strings.ContainsAny(a.GetName(), `/\`), field+".name", "want at most %d bytes, no path", maxFileName)
		v.check(len(a.GetMediaType()) <= maxMediaType && line(a.GetMediaType()), field+".media_type", "want at most %d bytes", maxMediaType)
		v.check(a.GetSizeBytes() >= 0, field+".size_bytes", "want 0 or more")
		v.check(len(a.GetSha256()) == 0 || len(a.GetSha256()) == sha256Bytes, field+".sha256", "want %d bytes, or none", sha256Bytes)
	}
}

// known reports whether an enumeration's value has a name.
func known(names map[int32]string, n int32) bool {
	_, ok := names[n]
	return ok
}

func (l Limits) send(r *messagesv1.SendRequest, trusted bool) error {
	var v violations
	v.key(r.GetIdempotencyKey())
	a := r.GetAssigned()
	if r.GetThreadId() != "" {
		v.id("thread_id", r.GetThreadId())
		v.check(r.GetSubject() == "", "subject", "a reply has its thread's")
		v.check(a.GetThreadId() == "" || a.GetThreadId() == r.GetThreadId(), "assigned.thread_id", "want none, or thread_id")
		v.check(len(r.GetRecipients()) == 0 || a.GetThreadId() != "", "recipients", "a reply goes to the thread's members; leave out either this or thread_id")
	} else if a.GetThreadId() == "" {
		v.check(len(r.GetRecipients()) > 0, "recipients", "want one at least, or a thread_id")
	}
	v.participants("recipients", r.GetRecipients(), l.Recipients)
	v.check(len(r.GetSubject()) <= l.Subject && line(r.GetSubject()), "subject", "want at most %d bytes of text without control characters", l.Subject)
	v.check(len(r.GetBody()) <= l.Body, "body", "%d bytes, want at most %d; a larger one belongs in the blob store", len(r.GetBody()), l.Body)
	v.check(text(r.GetBody()), "body", "want UTF-8 without NUL")
	v.check(r.GetBody() != "" || len(r.GetAttachments()) > 0, "body", "want text, or an attachment")
	v.attachments(r.GetAttachments(), l)
	v.check(known(messagesv1.Channel_name, int32(r.GetChannel())), "channel", "unknown")
	v.check(known(messagesv1.Wait_name, int32(r.GetWait())), "wait", "unknown")
	if a != nil {
		v.check(trusted, "assigned", "this server takes no ids or times from others (--trusted-ids)")
		if a.GetThreadId() != "" {
			v.id("assigned.thread_id", a.GetThreadId())
		}
		if a.GetMessageId() != "" {
			v.id("assigned.message_id", a.GetMessageId())
		}
		v.time("assigned.time", a.GetTime())
	}
	return v.err()
}

func (v *violations) page(size int32) { v.check(size >= 0, "page_size", "want 0 or more") }

func (v *violations) order(o messagesv1.Order) {
	v.check(known(messagesv1.Order_name, int32(o)), "order", "unknown")
}

func (l Limits) listThreads(r *messagesv1.ListThreadsRequest) error {
	var v violations
	v.check(known(messagesv1.Folder_name, int32(r.GetFolder())), "folder", "unknown")
	v.tags("tags", r.GetTags(), l)
	v.participants("authors", r.GetAuthors(), l.Authors)
	if v.check(len(r.GetKeywords()) <= l.Keywords, "keywords", "%d of them, want at most %d", len(r.GetKeywords()), l.Keywords); len(r.GetKeywords()) <= l.Keywords {
		for i, k := range r.GetKeywords() {
			v.check(k != "" && len(k) <= l.KeywordBytes && line(k), fmt.Sprintf("keywords[%d]", i), "want 1 to %d bytes of text without control characters", l.KeywordBytes)
		}
	}
	v.time("since", r.GetSince())
	v.time("until", r.GetUntil())
	v.order(r.GetOrder())
	v.page(r.GetPageSize())
	return v.err()
}

func (l Limits) getThread(r *messagesv1.GetThreadRequest) error {
	var v violations
	v.id("thread_id", r.GetThreadId())
	v.order(r.GetOrder())
	v.page(r.GetPageSize())
	return v.err()
}

func (l Limits) search(r *messagesv1.SearchRequest) error {
	var v violations
	v.check(r.GetQuery() != "" && len(r.GetQuery()) <= search.MaxQuery && text(r.GetQuery()), "query", "want 1 to %d bytes of UTF-8 without NUL", search.MaxQuery)
	v.page(r.GetPageSize())
	return v.err()
}

func (l Limits) update(r *messagesv1.UpdateRequest) error {
	var v violations
	v.key(r.GetIdempotencyKey())
	v.id("thread_id", r.GetThreadId())
	v.messageIDs(r.GetMessageIds(), l)
	c := r.GetChange()
	v.check(c.GetRead() || c.GetArchived() || c.GetMuted() || (c != nil && (c.Read != nil || c.Archived != nil || c.Muted != nil)) ||
		len(c.GetAddTags()) > 0 || len(c.GetRemoveTags()) > 0 || c.GetFolder() != 0, "change", "want something to change")
	v.tags("change.add_tags", c.GetAddTags(), l)
	v.tags("change.remove_tags", c.GetRemoveTags(), l)
	for _, t := range c.GetAddTags() {
		for _, u := range c.GetRemoveTags() {
			v.check(t != u, "change.remove_tags", "%q is to be added and removed", t)
		}
	}
	v.check(known(messagesv1.Folder_name, int32(c.GetFolder())), "change.folder", "unknown")
	if len(r.GetMessageIds()) > 0 {
		v.check(c.GetFolder() == 0, "change.folder", "of a thread alone, not of messages")
		v.check(c == nil || c.Muted == nil, "change.muted", "of a thread alone, not of messages")
		v.check(r.GetThrough() == 0, "through", "of a thread alone, not of messages")
	}
	return v.err()
}

func (l Limits) delete(r *messagesv1.DeleteRequest) error {
	var v violations
	v.key(r.GetIdempotencyKey())
	v.id("thread_id", r.GetThreadId())
	v.messageIDs(r.GetMessageIds(), l)
	v.check(len(r.GetMessageIds()) == 0 || r.GetThrough() == 0, "through", "of a thread alone, not of messages")
	return v.err()
}

func (l Limits) subscribe(r *messagesv1.SubscribeRequest) error {
	var v violations
	v.key(r.GetIdempotencyKey())
	v.id("thread_id", r.GetThreadId())
	v.check(len(r.GetMembers()) > 0, "members", "want one at least")
	v.participants("members", r.GetMembers(), l.Recipients)
	return v.err()
}

func (l Limits) unsubscribe(r *messagesv1.UnsubscribeRequest, u action.User) error {
	var v violations
	v.key(r.GetIdempotencyKey())
	v.id("thread_id", r.GetThreadId())
	if r.GetMember() != nil {
		v.participant("member", r.GetMember())
		other := r.GetMember().GetUser()
		v.check(other == "" || other == string(u), "member", "users leave by themselves; others remove email addresses alone")
	}
	return v.err()
}

// pageSize is how many things a page holds that asks for n.
func (l Limits) pageSize(n int32) int {
	if n == 0 {
		return l.DefaultPageSize
	}
	return min(int(n), l.PageSize)
}
