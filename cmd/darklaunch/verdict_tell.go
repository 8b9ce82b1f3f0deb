package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"darklaunch/verdict/judge"
	"darklaunch/verdict/report"
)

// undecided is what a verdict that is inconclusive ends as.
type undecided string

// The values of undecided: with a code of its own, as a pass, as a fail.
const (
	undecidedCode undecided = "code"
	undecidedPass undecided = "pass"
	undecidedFail undecided = "fail"
)

// tellVerdict tells d in all forms that were asked for: text and --json, files in
// dir if it is not empty, and annotations and a summary where GitHub runs this.
// The error it returns ends the program with the verdict's code.
func (p *program) tellVerdict(out *output, d *judge.Document, dir string, u undecided) error {
	w := out.text()
	f, isFile := w.(*os.File)
	colour := isFile && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
	fmt.Fprint(w, report.Text(d, colour))
	if err := out.result(d); err != nil {
		return err
	}
	if dir != "" {
		if err := writeReports(dir, d, u); err != nil {
			return fmt.Errorf("write the reports (--out): %w", err)
		}
	}
	if os.Getenv("GITHUB_ACTIONS") == "true" {
		fmt.Fprint(w, report.Annotations(d))
		if err := addSummary(os.Getenv("GITHUB_STEP_SUMMARY"), d); err != nil {
			return fmt.Errorf("write the job's summary: %w", err)
		}
	}
	return verdictError(d, u)
}

// verdictError is how the program ends for d.
func verdictError(d *judge.Document, u undecided) error {
	why := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		why[i] = report.Reason(&r)
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

// writeReports writes the four files of a verdict to dir, which is made if it is
// not there.
func writeReports(dir string, d *judge.Document, u undecided) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	document, errJSON := report.JSON(d)
	page, errHTML := report.HTML(d)
	junit, errJUnit := report.JUnit(d, u == undecidedFail)
	if err := errors.Join(errJSON, errHTML, errJUnit); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"verdict.json": document, "report.html": page, "junit.xml": junit, "report.md": []byte(report.Markdown(d, report.CommentLimit)),
	} {
		if err := writeFile(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}
	return nil
}

// addSummary adds d to the summary of a job that GitHub runs.
func addSummary(file string, d *judge.Document) error {
	if file == "" {
		return nil
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	already, err := f.Seek(0, 2)
	if err != nil {
		already = 0 // a pipe, of which no length is known
	}
	// A step that adds too much loses all of its summary.
	if room := report.SummaryLimit - int(already); room > 1024 {
		_, err = f.WriteString(report.Markdown(d, room))
	}
	return errors.Join(err, f.Close())
}
