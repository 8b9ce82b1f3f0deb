package loadgen

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

// machine is what must be equal for figures to be comparable with those of another
// run, by name.
func machine() map[string]string {
	facts := map[string]string{
		"cores": strconv.Itoa(runtime.NumCPU()), "os": runtime.GOOS + "/" + runtime.GOARCH, "gomaxprocs": os.Getenv("GOMAXPROCS"),
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(b), "model name")
		model, _, _ := strings.Cut(strings.TrimLeft(rest, "\t :"), "\n")
		facts["cpu"] = model
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		major, _, _ := strings.Cut(strings.TrimSpace(string(b)), ".")
		facts["kernel"] = major
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/cpu.max"); err == nil {
		facts["quota"] = strings.TrimSpace(string(b))
	}
	return facts
}
