package hbase

import (
	"context"
	"io"
	"log/slog"
	"runtime"

	"github.com/sirupsen/logrus"
)

// TakeLogs makes gohbase's messages go to log, and keeps gohbase from ending the
// process. It is for the whole process, as gohbase's logger is: call it once, before
// the first Open.
//
// gohbase ends the process where its view of the regions contradicts itself or
// ZooKeeper has an empty node for it. With TakeLogs it ends the goroutine that found
// out; the call fails, or meets its deadline, and the client is replaced.
func TakeLogs(log *slog.Logger) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	std := logrus.StandardLogger()
	std.SetOutput(io.Discard)
	std.SetLevel(logrus.InfoLevel)
	if log.Enabled(context.Background(), slog.LevelDebug) {
		std.SetLevel(logrus.DebugLevel)
	}
	std.ReplaceHooks(logrus.LevelHooks{})
	std.AddHook(hook{log})
	std.ExitFunc = func(int) { runtime.Goexit() }
}

// A hook passes logrus's records on.
type hook struct{ log *slog.Logger }

func (hook) Levels() []logrus.Level { return logrus.AllLevels }

func (h hook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	switch {
	case e.Level <= logrus.FatalLevel:
		level = slog.LevelError
	case e.Level <= logrus.WarnLevel:
		level = slog.LevelWarn // its errors too: it goes on to try again
	}
	attrs := []slog.Attr{slog.String("says", e.Message)}
	for name, value := range e.Data {
		if name != "key" { // of a row, and so a user
			attrs = append(attrs, slog.Any(name, value))
		}
	}
	h.log.LogAttrs(context.Background(), level, "gohbase", attrs...)
	return nil
}
