// Testenv runs tests against real servers, and installs those servers.
//
//	testenv setup
//	testenv run -- go test ./...
//	testenv hbase -- darklaunch demo --store hbase:{quorum}
//
// Setup installs what is missing where it may; what it may not, it names.
//
// Run starts slow servers once for all the packages that the command tests,
// at the first request, and at the end demands that nothing is left: no
// process, no file in the temporary directory, no listening port. What is left
// is named and removed, and makes the exit code 1; else it is the command's.
//
// Hbase does so with a command that is no test: an HBase is started for it, and the
// address of its ZooKeeper takes the place of {quorum} in its arguments.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"

	"darklaunch/internal/testenv/hbase"
	"darklaunch/internal/testenv/install"
	"darklaunch/internal/testenv/keeper"
	"darklaunch/internal/testenv/runner"
)

var errUsage = errors.New("usage: testenv setup, or testenv run|hbase -- COMMAND [ARGUMENT ...]")

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
	case len(args) >= 3 && args[0] == "hbase" && args[1] == "--":
		return runOnHBase(args[2:], out)
	default:
		return 2, errUsage
	}
}

// runOnHBase runs a command while it holds an HBase of the keeper's that this program
// runs under, or that it starts.
func runOnHBase(command []string, out io.Writer) (int, error) {
	socket := os.Getenv(keeper.Socket)
	if socket == "" {
		self, err := os.Executable()
		if err != nil {
			return 1, err
		}
		return runTests(append([]string{self, "hbase", "--"}, command...), out)
	}
	fmt.Fprintln(out, "testenv: starting HBase")
	loan, err := hbase.Borrow(socket, fmt.Sprintf("%s (process %d)", command[0], os.Getpid()))
	if err != nil {
		return 1, err
	}
	// Signals are sent to the group, which the command is of: it decides what they mean.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM)
	words := make([]string, len(command))
	for i, w := range command {
		words[i] = strings.ReplaceAll(w, "{quorum}", loan.Addr)
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode(), loan.Close()
	}
	if err = errors.Join(err, loan.Close()); err != nil {
		return 1, err
	}
	return 0, nil
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
