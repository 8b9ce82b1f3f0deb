package appserver

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagesv1 "darklaunch/api/messages/v1"
)

// list makes n different things.
func list[T any](n int, one func(i int) T) []T {
	all := make([]T, n)
	for i := range all {
		all[i] = one(i)
	}
	return all
}

func numbered(prefix string) func(int) string {
	return func(i int) string { return fmt.Sprint(prefix, i) }
}

func attachment(i int) *messagesv1.Attachment {
	return &messagesv1.Attachment{BlobId: fmt.Sprint("b", i), Name: "a.png", MediaType: "image/png", SizeBytes: 3}
}

// begin sends a first message and returns its answer.
func begin(t *testing.T, c messagesv1.MessagesClient, from, key, body string, to ...string) *messagesv1.SendResponse {
	t.Helper()
	sent, err := c.Send(as(t, from), &messagesv1.SendRequest{IdempotencyKey: key, Recipients: users(to...), Body: body, Wait: messagesv1.Wait_WAIT_DELIVERED})
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

// field is the field of the first violation.
func field(err error) string {
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			return bad.FieldViolations[0].Field
		}
	}
	return ""
}

// TestLimits has for each limit one request that it allows and one above it: that is
// INVALID_ARGUMENT, names the field, and changes nothing. Row F72.
func TestLimits(t *testing.T) {
	c := serve(t, Config{TrustedIDs: true})
	thread := begin(t, c, "ann", "thread", "hello", "bob")
	key := 0
	next := func() string { key++; return fmt.Sprint("k", key) }
	send := func(change func(*messagesv1.SendRequest)) func() error {
		r := &messagesv1.SendRequest{IdempotencyKey: next(), Recipients: users("bob"), Body: "x"}
		change(r)
		return func() error { _, err := c.Send(as(t, "ann"), r); return err }
	}
	update := func(change *messagesv1.Change, ids ...string) func() error {
		r := &messagesv1.UpdateRequest{IdempotencyKey: next(), ThreadId: thread.ThreadId, Change: change, MessageIds: ids}
		return func() error { _, err := c.Update(as(t, "ann"), r); return err }
	}
	remove := func(ids ...string) func() error {
		r := &messagesv1.DeleteRequest{IdempotencyKey: next(), ThreadId: thread.ThreadId, MessageIds: ids}
		return func() error { _, err := c.Delete(as(t, "ann"), r); return err }
	}
	subscribe := func(names ...string) func() error {
		r := &messagesv1.SubscribeRequest{IdempotencyKey: next(), ThreadId: thread.ThreadId, Members: users(names...)}
		return func() error { _, err := c.Subscribe(as(t, "ann"), r); return err }
	}
	threads := func(r *messagesv1.ListThreadsRequest) func() error {
		return func() error { _, err := c.ListThreads(as(t, "ann"), r); return err }
	}
	search := func(query string, size int32) func() error {
		return func() error {
			_, err := c.Search(as(t, "ann"), &messagesv1.SearchRequest{Query: query, PageSize: size})
			return err
		}
	}
	user := func(name string) func() error {
		return func() error {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-user", name)
			_, err := c.MailboxStats(ctx, &messagesv1.MailboxStatsRequest{})
			return err
		}
	}
	of := func(f func(*messagesv1.SendRequest, string)) func(string) func() error {
		return func(s string) func() error { return send(func(r *messagesv1.SendRequest) { f(r, s) }) }
	}
	body := of(func(r *messagesv1.SendRequest, s string) { r.Body = s })
	subject := of(func(r *messagesv1.SendRequest, s string) { r.Subject = s })
	idempotency := of(func(r *messagesv1.SendRequest, s string) { r.IdempotencyKey = s })
	recipient := of(func(r *messagesv1.SendRequest, s string) { r.Recipients = users(s) })
	assigned := of(func(r *messagesv1.SendRequest, s string) { r.Assigned = &messagesv1.Assigned{MessageId: s} })
	name := of(func(r *messagesv1.SendRequest, s string) {
		r.Attachments = []*messagesv1.Attachment{{BlobId: "b", Name: s}}
	})
	blob := of(func(r *messagesv1.SendRequest, s string) { r.Attachments = []*messagesv1.Attachment{{BlobId: s}} })
	digest := of(func(r *messagesv1.SendRequest, s string) {
		r.Attachments = []*messagesv1.Attachment{{BlobId: "b", Sha256: []byte(s)}}
	})
	mediaType := of(func(r *messagesv1.SendRequest, s string) {
		r.Attachments = []*messagesv1.Attachment{{BlobId: "b", MediaType: s}}
	})
	sized := func(n int64) func() error {
		return send(func(r *messagesv1.SendRequest) {
			r.Attachments = []*messagesv1.Attachment{{BlobId: "b", SizeBytes: n}}
		})
	}
	channel := func(c messagesv1.Channel) func() error {
		return send(func(r *messagesv1.SendRequest) { r.Channel = c })
	}
	wait := func(w messagesv1.Wait) func() error {
		return send(func(r *messagesv1.SendRequest) { r.Wait = w })
	}
	order := func(o messagesv1.Order) func() error {
		return threads(&messagesv1.ListThreadsRequest{Order: o})
	}
	tag := func(s string) func() error { return update(&messagesv1.Change{AddTags: []string{s}, RemoveTags: nil}) }
	recipients := func(n int) func() error {
		return send(func(r *messagesv1.SendRequest) { r.Recipients = users(list(n, numbered("r"))...) })
	}
	attachments := func(n int) func() error {
		return send(func(r *messagesv1.SendRequest) { r.Attachments = list(n, attachment) })
	}
	at := func(year int) func() error {
		return send(func(r *messagesv1.SendRequest) {
			r.Assigned = &messagesv1.Assigned{Time: timestamppb.New(time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC))}
		})
	}
	times := strings.Repeat
	for _, tc := range []struct {
		limit        string
		below, above func() error
		field        string
	}{
		{"body of 64 KiB", body(times("x", 64<<10)), body(times("x", 64<<10+1)), "body"},
		{"body with NUL", body("a\tb\nc"), body("a\x00b"), "body"},
		{"body or attachment", attachments(1), body(""), "body"},
		{"subject of 1 KiB", subject(times("x", 1<<10)), subject(times("x", 1<<10+1)), "subject"},
		{"subject of one line", subject("Grüße"), subject("a\nb"), "subject"},
		{"recipients 100", recipients(100), recipients(101), "recipients"},
		{"recipients 1", recipients(1), recipients(0), "recipients"},
		{"attachments 25", attachments(25), attachments(26), "attachments"},
		{"file name of 255 bytes", name(times("x", 255)), name(times("x", 256)), "attachments[0].name"},
		{"file name without path", name("a.png"), name("../a.png"), "attachments[0].name"},
		{"blob of 256 bytes", blob(times("x", 256)), blob(times("x", 257)), "attachments[0].blob_id"},
		{"media type of 255 bytes", mediaType(times("x", 255)), mediaType(times("x", 256)), "attachments[0].media_type"},
		{"an attachment's size", sized(0), sized(-1), "attachments[0].size_bytes"},
		{"a channel there is", channel(4), channel(5), "channel"},
		{"a wait there is", wait(2), wait(3), "wait"},
		{"an order there is", order(2), order(3), "order"},
		{"digest of 32 bytes", digest(times("x", 32)), digest(times("x", 31)), "attachments[0].sha256"},
		{"key of 128 bytes", idempotency(times("x", 128)), idempotency(times("x", 129)), "idempotency_key"},
		{"key at all", idempotency("!"), idempotency(""), "idempotency_key"},
		{"key of ASCII", idempotency("~"), idempotency("ü"), "idempotency_key"},
		{"user of 256 bytes", recipient(times("u", 256)), recipient(times("u", 257)), "recipients[0].user"},
		{"user without space", recipient("a!~"), recipient("a b"), "recipients[0].user"},
		{"email of 254 bytes", recipient(times("e", 242) + "@example.org"), recipient(times("e", 243) + "@example.org"), "recipients[0].email"},
		{"email's form", recipient("a@example.org"), recipient("Ann <a@example.org>"), "recipients[0].email"},
		{"id of 128 bytes", assigned("x:" + times("y", 126)), assigned("x:" + times("y", 127)), "assigned.message_id"},
		{"time from 1679", at(1679), at(1678), "assigned.time"},
		{"time to 2261", at(2261), at(2262), "assigned.time"},
		{"tag of 64 bytes", tag(times("x", 64)), tag(times("x", 65)), "change.add_tags[0]"},
		{"tag without control", tag("a b"), tag("a\x00b"), "change.add_tags[0]"},
		{"tags of a request", update(&messagesv1.Change{RemoveTags: list(32, numbered("t"))}), update(&messagesv1.Change{RemoveTags: list(33, numbered("t"))}), "change.remove_tags"},
		{"tags of a thread 32", update(&messagesv1.Change{AddTags: append(list(30, numbered("t")), "t0", "t1")}),
			update(&messagesv1.Change{AddTags: list(33-30, numbered("more"))}), "change.add_tags"},
		{"tags of a message 32", update(&messagesv1.Change{AddTags: list(32, numbered("t"))}, thread.MessageId),
			update(&messagesv1.Change{AddTags: []string{"one more"}}, thread.MessageId), "change.add_tags"},
		{"a tag added or removed", update(&messagesv1.Change{RemoveTags: []string{"x"}}), update(&messagesv1.Change{AddTags: []string{"x"}, RemoveTags: []string{"x"}}), "change.remove_tags"},
		{"something to change", update(&messagesv1.Change{Read: new(bool)}), update(&messagesv1.Change{}), "change"},
		{"a folder there is", update(&messagesv1.Change{Folder: 1}), update(&messagesv1.Change{Folder: 3}), "change.folder"},
		{"folder of a thread", update(&messagesv1.Change{Folder: 2}), update(&messagesv1.Change{Folder: 2}, thread.MessageId), "change.folder"},
		{"message ids 100", remove(slices.Repeat([]string{thread.MessageId}, 100)...), remove(slices.Repeat([]string{thread.MessageId}, 101)...), "message_ids"},
		{"members of a request", subscribe(list(100, numbered("m"))...), subscribe(list(101, numbered("n"))...), "members"},
		{"members of a thread 250", subscribe(list(100, numbered("o"))...), subscribe(list(100, numbered("p"))...), "members"},
		{"authors 16", threads(&messagesv1.ListThreadsRequest{Authors: users(list(16, numbered("a"))...)}),
			threads(&messagesv1.ListThreadsRequest{Authors: users(list(17, numbered("a"))...)}), "authors"},
		{"keywords 16", threads(&messagesv1.ListThreadsRequest{Keywords: list(16, numbered("k"))}),
			threads(&messagesv1.ListThreadsRequest{Keywords: list(17, numbered("k"))}), "keywords"},
		{"keyword of 64 bytes", threads(&messagesv1.ListThreadsRequest{Keywords: []string{times("k", 64)}}),
			threads(&messagesv1.ListThreadsRequest{Keywords: []string{times("k", 65)}}), "keywords[0]"},
		{"keyword with a word", threads(&messagesv1.ListThreadsRequest{Keywords: []string{"k!"}}),
			threads(&messagesv1.ListThreadsRequest{Keywords: []string{"!"}}), "keywords"},
		{"tags of a filter", threads(&messagesv1.ListThreadsRequest{Tags: list(32, numbered("t"))}),
			threads(&messagesv1.ListThreadsRequest{Tags: list(33, numbered("t"))}), "tags"},
		{"query of 1 KiB", search(times("x", 1<<10), 0), search(times("x", 1<<10+1), 0), "query"},
		{"query of 32 terms", search(times("x ", 32), 0), search(times("x ", 33), 0), "query"},
		{"query at all", search("x", 0), search("", 0), "query"},
		{"query without NUL", search("x y", 0), search("x\x00y", 0), "query"},
		{"page size", search("x", 1000), search("x", -1), "page_size"},
		{"acting user of 256 bytes", user(times("u", 256)), user(times("u", 257)), "metadata x-user"},
		{"acting user at all", user("u"), user(""), "metadata x-user"},
	} {
		if err := tc.below(); err != nil {
			t.Errorf("%s: at the limit: %v", tc.limit, err)
		}
		before := version(t, c, "ann")
		err := tc.above()
		if wantCode(t, tc.limit+": above it", err, codes.InvalidArgument); field(err) != tc.field {
			t.Errorf("%s: above it: got the violation of %q, want %q: %v", tc.limit, field(err), tc.field, err)
		}
		if after := version(t, c, "ann"); after != before {
			t.Errorf("%s: above it the mailbox went from version %d to %d", tc.limit, before, after)
		}
	}
}

