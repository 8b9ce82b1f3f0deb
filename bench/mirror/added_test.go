package mirror

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"darklaunch/bench/rig"
	"darklaunch/bench/side"
)

var (
	turns    = flag.Int("slices", 12, "of each variant, for the latency that is added; six at least for an interval")
	sliceFor = flag.Duration("slice", 2*time.Second, "length of one")
)

// BenchmarkAdded is what proxies add to the latency of a direct connection at a
// rate that leaves them idle most of the time. -benchtime 1x; its own time says
// nothing.
func BenchmarkAdded(b *testing.B) {
	for _, p := range []struct {
		name           string
		grpc           bool
		conns, streams int
		peers          []string
		backend        func(testing.TB) *rig.Backend
	}{
		{"HTTP/1.1", false, 64, 0, []string{"nginx"}, rig.Web},
		{"gRPC", true, 4, 16, []string{"nginx", "HAProxy"}, rig.Echo},
	} {
		b.Run(p.name, func(b *testing.B) {
			for b.Loop() {
				live, sh := p.backend(b), p.backend(b)
				added(b, p.name, p.peers, start(b, p.grpc, live.Addr, sh), sh, func(addr string) (rig.Load, error) {
					return rig.Steady{Addr: addr, GRPC: p.grpc, Conns: p.conns, Streams: p.streams, Rate: rate, For: *sliceFor}.Run(b)
				})
			}
		})
	}
}

// added measures what does not copy and all of ours, and records it.
func added(b *testing.B, protocol string, peers []string, ps []proxy, sh *rig.Backend, load func(addr string) (rig.Load, error)) {
	where := side.Machine()
	var variants []side.Variant
	var ours []string
	for _, p := range ps {
		mine := strings.HasPrefix(p.name, "darklaunch")
		if mine {
			ours = append(ours, p.name)
		}
		if mine || p.name == "direct" || slices.Contains(peers, p.name) {
			if _, err := load(p.server.Addr); err != nil { // to warm up
				b.Fatal(err)
			}
			variants = append(variants, variant(p, sh, load))
		}
	}
	r, err := side.Interleave(*turns, variants...)
	if err != nil {
		b.Fatal(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "## Mirrors: latency added, %s, %d/s\n\n%s. darklaunch load, evenly paced, 200 bytes, latency from when a request was due; %d slices of %v each, by turns. Added is what a slice had over the direct one beside it: the centre, with a 95 %% interval by signed ranks. `%s`\n\n",
		protocol, rate, where, *turns, *sliceFor, side.Command())
	text.WriteString("| | p50 µs | added µs | p99 µs | added µs |\n|---|---:|---:|---:|---:|\n")
	for _, v := range r.Variants {
		fmt.Fprintf(&text, "| %s |", v)
		for _, q := range quantiles {
			fmt.Fprintf(&text, " %.0f |", r.Median(v, q))
			if v == "direct" {
				text.WriteString(" |")
			} else {
				fmt.Fprintf(&text, " %s |", signed(side.Paired(r.Differences(v, "direct", q))))
			}
		}
		text.WriteByte('\n')
	}
	text.WriteByte('\n')
	for _, v := range ours {
		for _, q := range quantiles {
			text.WriteString(noMore(r, v, "nginx", q))
		}
	}
	b.Log("\n" + text.String())
	if err := side.Record("../RESULTS.md", "mirror latency added "+protocol, text.String()); err != nil {
		b.Fatal(err)
	}
}

var quantiles = []string{"p50", "p99"}

// noMore is a line on whether a variant adds no more than another: what direct
// has falls out of the difference.
func noMore(r *side.Results, over, base, measure string) string {
	i := side.Paired(r.Differences(over, base, measure))
	return fmt.Sprintf("* %s adds no more to %s than %s: %s µs, %s.\n", over, measure, base, signed(i), side.Said(i.Lower, i.Upper, 0))
}

func signed(i side.Interval) string {
	return fmt.Sprintf("%+.0f [%+.0f, %+.0f]", i.Centre, i.Lower, i.Upper)
}
