package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"darklaunch/internal/ops"
	"darklaunch/internal/pairstream"
	"darklaunch/mirror"
	"darklaunch/mirror/sample"
)

const mirrorLong = `Stand between clients and a live service, relay every byte as it is, and copy
what a sticky sample of the users do to a shadow. A copy leaves after live has
answered; its answer is compared and thrown away. Only methods that change
nothing are copied unless a route or --mirror-unsafe says otherwise.

The flags describe one front; --config may describe several, over one sample
and one shadow. Flags override the file. SIGHUP reads it again; the sample can
change then, and certificates. SIGUSR1 switches mirroring off and SIGUSR2 on,
as POST /api/v1/kill and /api/v1/resume on --admin do.

EXTRACTOR names the user of a request: header:NAME, cookie:NAME, query:NAME,
path:/users/{key}, json:$.user.id, jwt:CLAIM, proto:FIELD.PATH or client-addr;
"answer:" before it reads live's answer, "|lower" after it folds case.`

// mirrorCommand is one run of darklaunch mirror.
type mirrorCommand struct {
	program  *program
	cmd      *cobra.Command
	flags    serviceFlags
	out      *output
	config   string
	settings mirrorSettings // where flags and file are read to
	defaults mirrorSettings
}

func (p *program) mirror() *cobra.Command {
	c := &mirrorCommand{program: p}
	c.cmd = &cobra.Command{
		Use:     "mirror --listen ADDR --live ADDR... --shadow ADDR",
		Short:   "Copy what a sample of the users do from a live service to a shadow",
		Long:    mirrorLong,
		Example: "  darklaunch mirror --listen 127.0.0.1:8080 --live 127.0.0.1:9000 --shadow 127.0.0.1:9001 --key header:x-user --sample 10%",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := c.cmd.Flags()
	c.settings.define(f)
	c.defaults = c.settings
	f.StringVar(&c.config, "config", "", "YAML `file` to read; see darklaunch schema mirror, and mirror init for a start")
	c.flags.define(f, "127.0.0.1:8601")
	c.out = p.outputVar(f)
	c.cmd.AddCommand(p.mirrorBucket(), p.mirrorPairs(), p.mirrorTranslate(), p.mirrorInit())
	return c.cmd
}

func (c *mirrorCommand) run(ctx context.Context) error {
	settings, err := c.read()
	if err != nil {
		return err
	}
	s, err := c.program.newService(ctx, "mirror", c.flags, c.out)
	if err != nil {
		return err
	}
	var m *mirror.Mirror
	cfg, err := settings.config(func(user string) bool { return m.Admitted(user) })
	if err != nil {
		return err
	}
	cfg.Log, cfg.DrainTimeout = s.log, c.flags.drain*4/5 // copies may take a tenth of that on top
	m, err = mirror.New(cfg, s.registry)
	if errors.Is(err, mirror.ErrConfig) {
		return usageErrorf("%w", err)
	}
	if err != nil {
		return err
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), m.Loops()+2))
	}
	c.warn(m)
	s.state = func() any { return m.Status() }
	s.routes = m.Handlers()
	s.reload = ops.NewReload(s.log, func() error { return c.reload(m, &settings) })
	switches := make(chan os.Signal, 4)
	signal.Notify(switches, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(switches)
	return s.run(ctx,
		ops.Part{Name: "signals", Run: func(ctx context.Context) error { return switchBySignal(ctx, m, s.log, switches) }},
		ops.Part{Name: "mirror", Run: func(ctx context.Context) error {
			for _, l := range m.Listeners() {
				c.out.ready(l.Front, l.Addr.String())
			}
			return m.Run(ctx)
		}})
}

// warn tells what an operator should know before traffic comes.
func (c *mirrorCommand) warn(m *mirror.Mirror) {
	for _, w := range m.Warnings() {
		fmt.Fprintln(c.program.stderr, "darklaunch: warning:", w)
	}
	checklist := m.SideEffects()
	if len(checklist) > 0 {
		fmt.Fprintln(c.program.stderr, "darklaunch: copies may change state. Make sure that:")
	}
	for _, item := range checklist {
		fmt.Fprintln(c.program.stderr, "  [ ]", item)
	}
}

func switchBySignal(ctx context.Context, m *mirror.Mirror, log *slog.Logger, signals <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case sig := <-signals:
			if sig == syscall.SIGUSR1 {
				m.Kill()
			} else if err := m.Resume(); err != nil {
				log.Error("mirroring stays off", "err", err)
			}
		}
	}
}

// read returns the settings of the file and the flags.
func (c *mirrorCommand) read() (mirrorSettings, error) {
	return withFlags(c.cmd.Flags(), &c.settings, c.defaults, func() error {
		if c.config == "" {
			return nil
		}
		return loadConfig(c.config, schemaText("mirror"), &c.settings)
	})
}

// reload puts into force what can change of a file that was read again. now is
// what is in force.
func (c *mirrorCommand) reload(m *mirror.Mirror, now *mirrorSettings) error {
	next, err := c.read()
	if err != nil {
		return err
	}
	same := next
	same.Sample, same.Admit = now.Sample, now.Admit
	if !reflect.DeepEqual(same, *now) {
		return errors.New("only sample and admit can change while the mirror runs: start it again for the rest")
	}
	if err := m.Reload(); err != nil {
		return err
	}
	if next.Sample != now.Sample || next.Admit != now.Admit {
		m.SetShare(sample.Share{Sample: int32(next.Sample), Admit: int32(next.Admit)})
	}
	*now = next
	return nil
}

func (p *program) mirrorBucket() *cobra.Command {
	salt := ""
	cmd := &cobra.Command{
		Use:     "bucket --salt TEXT KEY...",
		Short:   "Print the bucket of each key: a user is in while it is below the sample in ppm",
		Example: "  darklaunch mirror bucket --salt s1 ann u1",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, keys []string) error {
			for _, key := range keys {
				fmt.Fprintf(p.stdout, "%s\t%d\n", key, sample.Bucket(salt, key))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&salt, "salt", "", "`text` that names the experiment")
	_ = cmd.MarkFlagRequired("salt") // fails for a flag that there isn't
	return cmd
}

func (p *program) mirrorPairs() *cobra.Command {
	return &cobra.Command{
		Use:     "pairs FILE",
		Short:   "Print a pair stream that mirror --pairs wrote, as JSON, a record a line",
		Example: "  darklaunch mirror pairs pairs.bin",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			for r := pairstream.NewReader(f); ; {
				record, err := r.Next()
				if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) { // a mirror may still be writing
					return nil
				}
				if err != nil {
					return fmt.Errorf("read %s: %w", args[0], err)
				}
				spaced, err := protojson.Marshal(record)
				if err != nil {
					return err
				}
				var line bytes.Buffer // protojson puts spaces at random
				if err := json.Compact(&line, spaced); err != nil {
					return err
				}
				if _, err := fmt.Fprintln(p.stdout, line.String()); err != nil {
					return err
				}
			}
		},
	}
}

//go:embed mirror.yaml
var mirrorStarter string

func (p *program) mirrorInit() *cobra.Command {
	return p.starter("mirror", "Print a configuration to start from, with comments", mirrorStarter)
}
