package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"darklaunch/loadgen"
	"darklaunch/verdict/loads"
)

const verdictCompareLong = `Compare what two builds made of the same load: two results that load wrote with
--json, or two directories of them.

A result is one piece of evidence, as all calls of a run share its moment and its
machine: five of each side are the least that can pass or fail. Make them by turns
(base head, head base, …) on one machine, with the same scenario, rate and seed for
both of a pair; pairs are files of the same name or, where no name is on both sides,
those in the same place. Runs of different plans are not compared.

Exit codes: 0 pass, 10 fail, 11 can't be told; what would help is said.`

// compareSettings are those keys of a verdict's configuration that a comparison of
// results goes by; the others are for what is served.
type compareSettings struct {
	Judge          judgeSettings `yaml:",inline"`
	OnInconclusive string        `yaml:"on-inconclusive"`
}

func (p *program) verdictCompare() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "compare BASE HEAD",
		Short:   "Compare results of load: is head as fast and as right as base?",
		Long:    verdictCompareLong,
		Example: "  darklaunch verdict compare base/ head/ --out out",
		Args:    cobra.ExactArgs(2),
	}
	var config, dir string
	cmd.Flags().StringVar(&config, "config", "", "YAML `file` that says what matters; see darklaunch schema verdict")
	cmd.Flags().StringVar(&dir, "out", "", "write the verdict in all forms to this `directory`")
	out := p.outputVar(cmd.Flags())
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		var s compareSettings
		if config != "" {
			if err := loadConfig(config, schemaText("verdict"), &s); err != nil {
				return err
			}
		}
		base, err := readRuns(args[0], "BASE")
		if err != nil {
			return err
		}
		head, err := readRuns(args[1], "HEAD")
		if err != nil {
			return err
		}
		d, err := loads.Judge(fmt.Sprintf("%s against %s", args[1], args[0]), s.Judge.config(), base, head, time.Now())
		if err != nil {
			return usageErrorf("%w", err)
		}
		for i := range d.Arms {
			d.Arms[i].Name = args[i]
		}
		return p.tellVerdict(out, d, dir, undecidedBy(s.OnInconclusive))
	}
	return cmd
}

// undecidedBy is how the program ends for a verdict that can't be told. A rollout can
// wait, but a comparison of what there is cannot.
func undecidedBy(setting string) undecided {
	switch setting {
	case "pass":
		return undecidedPass
	case "fail":
		return undecidedFail
	}
	return undecidedCode
}

// readRuns reads the result name, or all that are in the directory name.
func readRuns(name, what string) ([]loads.Run, error) {
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		r, err := readResult(name, what)
		if err != nil {
			return nil, err
		}
		return []loads.Run{{Name: name, Result: r}}, nil
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	var runs []loads.Run
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		r, err := readResult(filepath.Join(name, e.Name()), what)
		if err != nil {
			return nil, err
		}
		runs = append(runs, loads.Run{Name: e.Name(), Result: r})
	}
	if len(runs) == 0 {
		return nil, usageErrorf("%s: there is no result of load in it: want files *.json, as load --json writes them", name)
	}
	return runs, nil
}

// readResult reads what load wrote with --json.
func readResult(name, what string) (*loadgen.Result, error) {
	b, err := readInput(name, what)
	if err != nil {
		return nil, err
	}
	r := new(loadgen.Result)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, usageErrorf("%s: not a result of load: %w", name, err)
	}
	if r.Schema != loadgen.Schema {
		return nil, usageErrorf("%s: not a result of load: schema %q, want %q", name, r.Schema, loadgen.Schema)
	}
	return r, nil
}
