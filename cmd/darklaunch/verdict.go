package main

import (
	"github.com/spf13/cobra"
)

func (p *program) verdict() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verdict",
		Short: "Judge whether the new system is as fast and as right as the old one",
		Long: `Judge whether the new system is as fast and as right as the old one: pass, fail
or inconclusive, with the reasons.`,
		Example: "  darklaunch verdict compare base/ head/",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.verdictCompare())
	return cmd
}
