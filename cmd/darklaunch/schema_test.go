package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

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

// checkSchema holds what a command wrote to the schema that is published for it.
func checkSchema(t *testing.T, name string, text []byte) {
	t.Helper()
	schema, err := strictyaml.Compile(schemaText(name))
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(v); err != nil {
		t.Errorf("%v:\n%s", err, text)
	}
}

// TestLoadSchemasRefuse plants faults in a result, each of which its schema must see.
func TestLoadSchemasRefuse(t *testing.T) {
	t.Parallel()
	_, good, _ := start(t, strings.Fields("load http http://127.0.0.1:1/ --rate 100/s --for 100ms --json -")...).end()
	checkSchema(t, "load", []byte(good))
	schema, err := strictyaml.Compile(schemaText("load"))
	if err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(map[string]any){
		"another schema":    func(r map[string]any) { r["schema"] = "load/v2" },
		"no count":          func(r map[string]any) { delete(r, "sent") },
		"a count below 0":   func(r map[string]any) { r["shed"] = -1 },
		"no such class":     func(r map[string]any) { r["errors"] = map[string]any{"bad": 1} },
		"no such verdict":   func(r map[string]any) { r["verdict"] = "maybe" },
		"a time as a text":  func(r map[string]any) { r["response_s"].(map[string]any)["p99"] = "1s" },
		"an unknown key":    func(r map[string]any) { r["latency"] = 1 },
		"an op without sum": func(r map[string]any) { delete(r["ops"].(map[string]any)["request"].(map[string]any), "ok") },
	} {
		var r map[string]any
		if err := json.Unmarshal([]byte(good), &r); err != nil {
			t.Fatal(err)
		}
		plant(r)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(v) == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
