// Package strictjson reads a text as one JSON document, or not at all: what two
// readers could take for different things is none.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

// Err is returned for a text that is not one JSON document in UTF-8.
var Err = errors.New("no JSON document")

// Read returns a document as encoding/json has it, with numbers as json.Number. Of
// names that stand twice in an object the last counts.
func Read(text []byte) (v any, err error) {
	if !utf8.Valid(text) {
		return nil, Err // which encoding/json would mend
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, Err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, Err
	}
	return v, nil
}
