package dashboards

func load() Dashboard {
	const (
		rate = "[$__rate_interval]"
		of   = `scenario=~"$scenario"`
	)
	times := func(q string) Panel {
		return lines("Latency p"+q[2:]+": response and service", Seconds,
			"Response counts from when a call was due, service from when it was sent. Users feel the first. Where they part, calls waited for their turn: a test that shows the second alone would not see it."+bucketError,
			plain(quantile(q, `loadgen_response_seconds{`+of+`}`, "scenario"), "{{scenario}} response").as(Shadow),
			plain(quantile(q, `loadgen_service_seconds{`+of+`}`, "scenario"), "{{scenario}} service").as(Control)).size(8, 8)
	}
	const ofGenerators = ` and on (job, instance) loadgen_inflight_requests{}`
	return Dashboard{
		UID: "darklaunch-load", Title: "Darklaunch: load",
		Description: "Is the load what was planned, and how does the service answer it? Where the generator is late, its numbers do not count.",
		Variables: append(jobAndInstance("loadgen_inflight_requests"),
			choose("scenario", "Scenario", "What is played.", "loadgen_requests_total")),
		Rows: []Row{
			{"Rate", []Panel{
				stateset{"loadgen_phase", "scenario", []string{"settle", "measure", "drain", "done"}, "phase", []Level{Neutral, Good, Neutral, Neutral}}.panel(
					"Phase", "Only what is sent in measure counts in the result.", "{{scenario}}"),
				lines("Planned and achieved rate", RequestsPerSec, "Achieved below planned: the service is past its limit, or the generator is (see its lag). Equal lines are what makes the latencies below mean something.",
					plain(`sum by (scenario) (loadgen_target_requests_per_second{`+of+`})`, "{{scenario}} planned").as(Target),
					plain(`sum by (scenario) (rate(loadgen_requests_total{`+of+`}`+rate+`))`, "{{scenario}} achieved").as(Shadow)),
				lines("Calls by operation", RequestsPerSec, "The mix. It should be the scenario's; a share that falls says that sessions end early.",
					plain(`sum by (op) (rate(loadgen_requests_total{`+of+`}`+rate+`))`, "{{op}}")),
			}},
			{"Latency", []Panel{
				times("0.50"), times("0.99"), times("0.999"),
				lines("Response p99 by operation", Seconds, "Which operation the tail is of."+bucketError,
					plain(quantile("0.99", `loadgen_response_seconds{`+of+`}`, "op"), "{{op}}")),
				heatmap("Response times", "A gap with a band above it is a stall: many calls due in the same moment waited for its end.",
					plain(`sum(rate(loadgen_response_seconds{`+of+`}`+rate+`))`, "response")).size(12, 8),
			}},
			{"Outcomes", []Panel{
				lines("Calls that failed, by how", PerSecond, "status: the service answered that it failed. The others got no answer: timeout, connect, reset and so on.",
					plain(`sum by (outcome) (rate(loadgen_requests_total{`+of+`,outcome!="ok"}`+rate+`))`, "{{outcome}}")).size(8, 8),
				lines("Share that failed", Share, "Held against an errors objective, if there is one.",
					plain(`sum by (scenario) (rate(loadgen_requests_total{`+of+`,outcome!="ok"}`+rate+`)) / sum by (scenario) (rate(loadgen_requests_total{`+of+`}`+rate+`))`, "{{scenario}} failed").as(Error)).size(8, 8),
				lines("Delivery p99", Seconds, "From when a message was sent to when a stream told its reader of it. Empty where no session listens."+bucketError,
					plain(quantile("0.99", `loadgen_delivery_seconds{`+of+`}`, "scenario"), "{{scenario}} p99")).size(8, 8),
			}},
			{"Is the generator to be believed", []Panel{
				lines("Lag", Seconds, "From when a call was due to its first byte. With a p99 above 1 ms and 5 % of the p50 or of the objective, the run is not judged: give the generator more CPU or more workers.",
					quantiles(`loadgen_lag_seconds{`+of+`}`, "scenario", "lag {{scenario}}", "0.50", "0.99")...).size(8, 8),
				lines("Planned and not made", PerSecond, "Calls that there was no room for, by reason. Above 0.1 % of the plan the run is not judged.",
					plain(`sum by (reason) (rate(loadgen_shed_total{}`+rate+`))`, "{{reason}}")).size(8, 8),
				lines("Under way", Count, "Calls that are due and not answered, and sessions of users. Calls that pile up while the rate is steady: the service does not keep up.",
					plain(`sum(loadgen_inflight_requests{})`, "calls"),
					plain(`sum(loadgen_sessions{})`, "sessions").as(Target)).size(8, 8),
				lines("Connections", Count, "Open, and being opened. Many being opened for long: the service accepts slowly, or closes after each answer.",
					plain(`sum by (state) (loadgen_connections{})`, "{{state}}")).size(8, 8),
				lines("CPU of the generator", Cores, "Near the number of its cores, what it measures is itself.",
					plain(`rate(process_cpu_seconds_total{}`+rate+`)`+ofGenerators, "{{instance}}")).size(8, 8),
				lines("Memory of the generator", Bytes, "Resident. It follows users and connections.",
					plain(`process_resident_memory_bytes{}`+ofGenerators, "{{instance}}")).size(8, 8),
			}},
		},
	}
}

