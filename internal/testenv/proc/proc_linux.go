package proc

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"
)

const (
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

func attributes(death syscall.Signal) (*syscall.SysProcAttr, error) {
	// A group of its own, but not a session: when the parent dies, the kernel
	// continues the stopped members of the orphaned group, so that they see
	// the death signal.
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: cmp.Or(death, syscall.SIGKILL)}, nil
}

func signalGroup(pgid int, sig syscall.Signal) error { return syscall.Kill(-pgid, sig) }

// groupMembers lists the living; a zombie holds nothing but its number.
func groupMembers(pgid int) ([]int, error) {
	all, err := stats()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, s := range all {
		if s.PGRP == pgid && s.State != "Z" && s.State != "X" {
			pids = append(pids, s.PID)
		}
	}
	return pids, nil
}

func stopped(pid int) (bool, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return false, err
	}
	s, err := p.Stat()
	return s.State == "T", err
}

func stats() ([]procfs.ProcStat, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	var stats []procfs.ProcStat
	for _, p := range all {
		if s, err := p.Stat(); err == nil { // else it ended since it was listed
			stats = append(stats, s)
		}
	}
	return stats, nil
}

// Info describes a process that someone else started.
type Info struct {
	PID     int
	Zombie  bool
	Command string
}

func (i Info) String() string { return fmt.Sprintf("process %d (%s)", i.PID, i.Command) }

// Descendants lists the processes that have pid among their ancestors, parents
// before children.
func Descendants(pid int) ([]Info, error) {
	all, err := stats()
	if err != nil {
		return nil, err
	}
	family := []int{pid}
	var infos []Info
	for i := 0; i < len(family); i++ {
		for _, s := range all {
			if s.PPID == family[i] {
				family = append(family, s.PID)
				infos = append(infos, Info{PID: s.PID, Zombie: s.State == "Z", Command: command(s)})
			}
		}
	}
	return infos, nil
}

func command(s procfs.ProcStat) string {
	p, err := procfs.NewProc(s.PID)
	if err == nil {
		if line, err := p.CmdLine(); err == nil && len(line) > 0 {
			text := strings.Join(line, " ")
			return text[:min(len(text), 160)]
		}
	}
	return s.Comm
}

// Listening lists the TCP addresses that the processes listen on, sorted.
// Processes that have ended, and those of other users, listen on nothing.
func Listening(pids ...int) ([]string, error) {
	sockets := map[string]string{}
	//lint:ignore SA1019 netlink, to which it points, is a protocol where this is a file
	v4, err := procfs.FS.NetTCP(procRoot())
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 netlink, to which it points, is a protocol where this is a file
	v6, err := procfs.FS.NetTCP6(procRoot())
	if err != nil {
		v6 = nil // a kernel without IPv6
	}
	const listen = 0x0a
	for _, s := range slices.Concat(v4, v6) {
		if s.St == listen {
			inode := "socket:[" + strconv.FormatUint(s.Inode, 10) + "]"
			sockets[inode] = fmt.Sprintf("%v:%d", s.LocalAddr, s.LocalPort)
		}
	}
	var addrs []string
	for _, pid := range pids {
		p, err := procfs.NewProc(pid)
		if err != nil {
			continue
		}
		targets, err := p.FileDescriptorTargets()
		if err != nil {
			continue
		}
		for _, t := range targets {
			if addr, ok := sockets[t]; ok {
				addrs = append(addrs, addr)
			}
		}
	}
	slices.Sort(addrs)
	return slices.Compact(addrs), nil
}

func procRoot() procfs.FS {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		panic(err) // no /proc: nothing here could have worked
	}
	return fs
}

// listens reports whether the process's group listens on all its ports.
func (p *Process) listens() error {
	if len(p.spec.Ports) == 0 {
		return nil
	}
	members, err := groupMembers(p.Pid())
	if err != nil {
		return err
	}
	addrs, err := Listening(members...)
	if err != nil {
		return err
	}
	for _, port := range p.spec.Ports {
		suffix := ":" + strconv.Itoa(port)
		if !slices.ContainsFunc(addrs, func(a string) bool { return strings.HasSuffix(a, suffix) }) {
			return fmt.Errorf("%s does not listen on port %d yet", p.spec.Name, port)
		}
	}
	return nil
}
