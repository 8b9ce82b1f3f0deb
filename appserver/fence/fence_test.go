package fence_test

import (
	"context"
	"errors"
	"testing"

	"darklaunch/appserver/fence"
	"darklaunch/appserver/store"
)

var (
	old   = store.Fence{Epoch: 3, Seq: 7, Tag: store.Tag{1}, Ring: store.Ring{Incarnation: 1, Number: 4}}
	newer = store.Ring{Incarnation: 1, Number: 5}
)

// owning returns an owner of a row at epoch 4, seq 7.
func owning(t *testing.T) *fence.Owner {
	t.Helper()
	o := &fence.Owner{}
	w, err := o.Claim(old, newer, store.Tag{2})
	if err != nil {
		t.Fatal(err)
	}
	want := fence.Write{Cur: old, Next: store.Fence{Epoch: 4, Seq: 7, Tag: store.Tag{2}, Ring: newer}}
	if w != want {
		t.Fatalf("claim: got %v, want %v", w, want)
	}
	if got := o.Answer(nil); got != fence.Won || o.State() != fence.Owning || o.Held() != want.Next {
		t.Fatalf("after the claim: got %v, %v, %v", got, o.State(), o.Held())
	}
	return o
}

func TestWrites(t *testing.T) {
	tests := []struct {
		name  string
		begin func(*fence.Owner) fence.Write
		next  store.Fence
		state fence.State // once it is written
	}{
		{"commit", func(o *fence.Owner) fence.Write { return o.Commit(3, store.Tag{9}) },
			store.Fence{Epoch: 4, Seq: 10, Tag: store.Tag{9}, Ring: newer}, fence.Owning},
		{"flush", func(o *fence.Owner) fence.Write { return o.Commit(0, store.Tag{9}) },
			store.Fence{Epoch: 4, Seq: 7, Tag: store.Tag{9}, Ring: newer}, fence.Owning},
		{"hand over", func(o *fence.Owner) fence.Write { return o.HandOver(store.Ring{Incarnation: 2}, store.Tag{9}) },
			store.Fence{Epoch: 4, Seq: 7, Tag: store.Tag{9}, Ring: store.Ring{Incarnation: 2}}, fence.Out},
		{"hand over by an older view", func(o *fence.Owner) fence.Write { return o.HandOver(store.Ring{}, store.Tag{9}) },
			store.Fence{Epoch: 4, Seq: 7, Tag: store.Tag{9}, Ring: newer}, fence.Out},
		{"seal", func(o *fence.Owner) fence.Write { return o.Seal(store.Tag{9}) },
			store.Fence{Epoch: 5, Seq: 7, Tag: store.Tag{9}, Ring: newer, Flags: store.Sealed.WithGeneration(1)}, fence.Out},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := owning(t)
			want := fence.Write{Cur: o.Held(), Next: tt.next}
			if got := tt.begin(o); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
			if got := o.Answer(nil); got != fence.Won || o.State() != tt.state {
				t.Errorf("once written: got %v, %v, want won, %v", got, o.State(), tt.state)
			}
		})
	}
}

