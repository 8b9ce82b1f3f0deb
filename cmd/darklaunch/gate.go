package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"darklaunch/loadgen"
	"darklaunch/verdict/gate"
	"darklaunch/verdict/gate/family"
	"darklaunch/verdict/history"
	"darklaunch/verdict/judge"
)

func (p *program) gate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gate",
		Short: "Build and run two versions of a service by turns, and judge the second",
		Long: `Build two versions of a service, start them by turns as fresh processes, load them
alike and judge what came of it: latency, errors, and the processor time of all
that was started. One run of each is a round, base and head take turns at being
first, and the first round is left out. The judge looks after 5, 10 and 15 rounds.

All that is started is ended with all that it started in turn, however the gate
ends. A build that fails and a service that never answers end it with 1 and the
last lines of what they printed; an interruption is never a pass.

Where GITHUB_ACTIONS=true, reasons are also told as annotations, and the report
is added to the job's summary.`,
		Example: "  darklaunch gate init > gate.yaml\n  darklaunch gate --config gate.yaml --out out",
		Args:    cobra.NoArgs,
	}
	var config, dir string
	var record bool
	cmd.Flags().StringVar(&config, "config", "gate.yaml", "YAML `file` to read; see darklaunch schema gate, and gate init for a start")
	cmd.Flags().StringVar(&dir, "out", "", "write verdict.json, report.html, report.md and junit.xml to this `directory`")
	cmd.Flags().BoolVar(&record, "record", false, "add head's figures to the history that the configuration names, and tell where it changed: for runs on the main branch")
	out := p.outputVar(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		settings, cfg, err := readGate(config)
		if err != nil {
			return err
		}
		if record && settings.History == "" {
			return usageErrorf("--record: %s names no history", config)
		}
		o, err := p.runGate(cmd.Context(), cfg, settings.Load)
		if err != nil {
			return err
		}
		err = p.tellVerdict(out, o.Document, dir, settings.Inconclusive)
		if record {
			err = errors.Join(err, recordGate(out.text(), settings.History, o.Document))
		}
		return err
	}
	cmd.AddCommand(p.gateInit(), p.gateSupervise())
	return cmd
}

// runGate runs the gate in a directory of its own, which is gone afterwards.
func (p *program) runGate(ctx context.Context, cfg gate.Config, load []string) (o *gate.Outcome, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if cfg.Temp, err = os.MkdirTemp("", "darklaunch-gate-*"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(cfg.Temp)
	cfg.Supervisor = []string{self, "gate", "supervise"}
	cfg.Load = func(ctx context.Context, port int, log string) (*loadgen.Result, error) {
		return loadOnce(ctx, load, port, log)
	}
	line := newProgress(p.stderr)
	cfg.Progress = func(text string) { line.show("%s", text) }
	defer line.end()
	o, err = gate.Run(ctx, cfg)
	if failed, ok := errors.AsType[*gate.CommandError](err); ok && failed.Printed != "" {
		line.end()
		fmt.Fprintf(p.stderr, "%s, after it had printed\n\n  %s\n\n", failed.What, strings.ReplaceAll(failed.Printed, "\n", "\n  "))
	}
	if errors.Is(err, errSignalled) {
		return nil, &codedError{exitInconclusive, fmt.Errorf("verdict inconclusive: %w before there was a round to judge", err)}
	}
	return o, err
}

// loadOnce runs load with args in this process, and returns its result. log is
// where that is written.
func loadOnce(ctx context.Context, args []string, port int, log string) (*loadgen.Result, error) {
	words := []string{"load"}
	for _, a := range args {
		words = append(words, strings.ReplaceAll(a, "{port}", strconv.Itoa(port)))
	}
	var told bytes.Buffer
	code := run(ctx, append(words, "--json", log), io.Discard, &told)
	b, err := os.ReadFile(log)
	if err != nil || code == exitUsage || code == exitCouldNotRun {
		reason := strings.TrimPrefix(strings.TrimSpace(told.String()), "darklaunch: ")
		if code == exitUsage {
			return nil, usageErrorf("%s", reason)
		}
		return nil, errors.New(reason)
	}
	r := new(loadgen.Result)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	return r, nil
}

// recordGate adds the figures of a gate to the history file, and tells where the
// levels of what is in it changed.
func recordGate(w io.Writer, file string, d *judge.Document) error {
	lines, err := history.Encode(history.Of(d))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	defer f.Close()
	if _, err := f.Write(lines); err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read the history: %w", err)
	}
	records, err := history.Read(f)
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	for _, c := range history.Changes(records) {
		fmt.Fprintf(w, "history: %s %s of %s changed by %+.1f %% at %s (%s)\n", c.Name, c.Stat, c.Route, 100*c.Effect(), c.Commit, c.Time.Format("2006-01-02"))
	}
	return nil
}

//go:embed gate.yaml
var gateStarter string

func (p *program) gateInit() *cobra.Command {
	return p.starter("gate", "Print a configuration to start from, with comments", gateStarter)
}

// gateSupervise is what gate starts commands by.
func (p *program) gateSupervise() *cobra.Command {
	return &cobra.Command{
		Use:                "supervise SIGNAL GRACE COMMAND",
		Short:              "Run a command with all that it starts, for gate",
		Example:            "  darklaunch gate supervise 15 10s 'sleep 1'",
		Hidden:             true,
		DisableFlagParsing: true, // the command is not ours to read
		RunE: func(_ *cobra.Command, args []string) error {
			code, err := family.Supervise(args, os.Stdin)
			if err == nil {
				os.Exit(code) // in silence: what is printed is the command's
			}
			return err
		},
	}
}
