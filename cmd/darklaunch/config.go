package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"darklaunch/internal/strictyaml"
)

// loadConfig reads the YAML file name into the struct that into points at. The
// file must satisfy schema, the text of a JSON Schema: every error says file,
// line, key and what was expected, and ends the program as a usage error. A
// file that can't be read is an ordinary error. What the file does not mention
// stays in into as it was, so one that is read again goes into a new struct.
func loadConfig(name string, schema []byte, into any) error {
	text, err := os.ReadFile(name)
	if err != nil {
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			err = path.Err // the name is in our line already
		}
		return fmt.Errorf("read %s (--config): %w", name, err)
	}
	if err := strictyaml.Parse(text, schema, into); err != nil {
		return usageErrorf("%s:%w", name, err)
	}
	return nil
}

// starter is the init of a command: it prints a configuration to start from.
func (p *program) starter(command, short, text string) *cobra.Command {
	return &cobra.Command{
		Use:     "init",
		Short:   short,
		Example: "  darklaunch " + command + " init > " + command + ".yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprint(p.stdout, text)
			return err
		},
	}
}
