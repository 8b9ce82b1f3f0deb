package main

import (
	"errors"
	"io"
	"testing"
)

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"run"}, {"run", "--"}, {"run", "go", "test"}, {"setup", "x"}, {"hbase"}, {"hbase", "ls"}, {"help"}} {
		if code, err := run(args, io.Discard); code != 2 || !errors.Is(err, errUsage) {
			t.Errorf("%q: code %d, %v; want 2 and the usage", args, code, err)
		}
	}
}
