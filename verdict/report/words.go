package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"darklaunch/verdict/judge"
)

// Sentence tells a metric of d in words: "p99 of /threads is 8.6 % slower (2.1 to
// 15.5 %), margin 10 %: not decided, 17 more blocks".
func Sentence(d *judge.Document, m *judge.Metric) string {
	var b strings.Builder
	name, more, less := words(m)
	fmt.Fprintf(&b, "%s of %s", name, routeName(m.Route))
	switch {
	case m.Effect == nil:
		fmt.Fprintf(&b, " can't be told")
	case same(m):
		verb := " is"
		if m.Absolute {
			verb = " are"
		}
		fmt.Fprintf(&b, "%s the same", verb)
		if m.CI != nil {
			fmt.Fprintf(&b, " (%s)", span(m, m.CI.Lower, m.CI.Upper))
		}
	default:
		verb, way, sign := " is ", more, 1.0
		if m.Absolute {
			verb = " are "
		}
		if *m.Effect < 0 {
			way, sign = less, -1
		}
		fmt.Fprintf(&b, "%s%s %s %s", verb, round(m, sign**m.Effect), unit(m), way)
		if m.CI != nil {
			lower, upper := sign*m.CI.Lower, sign*m.CI.Upper
			fmt.Fprintf(&b, " (%s)", span(m, min(lower, upper), max(lower, upper)))
		}
	}
	if m.Load != nil {
		fmt.Fprintf(&b, " at %s", rate(m.Load.Route))
	}
	fmt.Fprintf(&b, ", margin %s %s: %s", round(m, limit(m)), unit(m), outcome(d, m))
	if m.Note != "" {
		fmt.Fprintf(&b, "; %s", m.Note)
	}
	return b.String()
}

// same is an effect too small to name.
func same(m *judge.Metric) bool {
	return !m.Absolute && math.Abs(*m.Effect) < 0.0005 || round(m, *m.Effect) == "0"
}

// words are the name of m in a sentence, and what a positive and a negative effect are.
func words(m *judge.Metric) (name, more, less string) {
	switch m.Name {
	case judge.MetricLatency:
		return cmp.Or(m.Stat, "latency"), "slower", "faster"
	case judge.MetricCPU:
		return "CPU time a request", "more", "less"
	case judge.MetricAllocations:
		return "allocations a request", "more", "less"
	}
	return strings.ReplaceAll(m.Title(), "_", " "), "more", "less"
}

func routeName(route string) string {
	if route == "*" || route == "" {
		return "all routes"
	}
	return route
}

// outcome is what follows from a row.
func outcome(d *judge.Document, m *judge.Metric) string {
	s := map[judge.Verdict]string{judge.Pass: "passed", judge.Fail: "failed"}[m.Verdict]
	if s == "" {
		s = "not decided"
		if missing := m.BlocksNeeded - m.Blocks; missing > 0 {
			s += fmt.Sprintf(", %d more %s", missing, blocks(d, missing))
			if m.NeededFor > 0 {
				s += ", about " + length(m.NeededFor)
			}
		}
	}
	if m.Improved {
		s += ", improved"
	}
	if m.Use == judge.UseWatch {
		s += " (watched, decides nothing)"
	}
	return s
}

// answer is v as a word that is safe in any format, whatever a document holds.
func answer(v judge.Verdict) string {
	if v == judge.Pass || v == judge.Fail {
		return string(v)
	}
	return string(judge.Inconclusive)
}

// word is the same for a table.
func word(m *judge.Metric) string {
	s := answer(m.Verdict)
	if m.Improved {
		s = "improved"
	}
	if m.Use == judge.UseWatch {
		s += " (watch)"
	}
	return s
}

func blocks(d *judge.Document, n int) string {
	s := "block"
	if d.Mode == judge.Rounds {
		s = "round"
	}
	if n != 1 {
		s += "s"
	}
	return s
}

// length is a time in whole units.
func length(seconds float64) string {
	d := time.Duration(min(seconds, 1e9) * float64(time.Second))
	if d >= 2*time.Minute {
		return fmt.Sprintf("%d min", int(math.Ceil(d.Minutes())))
	}
	return fmt.Sprintf("%d s", int(math.Ceil(d.Seconds())))
}

// title says who was compared.
func title(d *judge.Document) string {
	var arms []string
	for _, a := range d.Arms {
		s := string(a.Role)
		if name := cmp.Or(a.Name, a.Version); name != "" {
			s += " " + name
		}
		if a.Name != "" && a.Version != "" {
			s += " (" + a.Version + ")"
		}
		arms = append(arms, s)
	}
	s := cmp.Or(d.Comparison, "comparison")
	if len(arms) > 0 {
		s += ": " + strings.Join(arms, ", ")
	}
	return s
}

// evidence says what the verdict rests on.
func evidence(d *judge.Document) string {
	s := fmt.Sprintf("%d %s", d.Rig.Blocks, blocks(d, d.Rig.Blocks))
	if d.Rig.BlockLength > 0 {
		s += " of " + people(d.Rig.BlockLength)
	}
	return s + fmt.Sprintf(", %d calls a side", d.Rig.Pairs)
}

// Reason is r without its cure: what it is about, and why that is no pass.
func Reason(r *judge.Reason) string {
	if r.Metric == "" {
		return r.Text
	}
	return r.Metric + " of " + routeName(r.Route) + ": " + r.Text
}

