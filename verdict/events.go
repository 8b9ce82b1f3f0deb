package verdict

import (
	"sync"
)

// events tells who listens of what is published. A listener who is slow misses what
// came between, and gets the latest.
type events struct {
	mu        sync.Mutex // guards the rest
	listeners map[*listener]bool
}

// listener is one who listens.
type listener struct {
	wake chan struct{} // of one

	mu     sync.Mutex // guards the rest
	latest map[string]*Published
}

// maxListeners bounds them.
const maxListeners = 64

// listen returns a new listener, nil if there are too many.
func (e *events) listen() *listener {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.listeners) >= maxListeners {
		return nil
	}
	if e.listeners == nil {
		e.listeners = map[*listener]bool{}
	}
	l := &listener{wake: make(chan struct{}, 1), latest: map[string]*Published{}}
	e.listeners[l] = true
	return l
}

func (e *events) leave(l *listener) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.listeners, l)
}

func (e *events) publish(p *Published) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for l := range e.listeners {
		l.put(p)
	}
}

func (l *listener) put(p *Published) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest[p.Name] = p
	select {
	case l.wake <- struct{}{}:
	default: // it is awake
	}
}

// take returns what is new, by comparison.
func (l *listener) take() map[string]*Published {
	l.mu.Lock()
	defer l.mu.Unlock()
	latest := l.latest
	l.latest = map[string]*Published{}
	return latest
}
