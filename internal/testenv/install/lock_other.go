//go:build !linux

package install

import "errors"

func lock(string, func()) (func(), error) { return nil, errors.ErrUnsupported }
