package dashboards

// Parts of expressions that several panels share.
const (
	judged = `result=~"same|shadow_only|control_only|both"`
	// failed are the codes of the server's fault, of HTTP and of gRPC: those of
	// three digits and the others can't be taken for one another.
	failed = `code=~"5..|error|timeout|2|4|12|13|14|15"`
	// byLoad are the reasons of drops that make a comparison unfair.
	byLoad = `reason=~"lane_full|budget|expired|user_shed|breaker_open|memory|panic"`
	chosen = `reason!~"lane_full|budget|expired|user_shed|breaker_open|memory|panic"`

	droppedShare = `sum(rate(mirror_copies_dropped_total{` + anywhere + `,role="shadow",` + byLoad + `}[5m])) / sum(rate(mirror_copies_offered_total{` + anywhere + `,role="shadow"}[5m]))`
)

const chosenRows = `comparison=~"$comparison",route=~"$route"`

// interval are the queries of an effect, its bounds and its margin.
func interval(matchers, legend string) []Query {
	return []Query{
		plain(`verdict_effect_ratio{`+matchers+`}`, legend+" effect").as(Effect),
		plain(`verdict_effect_lower_ratio{`+matchers+`}`, legend+" lower bound").as(Lower),
		plain(`verdict_effect_upper_ratio{`+matchers+`}`, legend+" upper bound").as(Upper),
		plain(`verdict_margin_ratio{`+matchers+`}`, legend+" margin").as(Margin),
	}
}

func verdict() Dashboard {
	rows := []string{"comparison", "route", "metric", "stat"}
	by := func(metric string) string {
		return `max by (comparison, route, metric, stat) (` + metric + `{` + chosenRows + `})`
	}
	return Dashboard{
		UID: "darklaunch-verdict", Title: "Darklaunch: verdict",
		Description: "Is the system on trial as fast and as right as the one that serves? Pass, fail, or not told yet, and by which evidence.",
		Variables: append(jobAndInstance("verdict_state"),
			choose("comparison", "Comparison", "What is compared, by its name.", "verdict_state"),
			choose("route", "Route", "Routes that are judged; * is all traffic.", "verdict_effect_ratio"),
			choose("stat", "Statistic", "Of latency: a quantile, or the mean.", "verdict_effect_ratio")),
		Rows: []Row{
			{"Verdict", []Panel{
				stateset{"verdict_state", "comparison", []string{"warming", "collecting", "inconclusive", "pass", "fail"}, "state", []Level{Neutral, Neutral, Warn, Good, Bad}}.panel(
					"State of each comparison",
					"Pass: no gating metric is worse than its margin, with the confidence asked for. Fail: one is. Inconclusive: the time was up before either was shown, which is never a pass. While it collects, the verdict that stands is the one before.",
					"{{comparison}}"),
				number("Blocks of evidence", Count, "Stretches of time that count as one piece of evidence each. Under the minimum (8 unless set) nothing is decided. It begins anew with each judgement.",
					plain(`max by (comparison) (verdict_blocks{comparison=~"$comparison"})`, "{{comparison}}")),
				number("Pairs compared", Count, "Answers that were held against live's since the server started. It stands still when no mirror sends, and so does the verdict.",
					plain(`sum by (comparison) (verdict_pairs_total{comparison=~"$comparison",`+judged+`})`, "{{comparison}}")),
				number("Dropped by load, 5 min", Share, "Share of the shadow's copies that were not sent as something was too slow. Drops take away the slowest calls, so above 1 % nothing is passed or failed.",
					plain(droppedShare, "dropped")).badFrom(0.01),
				number("Since the last look", Seconds, "Age of the judgement shown. It is looked at every few seconds; a minute means that the server or its scrape stands.",
					plain(`time() - max(verdict_last_evaluation_timestamp_seconds{} > 0)`, "age")).badFrom(60),
			}},
			{"Effects against margins", []Panel{
				table("Effects, their intervals and margins", Share,
					"How much worse the system on trial is: of latency, CPU and memory the ratio less one, of errors and differences a share of calls; negative is better (of throughput, worse). "+
						"A row passes when its upper bound is under the margin, fails when its lower bound is over it, and is open while the margin is between the two.",
					rows,
					plain(by("verdict_effect_ratio"), "effect").as(Effect),
					plain(by("verdict_effect_lower_ratio"), "lower bound").as(Lower),
					plain(by("verdict_effect_upper_ratio"), "upper bound").as(Upper),
					plain(by("verdict_margin_ratio"), "margin").as(Margin)),
				table("Worst first: lower bound over margin", Share,
					"The ten rows nearest to a fail, by how far the lower bound is from the margin. Above 0 the regression is shown: look at this route first. Below, it may still be noise.",
					rows,
					plain(`topk(10, max by (comparison, route, metric, stat) (verdict_effect_lower_ratio{`+chosenRows+`} - verdict_margin_ratio{`+chosenRows+`}))`, "over margin")).size(24, 8),
			}},
			{"How the evidence grows", []Panel{
				lines("Latency: effect, interval and margin", Share,
					"The interval narrows as blocks come in. It is decided when it has left the margin on either side; a line that wanders with an interval that stays wide says that the rig is noisy.",
					interval(chosenRows+`,metric="latency",stat=~"$stat"`, "{{route}} {{stat}}")...),
				lines("Errors: effect, interval and margin", Share,
					"Share of pairs that only the system on trial failed less those that only the other did. Each pair is the same request, so that even few failures tell.",
					interval(chosenRows+`,metric="errors"`, "{{route}}")...),
				lines("Room left under the margin", Share,
					"Margin less upper bound, for each row. Above 0 the row passes; the lowest line is what the verdict waits for.",
					plain(`min by (route, metric, stat) (verdict_margin_ratio{`+chosenRows+`} - verdict_effect_upper_ratio{`+chosenRows+`})`, "{{metric}} {{stat}} {{route}}"),
					plain(`0 * max(verdict_margin_ratio{`+chosenRows+`})`, "margin used up").as(Margin)),
				lines("Pairs by what became of them", PerSecond,
					"same: equal answers. shadow_only: only shadow differs from live. control_only: only control does, which is noise. both: both do. The others were not compared: incomplete, of an unknown id, or of tainted users.",
					plain(`sum by (result) (rate(verdict_pairs_total{comparison=~"$comparison"}[$__rate_interval]))`, "{{result}}")),
			}},
		},
	}
}