// TestEnvelope: what is too large for gRPC itself is refused by it, and changes nothing.
func TestEnvelope(t *testing.T) {
	c := serve(t, Config{})
	padded := func(n int) error {
		r := &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint(n), Recipients: users("bob"), Body: "x"}
		const noField = 1000 // which the server passes over
		r.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, noField, protowire.BytesType), make([]byte, n)))
		_, err := c.Send(as(t, "ann"), r)
		return err
	}
	headers := func(n int) error {
		ctx := metadata.AppendToOutgoingContext(as(t, "ann"), "x-more", strings.Repeat("x", n))
		_, err := c.Send(ctx, &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint("h", n), Recipients: users("bob"), Body: "x"})
		return err
	}
	for _, tc := range []struct {
		limit        string
		send         func(n int) error
		below, above int
		want         codes.Code
	}{
		{"a request of 4 MiB", padded, maxRequest - 100, maxRequest, codes.ResourceExhausted},
		{"metadata of 32 KiB", headers, maxHeaders - 1000, maxHeaders, codes.Internal}, // by the client, whom the server has told
	} {
		if err := tc.send(tc.below); err != nil {
			t.Errorf("%s: below it: %v", tc.limit, err)
		}
		before := version(t, c, "ann")
		wantCode(t, tc.limit+": above it", tc.send(tc.above), tc.want)
		if after := version(t, c, "ann"); after != before {
			t.Errorf("%s: above it the mailbox went from version %d to %d", tc.limit, before, after)
		}
	}
}

