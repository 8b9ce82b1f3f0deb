package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"darklaunch/verdict/gate/family"
)

// crew is the processes of a demo: each is a command that a user could have typed. It
// belongs to one goroutine.
type crew struct {
	supervisor []string // words that start family.Supervise
	self       string   // this program
	logs       string   // directory of what they print
	members    []*member
}

// member is one process of a crew.
type member struct {
	name string
	log  string
	run  *family.Family
}

// enrol returns a member to be, without a log: a demo that wrote one before was ready
// somewhere else.
func (c *crew) enrol(name string) (*member, error) {
	m := &member{name: name, log: filepath.Join(c.logs, name+".log")}
	if err := os.Remove(m.log); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return m, nil
}

// start runs the program with args, and returns the addresses that it is ready at, by
// the names it was told to want. What fails is told with the process's last words.
func (c *crew) start(ctx context.Context, name string, wants []string, args ...string) (map[string]string, error) {
	m, err := c.enrol(name)
	if err != nil {
		return nil, err
	}
	if m.run, err = family.Start(c.supervisor, family.Command{Line: "exec " + shell(append([]string{c.self}, args...)), Log: m.log, Grace: 10 * time.Second}); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c.members = append(c.members, m)
	for {
		at := readyLines(m.log)
		if !slices.ContainsFunc(wants, func(w string) bool { return at[w] == "" }) {
			return at, nil
		}
		select {
		case <-m.run.Over():
			return nil, m.died()
		case <-ctx.Done():
			return nil, fmt.Errorf("start %s: %w", name, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond): // its output is a file
		}
	}
}

// do runs the program with args to its end.
func (c *crew) do(ctx context.Context, name string, args ...string) error {
	m, err := c.enrol(name)
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(stop) })()
	err = family.Output(c.supervisor, family.Command{Line: "exec " + shell(append([]string{c.self}, args...)), Log: m.log, Grace: 10 * time.Second}, stop)
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	if exit, ok := errors.AsType[*family.ExitError](err); ok {
		return fmt.Errorf("%s ended with %s: %s", name, exit.Status, family.Tail(m.log, 5))
	}
	return err
}

// lost is the first that ended by itself, as an error.
func (c *crew) lost() error {
	for _, m := range c.members {
		select {
		case <-m.run.Over():
			return m.died()
		default:
		}
	}
	return nil
}

func (m *member) died() error {
	how := "0"
	if err := m.run.Err(); err != nil {
		how = err.Error()
	}
	return fmt.Errorf("%s ended (%s): %s", m.name, how, family.Tail(m.log, 5))
}

// end stops one, and waits for it.
func (c *crew) end(name string) {
	c.members = slices.DeleteFunc(c.members, func(m *member) bool {
		if m.name == name {
			m.run.Stop()
		}
		return m.name == name
	})
}

// stop ends all, the last first.
func (c *crew) stop() {
	for _, m := range slices.Backward(c.members) {
		m.run.Stop()
	}
	c.members = nil
}

// readyLines are the addresses that a process has told so far, by name.
func readyLines(log string) map[string]string {
	at := map[string]string{}
	b, err := os.ReadFile(log)
	if err != nil {
		return at // it has printed nothing yet
	}
	lines := strings.Split(string(b), "\n")
	for _, line := range lines[:len(lines)-1] { // the last is not whole
		if f := strings.Fields(line); len(f) == 3 && f[0] == "ready" {
			at[f[1]] = f[2]
		}
	}
	return at
}

// shell quotes words for sh.
func shell(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
