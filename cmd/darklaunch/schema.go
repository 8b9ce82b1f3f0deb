package main

import (
	"embed"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// The published schemas, NAME.schema.json each.
//
//go:embed schemas
var schemaFiles embed.FS

// schemaText is the schema called name, as published; nil if there is none.
func schemaText(name string) []byte {
	b, _ := schemaFiles.ReadFile("schemas/" + name + ".schema.json")
	return b
}

func schemaNames() []string {
	entries, err := schemaFiles.ReadDir("schemas")
	if err != nil {
		panic(err) // the files are part of the binary
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".schema.json"))
	}
	return names
}

func (p *program) schema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema [NAME]",
		Short: "Print the JSON Schema of a file that a command reads or writes",
		Long: `Print the JSON Schema of a file that a command reads or writes. Without NAME,
list the schemas there are.`,
		Example: "  darklaunch schema version > version.schema.json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				_, err := fmt.Fprintln(p.stdout, strings.Join(schemaNames(), "\n"))
				return err
			}
			b := schemaText(args[0])
			if b == nil {
				return usageErrorf("there is no schema %q: want one of %s", args[0], strings.Join(schemaNames(), ", "))
			}
			_, err := p.stdout.Write(b)
			return err
		},
	}
}