// TestEnds goes through the ends that a commit can have.
func TestEnds(t *testing.T) {
	theirs := store.Fence{Epoch: 5, Seq: 7, Tag: store.Tag{8}}
	behind := store.Fence{Epoch: 3, Seq: 7, Tag: store.Tag{1}}
	shorter := store.Fence{Epoch: 4, Seq: 6, Tag: store.Tag{7}}
	gone := errors.New("connection gone")
	cur := store.Fence{Epoch: 4, Seq: 7, Tag: store.Tag{2}, Ring: newer}
	next := store.Fence{Epoch: 4, Seq: 8, Tag: store.Tag{3}, Ring: newer}
	tests := []struct {
		name  string
		ends  []any // what is told: an error for Answer, a fence for Saw
		want  []fence.Step
		state fence.State
	}{
		{"written", []any{nil}, []fence.Step{fence.Won}, fence.Owning},
		{"fenced", []any{store.ErrFenced}, []fence.Step{fence.Fenced}, fence.Out},
		{"refused", []any{store.ErrRefused}, []fence.Step{fence.NotWritten}, fence.Owning},
		{"invalid", []any{store.ErrInvalid}, []fence.Step{fence.NotWritten}, fence.Owning},
		{"unknown, written", []any{gone, next}, []fence.Step{fence.ReadBack, fence.Won}, fence.Owning},
		{"deadline, not yet", []any{context.DeadlineExceeded, cur}, []fence.Step{fence.ReadBack, fence.Again}, fence.Writing},
		{"unknown, theirs", []any{gone, theirs}, []fence.Step{fence.ReadBack, fence.Lost}, fence.Out},
		{"unknown, an older read", []any{gone, behind}, []fence.Step{fence.ReadBack, fence.Again}, fence.Writing},
		{"unknown, a shorter log", []any{gone, shorter}, []fence.Step{fence.ReadBack, fence.Again}, fence.Writing},
		{"unknown, no row", []any{gone, store.Fence{}}, []fence.Step{fence.ReadBack, fence.Again}, fence.Writing},
		{"again, written", []any{gone, cur, nil}, []fence.Step{fence.ReadBack, fence.Again, fence.Won}, fence.Owning},
		// The second copy says that nothing was written by it; the first may have been.
		{"again, fenced by the first copy", []any{gone, cur, store.ErrFenced, next},
			[]fence.Step{fence.ReadBack, fence.Again, fence.ReadBack, fence.Won}, fence.Owning},
		{"again, refused", []any{gone, cur, store.ErrRefused, cur},
			[]fence.Step{fence.ReadBack, fence.Again, fence.ReadBack, fence.Again}, fence.Writing},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := owning(t)
			if w := o.Commit(1, store.Tag{3}); w != (fence.Write{Cur: cur, Next: next}) {
				t.Fatalf("commit: got %v", w)
			}
			for i, end := range tt.ends {
				var got fence.Step
				if f, ok := end.(store.Fence); ok {
					got = o.Saw(f)
				} else {
					err, _ := end.(error)
					got = o.Answer(err)
				}
				if got != tt.want[i] {
					t.Errorf("step %d: got %v, want %v", i, got, tt.want[i])
				}
			}
			if o.State() != tt.state {
				t.Errorf("got %v, want %v", o.State(), tt.state)
			}
			if tt.state == fence.Owning && tt.want[len(tt.want)-1] == fence.NotWritten && o.Held() != cur {
				t.Errorf("holds %v, want %v", o.Held(), cur)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	sealed := old
	sealed.Flags = store.Sealed
	tests := []struct {
		name string
		seen store.Fence
		view store.Ring
		want error
	}{
		{"absent row", store.Fence{}, newer, nil},
		{"same view", old, old.Ring, nil},
		{"older view", old, store.Ring{Incarnation: 1, Number: 3}, fence.ErrNewerRing},
		{"rebuilt ensemble", old, store.Ring{Incarnation: 2, Number: 1}, nil},
		{"sealed", sealed, newer, fence.ErrSealed},
		{"sealed, older view", sealed, store.Ring{}, fence.ErrSealed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var o fence.Owner
			_, err := o.Claim(tt.seen, tt.view, store.Tag{9})
			if err != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			want := fence.Claiming
			if tt.want != nil {
				want = fence.Out
			}
			if o.State() != want {
				t.Errorf("got %v, want %v", o.State(), want)
			}
		})
	}
	var o fence.Owner
	if w, err := o.Force(old, store.Ring{}, store.Tag{9}); err != nil || w.Next.Ring != (store.Ring{}) {
		t.Errorf("forced: got %v, %v", w, err)
	}
	if got := o.Answer(store.ErrRefused); got != fence.NotWritten || o.State() != fence.Out {
		t.Errorf("claim refused: got %v, %v, want not written, out", got, o.State())
	}
}

// TestArrive: a row is taken for a user who comes as a generation, and opened; who comes
// late, or to a row that is in use, takes nothing.
func TestArrive(t *testing.T) {
	const arriving = store.Sealed | store.Arriving
	at := func(generation uint64, flags store.Flags) store.Fence {
		return store.Fence{Epoch: 3, Seq: 7, Tag: store.Tag{1}, Flags: flags.WithGeneration(generation)}
	}
	for _, tt := range []struct {
		name string
		seen store.Fence
		want error
	}{
		{"absent", store.Fence{}, nil},
		{"left before", at(4, store.Sealed), nil},
		{"left as that generation", at(5, store.Sealed), fence.ErrOpen},
		{"left later", at(6, store.Sealed), fence.ErrOpen},
		{"given up", at(5, arriving), nil},
		{"an older one given up", at(2, arriving), nil},
		{"a newer one under way", at(6, arriving), fence.ErrOpen},
		{"in use", at(0, 0), fence.ErrOpen},
		{"arrived", at(5, 0), fence.ErrOpen},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var o fence.Owner
			w, err := o.Arrive(tt.seen, 5, store.Tag{9})
			if err != tt.want {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			if want := (store.Fence{Epoch: tt.seen.Epoch + 1, Seq: tt.seen.Seq, Tag: store.Tag{9}, Flags: arriving.WithGeneration(5)}); w.Next != want {
				t.Errorf("arrive: got %v, want %v", w.Next, want)
			}
			o.Answer(nil)
			if w := o.Commit(0, store.Tag{10}); w.Next.Flags&store.Sealed == 0 {
				t.Errorf("a commit opens the row: %v", w.Next)
			}
			o.Answer(nil)
			w = o.Open(12, store.Tag{11})
			if want := (store.Fence{Epoch: tt.seen.Epoch + 2, Seq: 12, Tag: store.Tag{11}, Flags: store.Flags(0).WithGeneration(5)}); w.Next != want {
				t.Errorf("open: got %v, want %v", w.Next, want)
			}
			if step := o.Answer(nil); step != fence.Won || o.State() != fence.Out {
				t.Errorf("opened: got %v, %v", step, o.State())
			}
		})
	}
}

func TestLoaded(t *testing.T) {
	o := owning(t)
	if !o.Loaded(o.Held()) || o.State() != fence.Owning {
		t.Error("a page of the row as claimed is not taken")
	}
	if o.Loaded(old) || o.State() != fence.Out {
		t.Error("a page of an older row is taken")
	}
}

// TestMisuse asks for what the state does not allow, which is a bug of the caller.
func TestMisuse(t *testing.T) {
	for name, misuse := range map[string]func(o *fence.Owner){
		"commit without the row":  func(o *fence.Owner) { o.Drop(); o.Commit(1, store.Tag{9}) },
		"answer to nothing":       func(o *fence.Owner) { o.Answer(nil) },
		"fence read for nothing":  func(o *fence.Owner) { o.Saw(old) },
		"two puts":                func(o *fence.Owner) { o.Commit(1, store.Tag{8}); o.Commit(1, store.Tag{9}) },
		"claim of what is owned":  func(o *fence.Owner) { _, _ = o.Claim(old, newer, store.Tag{9}) },
		"page while a put is out": func(o *fence.Owner) { o.Seal(store.Tag{9}); o.Loaded(old) },
	} {
		t.Run(name, func(t *testing.T) {
			o := owning(t)
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			misuse(o)
		})
	}
}
