// Package scenarios holds the load scenarios that come with the program, as data:
// YAML files, and the descriptors of the services that they call.
package scenarios

import (
	"embed"
	"io/fs"
	"slices"
	"strings"
)

//go:embed *.yaml *.binpb demo translate
var files embed.FS

// FS holds NAME.yaml of every built-in scenario, and what these name; in translate/ the
// rules between the old systems and the new one; and in demo/ what a demo is
// configured by.
func FS() fs.FS { return files }

// Names are the built-in scenarios, sorted.
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // the files are part of the binary
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
