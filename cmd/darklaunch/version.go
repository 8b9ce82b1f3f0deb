package main

import (
	"cmp"
	"fmt"
	"runtime/debug"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// versionResult is the machine form of version; schemas/version.schema.json
// describes it.
type versionResult struct {
	Schema   string            `json:"schema"`
	Version  string            `json:"version"`
	Revision string            `json:"revision"`
	Go       string            `json:"go"`
	Modules  map[string]string `json:"modules"`
}

// modulesOfNote are those whose version an operator may have to know.
var modulesOfNote = []string{
	"github.com/HdrHistogram/hdrhistogram-go",
	"github.com/cockroachdb/pebble/v2",
	"github.com/go-zookeeper/zk",
	"github.com/prometheus/client_golang",
	"github.com/prometheus/prometheus",
	"github.com/tsuna/gohbase",
	"go.opentelemetry.io/otel",
	"golang.org/x/net",
	"google.golang.org/grpc",
}

// buildVersion reads what the Go tool wrote into the binary.
func buildVersion() versionResult {
	v := versionResult{Schema: "version/v1", Modules: map[string]string{}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version, v.Go = cmp.Or(info.Main.Version, "(devel)"), info.GoVersion
	setting := map[string]string{}
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	v.Revision = cmp.Or(setting["vcs.revision"], "unknown")
	if setting["vcs.modified"] == "true" {
		v.Revision += "+changes"
	}
	for _, m := range info.Deps {
		if slices.Contains(modulesOfNote, m.Path) {
			v.Modules[m.Path] = m.Version
		}
	}
	return v
}

func (p *program) version() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Tell what this program was built from",
		Example: "  darklaunch version\n  darklaunch version --json -",
		Args:    cobra.NoArgs,
	}
	out := p.outputVar(cmd.Flags())
	cmd.RunE = func(*cobra.Command, []string) error {
		v := buildVersion()
		w := tabwriter.NewWriter(out.text(), 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "darklaunch\t%s\nrevision\t%s\ngo\t%s\n", v.Version, v.Revision, v.Go)
		for _, m := range modulesOfNote {
			if at, ok := v.Modules[m]; ok {
				fmt.Fprintf(w, "%s\t%s\n", m, at)
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		return out.result(v)
	}
	return cmd
}