func version(t *testing.T, c messagesv1.MessagesClient, user string) uint64 {
	t.Helper()
	stats, err := c.MailboxStats(as(t, user), &messagesv1.MailboxStatsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return stats.Version
}

// TestInvalidUTF8: text that is none is refused. A client of Go can't even send it,
// so that it goes as a field that the message does not know and the server does.
func TestInvalidUTF8(t *testing.T) {
	c := serve(t, Config{})
	r := &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users("bob")}
	const bodyField = 5
	r.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, bodyField, protowire.BytesType), "\xff\xfe"))
	if _, err := c.Send(as(t, "ann"), r); err == nil {
		t.Error("a body that is no UTF-8 was taken")
	}
	if v := version(t, c, "ann"); v != 0 {
		t.Errorf("the mailbox is of version %d", v)
	}
}

// TestUnknownAndOthers: threads and messages that are not there, are somebody else's,
// or deleted. Rows F85, I132.
func TestUnknownAndOthers(t *testing.T) {
	c := serve(t, Config{})
	mine, theirs := begin(t, c, "ann", "1", "mine", "ann"), begin(t, c, "bob", "1", "theirs", "cy")
	read := true
	change := &messagesv1.Change{Read: &read}
	key := 0
	for _, thread := range []string{"t-none", theirs.ThreadId} {
		key++
		k := fmt.Sprint("k", key)
		_, err := c.GetThread(as(t, "ann"), &messagesv1.GetThreadRequest{ThreadId: thread})
		wantCode(t, "read "+thread, err, codes.NotFound)
		_, err = c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: k, ThreadId: thread, Body: "x"})
		wantCode(t, "reply to "+thread, err, codes.NotFound)
		_, err = c.Update(as(t, "ann"), &messagesv1.UpdateRequest{IdempotencyKey: k, ThreadId: thread, Change: change})
		wantCode(t, "update "+thread, err, codes.NotFound)
		_, err = c.Delete(as(t, "ann"), &messagesv1.DeleteRequest{IdempotencyKey: k, ThreadId: thread})
		wantCode(t, "delete "+thread, err, codes.NotFound)
		_, err = c.Subscribe(as(t, "ann"), &messagesv1.SubscribeRequest{IdempotencyKey: k, ThreadId: thread, Members: users("dee")})
		wantCode(t, "subscribe to "+thread, err, codes.NotFound)
		_, err = c.Unsubscribe(as(t, "ann"), &messagesv1.UnsubscribeRequest{IdempotencyKey: k, ThreadId: thread})
		wantCode(t, "unsubscribe from "+thread, err, codes.NotFound)
	}
	_, err := c.Update(as(t, "ann"), &messagesv1.UpdateRequest{IdempotencyKey: "m", ThreadId: mine.ThreadId, MessageIds: []string{mine.MessageId, theirs.MessageId}, Change: change})
	wantCode(t, "another thread's message", err, codes.NotFound)
	_, err = c.Unsubscribe(as(t, "ann"), &messagesv1.UnsubscribeRequest{IdempotencyKey: "m", ThreadId: mine.ThreadId, Member: users("bob")[0]})
	wantCode(t, "somebody else's membership", err, codes.InvalidArgument)
	if v := version(t, c, "ann"); v != mine.Version {
		t.Errorf("ann's mailbox went from version %d to %d", mine.Version, v)
	}

	for i := range 2 { // deleting what is deleted is no error
		if _, err := c.Delete(as(t, "ann"), &messagesv1.DeleteRequest{IdempotencyKey: fmt.Sprint("d", i), ThreadId: mine.ThreadId, MessageIds: []string{mine.MessageId}}); err != nil {
			t.Errorf("deletion %d: %v", i, err)
		}
	}
	_, err = c.GetThread(as(t, "ann"), &messagesv1.GetThreadRequest{ThreadId: mine.ThreadId})
	wantCode(t, "a thread without messages", err, codes.NotFound)
	_, err = c.Update(as(t, "ann"), &messagesv1.UpdateRequest{IdempotencyKey: "u", ThreadId: mine.ThreadId, MessageIds: []string{mine.MessageId}, Change: change})
	wantCode(t, "a deleted message", err, codes.NotFound)
	reply, err := c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: "r", ThreadId: mine.ThreadId, Body: "again"})
	if err != nil {
		t.Fatalf("a reply to a thread whose messages are deleted: %v", err)
	}
	got, err := c.GetThread(as(t, "ann"), &messagesv1.GetThreadRequest{ThreadId: mine.ThreadId})
	if err != nil || len(got.Messages) != 1 || got.Messages[0].MessageId != reply.MessageId {
		t.Errorf("got %v, %v, want the reply alone", got, err)
	}
}

