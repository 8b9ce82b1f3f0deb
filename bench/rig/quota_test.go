package rig

import (
	"os/exec"
	"testing"
	"time"

	"darklaunch/bench/side"
)

// TestQuota: a process that never rests gets its share and no more, by whichever
// way this machine has, and by turns.
func TestQuota(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it takes seconds of a core")
	}
	const share = 0.2
	for name, limit := range map[string]func(pid int) func() error{
		"quota": func(pid int) func() error {
			how, undo := Quota(pid, share)
			t.Log(how)
			return undo
		},
		"turns": func(pid int) func() error { return turns(pid, time.Duration(share*float64(quotaPeriod))) },
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			undo := limit(cmd.Process.Pid)
			before, err := side.CPU(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			time.Sleep(2 * time.Second) // what is measured
			after, err := side.CPU(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			got := (after - before).Seconds() / time.Since(start).Seconds()
			if got > 2*share || got == 0 {
				t.Errorf("it ran for %.2f of a core, want some, and about %.2f at most", got, share)
			}
			if err := undo(); err != nil {
				t.Error(err)
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
	}
}
