package report

import (
	"fmt"
	"strings"

	"darklaunch/verdict/judge"
)

// perKind is how many annotations of a kind GitHub shows of a step.
const perKind = 10

// Annotations are workflow commands, a line each, that make GitHub show the
// reasons of d beside a job: errors for those of a fail, warnings for the others.
// A pass has none.
func Annotations(d *judge.Document) string {
	kind := "warning"
	if d.Verdict == judge.Fail {
		kind = "error"
	}
	var b strings.Builder
	line := func(title, text string) {
		fmt.Fprintf(&b, "::%s title=%s::%s\n", kind, property(title), message(text))
	}
	for i, r := range d.Reasons {
		if i == perKind-1 && len(d.Reasons) > perKind {
			line("darklaunch: "+string(d.Verdict), fmt.Sprintf("and %d more reasons", len(d.Reasons)-i))
			break
		}
		title := "darklaunch: " + string(d.Verdict)
		if r.Metric != "" {
			title += ", " + r.Metric + " of " + routeName(r.Route)
		}
		line(title, reason(&r))
	}
	return b.String()
}

// message and property are escaped as the runner's own toolkit does it.
func message(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func property(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C").Replace(s)
}