func diffs() Dashboard {
	share := func(results string) string {
		return `sum by (route) (rate(verdict_pairs_total{` + chosenRows + `,result=~"` + results + `"}[$__rate_interval])) / sum by (route) (rate(verdict_pairs_total{` + chosenRows + `,` + judged + `}[$__rate_interval]))`
	}
	return Dashboard{
		UID: "darklaunch-differences", Title: "Darklaunch: differences",
		Description: "Are the answers right? Where shadow's differ from live's, and how much of that is noise, since control's differ as well.",
		Variables: append(jobAndInstance("verdict_pairs_total"),
			choose("comparison", "Comparison", "What is compared, by its name.", "verdict_pairs_total"),
			choose("route", "Route", "Routes of the pairs.", "verdict_pairs_total")),
		Rows: []Row{
			{"Shadow against noise", []Panel{
				lines("Answers that differ from live's", Share,
					"Shadow's against control's, of the same requests. Where both lines are as high, the answers hold something that changes each time (a time, an id): name it in the comparison's rules. Where shadow's is higher, shadow is wrong.",
					plain(share("shadow_only|both"), "shadow {{route}}").as(Shadow),
					plain(share("control_only|both"), "control {{route}}").as(Control)),
				lines("Differences beyond noise: effect, interval and margin", Share,
					"What the verdict judges: the share of answers that differ more than the control's do, with its interval. Fail means that the lower bound is over the margin.",
					interval(chosenRows+`,metric="differences"`, "{{route}}")...),
				lines("Pairs in which only one side differs", PerSecond,
					"shadow_only is the signal, control_only the noise of the same moment. They are compared in pairs: only their difference counts, not how many there are.",
					plain(`sum(rate(verdict_pairs_total{`+chosenRows+`,result="shadow_only"}[$__rate_interval]))`, "shadow only").as(Shadow),
					plain(`sum(rate(verdict_pairs_total{`+chosenRows+`,result="control_only"}[$__rate_interval]))`, "control only").as(Control)),
				lines("Pairs that were not compared", PerSecond,
					"unjudged: of users whose state may differ, or sent too far apart. incomplete: a twin is missing. unknown_ids: an id was not learned yet. If they are most of the pairs, the verdict rests on few.",
					plain(`sum by (result) (rate(verdict_pairs_total{`+chosenRows+`,result=~"unjudged|incomplete|unknown_ids"}[$__rate_interval]))`, "{{result}}")),
			}},
			{"Where", []Panel{
				table("Fields that differ most", Count,
					"Differing answers of shadow by route, field and kind since the judgement began: where to look in the code. At most 200 are told apart; the rest is other.",
					[]string{"route", "field", "kind"},
					plain(`topk(25, sum by (route, field, kind) (verdict_differences_total{route=~"$route"}))`, "answers")).size(24, 10),
			}},
			{"What the verdict did not see", []Panel{
				lines("Records lost between mirror and verdict", PerSecond,
					"The pair stream never slows a mirror: what does not fit is lost, by reason. Above 1 % of what it carries, nothing is passed or failed.",
					plain(`sum by (reason) (rate(mirror_pairs_stream_dropped_total{`+anywhere+`}[$__rate_interval]))`, "{{reason}}")),
				lines("Share of users whose answers are shipped", Share,
					"Routes with masks or translations ship both answers, for this share of users, fixed and chosen by a hash: rates stay unbiased, but below 100 % rare differences take longer to show.",
					plain(`min by (route) (mirror_pairs_stream_share{`+anywhere+`,route=~"$route"})`, "{{route}}")),
			}},
		},
	}
}
