package transport

// list is a queue that any member can leave. A member is in one list at a time.
type list[T any, P member[T]] struct{ head, tail P }

type member[T any] interface {
	*T
	place() *links[T]
}

// links are a member's own part of the list it is in.
type links[T any] struct {
	prev, next *T
	in         bool
}

func (c *Call) place() *links[Call] { return &c.links }
func (k *conn) place() *links[conn] { return &k.links }

func (l *list[T, P]) push(x P) {
	at := x.place()
	*at = links[T]{prev: l.tail, in: true}
	if l.tail != nil {
		l.tail.place().next = x
	} else {
		l.head = x
	}
	l.tail = x
}

func (l *list[T, P]) remove(x P) {
	at := x.place()
	if at.prev != nil {
		P(at.prev).place().next = at.next
	} else {
		l.head = at.next
	}
	if at.next != nil {
		P(at.next).place().prev = at.prev
	} else {
		l.tail = at.prev
	}
	*at = links[T]{}
}

// pop returns the first member, or nil.
func (l *list[T, P]) pop() P {
	x := l.head
	if x != nil {
		l.remove(x)
	}
	return x
}
