//go:build !linux

package family

import (
	"errors"
	"io"
	"syscall"
	"time"
)

func ownGroup() (*syscall.SysProcAttr, error) { return nil, errors.ErrUnsupported }

func usageBelow(int) (Usage, error) { return Usage{}, errors.ErrUnsupported }

func supervise(string, syscall.Signal, time.Duration, io.Reader) (int, error) {
	return 0, errors.ErrUnsupported
}
