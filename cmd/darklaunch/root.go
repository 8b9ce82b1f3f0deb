package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"darklaunch/internal/ops"
)

// program is what all subcommands share.
type program struct {
	stdout, stderr io.Writer

	// started is whether a command's own code has begun; what failed before
	// that was the command line.
	started bool
	// lost is the error of asking a command that is none for help.
	lost error
}

// A subcommand builds one command of the program.
type subcommand func(*program) *cobra.Command

// run parses args, runs the command they name and returns the exit code. An
// error is one line on stderr. more commands serve tests.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, more ...subcommand) (code int) {
	p := &program{stdout: stdout, stderr: stderr}
	defer func() {
		if v := recover(); v != nil {
			code = p.fail(&ops.PanicError{Part: "the command", Value: v, Stack: debug.Stack()})
		}
	}()
	root := p.root(more)
	root.SetArgs(args)
	if err := cmp.Or(root.ExecuteContext(ctx), p.lost); err != nil {
		return p.fail(err)
	}
	return exitDone
}

func (p *program) root(more []subcommand) *cobra.Command {
	root := &cobra.Command{
		Use:   "darklaunch",
		Short: "Prove a new system on real traffic before any user sees it",
		Long: `Darklaunch proves a new system on real traffic before any user sees it.

Exit codes: 0 done, or the verdict is pass; 1 could not run; 2 the command
line or a file is wrong; 10 the verdict is fail; 11 it is inconclusive.`,
		Example: `  darklaunch demo
  darklaunch mirror --listen 127.0.0.1:8080 --live 127.0.0.1:9000 --shadow 127.0.0.1:9001 --key header:x-user
  darklaunch load http http://127.0.0.1:8080/ --rate 2000/s --for 10s --objective 'p99<250ms'`,
		SilenceErrors: true,
		SilenceUsage:  true,
		// Without this a mistyped command shows the help and ends as done.
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	for _, sub := range append([]subcommand{(*program).version, (*program).schema, (*program).load, (*program).mirror, (*program).appserver, (*program).verdict, (*program).gate, (*program).cell, (*program).msg, (*program).legacy, (*program).dash, (*program).demo}, more...) {
		root.AddCommand(sub(p))
	}
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Example = "  darklaunch help version"
			cmd.Args = p.topic(root)
		case "completion":
			cmd.Args, cmd.RunE = root.Args, root.RunE // as root: a mistyped shell is an error
			for _, shell := range cmd.Commands() {
				shell.Example = "  darklaunch completion " + shell.Name()
			}
			cmd.Example = "  darklaunch completion bash > /etc/bash_completion.d/darklaunch"
		}
	}
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if rest := cmd.Flags().Args(); cmd.HasSubCommands() && len(rest) > 0 {
			p.lost = fmt.Errorf("unknown command %q for %q", rest[0], cmd.CommandPath())
			return
		}
		help(cmd, args)
	})
	p.markStart(root)
	return root
}

// topic holds that help is asked about a command there is.
func (p *program) topic(root *cobra.Command) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if cmd, rest, err := root.Find(args); err != nil || cmd == root && len(args) > 0 || len(rest) > 0 {
			return fmt.Errorf("there is no command %q to help with", strings.Join(args, " "))
		}
		return nil
	}
}

// markStart notes when the code of cmd or a command below it begins.
func (p *program) markStart(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			p.started = true
			return run(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		p.markStart(sub)
	}
}

// fail tells why a command failed and returns the exit code for it.
func (p *program) fail(err error) int {
	code := exitCode(err)
	if !p.started {
		code = exitUsage
	}
	fmt.Fprintln(p.stderr, "darklaunch:", oneLine(err))
	return code
}
