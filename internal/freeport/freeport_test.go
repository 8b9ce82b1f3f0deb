package freeport

import (
	"fmt"
	"net"
	"testing"
)

func TestFind(t *testing.T) {
	found, err := Find(20)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range found {
		if seen[p] || p < firstPort || p >= firstPort+ports {
			t.Errorf("got port %d again, or outside of the range", p)
		}
		seen[p] = true
	}
	if len(seen) != 20 {
		t.Errorf("got %d ports, want 20", len(seen))
	}
	taken, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", found[0]))
	if err != nil {
		t.Skipf("another has taken port %d: %v", found[0], err)
	}
	taken.Close()
}
