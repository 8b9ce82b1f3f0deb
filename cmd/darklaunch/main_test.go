package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"darklaunch/internal/ops"
	"darklaunch/internal/testenv"
)

// asProgram makes the test binary be the program, with the commands below
// beside its own. They use all that commands share, and misbehave on request.
const asProgram = "DARKLAUNCH_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		ctx, stop := untilSignalled(context.Background(), os.Stderr)
		code := run(ctx, os.Args[1:], os.Stdout, os.Stderr, (*program).testService, (*program).testJob)
		stop()
		os.Exit(code)
	}
	testenv.Main(m)
}

const testSchema = `{"type": "object", "additionalProperties": false, "properties": {"level": {"type": "integer"}}}`

// testService runs until it is stopped, as mirror and appserver do.
func (p *program) testService() *cobra.Command {
	cmd := &cobra.Command{Use: "test-service", Args: cobra.NoArgs, Example: "  darklaunch test-service"}
	var flags serviceFlags
	flags.define(cmd.Flags(), "127.0.0.1:0")
	var config, panics string
	var stubborn bool
	cmd.Flags().StringVar(&config, "config", "", "configuration `file`")
	cmd.Flags().BoolVar(&stubborn, "stubborn", false, "never drain")
	cmd.Flags().StringVar(&panics, "panics", "", "where to panic: command, part or goroutine")
	out := p.outputVar(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		load := func() error {
			if config == "" {
				return nil
			}
			var settings struct{ Level int }
			return loadConfig(config, []byte(testSchema), &settings)
		}
		if err := load(); err != nil {
			return err
		}
		s, err := p.newService(cmd.Context(), "test-service", flags, out)
		if err != nil {
			return err
		}
		s.reload = ops.NewReload(s.log, load)
		switch panics {
		case "command":
			panic("boom")
		case "goroutine":
			go panic("boom")
		}
		return s.run(cmd.Context(), ops.Part{Name: "work", Run: func(ctx context.Context) error {
			if panics == "part" {
				panic("boom")
			}
			<-ctx.Done()
			if stubborn {
				select {}
			}
			return nil
		}})
	}
	return cmd
}

// testJob is a bounded judgement, as load with an objective is.
func (p *program) testJob() *cobra.Command {
	cmd := &cobra.Command{Use: "test-job", Args: cobra.NoArgs, Example: "  darklaunch test-job"}
	var (
		length  time.Duration
		slack   rate
		memory  size
		sampled share
		target  address
		listen  string
		verdict int
	)
	f := cmd.Flags()
	durationVar(f, &length, "for", time.Hour, "how long")
	rateVar(f, &slack, "rate", 10, "how often")
	sizeVar(f, &memory, "memory", 64<<20, "how much")
	shareVar(f, &sampled, "sample", 100_000, "how many")
	addressVar(f, &target, "target", "where to")
	listenVar(f, &listen, "listen", "127.0.0.1:0", "where")
	f.IntVar(&verdict, "verdict", exitDone, "exit code of the judgement")
	out := p.outputVar(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out.ready("job", "started")
		line := newProgress(p.stderr)
		line.show("working for %v", length)
		select {
		case <-time.After(length):
		case <-cmd.Context().Done():
			verdict = exitInconclusive
			if !errors.Is(context.Cause(cmd.Context()), errSignalled) {
				return context.Cause(cmd.Context())
			}
		}
		line.end()
		fmt.Fprintln(out.text(), "the result")
		if err := out.result(map[string]int{"verdict": verdict}); err != nil {
			return err
		}
		if verdict != exitDone {
			return &codedError{verdict, errors.New("not a pass")}
		}
		return nil
	}
	return cmd
}
