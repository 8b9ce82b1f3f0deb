package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"darklaunch/loadgen"
)

func (p *program) loadMerge() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "merge RESULT...",
		Short: "Add up the results of a run's workers",
		Long: `Add up the results of a run's workers, which wrote them with --json, without loss:
the histograms are added, so that a percentile is that of all calls. Results of
different plans are refused. If a worker is missing or was too late, the verdict
is inconclusive: the load was lighter than planned.`,
		Example: "  darklaunch load merge worker-0.json worker-1.json --json all.json",
		Args:    cobra.MinimumNArgs(1),
	}
	out := p.outputVar(cmd.Flags())
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		var results []*loadgen.Result
		for _, name := range args {
			r, err := readResult(name, "RESULT")
			if err != nil {
				return err
			}
			results = append(results, r)
		}
		m, err := loadgen.Merge(results)
		if err != nil {
			return usageErrorf("%w", err)
		}
		printResult(out.text(), fmt.Sprintf("%d of %d workers of %s", len(results), m.Total, m.Scenario), m)
		if err := out.result(m); err != nil {
			return err
		}
		return verdictOf(m, "the target")
	}
	return cmd
}
