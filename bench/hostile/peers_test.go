package hostile

import (
	"errors"
	"flag"
	"strings"
	"testing"

	"darklaunch/bench/hostile/shadows"
	"darklaunch/bench/rig"
	"darklaunch/bench/side"
)

// starter makes a Proxy of what starts one.
func starter(name string, protocol shadows.Protocol, percent int, tuned bool, start func(rig.Job) (*rig.Server, error), ledger func(admin string) (Ledger, error)) Proxy {
	return Proxy{Name: name, Protocol: protocol, Start: func(live, shadow string) (*Instance, error) {
		s, err := start(rig.Job{GRPC: protocol == shadows.GRPC, Live: live, Shadow: shadow, Percent: percent, Tuned: tuned})
		if err != nil {
			return nil, err
		}
		in := &Instance{Addr: s.Addr, Pid: s.Pid, Stop: s.Stop}
		if ledger != nil {
			in.Ledger = func() (Ledger, error) { return ledger(s.Admin) }
		}
		return in, nil
	}}
}

func nginx(t testing.TB, protocol shadows.Protocol) Proxy {
	return starter("nginx, mirror", protocol, 100, false, func(j rig.Job) (*rig.Server, error) { return rig.Nginx(t, j), nil }, nil)
}

func envoy(t testing.TB, protocol shadows.Protocol, tuned bool) Proxy {
	name := "Envoy, request_mirror_policies"
	if tuned {
		name += ", shadow cluster tuned"
	}
	return starter(name, protocol, 100, tuned, func(j rig.Job) (*rig.Server, error) { return rig.Envoy(t, j), nil }, nil)
}

func darklaunch(t testing.TB, protocol shadows.Protocol) Proxy { return sampling(t, protocol, 100) }

// sampling is this program with so many per cent of the requests copied.
func sampling(t testing.TB, protocol shadows.Protocol, percent int) Proxy {
	return starter("darklaunch mirror", protocol, percent, false, func(j rig.Job) (*rig.Server, error) { return rig.Mirror(t, j, "") }, mirrorLedger)
}

// mirrorLedger is the account that this program promises to keep exactly.
func mirrorLedger(admin string) (Ledger, error) {
	l, err := rig.MirrorLedger(admin)
	return Ledger(l), err
}

// TestNginx shows the suite at work on a real proxy, whose fault is known: it
// answers the first request of a connection and no other before the shadow has
// answered the copy.
func TestNginx(t *testing.T) {
	t.Parallel()
	cfg := CI()
	cfg.States = []shadows.State{shadows.Off, shadows.Fast, shadows.BlackHole, shadows.SYNBlackHole, shadows.Errors, shadows.TLSStall}
	r, err := Run(nginx(t, shadows.HTTP), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s\n%s", r.Markdown(), examples(r))
	for _, row := range r.Rows {
		stalls := row.State == shadows.BlackHole || row.State == shadows.SYNBlackHole || row.State == shadows.TLSStall
		if !row.Bitten {
			t.Errorf("%s: the fault did not happen", row.State)
		}
		// A busy machine may cost a few answers more; the difference is of another kind.
		if stalls && row.Answered > 2*cfg.Conns {
			t.Errorf("%s: %d requests were answered over %d connections; has nginx learnt not to wait for its mirror?", row.State, row.Answered, cfg.Conns)
		}
		if !stalls && row.Answered < cfg.Calls*3/4 {
			t.Errorf("%s: %d of %d requests were answered", row.State, row.Answered, cfg.Calls)
		}
	}
}

// TestMirror holds this program to what it promises: no client notices.
func TestMirror(t *testing.T) {
	for _, protocol := range []shadows.Protocol{shadows.HTTP, shadows.GRPC} {
		t.Run(string(protocol), func(t *testing.T) {
			if testing.Short() {
				t.Skip("-short: builds and starts the program")
			}
			t.Parallel()
			r, err := Run(darklaunch(t, protocol), CI())
			if errors.Is(err, rig.ErrNotThere) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range r.Problems() {
				t.Error(p)
			}
			t.Logf("%s\n%s", r.Markdown(), examples(r))
		})
	}
}

var (
	smallSize = flag.Bool("small", false, "benchmark with the size of the tests")
	only      = flag.String("states", "", "benchmark in these states alone, separated by commas")
)

// BenchmarkHostile puts each proxy through all states and keeps its report in
// bench/RESULTS.md. Its time says nothing; -benchtime 1x.
func BenchmarkHostile(b *testing.B) {
	for _, p := range []func(testing.TB, shadows.Protocol) Proxy{
		darklaunch,
		nginx,
		func(t testing.TB, p shadows.Protocol) Proxy { return envoy(t, p, false) },
		func(t testing.TB, p shadows.Protocol) Proxy { return envoy(t, p, true) },
	} {
		for _, protocol := range []shadows.Protocol{shadows.HTTP, shadows.GRPC} {
			b.Run(p(b, protocol).Name+"/"+string(protocol), func(b *testing.B) {
				for b.Loop() {
					measure(b, p(b, protocol))
				}
			})
		}
	}
}

func measure(b *testing.B, p Proxy) {
	cfg := Full()
	if *smallSize {
		cfg = CI()
	}
	if *only != "" {
		for s := range strings.SplitSeq(*only, ",") {
			cfg.States = append(cfg.States, shadows.State(s))
		}
	}
	where := side.Machine()
	r, err := Run(p, cfg)
	if errors.Is(err, rig.ErrNotThere) {
		b.Skip(err)
	}
	if err != nil {
		b.Fatal(err)
	}
	answered, hurt := 0, 0
	for _, row := range r.Rows {
		answered += row.Answered
		if row.Hurt() {
			hurt++
		}
	}
	b.ReportMetric(100*float64(answered)/float64(cfg.Calls*len(r.Rows)), "%answered")
	b.ReportMetric(float64(hurt), "states-felt")
	b.Log(examples(r))
	head := "## Hostile shadows: " + p.Name + ", " + string(p.Protocol) + "\n\n" + where + "; `" + side.Command() + "`\n\n"
	if err := side.Record("../RESULTS.md", "hostile "+p.Name+" "+string(p.Protocol), head+r.Markdown()); err != nil {
		b.Fatal(err)
	}
}

// TestMarkdown: what went wrong can be read off the report.
func TestMarkdown(t *testing.T) {
	r := &Report{
		Proxy: Proxy{Name: "p", Protocol: shadows.HTTP}, Config: Config{Calls: 10, Upload: 1 << 20},
		Rows: []Row{
			{State: shadows.Off, Sent: 10, Answered: 10, Bitten: true},
			{State: shadows.BlackHole, Sent: 4, Answered: 3, TimedOut: 1, Bitten: true, Shadow: shadows.Evidence{Bites: 2}, Ledger: &Ledger{Offered: 3, Sent: 1}},
			{State: shadows.Errors, Sent: 10, Answered: 10, Altered: 4},
		},
		Uploads: []Upload{{State: shadows.StopsReading, Err: "none within 1s"}},
	}
	text := r.Markdown()
	for _, want := range []string{
		"| black hole | **3** | 1 | 0 | 6 | 0 |",
		"does not add up",
		"**no**: 0 500s",
		"4 answers of each state differ from live's",
		"500s: the fault did not happen",
		"an upload of 1 MiB was not answered: none within 1s",
		"no copy was under way",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}