// TestKeys: a key is of one request, of whatever method; an assigned id of one key.
func TestKeys(t *testing.T) {
	c := serve(t, Config{TrustedIDs: true})
	sent := begin(t, c, "ann", "1", "hello", "bob")
	read := true
	for what, call := range map[string]func(key string) error{
		"another body": func(key string) error {
			_, err := c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: key, Recipients: users("bob"), Body: "other"})
			return err
		},
		"an update": func(key string) error {
			_, err := c.Update(as(t, "ann"), &messagesv1.UpdateRequest{IdempotencyKey: key, ThreadId: sent.ThreadId, Change: &messagesv1.Change{Read: &read}})
			return err
		},
		"a deletion": func(key string) error {
			_, err := c.Delete(as(t, "ann"), &messagesv1.DeleteRequest{IdempotencyKey: key, ThreadId: sent.ThreadId})
			return err
		},
		"a member": func(key string) error {
			_, err := c.Subscribe(as(t, "ann"), &messagesv1.SubscribeRequest{IdempotencyKey: key, ThreadId: sent.ThreadId, Members: users("cy")})
			return err
		},
		"a leaving": func(key string) error {
			_, err := c.Unsubscribe(as(t, "ann"), &messagesv1.UnsubscribeRequest{IdempotencyKey: key, ThreadId: sent.ThreadId})
			return err
		},
	} {
		err := call("1")
		wantCode(t, what+" under a used key", err, codes.InvalidArgument)
		if field(err) != "idempotency_key" {
			t.Errorf("%s: got the violation of %q, want idempotency_key", what, field(err))
		}
	}
	if v := version(t, c, "ann"); v != sent.Version {
		t.Errorf("the mailbox went from version %d to %d", sent.Version, v)
	}
	given := func(user, key, thread string) error {
		_, err := c.Send(as(t, user), &messagesv1.SendRequest{IdempotencyKey: key, Recipients: users("bob"), Body: "x", Wait: messagesv1.Wait_WAIT_DELIVERED,
			Assigned: &messagesv1.Assigned{MessageId: "old:1", ThreadId: thread}})
		return err
	}
	if err := given("ann", "2", "old:t"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "an assigned id under another key", given("ann", "3", "old:t"), codes.AlreadyExists)
	if err := given("dee", "1", "old:u"); err != nil {
		t.Errorf("a message whose recipient has its id: %v", err)
	}
	_, err := serve(t, Config{}).Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users("bob"), Body: "x", Assigned: &messagesv1.Assigned{}})
	wantCode(t, "an id without --trusted-ids", err, codes.InvalidArgument)
}

