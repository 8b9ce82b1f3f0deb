package cell

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Config is what can be changed of a cell while it runs. The zero Config is the
// default. It is comparable.
type Config struct {
	// StrictReads is the share of reads, 0 to 1, that ask the store first whether the
	// mailbox is still this server's, where reads are leased.
	StrictReads float64 `json:"strict_reads,omitempty"`
	// Drain says that no new users are to come to the cell.
	Drain bool `json:"drain,omitempty"`
	// MaxInFlight bounds the calls under way in each server. Zero: what it was started with.
	MaxInFlight int `json:"max_in_flight,omitempty"`
	// MaxWatches bounds the streams of each server. Zero: what it was started with.
	MaxWatches int `json:"max_watches,omitempty"`
}

// ParseConfig decodes a Config from JSON. Nothing is the zero Config; unknown keys and
// values out of range are errors.
func ParseConfig(b []byte) (Config, error) {
	var c Config
	if len(bytes.TrimSpace(b)) == 0 {
		return c, nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("configuration of a cell: %w", err)
	}
	switch {
	case d.More():
		return Config{}, fmt.Errorf("configuration of a cell: something follows it")
	case !(c.StrictReads >= 0 && c.StrictReads <= 1):
		return Config{}, fmt.Errorf("configuration of a cell: strict_reads %v: want 0 to 1", c.StrictReads)
	case c.MaxInFlight < 0 || c.MaxWatches < 0:
		return Config{}, fmt.Errorf("configuration of a cell: limits %d and %d: want none below 0", c.MaxInFlight, c.MaxWatches)
	}
	return c, nil
}
