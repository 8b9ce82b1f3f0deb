package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// progress is a line that is drawn again and again, if w is a terminal, and
// never otherwise.
type progress struct {
	w  io.Writer
	on bool
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, on: ok && term.IsTerminal(int(f.Fd()))}
}

// show replaces the line.
func (p *progress) show(format string, args ...any) {
	if p.on {
		fmt.Fprintf(p.w, "\r\x1b[K"+format, args...)
	}
}

// end removes the line.
func (p *progress) end() { p.show("") }
