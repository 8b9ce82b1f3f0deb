package appserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/client"
	"darklaunch/appserver/directory"
	"darklaunch/appserver/store"
	"darklaunch/internal/pause"
)

// openIn returns the cells in which a user's row is open.
func (w *world) openIn(user string) (open []string) {
	w.t.Helper()
	for name, c := range w.cells {
		row, err := c.store.Read(w.t.Context(), user)
		if err != nil {
			w.t.Fatal(err)
		}
		if row.Fence != (store.Fence{}) && row.Fence.Flags&store.Sealed == 0 {
			open = append(open, name)
		}
	}
	return open
}

func (w *world) move(ctx context.Context, user, from, to string, generation uint64) (*messagesv1.MoveResponse, error) {
	return messagesv1.NewTransferClient(w.cells[to].servers[0].raw).Move(client.As(ctx, user), &messagesv1.MoveRequest{From: from, Generation: generation})
}

// TestMove: a user is moved with all there is, what the outbox owes among it, and back
// again; who comes to the old cell is sent on, and told nothing wrong.
func TestMove(t *testing.T) {
	w := newWorld(t, map[string]int{"a": 2, "b": 1})
	a, b := w.cells["a"].servers[0], w.cells["b"].servers[0]
	user, friend := w.in("a", 1)[0], w.in("b", 1)[0]
	// Nothing is delivered to the friend until the user has moved.
	if err := b.proxy.SetDoor(1); err != nil {
		t.Fatal(err)
	}
	var sent *messagesv1.SendResponse
	for i := range 50 {
		var err error
		if sent, err = a.conn.Send(w.as(user), to(note(fmt.Sprint(i), fmt.Sprint("body ", i)), friend)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.proxy.SetDoor(0); err != nil {
		t.Fatal(err)
	}
	moved, err := w.move(t.Context(), user, "a", "b", 1)
	if err != nil {
		t.Fatal(err)
	}
	if open := w.openIn(user); fmt.Sprint(open) != "[b]" {
		t.Fatalf("the row is open in %v, want b", open)
	}
	t.Logf("%d actions moved, closed for %v", moved.Actions, time.Duration(moved.ClosedNanos))
	again, err := w.move(t.Context(), user, "a", "b", 1)
	if err != nil {
		t.Errorf("the same again: got %v, %v", again, err)
	}
	_, err = w.move(t.Context(), user, "a", "b", 2)
	wantCode(t, "from where the user is not", err, codes.FailedPrecondition)

	// By a server of the old cell that knows nothing of it: the row tells it.
	list, err := a.conn.ListThreads(w.as(user), &messagesv1.ListThreadsRequest{PageSize: 100})
	if err != nil || len(list.Threads) != 50 {
		t.Fatalf("after the move: got %d threads, %v, want 50", len(list.GetThreads()), err)
	}
	found, err := a.conn.Search(w.as(user), &messagesv1.SearchRequest{Query: "body"})
	if err != nil || len(found.Hits) != 20 {
		t.Errorf("search: got %d hits, %v, want a page", len(found.GetHits()), err)
	}
	same, err := a.conn.Send(w.as(user), to(note("49", "body 49"), friend))
	if err != nil || same.MessageId != sent.MessageId || same.Version != sent.Version {
		t.Errorf("the same key in the new cell: got %v, %v, want %v", same, err, sent)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		got, err := b.conn.MailboxStats(w.as(friend), &messagesv1.MailboxStatsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Messages == 50 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the friend has %d messages after a minute, want 50", got.Messages)
		}
	}
	// And back, with what came meanwhile.
	if _, err := b.conn.Send(w.as(user), to(note("b", "in b"), user)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.move(t.Context(), user, "b", "a", 2); err != nil {
		t.Fatal(err)
	}
	stats, err := b.conn.MailboxStats(w.as(user), &messagesv1.MailboxStatsRequest{})
	if err != nil || stats.Messages != 51 {
		t.Errorf("back in a: got %v, %v, want 51 messages", stats, err)
	}
	if open := w.openIn(user); fmt.Sprint(open) != "[a]" {
		t.Errorf("the row is open in %v, want a", open)
	}
	_, err = w.move(t.Context(), user, "a", "b", 1)
	wantCode(t, "a move that comes late", err, codes.FailedPrecondition)
	if d, ok := status.Convert(err).Details(), true; len(d) > 0 {
		_, ok = d[0].(*messagesv1.WrongCell)
		if !ok {
			t.Errorf("details: got %v", d)
		}
	}
	// Somebody who never wrote anything can be moved too.
	quiet := w.in("a", 2)[1]
	if _, err := w.move(t.Context(), quiet, "a", "b", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := a.conn.Send(w.as(quiet), to(note("1", "hello"), quiet)); err != nil {
		t.Error(err)
	}
	if open := w.openIn(quiet); fmt.Sprint(open) != "[b]" {
		t.Errorf("the row of who had none is open in %v, want b", open)
	}
	users, err := messagesv1.NewTransferClient(a.raw).Users(t.Context(), &messagesv1.UsersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for {
		u, err := users.Recv()
		if err != nil {
			break
		}
		got[u.GetUser()] = u.GetGone()
	}
	if want := map[string]string{user: "", quiet: "b"}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("users of a: got %v, want %v", got, want)
	}
}

// TestMoves: users who write all the time are moved to and fro by movers who die after
// each of the steps, two at a time. Nothing that was acknowledged is lost or there twice,
// a user's generation never falls, one row is open at a time, and writes that go to where
// the user was are refused. Rows D1, D2 of the invariants.
func TestMoves(t *testing.T) {
	w := newWorld(t, map[string]int{"a": 1, "b": 1, "c": 1})
	cells := []string{"a", "b", "c"}
	users, moves := 4, 12
	if !testing.Short() {
		users, moves = 6, 120
	}
	var died [steps]atomic.Int64
	errDied := errors.New("planted")
	for _, c := range w.cells {
		c.servers[0].server.moving = func(s step) error {
			if rand.IntN(6) == 0 {
				died[s].Add(1)
				return errDied
			}
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	var refused, acked atomic.Int64
	for i := range users {
		user := w.in(cells[i%3], users)[i/3]
		var over atomic.Bool
		var moving, writing sync.WaitGroup
		for m := range 2 {
			moving.Go(func() {
				d := w.directory()
				last := uint64(0)
				for n := 0; n < moves && ctx.Err() == nil; n++ {
					p, err := d.Fresh(ctx, user)
					if err != nil {
						t.Errorf("look up: %v", err)
						return
					}
					if p.Generation < last {
						t.Errorf("%s: generation %d after %d", user, p.Generation, last)
					}
					last = p.Generation
					dest, generation := cells[(slices.Index(cells, p.Cell)+1+(n+m)%2)%3], p.Generation+1
					_, err = w.move(ctx, user, p.Cell, dest, generation)
					for _, detail := range status.Convert(err).Details() {
						// Another attempt has got further, to where this one then goes.
						if at, ok := detail.(*messagesv1.WrongCell); ok && at.GetDirectoryVersion() == generation && at.GetCell() != p.Cell {
							_, _ = w.move(ctx, user, p.Cell, at.GetCell(), generation)
						}
					}
				}
			})
		}
		var sent []string
		writing.Go(func() {
			for n := 0; !over.Load() && n < 90 && ctx.Err() == nil; n++ {
				body := fmt.Sprint(user, " ", n)
				for ctx.Err() == nil {
					s := w.cells[cells[rand.IntN(3)]].servers[0]
					one, stop := context.WithTimeout(client.As(ctx, user), 10*time.Second)
					_, err := messagesv1.NewMessagesClient(s.raw).Send(one, to(note(fmt.Sprint(n), body), user))
					stop()
					if err == nil {
						sent = append(sent, body)
						acked.Add(1)
						break
					}
					if c := status.Code(err); c != codes.Unavailable && c != codes.DeadlineExceeded {
						t.Errorf("%s: %v", user, err)
						return
					}
				}
			}
		})
		// A router whose caches are frozen goes on asking the cell where the user began.
		writing.Go(func() {
			s := w.cells[cells[i%3]].servers[0]
			for n := 0; !over.Load() && ctx.Err() == nil; n++ {
				marked, stop := context.WithTimeout(metadata.AppendToOutgoingContext(client.As(ctx, user), "x-forwarded-by", "frozen"), 5*time.Second)
				_, err := messagesv1.NewMessagesClient(s.raw).Send(marked, to(note(fmt.Sprint("frozen-", n), fmt.Sprint("frozen ", n)), user))
				stop()
				if status.Code(err) == codes.FailedPrecondition {
					refused.Add(1)
				}
				time.Sleep(2 * time.Millisecond) // so as not to fill the mailbox
			}
		})
		wg.Go(func() {
			moving.Wait()
			w.settled(ctx, user, cells) // else who writes would wait for ever
			over.Store(true)
			writing.Wait()
			var got []string
			for page := ""; ; {
				r := &messagesv1.SearchRequest{Query: user, PageSize: 100, PageToken: page}
				hits, err := w.cells["a"].servers[0].conn.Search(client.As(ctx, user), r)
				if err != nil {
					t.Errorf("search: %v", err)
					return
				}
				for _, h := range hits.Hits {
					thread, err := w.cells["b"].servers[0].conn.GetThread(client.As(ctx, user), &messagesv1.GetThreadRequest{ThreadId: h.ThreadId})
					if err != nil {
						t.Errorf("read: %v", err)
						return
					}
					got = append(got, thread.Messages[0].Body)
				}
				if page = hits.NextPageToken; page == "" {
					break
				}
			}
			slices.Sort(got)
			slices.Sort(sent)
			if !slices.Equal(got, sent) {
				t.Errorf("%s: has %d messages, was acknowledged %d", user, len(got), len(sent))
			}
		})
	}
	wg.Wait()
	var counts []int64
	for i := range died {
		counts = append(counts, died[i].Load())
		if died[i].Load() == 0 && !testing.Short() {
			t.Errorf("no mover died after step %d", i)
		}
	}
	if refused.Load() == 0 {
		t.Error("no write was refused")
	}
	t.Logf("movers died after the steps %v times; %d writes acknowledged, %d refused where the user was not", counts, acked.Load(), refused.Load())
}

// settled finishes the move that was given up last, and returns when the row is open
// where the directory says, and nowhere else.
func (w *world) settled(ctx context.Context, user string, cells []string) {
	d := w.directory()
	for ctx.Err() == nil {
		p, err := d.Fresh(ctx, user)
		if err != nil {
			w.t.Error(err)
			return
		}
		open := w.openIn(user)
		if len(open) > 1 {
			w.t.Errorf("%s: open in %v", user, open)
			return
		}
		if len(open) == 1 && open[0] == p.Cell {
			return
		}
		for _, c := range cells {
			if c != p.Cell {
				_, err := w.move(ctx, user, p.Cell, c, p.Generation+1)
				for _, detail := range status.Convert(err).Details() {
					if at, ok := detail.(*messagesv1.WrongCell); ok {
						_, _ = w.move(ctx, user, p.Cell, at.GetCell(), at.GetDirectoryVersion())
					}
				}
				break
			}
		}
	}
}

// TestMoverDies: whatever step of a move is its last, the user is served again without
// anybody running it once more, by whichever server is asked, and the directory comes to
// know where. A move that had not closed the old row has not happened.
func TestMoverDies(t *testing.T) {
	errDied := errors.New("planted")
	for last := range steps {
		t.Run(last.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, map[string]int{"a": 2, "b": 1})
			a, b := w.cells["a"].servers[0], w.cells["b"].servers[0]
			user := w.in("a", 1)[0]
			for i := range 3 {
				if _, err := a.conn.Send(w.as(user), to(note(fmt.Sprint(i), fmt.Sprint("body ", i)), user)); err != nil {
					t.Fatal(err)
				}
			}
			var died atomic.Bool
			b.server.moving = func(s step) error {
				if s == last && died.CompareAndSwap(false, true) {
					return errDied
				}
				return nil
			}
			if _, err := w.move(t.Context(), user, "a", "b", 1); err == nil || !died.Load() {
				t.Fatalf("got %v, want a mover that dies", err)
			}
			for i, s := range []*testServer{a, b, w.cells["a"].servers[1]} {
				for { // a server answers UNAVAILABLE while nobody serves the user
					_, err := s.conn.Send(w.as(user), to(note(fmt.Sprint("later-", i), "later"), user))
					if err == nil {
						break
					}
					if status.Code(err) != codes.Unavailable {
						t.Fatal(err)
					}
				}
			}
			want := directory.Place{Cell: "b", Generation: 1}
			if last < sealed {
				want = directory.Place{Cell: "a"}
			}
			d := w.directory()
			for at := (directory.Place{}); at != want; {
				var err error
				if at, err = d.Fresh(w.as(user), user); err != nil {
					t.Fatal(err)
				}
				_ = pause.For(w.as(user), time.Millisecond)
			}
			if open := w.openIn(user); fmt.Sprint(open) != fmt.Sprint([]string{want.Cell}) {
				t.Errorf("the row is open in %v, want %s", open, want.Cell)
			}
			stats, err := a.conn.MailboxStats(w.as(user), &messagesv1.MailboxStatsRequest{})
			if err != nil || stats.Messages != 6 {
				t.Errorf("got %v, %v, want 6 messages", stats, err)
			}
		})
	}
}
