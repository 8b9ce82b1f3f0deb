//go:build linux

package nonblock

import (
	"bytes"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
	return fds[0], fds[1]
}

func TestReadWrite(t *testing.T) {
	a, b := pair(t)
	buf := make([]byte, 16)
	if n, err := Read(b, buf); n != 0 || err != unix.EAGAIN {
		t.Errorf("nothing to read: got %d and %v, want EAGAIN", n, err)
	}
	if n, err := Write(a, []byte("hello")); n != 5 || err != nil {
		t.Fatalf("got %d and %v, want 5 written", n, err)
	}
	if n, err := Read(b, buf); err != nil || !bytes.Equal(buf[:n], []byte("hello")) {
		t.Errorf("got %q and %v, want what was written", buf[:n], err)
	}
	block := make([]byte, 64<<10)
	var err error
	for range 1000 {
		if _, err = Write(a, block); err != nil {
			break
		}
	}
	if err != unix.EAGAIN {
		t.Errorf("full: got %v, want EAGAIN", err)
	}
	unix.Shutdown(b, unix.SHUT_WR)
	if n, err := Read(a, buf); n != 0 || err != nil {
		t.Errorf("at the end: got %d and %v, want neither", n, err)
	}
}

func TestEpollWait(t *testing.T) {
	a, b := pair(t)
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ep)
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, b, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(b)}); err != nil {
		t.Fatal(err)
	}
	events := make([]unix.EpollEvent, 4)
	for _, ms := range []int{0, 1} {
		if n, err := EpollWait(ep, events, ms); n != 0 || err != nil {
			t.Errorf("nothing for %d ms: got %d events and %v", ms, n, err)
		}
	}
	go func() {
		time.Sleep(time.Millisecond) // so that it may block; it need not
		Write(a, []byte("x"))
	}()
	if n, err := EpollWait(ep, events, -1); n != 1 || err != nil || events[0].Fd != int32(b) {
		t.Errorf("got %d events and %v, want one of descriptor %d", n, err, b)
	}
	if n, err := EpollWait(ep, events, 0); n != 1 || err != nil {
		t.Errorf("at once: got %d events and %v, want one", n, err)
	}
	if _, err := EpollWait(-1, events, 1); err != unix.EBADF {
		t.Errorf("no epoll: got %v, want EBADF", err)
	}
}
