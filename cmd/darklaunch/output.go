package main

import (
	"encoding/json"
	"fmt"
	"io"
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
// file holds all of it or is not there.
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

// writeFile puts b in place of what name held, whole.
func writeFile(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone by then if all went well
	if _, err := f.Write(b); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
