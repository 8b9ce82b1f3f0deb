package main

import (
	"testing"

	"darklaunch/internal/strictyaml"
)

// TestPublishedSchemasCompile holds that what schema prints is a schema.
func TestPublishedSchemasCompile(t *testing.T) {
	names := schemaNames()
	if len(names) == 0 {
		t.Fatal("no schema is published")
	}
	for _, name := range names {
		if _, err := strictyaml.Compile(schemaText(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