// reason is r with its cure.
func reason(r *judge.Reason) string {
	s := Reason(r)
	if r.Cure != "" {
		s += " (cure: " + r.Cure + ")"
	}
	return s
}

func difference(f *judge.Difference) string {
	s := fmt.Sprintf("%s: %s %s differs in %s %% of %d", f.Route, f.Field, f.Kind, percent(f.Rate), f.Pairs)
	if f.Noise != nil {
		s += fmt.Sprintf(", in control %s %%", percent(*f.Noise))
	}
	s += ", " + string(f.Tier)
	if f.Verdict != "" {
		s += ": " + answer(f.Verdict)
	}
	if f.Note != "" {
		s += "; " + f.Note
	}
	return s
}

// ordered are the metrics of d: those that stand in the way of a pass first, the
// farthest beyond its margin before the others; then those that passed, then
// those that are watched.
func ordered(d *judge.Document) []*judge.Metric {
	ms := make([]*judge.Metric, len(d.Metrics))
	for i := range d.Metrics {
		ms[i] = &d.Metrics[i]
	}
	slices.SortStableFunc(ms, func(a, b *judge.Metric) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), -cmp.Compare(beyond(a), beyond(b)))
	})
	return ms
}

// limit is the margin that applied: a floor may allow more than what was configured.
func limit(m *judge.Metric) float64 { return max(m.Margin, m.Allowed) }

func rank(m *judge.Metric) int {
	switch {
	case m.Use == judge.UseWatch:
		return 3
	case m.Verdict == judge.Fail:
		return 0
	case m.Verdict == judge.Pass:
		return 2
	}
	return 1
}

// beyond is how far the better end of the interval is from the margin.
func beyond(m *judge.Metric) float64 {
	if m.CI == nil {
		return math.Inf(-1)
	}
	if m.Name == judge.MetricThroughput {
		return -m.CI.Upper - limit(m)
	}
	return m.CI.Lower - limit(m)
}

// harm are the rows about live.
func harm(h *judge.LiveHarm) (ms []*judge.Metric) {
	for _, rows := range [][]judge.Metric{h.Switchback, h.Sampled} {
		for i := range rows {
			ms = append(ms, &rows[i])
		}
	}
	return ms
}

// Numbers.

// round is an effect or margin of m: percent of a ratio, points of a share.
func round(m *judge.Metric, v float64) string {
	if m.Absolute && m.Unit != "share" {
		return strings.TrimSuffix(quantity(v, m.Unit), " ")
	}
	return percent(v)
}

// unit is of what round returns.
func unit(m *judge.Metric) string {
	switch {
	case !m.Absolute:
		return "%"
	case m.Unit == "share":
		return "points"
	}
	return ""
}

// percent has as many digits as are worth reading: 0.12, 8.6, 120.
func percent(share float64) string {
	v := share * 100
	switch {
	case math.IsInf(v, 1):
		return "∞"
	case math.IsInf(v, -1):
		return "−∞"
	case math.IsNaN(v):
		return "?"
	}
	digits := 1
	switch {
	case math.Abs(v) < 0.01:
		digits = 4
	case math.Abs(v) < 1:
		digits = 2
	case math.Abs(v) >= 99.95:
		digits = 0
	}
	s := strconv.FormatFloat(math.Abs(v), 'f', digits, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	if v < 0 && s != "0" {
		s = "−" + s
	}
	return s
}

func signed(m *judge.Metric, v float64) string {
	s := round(m, v)
	if v > 0 && s != "0" {
		s = "+" + s
	}
	return s
}

func span(m *judge.Metric, lower, upper float64) string {
	return strings.TrimRight(fmt.Sprintf("%s to %s %s", round(m, lower), round(m, upper), unit(m)), " ")
}

// effect, interval and allowed are cells of a table.
func effect(m *judge.Metric) string {
	if m.Effect == nil {
		return "–"
	}
	return strings.TrimRight(signed(m, *m.Effect)+" "+unit(m), " ")
}

func interval(m *judge.Metric) string {
	if m.CI == nil {
		return ""
	}
	return fmt.Sprintf("[%s, %s]", signed(m, m.CI.Lower), signed(m, m.CI.Upper))
}

func allowed(m *judge.Metric) string {
	return strings.TrimRight(round(m, limit(m))+" "+unit(m), " ")
}

// value is a metric's value.
func value(v *float64, unit string) string {
	if v == nil {
		return "–"
	}
	return quantity(*v, unit)
}

func quantity(v float64, unit string) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "?"
	}
	switch unit {
	case "s":
		return people(v)
	case "share":
		return percent(v) + " %"
	case "1/s":
		return rate(v)
	case "B":
		return size(v)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// people is seconds with three digits.
func people(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	step := time.Duration(1)
	for d.Abs()/step >= 1000 {
		step *= 10
	}
	return d.Round(step).String()
}

func rate(perSecond float64) string {
	if perSecond >= 100 {
		return strconv.FormatFloat(perSecond, 'f', 0, 64) + "/s"
	}
	return strconv.FormatFloat(perSecond, 'g', 3, 64) + "/s"
}

func size(bytes float64) string {
	for _, u := range []struct {
		name  string
		bytes float64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if math.Abs(bytes) >= u.bytes {
			return strconv.FormatFloat(bytes/u.bytes, 'f', 1, 64) + " " + u.name
		}
	}
	return strconv.FormatFloat(bytes, 'f', 0, 64) + " B"
}
