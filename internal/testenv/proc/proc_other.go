//go:build !linux

package proc

import (
	"errors"
	"syscall"
)

const (
	sigStop = syscall.Signal(0)
	sigCont = syscall.Signal(0)
)

func attributes(syscall.Signal) (*syscall.SysProcAttr, error) { return nil, errors.ErrUnsupported }
func signalGroup(int, syscall.Signal) error                   { return errors.ErrUnsupported }
func groupMembers(int) ([]int, error)                         { return nil, nil }
func stopped(int) (bool, error)                               { return false, errors.ErrUnsupported }

func (p *Process) listens() error { return errors.ErrUnsupported }
