package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"darklaunch/loadgen"
)

// printResult writes r for people.
func printResult(w io.Writer, what string, r *loadgen.Result) {
	fmt.Fprintf(w, "%s\n\n", what)
	printTimes(w, &r.Figures)
	if len(r.Ops) > 1 && r.Sent+r.Shed > 0 {
		fmt.Fprintln(w)
		printOps(w, r)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	planned := ""
	if r.Planned != nil {
		planned = fmt.Sprintf("%d planned, ", *r.Planned)
	}
	fmt.Fprintf(t, "calls\t%s%d sent, %d ok, %d in flight at the end\n", planned, r.Sent, r.OK, r.InFlight)
	if r.Shed > 0 {
		fmt.Fprintf(t, "not made\t%d: %s\n", r.Shed, counts(r.ShedBy))
	}
	rate := fmt.Sprintf("%.1f/s", r.Rate.Achieved)
	if r.Rate.Target > 0 {
		rate += fmt.Sprintf(" of %.1f/s", r.Rate.Target)
	}
	fmt.Fprintf(t, "rate\t%s over %.1fs\n", rate, r.Duration)
	fmt.Fprintf(t, "errors\t%s\n", errorsOf(&r.Figures))
	fmt.Fprintf(t, "generator\t%.2fs CPU, %.1fµs a call, %dMiB", r.Generator.CPU, r.Generator.CPUPerRequest, r.Generator.RSS>>20)
	if r.Pacing != nil {
		fmt.Fprintf(t, ", late by p99 %s", people(r.Pacing.P99))
	}
	fmt.Fprintln(t)
	switch {
	case r.Interrupted && r.Duration == 0:
		fmt.Fprintln(t, "interrupted\tin the warm-up, of which nothing is told")
	case r.Interrupted:
		fmt.Fprintln(t, "interrupted\tthis is what there was by then")
	}
	if r.Verdict != "" {
		var objectives []string
		for _, o := range r.Objectives {
			objectives = append(objectives, o.String())
		}
		fmt.Fprintf(t, "verdict\t%s %s\n", r.Verdict, strings.Join(objectives, ", "))
	}
	for _, reason := range r.Reasons {
		fmt.Fprintf(t, "\t%s\n", reason)
	}
	t.Flush()
}

func printTimes(w io.Writer, f *loadgen.Figures) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\tresponse\tservice\t")
	if f.Lag != nil {
		fmt.Fprintf(t, "lag\t")
	}
	fmt.Fprintln(t)
	for _, row := range timeRows {
		fmt.Fprintf(t, "%s\t%s\t%s\t", row.name, row.of(&f.Response), row.of(&f.Service))
		if f.Lag != nil {
			fmt.Fprintf(t, "%s\t", row.of(f.Lag))
		}
		fmt.Fprintln(t)
	}
	t.Flush()
}

// printOps writes a line for each operation.
func printOps(w io.Writer, r *loadgen.Result) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "operation\tsent\tshare\tfailed\tp50\tp99\tmax\t\n")
	for _, name := range opNames(r) {
		o := r.Ops[name]
		if o.Sent+o.Shed == 0 {
			continue
		}
		fmt.Fprintf(t, "%s\t%d\t%.1f%%\t%d\t%s\t%s\t%s\t\n", name, o.Sent, 100*float64(o.Sent)/float64(max(1, r.Sent)), o.Sent-o.OK-o.InFlight,
			timeRows[1].of(&o.Response), timeRows[4].of(&o.Response), timeRows[6].of(&o.Response))
	}
	t.Flush()
}

// opNames are the operations of r, the most frequent first.
func opNames(r *loadgen.Result) []string {
	return slices.SortedFunc(maps.Keys(r.Ops), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Ops[b].Sent, r.Ops[a].Sent), strings.Compare(a, b))
	})
}

type timeRow struct {
	name string
	get  func(*loadgen.Times) float64
}

var timeRows = []timeRow{
	{"mean", func(t *loadgen.Times) float64 { return t.Mean }},
	{"p50", func(t *loadgen.Times) float64 { return t.P50 }},
	{"p90", func(t *loadgen.Times) float64 { return t.P90 }},
	{"p95", func(t *loadgen.Times) float64 { return t.P95 }},
	{"p99", func(t *loadgen.Times) float64 { return t.P99 }},
	{"p999", func(t *loadgen.Times) float64 { return t.P999 }},
	{"max", func(t *loadgen.Times) float64 { return t.Max }},
}

// of is the row's value in t; a lower bound is marked as one.
func (row timeRow) of(t *loadgen.Times) string {
	if t.Max == 0 { // nothing was sent
		return "-"
	}
	s := people(row.get(t))
	if slices.Contains(t.Censored, row.name) {
		return "≥ " + s
	}
	return s
}

// people rounds seconds to three digits.
func people(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}

// errorsOf tells errors by class, and the codes of answers that were errors.
func errorsOf(f *loadgen.Figures) string {
	if len(f.Errors) == 0 {
		return "none"
	}
	s := counts(f.Errors)
	codes := map[string]uint64{}
	for code, n := range f.Codes {
		if code != "0" && (len(code) < 3 || code[0] >= '4') {
			codes["code "+code] = n
		}
	}
	if len(codes) > 0 {
		s += " (" + counts(codes) + ")"
	}
	return s
}

// counts writes numbers by name, the greatest first.
func counts(m map[string]uint64) string {
	names := slices.SortedFunc(maps.Keys(m), func(a, b string) int {
		return cmp.Or(cmp.Compare(m[b], m[a]), strings.Compare(a, b))
	})
	var parts []string
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%d %s", m[name], name))
	}
	return strings.Join(parts, ", ")
}
