package dashboards

// margins of latency and errors as the verdict has them, drawn where the raw
// numbers are.
const (
	latencyMargin = `max by (route) (verdict_margin_ratio{` + anywhere + `,metric="latency",stat="p99",route=~"$route"})`
	errorMargin   = `max(verdict_margin_ratio{` + anywhere + `,metric="errors"})`
)

const bucketError = " Quantiles are of native histograms: each is within 5 % of the true one."

func roles() Dashboard {
	const (
		rate  = "[$__rate_interval]"
		route = `route=~"$route"`
	)
	pairTime := func(role string) string {
		return `mirror_pair_request_duration_seconds{role="` + role + `",` + route + `}`
	}
	outcomes := func(which string) string {
		return `sum(rate(mirror_pairs_total{` + route + `,outcome=~"` + which + `"}` + rate + `))`
	}
	pairs := outcomes(".+")
	ratio := func(q, of, against string) string {
		return quantile(q, pairTime(of), "route") + " / " + quantile(q, pairTime(against), "route") + " - 1"
	}
	latency := func(q, what string) Panel {
		return lines("Latency p"+q[2:], Seconds, what+bucketError, eachRole(quantile(q, pairTime("ROLE"), ""), "ROLE p"+q[2:])...).size(8, 8)
	}
	tail := latency("0.99", "One request of a hundred is slower: what the verdict gates unless told otherwise. The marks are single calls whose traces are kept: live's by its own, the copies' by the trace that they were given.")
	for i := range tail.Queries {
		tail.Queries[i] = tail.Queries[i].traced()
	}
	byRoute := func(of string) string { return `sum by (route) (rate(` + of + `[5m]))` }
	p99 := func(role string) string { return `histogram_quantile(0.99, ` + byRoute(pairTime(role)) + `)` }
	return Dashboard{
		UID: "darklaunch-roles", Title: "Darklaunch: live, shadow and control",
		Description: "How do the three answer the same requests? Raw numbers behind the verdict, each beside the margin that it is held against.",
		Variables: append(jobAndInstance("mirror_enabled"),
			choose("route", "Route", "Routes that are mirrored.", "mirror_pair_request_duration_seconds")),
		Rows: []Row{
			{"Traffic and errors", []Panel{
				lines("Requests", RequestsPerSec,
					"live: all that users ask. shadow and control: calls made to them. They differ by the sample, by routes that are not copied and by drops; a step in one that the others have not says that mirroring, not traffic, changed.",
					plain(`sum(rate(mirror_requests_total{`+route+`}`+rate+`))`, "live").as(Live),
					plain(`sum(rate(mirror_backend_requests_total{role="shadow",`+route+`}`+rate+`))`, "shadow").as(Shadow),
					plain(`sum(rate(mirror_backend_requests_total{role="control",`+route+`}`+rate+`))`, "control").as(Control)).size(8, 8),
				lines("Pairs that failed", Share,
					"Share of the same requests that live failed, and that shadow failed. Both rise together: the requests are bad. Only shadow's rises: shadow is.",
					plain(outcomes("live_only_failed|both_failed")+" / "+pairs, "live").as(Live),
					plain(outcomes("shadow_only_failed|both_failed")+" / "+pairs, "shadow").as(Shadow)).size(8, 8),
				lines("Failures of shadow beyond live's", Share,
					"Pairs that only shadow failed less those that only live failed, as a share of all, beside the verdict's margin. Over the margin for long, the verdict will be fail.",
					plain("("+outcomes("shadow_only_failed")+" - "+outcomes("live_only_failed")+") / "+pairs, "shadow beyond live").as(Shadow),
					plain(errorMargin, "margin").as(Margin)).size(8, 8),
			}},
			{"Latency of the same requests", []Panel{
				latency("0.50", "Half of the requests are faster. live is as users have it; shadow and control are called by the mirror, so compare these two."),
				latency("0.95", "One request of twenty is slower."),
				tail,
			}},
			{"Latency as the verdict compares it", []Panel{
				lines("Shadow against control, p99", Share,
					"How much slower shadow is than a second copy of live, reached in the same way at the same moment; 0 is equal. A line over the margin for several blocks becomes a fail; a short peak does not. Empty without a control.",
					plain(ratio("0.99", "shadow", "control"), "shadow/control {{route}}").as(Shadow),
					plain(latencyMargin, "margin {{route}}").as(Margin)),
				lines("Control against live, p99: the rig's own offset", Share,
					"Both run the same build: what is not 0 is how the mirror reaches them. The further from 0, the less shadow against live means. Empty without a control.",
					plain(ratio("0.99", "control", "live"), "control/live {{route}}").as(Control)),
				lines("Shadow against live, p99", Share,
					"The rig's offset is in it: watch it for steps, do not judge by its height, unless a run with the same build on both sides was stored.",
					plain(ratio("0.99", "shadow", "live"), "shadow/live {{route}}").as(Shadow),
					plain(latencyMargin, "margin {{route}}").as(Margin)).size(24, 8),
			}},
			{"Distributions", []Panel{
				heatmap("Latency, live", "All requests by how long they took. A second band is a second kind of request, or a cache that misses; it should be there in all three.",
					plain(`sum(rate(`+pairTime("live")+rate+`))`, "live").as(Live)),
				heatmap("Latency, shadow", "A band that live has not is what the averages hide.",
					plain(`sum(rate(`+pairTime("shadow")+rate+`))`, "shadow").as(Shadow)),
				heatmap("Latency, control", "How live's build looks when it is reached as shadow is. Empty without a control.",
					plain(`sum(rate(`+pairTime("control")+rate+`))`, "control").as(Control)),
			}},
			{"By route", []Panel{
				table("Routes, last 5 minutes", Share,
					"One route that is worse is enough for a fail, and is lost in the totals: sort by a column. A route with less than a few pairs a second takes long to decide.",
					[]string{"route"},
					plain(byRoute(`mirror_pairs_total{`+route+`}`), "pairs").in(PerSecond),
					plain(p99("live"), "live p99").as(Live).in(Seconds),
					plain(p99("shadow"), "shadow p99").as(Shadow).in(Seconds),
					plain(p99("control"), "control p99").as(Control).in(Seconds),
					plain(byRoute(`mirror_pairs_total{`+route+`,outcome="shadow_only_failed"}`)+" / "+byRoute(`mirror_pairs_total{`+route+`}`), "only shadow failed").as(Error),
					plain(byRoute(`verdict_pairs_total{`+anywhere+`,`+route+`,result=~"shadow_only|both"}`)+" / "+byRoute(`verdict_pairs_total{`+anywhere+`,`+route+`,`+judged+`}`), "answers differ").as(Shadow)),
			}},
		},
	}
}

