package store_test

import (
	"fmt"
	"strings"
	"testing"

	"darklaunch/appserver/store"
)

// TestRowKeys holds the keys that stored tables are built on.
func TestRowKeys(t *testing.T) {
	var lines strings.Builder
	for _, user := range []string{"a", "ann", "u1", "user-42", "ann@example.org", "\x00", "\x00\xff", strings.Repeat("x", store.MaxUser)} {
		key := store.RowKey(user)
		fmt.Fprintf(&lines, "%.40q %.20x\n", user, key)
		if got, ok := store.UserOf(key); !ok || got != user {
			t.Errorf("user of the key of %q: got %q, %v", user, got, ok)
		}
	}
	golden(t, "testdata/keys.txt", lines.String())
	for _, key := range []string{"", "ab", "abc"} {
		if user, ok := store.UserOf([]byte(key)); ok {
			t.Errorf("%q: got user %q, want none", key, user)
		}
	}
}

// TestSlices has every user in exactly one part, and parts of about equal size.
func TestSlices(t *testing.T) {
	const users = 20_000
	for _, total := range []int{1, 2, 7, 64} {
		count := make([]int, total)
		for u := range users {
			key := store.RowKey(fmt.Sprintf("user-%d", u))
			in := 0
			for i := range total {
				if store.Slice(i, total).Contains(key) {
					count[i]++
					in++
				}
			}
			if in != 1 {
				t.Fatalf("user-%d is in %d of %d parts, want one", u, in, total)
			}
		}
		for i, n := range count {
			if mean := users / total; n < mean*7/10 || n > mean*13/10 {
				t.Errorf("part %d of %d has %d users, want about %d", i, total, n, mean)
			}
		}
		if got := len(store.SplitKeys(total)); got != total-1 {
			t.Errorf("%d split keys for %d regions, want %d", got, total, total-1)
		}
	}
}

// TestAfter goes through all users one by one, as a job that starts again at each does.
func TestAfter(t *testing.T) {
	users := map[string]bool{"ann": true, "ann\x00": true, "ben": true, "\x00": true, "\xff\xff": true}
	left := store.Range{}
	for len(users) > 0 {
		next := ""
		for u := range users {
			if key := store.RowKey(u); !left.Contains(key) {
				t.Fatalf("%q is no longer in what is left", u)
			} else if next == "" || string(key) < string(store.RowKey(next)) {
				next = u
			}
		}
		left = left.After(next)
		if left.Contains(store.RowKey(next)) {
			t.Errorf("%q is in what is left after it", next)
		}
		delete(users, next)
	}
}
