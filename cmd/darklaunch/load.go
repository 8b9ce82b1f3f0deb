package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"darklaunch/loadgen"
	"darklaunch/loadgen/arrival"
	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/transport"
)

func (p *program) load() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Send load by a plan, and tell what it came to",
		Long: `Send load by a plan, and tell what it came to. Every call has a time at which it
is due, fixed before the run. The response time counts from there, the service
time from the first byte sent, and the lag is what lies between: a service that
stalls is charged for all who would have come meanwhile.

Exit codes: with an objective, 0 it was kept, 10 it was broken, 11 it can't be
told: the run was interrupted, calls were not made, or this machine was too slow
to make them in time. Without one, 0, or 11 if the figures can't be trusted. 1 if
no connection could be made at all and there was no objective to judge that by.`,
		Example: "  darklaunch load http http://127.0.0.1:8080/ --rate 2000/s --for 10s --objective 'p99<250ms'",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []subcommand{(*program).loadHTTP, (*program).loadGRPC, (*program).loadRun, (*program).loadPlan, (*program).loadMerge} {
		cmd.AddCommand(sub(p))
	}
	return cmd
}

// judgeFlags are the flags of all commands that make a run.
type judgeFlags struct {
	service    serviceFlags
	objectives []loadgen.Objective
	timeout    time.Duration
	seed       uint64
	insecure   bool
	out        *output
}

func (f *judgeFlags) define(p *program, set *pflag.FlagSet) {
	f.service.define(set, "")
	set.Var(objectivesValue{&f.objectives}, "objective", "what must hold, again for each: mean, p50, p90, p95, p99, p999 or max of the response, or errors, below a limit: 'p99<250ms', 'errors<0.1%'")
	durationVar(set, &f.timeout, "timeout", 10*time.Second, "a call is given up this long after it was due")
	set.Uint64Var(&f.seed, "seed", 1, "what all random numbers of the plan come from")
	set.BoolVar(&f.insecure, "insecure", false, "take any TLS certificate")
	f.out = p.outputVar(set)
}

// config puts what the flags say into cfg.
func (f *judgeFlags) config(cfg *loadgen.Config) {
	cfg.Seed, cfg.Timeout = f.seed, f.timeout
	cfg.Objectives = append(cfg.Objectives, f.objectives...)
	// What remains of the limit is for the result.
	cfg.Drain = f.service.drain * 9 / 10
	if f.insecure && cfg.Transport.TLS != nil {
		cfg.Transport.TLS.InsecureSkipVerify = true
	}
}

type objectivesValue struct{ p *[]loadgen.Objective }

func (v objectivesValue) Set(s string) error {
	o, err := loadgen.ParseObjective(s)
	if err == nil {
		*v.p = append(*v.p, o)
	}
	return err
}

func (v objectivesValue) String() string { return "" }
func (v objectivesValue) Type() string   { return "objective" }

// adhocFlags are those of runs that no scenario describes.
type adhocFlags struct {
	judgeFlags
	rate     rate
	length   time.Duration
	warmup   time.Duration
	requests uint64
	arrival  arrival.Process
	headers  []transport.Header
}

func (f *adhocFlags) define(p *program, set *pflag.FlagSet) {
	f.judgeFlags.define(p, set)
	rateVar(set, &f.rate, "rate", 100, "how many calls a second; max: as many as the connections take, one after the other, to see what a call costs")
	durationVar(set, &f.length, "for", 10*time.Second, "how long")
	durationVar(set, &f.warmup, "warmup", 0, "make calls this long before, and leave them out of the result")
	set.Uint64Var(&f.requests, "requests", 0, "make this many calls instead of --for; 0: --for decides (default 0)")
	set.Var(value[arrival.Process]{&f.arrival, "process", parseProcess, func(p arrival.Process) string { return processNames[p] }},
		"arrival", "how calls are spread: poisson (random times, their number fixed) or constant (even)")
	set.Var(headersValue{&f.headers}, "header", "send this header or metadata, as NAME:VALUE; again for each")
}

// processNames are those of flags. A fixed number of calls is what two runs that
// are to be compared should have in common.
var processNames = map[arrival.Process]string{arrival.Conditioned: "poisson", arrival.Constant: "constant"}

func parseProcess(s string) (arrival.Process, error) {
	for p, name := range processNames {
		if s == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("%q is not a way to spread calls: want poisson or constant", s)
}

type headersValue struct{ p *[]transport.Header }

func (v headersValue) Set(s string) error {
	name, val, ok := strings.Cut(s, ":")
	if !ok || name == "" {
		return fmt.Errorf("%q is not a header: want NAME:VALUE", s)
	}
	*v.p = append(*v.p, transport.Header{Name: name, Value: strings.TrimSpace(val)})
	return nil
}

func (v headersValue) String() string { return "" }
func (v headersValue) Type() string   { return "header" }

// maxRate keeps the plan of a second within a second's work.
const maxRate = 1e7

// config is the run that the flags describe, of what t says.
func (f *adhocFlags) config(set *pflag.FlagSet, t transport.Config) (loadgen.Config, error) {
	cfg := loadgen.Config{Transport: t, Warmup: f.warmup, For: f.length}
	f.judgeFlags.config(&cfg)
	if err := cfg.Transport.Check(); err != nil {
		return cfg, usageErrorf("%w", err)
	}
	if math.IsInf(float64(f.rate), 1) {
		switch {
		case len(f.objectives) > 0:
			return cfg, usageErrorf("--objective: --rate max has no plan to be late for, and so nothing to judge by: want a rate")
		case f.requests > 0:
			return cfg, usageErrorf("--requests: --rate max goes by time: want --for")
		case f.length <= 0:
			return cfg, usageErrorf("--for: want more than 0s")
		}
		return cfg, nil
	}
	cfg.Rate = float64(f.rate)
	if cfg.Rate > maxRate {
		return cfg, usageErrorf("--rate: want at most %v, above what a machine can make", rate(maxRate))
	}
	if f.requests > 0 {
		if set.Changed("for") {
			return cfg, usageErrorf("--requests and --for exclude each other")
		}
		cfg.For = time.Duration(math.Ceil(float64(f.requests) / cfg.Rate * float64(time.Second)))
	}
	segments := []arrival.Segment{{For: cfg.For, Shape: arrival.Hold{Rate: cfg.Rate}}}
	if cfg.Warmup > 0 {
		segments = append([]arrival.Segment{{Phase: arrival.Settle, For: cfg.Warmup, Shape: arrival.Hold{Rate: cfg.Rate}}}, segments...)
	}
	curve, err := arrival.NewCurve(segments...)
	if err != nil {
		return cfg, usageErrorf("--rate %v --for %v: %w", f.rate, cfg.For, err)
	}
	plan := arrival.Plan{Seed: f.seed, Curve: curve, Process: f.arrival}
	cfg.Arrivals = func(index, total int) (engine.Arrivals, error) { return plan.Arrivals(index, total) }
	return cfg, nil
}
