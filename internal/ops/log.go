package ops

import (
	"fmt"
	"io"
	"log/slog"
)

// LogFormats are the formats that NewLogger knows.
var LogFormats = []string{"text", "json"}

// NewLogger writes records of level and above to w, one a line. An unknown
// format is an error that names those there are.
func NewLogger(w io.Writer, level slog.Level, format string) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, fmt.Errorf("unknown log format %q: want one of %q", format, LogFormats)
}

// logger is l, or one that discards if l is nil.
func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
