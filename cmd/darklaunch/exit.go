package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"darklaunch/internal/ops"
)

// The exit codes. A crash never ends as exitDone, exitFail or exitInconclusive.
const (
	exitDone         = 0
	exitCouldNotRun  = 1
	exitUsage        = 2
	exitFail         = 10
	exitInconclusive = 11
)

// A codedError ends the program with a code of its own.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// usageErrorf is the error of a command line or a file that is wrong.
func usageErrorf(format string, args ...any) error {
	return &codedError{exitUsage, fmt.Errorf(format, args...)}
}

// exitCode is the code that a command's error ends with.
func exitCode(err error) int {
	if coded, ok := errors.AsType[*codedError](err); ok {
		return coded.code
	}
	return exitCouldNotRun
}

// oneLine is err for people: a line, with no stack trace in it. The stack of
// a panic goes to a file that the line names.
func oneLine(err error) string {
	line := strings.Join(strings.Fields(err.Error()), " ")
	if p, ok := errors.AsType[*ops.PanicError](err); ok {
		return line + " (" + keepStack(p) + ")"
	}
	return line
}

func keepStack(p *ops.PanicError) string {
	f, err := os.CreateTemp("", "darklaunch-crash-*.txt")
	if err != nil {
		return "its stack could not be kept: " + err.Error()
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%s\n\n%s", p.Error(), p.Stack); err != nil {
		return "its stack could not be kept: " + err.Error()
	}
	return "its stack is in " + f.Name()
}
