package mirror

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"darklaunch/internal/hist"
	"darklaunch/internal/pairstream"
)

// TestRig tells in each window what the mirror cost.
func TestRig(t *testing.T) {
	live, shadow := newService(t, nil), newService(t, nil)
	file := filepath.Join(t.TempDir(), "pairs")
	r := newRig(t, Config{Pairs: file}, live, shadow)
	for range 50 {
		r.get("ann", "/")
	}
	r.settled(50)
	r.stop()
	_, windows, _ := readPairs(t, file)
	overhead, late, cpu := hist.New(), hist.New(), int64(0)
	for _, w := range windows {
		if err := pairstream.Merge(overhead, w.Rig.RelayOverhead); err != nil {
			t.Fatal(err)
		}
		if err := pairstream.Merge(late, w.Rig.SendLateness); err != nil {
			t.Fatal(err)
		}
		cpu += w.Rig.Cpu
		if w.Rig.CpuQuota <= 0 {
			t.Errorf("got a quota of %d", w.Rig.CpuQuota)
		}
	}
	if overhead.Count() < 100 || late.Count() != 50 || cpu <= 0 {
		t.Errorf("got %d chunks relayed, %d copies sent, %d ns of CPU, want 100 at least, 50 and some", overhead.Count(), late.Count(), cpu)
	}
}

func TestCPUQuota(t *testing.T) {
	all := float64(runtime.NumCPU())
	for text, want := range map[string]float64{"max 100000\n": all, "50000 100000\n": 0.5, "x": all, "": all, "1 0": all} {
		file := filepath.Join(t.TempDir(), "cpu.max")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := cpuQuota(file); got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
	if got := cpuQuota("/nowhere"); got != all {
		t.Errorf("without a file: got %v", got)
	}
}
