package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"darklaunch/loadgen/scenario"
)

// planResult is the machine form of load plan. Shares and figures are of what is
// measured; sizes are in bytes, times in seconds.
type planResult struct {
	Schema   string  `json:"schema"`
	Scenario string  `json:"scenario"`
	Seed     uint64  `json:"seed"`
	Warmup   float64 `json:"warmup_s"`
	Duration float64 `json:"duration_s"`
	// Arrivals are sessions or single calls.
	Arrivals int               `json:"arrivals"`
	Calls    int               `json:"calls"`
	Rate     float64           `json:"rate"`
	Users    int               `json:"users"`
	Sent     int               `json:"sent_bytes"`
	Ops      map[string]planOp `json:"ops"`
	Channels map[string]int    `json:"channels,omitempty"`
	// Streams are held by sessions, and no calls of these.
	Streams int     `json:"streams"`
	Held    float64 `json:"streams_at_a_time"`
	// Concurrency is by Little's law: calls at a time, and sessions.
	Service     float64 `json:"assumed_service_s"`
	Concurrency float64 `json:"concurrency"`
	Sessions    float64 `json:"sessions_at_a_time"`
}

type planOp struct {
	Calls int     `json:"calls"`
	Share float64 `json:"share"`
	Bytes int     `json:"sent_bytes"`
}

func (p *program) loadPlan() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan SCENARIO",
		Short: "Tell what a scenario would send, and send nothing",
		Long: `Tell what a scenario would send, and send nothing: when, which operations, how many
bytes, and by Little's law how many calls and sessions there would be at a time.
Where calls depend on answers, the service is assumed to answer all of them well,
each after --service.`,
		Example: "  darklaunch load plan messages-chat --scale 2x",
		Args:    cobra.ExactArgs(1),
	}
	var scale factor
	var seed uint64
	var service time.Duration
	scaleVar(cmd.Flags(), &scale)
	cmd.Flags().Uint64Var(&seed, "seed", 0, "what all random numbers come from; not given: the scenario's own (default 0)")
	durationVar(cmd.Flags(), &service, "service", 10*time.Millisecond, "how long a call is assumed to take")
	out := p.outputVar(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := loadScenario(args[0])
		if err != nil {
			return err
		}
		if !cmd.Flags().Changed("seed") {
			seed = s.Seed
		}
		r, err := makePlan(s, scenario.Run{Seed: seed, Scale: float64(scale), ID: "plan"}, service)
		if err != nil {
			return usageErrorf("%w", err)
		}
		w := tabwriter.NewWriter(out.text(), 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "scenario\t%s: %s\n", r.Scenario, cmp.Or(s.Description, "no description"))
		fmt.Fprintf(w, "schedule\t%gs to settle, %gs measured, seed %d\n", r.Warmup, r.Duration, r.Seed)
		fmt.Fprintf(w, "arrivals\t%d, with %d calls of %d users: %.1f/s\n", r.Arrivals, r.Calls, r.Users, r.Rate)
		fmt.Fprintf(w, "requests\t%d bytes of body, %.0f a call\n", r.Sent, float64(r.Sent)/float64(max(1, r.Calls)))
		fmt.Fprintf(w, "at a time\t%.1f calls of %v, %.1f sessions\n", r.Concurrency, service, r.Sessions)
		if r.Streams > 0 {
			fmt.Fprintf(w, "streams\t%d opened, %.1f at a time\n", r.Streams, r.Held)
		}
		if len(r.Channels) > 0 {
			var parts []string
			for _, c := range slices.Sorted(maps.Keys(r.Channels)) {
				parts = append(parts, fmt.Sprintf("%d %s", r.Channels[c], c))
			}
			fmt.Fprintf(w, "messages\t%s\n", strings.Join(parts, ", "))
		}
		w.Flush()
		fmt.Fprintln(out.text())
		printPlanOps(out, r)
		return out.result(r)
	}
	return cmd
}

func printPlanOps(out *output, r *planResult) {
	w := tabwriter.NewWriter(out.text(), 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "operation\tcalls\tshare\tbytes a call\t")
	names := slices.SortedFunc(maps.Keys(r.Ops), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Ops[b].Calls, r.Ops[a].Calls), strings.Compare(a, b))
	})
	for _, name := range names {
		o := r.Ops[name]
		fmt.Fprintf(w, "%s\t%d\t%.1f%%\t%.0f\t\n", name, o.Calls, 100*o.Share, float64(o.Bytes)/float64(o.Calls))
	}
	w.Flush()
}

func makePlan(s *scenario.Scenario, run scenario.Run, service time.Duration) (*planResult, error) {
	cfg, err := s.Config("", run)
	if err != nil {
		return nil, err
	}
	r := &planResult{
		Schema: "loadplan/v1", Scenario: s.Name, Seed: run.Seed, Warmup: cfg.Warmup.Seconds(), Duration: cfg.For.Seconds(),
		Ops: map[string]planOp{}, Channels: map[string]int{}, Service: service.Seconds(),
	}
	begun, users := map[uint64]bool{}, map[uint64]bool{}
	err = s.Simulate(run, 0, 1, service, func(m scenario.Made) {
		if begun[m.Session] = true; m.Settle {
			return
		}
		if m.Stream {
			r.Streams++
			return
		}
		r.Calls++
		r.Sent += m.Bytes
		users[m.Call.User] = true
		if m.HasDraft {
			r.Channels[m.Draft.Channel.String()]++
		}
		o := r.Ops[m.Op]
		o.Calls++
		o.Bytes += m.Bytes
		r.Ops[m.Op] = o
	})
	if err != nil {
		return nil, err
	}
	for name, o := range r.Ops {
		o.Share = float64(o.Calls) / float64(r.Calls)
		r.Ops[name] = o
	}
	r.Arrivals, r.Users = len(begun), len(users)
	r.Rate = float64(r.Calls) / r.Duration
	r.Concurrency = r.Rate * r.Service
	r.Sessions = cfg.Rate / (s.Calls() + s.Held()) * s.SessionTime(service).Seconds()
	r.Held = r.Sessions * s.Held()
	return r, nil
}
