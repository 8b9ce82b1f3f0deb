//go:build !linux

package loadgen

import "time"

// cost is what this process has used; here it is not known.
type cost struct {
	cpu time.Duration
	rss int64
}

func usage() cost { return cost{} }
