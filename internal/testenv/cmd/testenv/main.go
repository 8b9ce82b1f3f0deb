// Testenv runs tests against real servers, and installs those servers.
//
//	testenv setup
//	testenv run -- go test ./...
//
// Setup installs what is missing where it may; what it may not, it names.
//
// Run starts slow servers once for all the packages that the command tests,
// at the first request, and at the end demands that nothing is left: no
// process, no file in the temporary directory, no listening port. What is left
// is named and removed, and makes the exit code 1; else it is the command's.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"

	"darklaunch/internal/testenv/hbase"
	"darklaunch/internal/testenv/install"
	"darklaunch/internal/testenv/runner"
)

var errUsage = errors.New("usage: testenv setup, or testenv run -- COMMAND [ARGUMENT ...]")

func main() {
	code, err := run(os.Args[1:], os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
	}
	os.Exit(code)
}

func run(args []string, out io.Writer) (code int, err error) {
	switch {
	case len(args) == 1 && args[0] == "setup":
		return setup(out)
	case len(args) >= 3 && args[0] == "run" && args[1] == "--":
		return runTests(args[2:], out)
	default:
		return 2, errUsage
	}
}

func runTests(command []string, out io.Writer) (int, error) {
	logrus.SetOutput(io.Discard) // gohbase tells there of every retry
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	r := runner.Runner{Command: command, Starts: hbase.Starts, Signals: signals, Out: out}
	return r.Run()
}

func setup(out io.Writer) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := install.NewSetup(out)
	if err != nil {
		return 1, err
	}
	if _, err := s.Run(ctx); err != nil {
		return 1, err
	}
	return 0, nil
}
