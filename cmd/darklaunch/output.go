package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
)

// output is where a command's results go. Text for people is on stdout,
// unless --json - has taken it.
type output struct {
	program *program
	json    string // file for the machine form, - for stdout, empty for none
}

func (p *program) outputVar(f *pflag.FlagSet) *output {
	o := &output{program: p}
	f.StringVar(&o.json, "json", "", "write the result as JSON to this `file`; - for stdout, and then everything else goes to stderr")
	return o
}

// text is where text for people goes.
func (o *output) text() io.Writer {
	if o.json == "-" {
		return o.program.stderr
	}
	return o.program.stdout
}

// ready tells that the listener name accepts on addr.
func (o *output) ready(name, addr string) {
	fmt.Fprintf(o.text(), "ready %s %s\n", name, addr)
}

// result writes v, the machine form of a result, where --json asks for it. A
// plain file holds all of it or what it held before.
func (o *output) result(v any) error {
	if o.json == "" {
		return nil
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the result: %w", err)
	}
	b = append(b, '\n')
	if o.json == "-" {
		_, err := o.program.stdout.Write(b)
		return err
	}
	if err := writeFile(o.json, b); err != nil {
		return fmt.Errorf("write the result (--json): %w", err)
	}
	return nil
}

// writeFile puts b in place of what the plain file name held, whole or not at
// all. A file that was there keeps its mode, a new one gets the user's. What is
// no plain file (a pipe, a device, a link) is written to and never replaced: as
// root that could be /dev/stdout or /dev/null.
func writeFile(name string, b []byte) error {
	old, err := os.Lstat(name)
	if err == nil && !old.Mode().IsRegular() {
		return os.WriteFile(name, b, 0o666)
	}
	beside := filepath.Join(filepath.Dir(name), fmt.Sprintf(".%s-%x", filepath.Base(name), rand.Uint64()))
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer os.Remove(beside) // gone by then if all went well
	_, err = f.Write(b)
	if err == nil && old != nil {
		err = f.Chmod(old.Mode().Perm())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(beside, name)
}
