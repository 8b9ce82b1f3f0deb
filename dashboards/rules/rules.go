// Package rules holds Darklaunch's recording rules and alerts, as one file that
// any Prometheus can load.
package rules

import (
	_ "embed"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// Name is what the rules are called.
const Name = "darklaunch.rules.yml"

//go:embed darklaunch.rules.yml
var standard string

// Standard is the file as it stands in the source.
func Standard() []byte { return []byte(standard) }

// budgetWindow is part of the names of records whose window is shrunk.
const budgetWindow = ":ratio_rate_budget_"

// shortest is what a window of a shrunk rule may be: some scrapes of a second.
const shortest = 15 * time.Second

// Shrunk is Standard for a run of minutes: windows of the error budget, windows
// in alerts, and how long an alert waits are divided by factor, to no less than
// 15 s where there was a window. Records that name their window keep it. It
// panics for a factor below 1.
func Shrunk(factor float64) []byte {
	if !(factor >= 1) {
		panic(fmt.Sprintf("rules: factor %v", factor))
	}
	p := parser.NewParser(parser.Options{})
	groups, errs := rulefmt.Parse([]byte(standard), false, model.UTF8Validation, p, slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		panic(errs[0]) // the file is part of the program
	}
	for _, g := range groups.Groups {
		for i := range g.Rules {
			r := &g.Rules[i]
			if r.Alert == "" && !strings.Contains(r.Record, budgetWindow) {
				continue
			}
			expr, err := p.ParseExpr(r.Expr)
			if err != nil {
				panic(err)
			}
			parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
				if m, ok := n.(*parser.MatrixSelector); ok {
					m.Range = max(shrink(m.Range, factor), shortest)
				}
				return nil
			})
			r.Expr = expr.String()
			r.For = model.Duration(shrink(time.Duration(r.For), factor))
		}
	}
	text, err := yaml.Marshal(groups)
	if err != nil {
		panic(err)
	}
	return text
}

func shrink(d time.Duration, factor float64) time.Duration {
	return time.Duration(float64(d) / factor).Round(time.Second)
}
