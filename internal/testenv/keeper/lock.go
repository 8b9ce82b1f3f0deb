package keeper

import (
	"fmt"
	"maps"
	"slices"
	"sync"
)

// A lock is held by many or by one, and knows by whom. Waiting for it alone
// keeps others from joining those who hold it, or it would never come free.
type lock struct {
	mu      sync.Mutex
	changed *sync.Cond
	many    map[string]int // holds by holder
	one     string         // "" when nobody holds it alone
	waiting int            // those who wait to hold it alone
}

func newLock() *lock {
	l := &lock{many: map[string]int{}}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// acquire waits until holder may hold the lock, and calls wait with the holders
// if it must. A holder who would wait for itself gets an error.
func (l *lock) acquire(holder string, alone bool, wait func(holders []string)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.one == holder || alone && l.many[holder] > 0 {
		return fmt.Errorf("%s holds it already, and would wait for itself", holder)
	}
	if alone {
		l.waiting++
		defer func() { l.waiting-- }()
	}
	for said := false; !l.free(holder, alone); l.changed.Wait() {
		if !said {
			said = true
			wait(l.holders())
		}
	}
	if alone {
		l.one = holder
	} else {
		l.many[holder]++
	}
	return nil
}

func (l *lock) free(holder string, alone bool) bool {
	switch {
	case l.one != "":
		return false
	case alone:
		return len(l.many) == 0
	default:
		// Who holds it already goes before those who wait to hold it alone:
		// they wait for him.
		return l.waiting == 0 || l.many[holder] > 0
	}
}

// keep keeps for the keeper itself what holder held alone.
func (l *lock) keep(itself string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.one = itself
}

func (l *lock) release(holder string, alone bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if alone {
		l.one = ""
	} else if l.many[holder]--; l.many[holder] == 0 {
		delete(l.many, holder)
	}
	l.changed.Broadcast()
}

func (l *lock) holders() []string {
	if l.one != "" {
		return []string{l.one}
	}
	return slices.Sorted(maps.Keys(l.many))
}