// TestPages: a walk shows each thing once, whatever the size of its pages, and a page
// ends at 1 MiB.
func TestPages(t *testing.T) {
	c := serve(t, Config{})
	first := begin(t, c, "ann", "0", strings.Repeat("x", 60<<10), "ann")
	const n = 30
	for i := 1; i < n; i++ {
		if _, err := c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint(i), ThreadId: first.ThreadId, Body: strings.Repeat("x", 60<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int32{0, 7, 100} {
		r := &messagesv1.GetThreadRequest{ThreadId: first.ThreadId, PageSize: size}
		seen := map[string]bool{}
		pages := 0
		for ; ; pages++ {
			a, err := c.GetThread(as(t, "ann"), r)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range a.Messages {
				if seen[m.MessageId] {
					t.Errorf("pages of %d: %s came twice", size, m.MessageId)
				}
				seen[m.MessageId] = true
			}
			if r.PageToken = a.NextPageToken; r.PageToken == "" {
				break
			}
		}
		if len(seen) != n || pages == 0 {
			t.Errorf("pages of %d: got %d messages on %d pages, want %d on several", size, len(seen), pages+1, n)
		}
	}
	// Threads that weigh much: 100 members with long addresses.
	members := list(100, func(i int) string { return fmt.Sprintf("%03d%s@example.org", i, strings.Repeat("m", 230)) })
	const threads = 50
	for i := range threads {
		if _, err := c.Send(as(t, "bob"), &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint(i), Recipients: users(members...), Body: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	r := &messagesv1.ListThreadsRequest{PageSize: 100}
	seen := map[string]bool{}
	pages := 0
	for ; ; pages++ {
		a, err := c.ListThreads(as(t, "bob"), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range a.Threads {
			seen[x.ThreadId] = true
		}
		if r.PageToken = a.NextPageToken; r.PageToken == "" {
			break
		}
	}
	if len(seen) != threads || pages == 0 {
		t.Errorf("got %d heavy threads on %d pages, want %d on several", len(seen), pages+1, threads)
	}
	r.PageToken = "!"
	_, err := c.ListThreads(as(t, "bob"), r)
	wantCode(t, "a token that is none", err, codes.InvalidArgument)
}

// TestThrough: of a thread, only what the user has been shown is marked or deleted.
func TestThrough(t *testing.T) {
	c := serve(t, Config{})
	first := begin(t, c, "ann", "1", "one", "bob")
	shown, err := c.GetThread(as(t, "bob"), &messagesv1.GetThreadRequest{ThreadId: first.ThreadId})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: "2", ThreadId: first.ThreadId, Body: "two", Wait: messagesv1.Wait_WAIT_DELIVERED}); err != nil {
		t.Fatal(err)
	}
	read := true
	if _, err := c.Update(as(t, "bob"), &messagesv1.UpdateRequest{IdempotencyKey: "1", ThreadId: first.ThreadId, Change: &messagesv1.Change{Read: &read}, Through: shown.Version}); err != nil {
		t.Fatal(err)
	}
	counts, err := c.UnreadCounts(as(t, "bob"), &messagesv1.UnreadCountsRequest{})
	if err != nil || counts.Messages != 1 || counts.Threads != 1 {
		t.Errorf("got %v, %v, want the second message unread", counts, err)
	}
	if _, err := c.Delete(as(t, "bob"), &messagesv1.DeleteRequest{IdempotencyKey: "2", ThreadId: first.ThreadId, Through: shown.Version}); err != nil {
		t.Fatal(err)
	}
	got, err := c.GetThread(as(t, "bob"), &messagesv1.GetThreadRequest{ThreadId: first.ThreadId})
	if err != nil || len(got.Messages) != 1 || got.Messages[0].Body != "two" {
		t.Errorf("got %v, %v, want the second message alone", got, err)
	}
}
