// Darklaunch proves a new system on real traffic before any user sees it.
//
// This package is the program: it parses flags and files, builds components,
// runs them, and turns how they ended into an exit code. It is the only one
// that knows flags, files and the terminal.
package main

import (
	"context"
	"os"
)

func main() {
	ctx, stop := untilSignalled(context.Background(), os.Stderr)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
