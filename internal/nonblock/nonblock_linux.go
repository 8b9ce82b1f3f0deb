// Package nonblock makes system calls that return at once without telling the
// Go scheduler of them. It costs them less, and above all it lets nobody take
// the P of a loop whose thread the system preempts on its way out of a call: a
// loop that has lost its P has to wake threads to get one back.
//
// A call that blocked would stop the whole program: these ask for none that do.
package nonblock

import (
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read receives from a socket into p, which must not be empty. EINTR is retried.
// An error is a unix.Errno, and n is 0 then.
func Read(fd int, p []byte) (n int, err error) { return call(unix.SYS_RECVFROM, fd, p) }

// Write sends p, which must not be empty, on a socket. EINTR is retried. An error
// is a unix.Errno, and n is 0 then.
func Write(fd int, p []byte) (n int, err error) { return call(unix.SYS_SENDTO, fd, p) }

// call is recv or send: read and write take a longer way through the kernel.
func call(trap uintptr, fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// EpollWait waits for events for at most ms milliseconds, or without end where
// ms is negative. Only if there are none yet does it block, which the scheduler
// is told of. EINTR is no event.
func EpollWait(fd int, events []unix.EpollEvent, ms int) (n int, err error) {
	ready, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if errno == 0 && ready > 0 || ms == 0 {
		return int(ready), nil
	}
	n, err = unix.EpollWait(fd, events, ms)
	if err == unix.EINTR {
		return 0, nil
	}
	return max(n, 0), err
}

// Yielder lets a loop that hardly ever blocks keep its P. A goroutine that has
// held one for 10 ms is preempted by a signal, or loses the P where it is in a
// system call; and as long as that goes on the runtime looks for such goroutines
// every 20 µs, on a thread that costs more than a few loops do at a low rate.
type Yielder struct{ last time.Time }

// yieldEvery is below the 10 ms. Yielding has another thread woken, which finds
// nothing to do.
const yieldEvery = 9 * time.Millisecond

// Yield yields if it is time to. A loop calls it once a turn.
func (y *Yielder) Yield(now time.Time) {
	if now.Sub(y.last) >= yieldEvery {
		y.last = now
		runtime.Gosched()
	}
}
