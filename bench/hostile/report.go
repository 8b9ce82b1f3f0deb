package hostile

import (
	"fmt"
	"strings"
	"time"

	"darklaunch/bench/hostile/shadows"
)

// Markdown is the report as a section of bench/RESULTS.md.
func (r *Report) Markdown() string {
	var b strings.Builder
	cfg := r.Config
	fmt.Fprintf(&b, "**%s, %s.** %d requests a state at %.0f/s over %d connections, bodies up to %s, an answer within %v, seed %d. Straight to live: p50 %s, p99 %s ms.\n\n",
		r.Proxy.Name, r.Proxy.Protocol, cfg.Calls, cfg.Rate, cfg.Conns, size(cfg.MaxBody), cfg.Patience, cfg.Seed, ms(r.P50), ms(r.P99))
	b.WriteString("| shadow | answered | timed out | failed | not sent | different | p50 / p99 ms | shadow: connections / requests / bytes | it happened | MB before → after | descriptors |\n")
	b.WriteString("|---|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|\n")
	for _, row := range r.Rows {
		happened := "–"
		if noun := row.State.Bites(); noun != "" {
			happened = fmt.Sprintf("%d %s", row.Shadow.Bites, noun)
			if !row.Bitten {
				happened = "**no**: 0 " + noun
			}
		}
		answered := fmt.Sprintf("%d", row.Answered)
		if row.Hurt() {
			answered = "**" + answered + "**"
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %s / %s | %d / %d / %s | %s | %s → %s | %d |\n",
			row.State, answered, row.TimedOut, row.Failed, cfg.Calls-row.Sent, row.Different, ms(row.P50), ms(row.P99),
			row.Shadow.Conns, row.Shadow.Heads, size(int(row.Shadow.Bytes)), happened,
			mb(row.Before.RSS), mb(row.After.RSS), row.After.Descriptors)
	}
	fmt.Fprintf(&b, "\nUploads of %s", size(cfg.Upload))
	if r.Proxy.Protocol == shadows.GRPC {
		fmt.Fprintf(&b, " as a stream of %d messages", uploadCall(0, cfg.Upload).pieces)
	}
	b.WriteString(":\n\n| shadow | answered | s | copies stopped and under way: before / after |\n|---|---|---:|---:|\n")
	for _, u := range r.Uploads {
		answered := "yes"
		if !u.Answered {
			answered = "**no**: " + strings.ReplaceAll(u.Err, "\n", " ")
		}
		fmt.Fprintf(&b, "| %s | %s | %.2f | %d / %d |\n", u.State, answered, u.Took.Seconds(), u.Held, u.HeldAfter)
	}
	r.notes(&b)
	return b.String()
}

// notes adds what the tables cannot hold.
func (r *Report) notes(b *strings.Builder) {
	altered := 0
	for _, row := range r.Rows {
		altered = max(altered, row.Altered)
		if l := row.Ledger; l != nil {
			verdict := "adds up"
			if !l.balanced() {
				verdict = "**does not add up**"
			}
			fmt.Fprintf(b, "\n* %s: the proxy says offered %.0f = sent %.0f + dropped %.0f + pending %.0f, which %s.", row.State, l.Offered, l.Sent, l.Dropped, l.Pending, verdict)
		}
	}
	if altered > 0 {
		fmt.Fprintf(b, "\n* With and without mirroring, %d answers of each state differ from live's: the proxy's own way, not counted as different.", altered)
	}
	problems := r.Problems()
	for _, p := range problems {
		b.WriteString("\n* " + p)
	}
	if len(problems) == 0 {
		b.WriteString("\n* No client noticed any state of the shadow; every fault happened.")
	}
	b.WriteByte('\n')
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond)) }

func mb(n int64) string {
	if n == 0 {
		return "–"
	}
	return fmt.Sprintf("%d", n>>20)
}

func size(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	default:
		return fmt.Sprintf("%d B", n)
	}
}
