package appserver

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
)

// gated is a store whose reads of one user's row wait.
type gated struct {
	store.Store
	user    string
	arrived chan struct{}
	open    chan struct{}
}

func (s gated) Read(ctx context.Context, user string, spans ...store.Span) (store.Row, error) {
	if user == s.user {
		select {
		case s.arrived <- struct{}{}:
		default:
		}
		select {
		case <-s.open:
		case <-ctx.Done():
			return store.Row{}, ctx.Err()
		}
	}
	return s.Store.Read(ctx, user, spans...)
}

func wantShed(t *testing.T, what string, err error) {
	t.Helper()
	wantCode(t, what, err, codes.ResourceExhausted)
	for _, d := range status.Convert(err).Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok && retry.RetryDelay.AsDuration() > 0 {
			return
		}
	}
	t.Errorf("%s: it is not told when to try again", what)
}

// TestOverload: a mailbox that can't be loaded holds up nobody else's, and calls above
// the limit are shed at once. Row F74.
func TestOverload(t *testing.T) {
	s := gated{&memstore.Store{}, "slow", make(chan struct{}, 1), make(chan struct{})}
	c := serve(t, Config{Mailboxes: mailbox.Config{Store: s}, MaxInFlight: 2, MaxWatches: 1})
	slow := make(chan error, 1)
	go func() {
		_, err := c.UnreadCounts(as(t, "slow"), &messagesv1.UnreadCountsRequest{})
		slow <- err
	}()
	<-s.arrived
	begin(t, c, "ann", "1", "hello", "bob")
	other := make(chan error, 1)
	go func() {
		for { // it may be the third itself
			_, err := c.MailboxStats(as(t, "slow"), &messagesv1.MailboxStatsRequest{})
			if status.Code(err) != codes.ResourceExhausted {
				other <- err
				return
			}
		}
	}()
	// Two are under way soon, and then there is room for no third.
	var err error
	for err == nil && t.Context().Err() == nil {
		_, err = c.UnreadCounts(as(t, "ann"), &messagesv1.UnreadCountsRequest{})
	}
	wantShed(t, "a third call", err)
	close(s.open)
	for _, done := range []chan error{slow, other} {
		if err := <-done; err != nil {
			t.Errorf("a call that had to wait: %v", err)
		}
	}
	first, err := c.Watch(as(t, "ann"), &messagesv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recv(); err != nil {
		t.Fatal(err)
	}
	second, err := c.Watch(as(t, "bob"), &messagesv1.WatchRequest{})
	if err == nil {
		_, err = second.Recv()
	}
	wantShed(t, "a second stream", err)
}

// TestFull: a mailbox above its capacity cannot send, and gets what is sent to it.
func TestFull(t *testing.T) {
	c := serve(t, Config{Capacity: 100})
	sent := begin(t, c, "ann", "1", fmt.Sprintf("%0100d", 1), "bob")
	_, err := c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: "2", ThreadId: sent.ThreadId, Body: "x"})
	wantCode(t, "a message above the capacity", err, codes.ResourceExhausted)
	begin(t, c, "cy", "1", "to one who is full", "ann")
	list, err := c.ListThreads(as(t, "ann"), &messagesv1.ListThreadsRequest{})
	if err != nil || len(list.Threads) != 2 {
		t.Errorf("got %v, %v, want what was delivered too", list, err)
	}
	stats, err := c.MailboxStats(as(t, "ann"), &messagesv1.MailboxStatsRequest{})
	if err != nil || stats.CapacityLimitBytes != 100 || stats.CapacityUsedBytes < 100 {
		t.Errorf("got %v, %v", stats, err)
	}
}

// TestUnreadableRow: a row of a newer version is answered as such, and stays as it is.
func TestUnreadableRow(t *testing.T) {
	s := &memstore.Store{}
	fence := store.Fence{Epoch: 1, Seq: 1, Tag: store.Tag{1}}
	cell := store.Cell{Family: store.Actions, Qualifier: action.Qualifier(1), Value: append([]byte{200}, "of a later program"...)}
	if err := s.Put(t.Context(), "new", store.Fence{}, fence, []store.Cell{cell}); err != nil {
		t.Fatal(err)
	}
	c := serve(t, Config{Mailboxes: mailbox.Config{Store: s}})
	_, err := c.Send(as(t, "new"), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users("ann"), Body: "x"})
	wantCode(t, "a message from a newer mailbox", err, codes.DataLoss)
	_, err = c.ListThreads(as(t, "new"), &messagesv1.ListThreadsRequest{})
	wantCode(t, "a read of a newer mailbox", err, codes.DataLoss)
	row, err := s.Read(t.Context(), "new", store.Span{Family: store.Actions})
	if err != nil || len(row.Cells) != 1 || string(row.Cells[0].Value) != string(cell.Value) || row.Fence.Seq != 1 {
		t.Errorf("got %v, %v, want the row as it was", row, err)
	}
	begin(t, c, "ann", "1", "nobody else is hurt", "bob")
}

// TestWatchResumes: a stream that is taken up after a sequence shows all that follows
// once and in order; one from beyond the log's end is refused.
func TestWatchResumes(t *testing.T) {
	c := serve(t, Config{})
	sent := begin(t, c, "ann", "0", "0", "ann")
	for i := 1; i < 5; i++ {
		if _, err := c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint(i), ThreadId: sent.ThreadId, Body: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(after uint64, n int) (bodies []string) {
		t.Helper()
		ctx, cancel := context.WithCancel(as(t, "ann"))
		defer cancel()
		stream, err := c.Watch(ctx, &messagesv1.WatchRequest{After: &after})
		if err != nil {
			t.Fatal(err)
		}
		for len(bodies) < n {
			e, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if e.GetStarted() != nil && e.Sequence != after {
				t.Errorf("the stream begins after %d, want %d", e.Sequence, after)
			}
			if m := e.GetMessage(); m != nil {
				bodies = append(bodies, m.Body)
			}
		}
		return bodies
	}
	for after, want := range map[uint64]string{0: "[0 1 2 3 4]", 2: "[1 2 3 4]", 5: "[4]"} {
		if got := read(after, map[uint64]int{0: 5, 2: 4, 5: 1}[after]); fmt.Sprint(got) != want {
			t.Errorf("after %d: got %v, want %s", after, got, want)
		}
	}
	beyond := uint64(7)
	stream, err := c.Watch(as(t, "ann"), &messagesv1.WatchRequest{After: &beyond})
	if err == nil {
		_, err = stream.Recv()
	}
	wantCode(t, "beyond the log's end", err, codes.InvalidArgument)
}