// objective is the variable of the share of requests that should succeed.
const objective = "$objective"

func slo() Dashboard {
	bad := func(window string) string {
		return `sum(rate(mirror_requests_total{` + failed + `}[` + window + `])) / sum(rate(mirror_requests_total{}[` + window + `]))`
	}
	burn := func(window string) Query {
		return plain(`(`+bad(window)+`) / (1 - `+objective+`)`, window)
	}
	return Dashboard{
		UID: "darklaunch-objective", Title: "Darklaunch: live's objective",
		Description: "Do live's users get what was promised to them, while something is being tried beside them? When not, stop trying first.",
		Variables: append(jobAndInstance("mirror_enabled"),
			Variable{Name: "objective", Title: "Objective", Description: "Share of live's requests that should succeed, as 0.999.", Default: "0.999"}),
		Rows: []Row{
			{"Objective", []Panel{
				number("Objective", Share, "Share of live's requests that should succeed: a choice of the reader, not of the mirror.",
					plain(`vector(`+objective+`)`, "objective")),
				number("Succeeded, 1 h", Share, "Share of live's requests of the last hour that did not fail.",
					plain(`1 - `+bad("1h"), "succeeded")),
				number("Budget left, 1 d", Share, "Of the failures that the objective allows in a day's traffic, how many are left. Below 0 the objective is missed.",
					plain(`1 - (`+bad("1d")+`) / (1 - `+objective+`)`, "left")).goodFrom(0.0001),
				number("Latency p99, 5 min", Seconds, "Live as its users have it."+bucketError,
					plain(`histogram_quantile(0.99, sum(rate(mirror_request_duration_seconds{}[5m])))`, "p99").as(Live)),
			}},
			{"Burn", []Panel{
				lines("Burn rate by window", None, "How many times faster than allowed the budget goes: at 1 it lasts for exactly its period. Both 1h and 5m above 14.4 is worth waking somebody, both 6h and 30m above 6 too: the long window says that it matters, the short one that it goes on.",
					burn("5m"), burn("30m"), burn("1h"), burn("6h"),
					plain(`vector(14.4)`, "page, with 1h and 5m").as(Margin),
					plain(`vector(6)`, "page, with 6h and 30m").as(Target)),
				lines("Requests and failures of live", RequestsPerSec, "One failure at night is a large share of little traffic: look at the rates before the burn.",
					plain(`sum(rate(mirror_requests_total{}[5m]))`, "all").as(Live),
					plain(`sum(rate(mirror_requests_total{`+failed+`}[5m]))`, "failed").as(Error)),
			}},
			{"Alerts", []Panel{
				table("Alerts that fire", None, "What the rules found, of this installation's Prometheus. Empty is good, where the rules are loaded.",
					[]string{"alertname", "severity", "job"},
					plain(`max by (alertname, severity, job) (ALERTS{`+anywhere+`,alertstate="firing"})`, "firing").as(Error)),
			}},
		},
	}
}
