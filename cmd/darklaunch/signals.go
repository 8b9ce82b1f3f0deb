package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// errSignalled is the cause of a context that a signal ended.
var errSignalled = errors.New("interrupted")

// untilSignalled returns a context that the first SIGINT or SIGTERM ends. A
// second one ends the process at once.
func untilSignalled(parent context.Context, stderr io.Writer) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		sig, ok := <-signals
		if !ok {
			return
		}
		cancel(fmt.Errorf("%w by %v", errSignalled, sig))
		fmt.Fprintf(stderr, "darklaunch: %v: finishing; once more to stop at once\n", sig)
		if sig, ok = <-signals; ok {
			fmt.Fprintf(stderr, "darklaunch: %v: stopped\n", sig)
			os.Exit(exitCouldNotRun)
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel(nil)
	}
}
