package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"darklaunch/loadgen"
	"darklaunch/loadgen/scenario"
	"darklaunch/scenarios"
)

func (p *program) loadRun() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run SCENARIO --target ADDR",
		Short: "Send the load that a scenario describes",
		Long: `Send the load that a scenario describes: a YAML file, or one of those that come with
the program: ` + strings.Join(scenarios.Names(), ", ") + `.

Several workers share a run without talking: each is given the same scenario, seed
and start, its own --index, and how many there are. load merge adds their results up.`,
		Example: `  darklaunch load run messages-chat --target 127.0.0.1:8443 --objective 'p99<250ms'
  darklaunch load run mine.yaml --target https://svc.example:443 --index 0 --total 4 --start 2026-03-01T12:00:00Z --json worker-0.json`,
		Args: cobra.ExactArgs(1),
	}
	var f judgeFlags
	f.define(p, cmd.Flags())
	var (
		target       address
		scale        factor
		index, total int
		begin        startTime
		hlog         string
	)
	addressVar(cmd.Flags(), &target, "target", "the service under load: host:port (plain) or https://host:port")
	scaleVar(cmd.Flags(), &scale)
	cmd.Flags().IntVar(&index, "index", 0, "this worker's number, from 0 (default 0)")
	cmd.Flags().IntVar(&total, "total", 1, "how many workers share the run")
	cmd.Flags().Var(value[startTime]{&begin, "time", parseStart, startTime.String}, "start", "when all workers begin, as 2026-03-01T12:00:00Z (default: at once)")
	cmd.Flags().StringVar(&hlog, "hist", "", "write the response times to this `file`, an HdrHistogram log with a tag for each operation")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := loadScenario(args[0])
		if err != nil {
			return err
		}
		if target.HostPort == "" {
			return usageErrorf("--target: want the address of the service")
		}
		if total < 1 || index < 0 || index >= total {
			return usageErrorf("--index %d, --total %d: want an index from 0 to total-1", index, total)
		}
		if !cmd.Flags().Changed("seed") {
			f.seed = s.Seed
		}
		id := strconv.FormatInt(time.Now().UnixNano(), 36) + "-" + strconv.Itoa(index)
		var stats scenario.Stats
		cfg, err := s.Config(target.HostPort, scenario.Run{Seed: f.seed, Scale: float64(scale), ID: id, Stats: &stats})
		if err != nil {
			return usageErrorf("%w", err)
		}
		if target.TLS {
			cfg.Transport.TLS = &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(0)}
		}
		cfg.Index, cfg.Total, cfg.Start = index, total, time.Time(begin)
		f.config(&cfg)
		return p.runLoad(cmd.Context(), "load run "+args[0], cfg, &f, func(r *loadgen.Result) error {
			if n := stats.Passed(); n > 0 {
				fmt.Fprintf(f.out.text(), "%d steps of sessions were passed over, as they had nothing to work on\n", n)
			}
			if failed := stats.Failed(); failed != "" {
				fmt.Fprintf(f.out.text(), "not all could be evaluated, first: %s\n", failed)
			}
			if hlog == "" {
				return nil
			}
			return writeHistograms(hlog, r)
		})
	}
	return cmd
}

// loadScenario reads the scenario in a file, or one of the program's own.
func loadScenario(name string) (*scenario.Scenario, error) {
	dir, base := filepath.Split(name)
	if dir == "" && filepath.Ext(name) == "" {
		dir, base = ".", name+".yaml"
	} else if dir == "" {
		dir = "."
	}
	s, err := scenario.Load(scenarioFiles{os.DirFS(dir)}, base, schemaText("scenario"))
	if errors.Is(err, fs.ErrNotExist) && !strings.Contains(name, ".") {
		return nil, usageErrorf("there is no scenario %s: want a file, or one of %s", name, strings.Join(scenarios.Names(), ", "))
	}
	if err != nil {
		if dir == "." {
			dir = ""
		}
		return nil, usageErrorf("%s%w", dir, err) // it begins with the file's name
	}
	return s, nil
}

// scenarioFiles are those of a directory, and the program's own where it has none.
type scenarioFiles struct{ dir fs.FS }

func (f scenarioFiles) Open(name string) (fs.File, error) {
	file, err := f.dir.Open(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if file, own := scenarios.FS().Open(name); own == nil {
		return file, nil
	}
	if filepath.Ext(name) == "" { // extends may leave it out
		if file, own := scenarios.FS().Open(name + ".yaml"); own == nil {
			return file, nil
		}
	}
	return nil, err
}

// factor multiplies a rate.
type factor float64

func (x factor) String() string { return strconv.FormatFloat(float64(x), 'f', -1, 64) + "x" }

func scaleVar(f *pflag.FlagSet, p *factor) {
	*p = 1
	f.Var(value[factor]{p, "factor", parseFactor, factor.String}, "scale", "multiply all rates, as 2x or 0.5x")
}

func parseFactor(s string) (factor, error) {
	n, ok := strings.CutSuffix(s, "x")
	x, err := parseDecimal(n)
	if !ok || err != nil || x == 0 || math.IsInf(x, 0) {
		return 0, fmt.Errorf("%q is not a factor: want a number and x, as 2x or 0.5x", s)
	}
	return factor(x), nil
}

type startTime time.Time

func (s startTime) String() string {
	if time.Time(s).IsZero() {
		return ""
	}
	return time.Time(s).Format(time.RFC3339)
}

func parseStart(s string) (startTime, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return startTime{}, fmt.Errorf("%q is not a time: want RFC 3339, as 2026-03-01T12:00:00Z", s)
	}
	if time.Until(t) < 0 {
		return startTime{}, fmt.Errorf("%s is over: want a time to come", s)
	}
	return startTime(t), nil
}

// writeHistograms writes the response times as a HdrHistogram log, which its
// tools read. Times in it are of nanoseconds; calls that were given up are under a tag of their own.
func writeHistograms(name string, r *loadgen.Result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "#[Histogram log format version 1.3]\n\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n")
	for _, op := range opNames(r) {
		h, times := r.Histograms[op], r.Ops[op].Response
		fmt.Fprintf(&b, "Tag=%s,0.000,%.3f,%.3f,%s\n", op, r.Duration, times.Max*1e3, h.Response)
		if len(times.Censored) > 0 {
			fmt.Fprintf(&b, "Tag=%s-given-up,0.000,%.3f,%.3f,%s\n", op, r.Duration, times.Max*1e3, h.ResponseCensored)
		}
	}
	if err := writeFile(name, []byte(b.String())); err != nil {
		return fmt.Errorf("write the histograms (--hist): %w", err)
	}
	return nil
}
