package openapi

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const description = `openapi: 3.1.0
info: {title: Mail, version: "1"}
servers:
  - url: https://{region}.example.org/v1/
paths:
  /threads:
    summary: all of them
    parameters: []
    get: {responses: {}}
    post:
      responses: {}
  /threads/{thread.id}: &item
    get: {}
    delete: {}
  /files/{name}.json:
    head: {}
  /same/{thread}: *item
  x-internal: {get: {}}
`

func TestRead(t *testing.T) {
	got, err := Read([]byte(description))
	if err != nil {
		t.Fatal(err)
	}
	want := []Operation{
		{"GET", "/v1/threads", 9}, {"POST", "/v1/threads", 10},
		{"GET", "/v1/threads/{thread_id}", 13}, {"DELETE", "/v1/threads/{thread_id}", 14},
		{"HEAD", "/v1/files/{name}", 16},
		{"GET", "/v1/same/{thread}", 13}, {"DELETE", "/v1/same/{thread}", 14},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got, err = Read([]byte(`{"openapi": "3.0.3", "paths": {"/": {"get": {}}}}`))
	if diff := cmp.Diff([]Operation{{"GET", "/", 1}}, got); diff != "" || err != nil {
		t.Errorf("JSON: %v (-want +got):\n%s", err, diff)
	}
}

func TestBroken(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", "1: empty"},
		{"a: [", "1: "},
		{"x: 1\n\ty: 2\n", "2: "},
		{"- a\n", "1: openapi: want 3.0"},
		{"swagger: '2.0'\npaths: {}\n", "1: openapi: want 3.0"},
		{"openapi: 2.0\n", "1: openapi: want 3.0"},
		{"openapi: 3.0.0\n", "1: paths: want a mapping"},
		{"openapi: 3.0.0\npaths: [1]\n", "2: paths: want a mapping"},
		{"openapi: 3.0.0\npaths: {}\n", "2: paths: no operation"},
		{"openapi: 3.0.0\npaths:\n  /a: {summary: none}\n", "3: paths: no operation"},
		{"openapi: 3.0.0\npaths:\n  a: {get: {}}\n", "3: paths: a: want a path that begins with /"},
		{"openapi: 3.0.0\npaths:\n  /a?b: {get: {}}\n", "3: paths: /a?b: want a path"},
		{"openapi: 3.0.0\npaths:\n  /a/{: {get: {}}\n", "3: paths: /a/{: segment"},
		{"openapi: 3.0.0\npaths:\n  /a/{}: {get: {}}\n", "3: "},
		{"openapi: 3.0.0\npaths:\n  /a: 1\n", "3: paths: /a: want a mapping of methods"},
		{"openapi: 3.0.0\npaths:\n  /a:\n    $ref: other.yaml\n", "4: paths: /a: a reference"},
		{"openapi: 3.0.0\nservers: [{}]\npaths: {/a: {get: {}}}\n", "2: servers: want the url"},
	} {
		if _, err := Read([]byte(tt.text)); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q…", tt.text, err, tt.want)
		}
	}
}

// FuzzRead reads anything, and makes only paths that begin with a slash.
func FuzzRead(f *testing.F) {
	f.Add([]byte(description))
	f.Add([]byte("openapi: 3.0.0\npaths:\n  /a/{b}c: {get: {}}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := Read(text)
		for _, o := range all {
			if !strings.HasPrefix(o.Path, "/") || o.Method == "" || o.Line < 1 {
				t.Errorf("got %+v", o)
			}
		}
		if err == nil && len(all) == 0 {
			t.Error("got neither operations nor an error")
		}
	})
}
