package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"darklaunch/verdict/judge"
)

// undecided is what a verdict that is inconclusive ends as.
type undecided string

// The values of undecided: with a code of its own, as a pass, as a fail.
const (
	undecidedCode undecided = "code"
	undecidedPass undecided = "pass"
	undecidedFail undecided = "fail"
)

// tellVerdict tells d as text and where --json asks for it, and writes it to dir if that is
// not empty. The error it returns ends the program with the verdict's code.
func (p *program) tellVerdict(out *output, d *judge.Document, dir string, u undecided) error {
	printVerdict(out.text(), d)
	if err := out.result(d); err != nil {
		return err
	}
	if dir != "" {
		b, err := json.MarshalIndent(d, "", "  ")
		if err == nil {
			err = os.MkdirAll(dir, 0o777)
		}
		if err == nil {
			err = writeFile(filepath.Join(dir, "verdict.json"), append(b, '\n'))
		}
		if err != nil {
			return fmt.Errorf("write the reports (--out): %w", err)
		}
	}
	return verdictError(d, u)
}

// verdictError is how the program ends for d.
func verdictError(d *judge.Document, u undecided) error {
	why := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		why[i] = r.Text
	}
	code := exitFail
	switch d.Verdict {
	case judge.Pass:
		return nil
	case judge.Fail:
	default:
		switch u {
		case undecidedPass:
			return nil
		case undecidedFail:
		default:
			code = exitInconclusive
		}
	}
	return &codedError{code, fmt.Errorf("verdict %s: %s", d.Verdict, strings.Join(why, "; "))}
}

func printVerdict(w io.Writer, d *judge.Document) {
	fmt.Fprintf(w, "%s\n\n", d.Comparison)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := range d.Metrics {
		m := &d.Metrics[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", m.Route, m.Title(), effectOf(m), m.Use, m.Verdict)
	}
	t.Flush()
	for _, r := range d.Reasons {
		line := r.Text
		if r.Metric != "" {
			line = r.Metric + " of " + r.Route + ": " + line
		}
		if r.Cure != "" {
			line += " (" + r.Cure + ")"
		}
		fmt.Fprintf(w, "%s\n", line)
	}
	fmt.Fprintf(w, "\nverdict: %s, of %d blocks\n", d.Verdict, d.Rig.Blocks)
}

func effectOf(m *judge.Metric) string {
	if m.Effect == nil {
		return "-"
	}
	s := fmt.Sprintf("%+.3g%%", 100**m.Effect)
	if m.CI != nil {
		s += fmt.Sprintf(" (%+.3g to %+.3g)", 100*m.CI.Lower, 100*m.CI.Upper)
	}
	return s
}
