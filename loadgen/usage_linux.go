package loadgen

import (
	"time"

	"golang.org/x/sys/unix"
)

// cost is what this process has used.
type cost struct {
	cpu time.Duration
	rss int64 // the most memory it ever had, in bytes
}

func usage() cost {
	var u unix.Rusage
	// It fails for a bad argument alone.
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return cost{time.Duration(u.Utime.Nano() + u.Stime.Nano()), u.Maxrss << 10}
}
