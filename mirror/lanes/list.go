package lanes

// list is a doubly linked list whose elements are part of what they hold, so
// that joining and leaving cost no allocation. The zero list is empty.
type list[T any] struct {
	head, tail *element[T]
	len        int
}

type element[T any] struct {
	prev, next *element[T]
	value      T
}

func (l *list[T]) push(e *element[T], value T) {
	e.value, e.prev, e.next = value, l.tail, nil
	if l.tail == nil {
		l.head = e
	} else {
		l.tail.next = e
	}
	l.tail = e
	l.len++
}

func (l *list[T]) remove(e *element[T]) {
	if e.prev == nil {
		l.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
	l.len--
}