// ofMirrors keeps what is of processes that are mirrors.
const ofMirrors = ` and on (job, instance) mirror_enabled{}`

func mirror() Dashboard {
	const rate = "[$__rate_interval]"
	live := func(sampled string) string { return `mirror_request_duration_seconds{sampled="` + sampled + `"}` }
	rateBy := func(label, metric string) Query {
		return plain(`sum by (`+label+`) (rate(`+metric+rate+`))`, "{{"+label+"}}")
	}
	copies := func(name, metric string) []Query {
		return []Query{
			plain(`sum(rate(`+metric+`{role="shadow"}`+rate+`))`, "shadow "+name).as(Shadow),
			plain(`sum(rate(`+metric+`{role="control"}`+rate+`))`, "control "+name).as(Control),
		}
	}
	return Dashboard{
		UID: "darklaunch-mirror", Title: "Darklaunch: mirror",
		Description: "Does mirroring leave live alone, and does all that should be copied arrive? Look here before the verdict is believed.",
		Variables:   jobAndInstance("mirror_enabled"),
		Rows: []Row{
			{"Live", []Panel{
				lines("Requests by front", RequestsPerSec, "What users ask, by listener. The mirror forwards all of it, whatever the shadow does.",
					plain(`sum by (front) (rate(mirror_requests_total{}`+rate+`))`, "{{front}}")).size(8, 8),
				lines("Requests that failed", Share, "Share of live's exchanges that ended with a server's error or were cut off. It must not move when mirroring is switched on or off.",
					plain(`sum by (front) (rate(mirror_requests_total{`+failed+`}`+rate+`)) / sum by (front) (rate(mirror_requests_total{}`+rate+`))`, "{{front}} failed").as(Error)).size(8, 8),
				lines("Latency p99, sampled users and others", Seconds, "Users who are mirrored, and those who are not: the lines lie on each other, or mirroring hurts those in the sample. With few requests in one of them, p99 jumps."+bucketError,
					plain(quantile("0.99", live("true"), ""), "sampled p99").as(Shadow),
					plain(quantile("0.99", live("false"), ""), "others p99").as(Live)).size(8, 8),
				lines("Held back by the relay", Seconds, "From bytes being there on one side until they are written to the other: what users pay for mirroring. Some ten microseconds is usual; milliseconds mean that the process lacks CPU.",
					quantiles("mirror_relay_overhead_seconds{}", "", "held back", "0.50", "0.99")...),
				lines("Connections", Count, "Open to clients, and those of them that nobody reads: these are served and not copied, until they are closed.",
					plain(`sum(mirror_connections_open{})`, "open").as(Live),
					plain(`sum(mirror_connections_unobserved{})`, "unobserved").as(Error)),
			}},
			{"Copies", []Panel{
				stateset{"mirror_breaker_state", "role", []string{"closed", "half_open", "open"}, "state", []Level{Good, Warn, Bad}}.panel(
					"Breaker of each role", "Open: the role failed so often that it is left alone for a while, and its copies are dropped. Half open: a few calls try whether it is back.", "{{role}}").size(16, 5),
				number("Mirroring", None, "1: copies are sent. 0: switched off by an operator, the kill file, the guard of live, or a panic; the mirror's state says by which.",
					plain(`min(mirror_enabled{})`, "on")).goodFrom(1).size(4, 5),
				number("Copies unaccounted for", Count, "Offered less sent, dropped and pending, in one scrape of each role. Anything but 0 is a bug in the mirror.",
					plain(`sum by (role) (mirror_copies_offered_total{}) - sum by (role) (mirror_copies_sent_total{}) - sum by (role) (mirror_copies_dropped_total{}) - sum by (role) (mirror_copies_pending{})`, "{{role}}")).
					badFrom(1).size(4, 5),
				lines("Offered and sent", PerSecond, "Copies that the sample and the routes admit, and those of them whose first byte went out. A gap between the two is drops, or a queue that grows.",
					append(copies("offered", "mirror_copies_offered_total"), copies("sent", "mirror_copies_sent_total")...)...),
				lines("Dropped by load", PerSecond, "Something was too slow or too full, by reason. Slow calls are dropped more often than fast ones, so above 1 % of the copies the comparison is unfair and nothing is decided.",
					plain(`sum by (role, reason) (rate(mirror_copies_dropped_total{`+byLoad+`}`+rate+`))`, "{{role}} {{reason}}")),
				lines("Left out by choice", PerSecond, "Copies that could not or should not be sent, by reason: what the verdict does not cover. It makes no comparison unfair.",
					plain(`sum by (role, reason) (rate(mirror_copies_dropped_total{`+chosen+`}`+rate+`))`, "{{role}} {{reason}}")),
				lines("Wait before sending", Seconds, "From the end of live's exchange until its copy is sent. It grows when the copies of one user come faster than a role answers; at the age bound they are dropped.",
					quantiles("mirror_copy_wait_seconds{}", "", "wait", "0.50", "0.99")...),
				lines("Pending copies", Count, "Offered, and neither sent nor dropped. A line that rises without end says that a role is slower than live.",
					plain(`sum by (role) (mirror_copies_pending{role="shadow"})`, "shadow").as(Shadow),
					plain(`sum by (role) (mirror_copies_pending{role="control"})`, "control").as(Control),
					plain(`sum(mirror_lanes{})`, "users with copies").as(Target)),
				lines("Memory that copies hold", Bytes, "Copies that wait or are not answered. It is bounded; at the bound copies are dropped as budget.",
					plain(`sum(mirror_copies_pending_bytes{})`, "held")),
			}},
			{"Users", []Panel{
				lines("Sample", PPM, "Set: the share of users that an operator chose. Effective: without those who were shed as the roles did not keep up. Apart, they say that the roles take less than was asked of them.",
					plain(`max(mirror_sample_ppm{})`, "set").as(Target),
					plain(`min(mirror_sample_effective_ppm{})`, "effective").as(Shadow)).size(8, 8),
				lines("Users", Count, "Sampled: seen and mirrored. Shed: left out until the roles keep up.",
					plain(`sum(mirror_users_sampled{})`, "sampled"),
					plain(`sum(mirror_users_shed{})`, "shed").as(Error)).size(8, 8),
				lines("Tainted users", Count, "Users whose state on a role may differ from live's, since a write of theirs did not reach it. Their answers are not compared until they are seeded anew.",
					plain(`sum(mirror_users_tainted{role="shadow"})`, "shadow").as(Shadow),
					plain(`sum(mirror_users_tainted{role="control"})`, "control").as(Control)).size(8, 8),
			}},
			{"What is not seen", []Panel{
				lines("Connections by protocol", PerSecond, "New connections by what they speak. opaque is relayed and never copied.",
					rateBy("protocol", "mirror_connections_total{}")).size(6, 8),
				lines("Connections given up", PerSecond, "Relayed and no longer read, by reason. Their users are tainted; live is not touched.",
					rateBy("reason", "mirror_observe_abandoned_total{}")).size(6, 8),
				lines("Writes without a key", PerSecond, "Exchanges that may have changed somebody's state, of whom it could not be told. Any: the key extractors miss a route.",
					rateBy("reason", "mirror_unattributed_writes_total{}")).size(6, 8),
				lines("Marked requests", PerSecond, "Requests that came as copies of another mirror. They are relayed and not copied again.",
					plain(`sum(rate(mirror_marked_requests_total{}`+rate+`))`, "marked")).size(6, 8),
			}},
			{"The mirror's process", []Panel{
				lines("CPU", Cores, "What the mirror takes. At the number of its cores it holds live back.",
					plain(`rate(process_cpu_seconds_total{}`+rate+`)`+ofMirrors, "{{instance}}")).size(8, 8),
				lines("Memory", Bytes, "Resident. It stays under what its bounds add up to.",
					plain(`process_resident_memory_bytes{}`+ofMirrors, "{{instance}}")).size(8, 8),
				lines("Goroutines", Count, "It follows the connections, and comes back down with them.",
					plain(`go_goroutines{}`+ofMirrors, "{{instance}}")).size(8, 8),
			}},
		},
	}
}
