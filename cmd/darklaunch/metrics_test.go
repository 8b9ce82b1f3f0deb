package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
)

// promised are the metrics that others build on: their names and labels stay.
var promised = []string{
	"mirror_connections_total{front,protocol}", "mirror_connections_open", "mirror_connections_unobserved",
	"mirror_requests_total{front,route,method,code}", "mirror_request_duration_seconds{route,sampled,sending}",
	"mirror_relay_overhead_seconds",
	"mirror_observe_abandoned_total{reason}", "mirror_unattributed_writes_total{reason}", "mirror_marked_requests_total",
	"mirror_copies_offered_total{role}", "mirror_copies_sent_total{role}", "mirror_copies_dropped_total{role,reason}", "mirror_copies_pending{role}",
	"mirror_backend_requests_total{role,route,code}", "mirror_backend_request_duration_seconds{role,route}",
	"mirror_pair_request_duration_seconds{role,route}", "mirror_pairs_total{route,outcome}",
	"mirror_sample_ppm", "mirror_sample_effective_ppm", "mirror_users_sampled", "mirror_users_tainted{role}", "mirror_users_shed", "mirror_enabled",
	"mirror_lanes", "mirror_copies_pending_bytes", "mirror_copy_wait_seconds", "mirror_breaker_state{role,state}",
	"mirror_pairs_stream_dropped_total{reason}", "mirror_pairs_stream_share{route}",

	"loadgen_requests_total{scenario,op,channel,outcome,code}", "loadgen_response_seconds{scenario,op}", "loadgen_service_seconds{scenario,op}",
	"loadgen_lag_seconds{scenario}", "loadgen_delivery_seconds{scenario}", "loadgen_target_requests_per_second{scenario}",
	"loadgen_inflight_requests", "loadgen_shed_total{reason}", "loadgen_phase{scenario,phase}", "loadgen_sessions", "loadgen_connections{state}",

	"verdict_state{comparison,state}", "verdict_effect_ratio{comparison,route,metric,stat}", "verdict_effect_lower_ratio{comparison,route,metric,stat}",
	"verdict_effect_upper_ratio{comparison,route,metric,stat}", "verdict_margin_ratio{comparison,route,metric,stat}", "verdict_blocks{comparison}",
	"verdict_pairs_total{comparison,route,result}", "verdict_differences_total{route,field,kind}", "verdict_last_evaluation_timestamp_seconds",

	"appserver_requests_total{method,channel,code}", "appserver_request_seconds{method}", "appserver_inflight_requests", "appserver_shed_total{reason}",
	"appserver_stage_seconds{stage}", "appserver_forwarded_total{result}", "appserver_forward_seconds",
	"mailbox_loads_total{result}", "mailbox_commits_total{result}", "mailbox_commit_actions", "mailbox_fenced_total", "mailbox_replayed_actions_total",
	"store_operations_total{op,result}", "store_operation_seconds{op}", "store_cells_written_total{family}", "store_bytes_total{op}",
	"cache_requests_total{cache,result}", "cache_size_bytes{cache}", "cache_capacity_bytes{cache}", "cache_evictions_total{cache,reason}",
	"ring_members{cell}", "ring_changes_total{cell,type}", "ring_moved_ratio{cell}", "ring_view_info{cell,hash}", "directory_lookups_total{result}",
	"outbox_entries", "outbox_delivery_seconds",
}

// conditional are exported by some configurations, and not by the one that is run.
var conditional = map[string][][2]string{
	"mirror": {{"mirror_ids_total{front,role,outcome}", "Where ids are translated: ids that live and a role name differently, by what became of them."}},
	"live":   {{"gohbase_operation_duration_seconds{operation,result}", "Of HBase's client library, with HBase as the store: operations with their retries. Classic buckets alone."}},
}

// everywhere are those of any program that the dashboards show; more come with them.
var everywhere = []string{
	"go_gc_duration_seconds", "go_goroutines", "go_memstats_heap_alloc_bytes", "go_memstats_mallocs_total",
	"process_cpu_seconds_total", "process_max_fds", "process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds",
}

// programs are the sections of the reference, by the jobs of a run.
var programs = [][2]string{
	{"mirror", "darklaunch mirror"}, {"load", "darklaunch load"}, {"verdict", "darklaunch verdict serve"},
	{"live", "darklaunch appserver serve"}, {"rows-live", "darklaunch appserver store"},
}

const metricsPage = "../../docs/reference/metrics.md"

const metricsIntro = `# Metrics

What each program exports at ` + "`/metrics`" + ` of ` + "`--admin`" + ` and ` + "`--metrics`" + `. Names and labels of the first table of a program
stay as they are; those of its second may change with a version. A test of the program holds this page against what a run
exports: do not edit it, run ` + "`go test ./cmd/darklaunch -run TestDashboards -update`" + `.

Durations are in seconds, sizes in bytes. Histograms are native (buckets grow by at most 10 %) and have classic buckets too: a
Prometheus takes the native ones with ` + "`scrape_native_histograms: true`" + `, and the dashboards need them. Values of labels are closed sets,
but for routes, fields and scenarios, whose number is bounded: what comes after is ` + "`other`" + `. Series are there at 0 before the first event.
`

// testReference compares the page with what the programs of a run exported, and
// that with what is promised.
func testReference(t *testing.T, s *scraped) {
	want := map[string]bool{}
	for _, m := range promised {
		want[m] = true
	}
	left := maps.Clone(want)
	var b strings.Builder
	b.WriteString(metricsIntro)
	for _, p := range programs {
		stays, changes := [][3]string{}, [][3]string{}
		families := s.families(p[0])
		for _, name := range slices.Sorted(maps.Keys(families)) {
			f := families[name]
			signature := signature(f, want)
			switch {
			case strings.HasPrefix(name, "go_"), strings.HasPrefix(name, "process_"), strings.HasPrefix(name, "promhttp_"), strings.HasPrefix(name, "gohbase_"):
				continue
			case want[signature]:
				stays = append(stays, metricRow(signature, f))
				delete(left, signature)
			default:
				changes = append(changes, metricRow(signature, f))
			}
			if f.GetType() == dto.MetricType_HISTOGRAM {
				wantBothBuckets(t, f)
			}
		}
		for _, c := range conditional[p[0]] {
			changes = append(changes, [3]string{c[0], "", c[1]})
		}
		fmt.Fprintf(&b, "\n## %s\n", p[1])
		metricTable(&b, stays)
		metricTable(&b, changes)
	}
	b.WriteString("\n## Every program\n\nOf the Go runtime and the process, those that the dashboards show.\n")
	families, rows := s.families("mirror"), [][3]string(nil)
	for _, name := range everywhere {
		if f := families[name]; f == nil {
			t.Errorf("%s is not exported", name)
		} else {
			rows = append(rows, metricRow(name, f))
		}
	}
	metricTable(&b, rows)
	for signature := range left {
		t.Errorf("%s is promised, and nobody exports it", signature)
	}
	if *update {
		if err := os.WriteFile(metricsPage, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(readFile(t, metricsPage), b.String()); diff != "" {
		t.Errorf("%s is stale (-kept +exported):\n%s", metricsPage, diff)
	}
}

// signature is a family's name with its labels, in the order promised if it is.
func signature(f *dto.MetricFamily, promised map[string]bool) string {
	var names []string
	for _, m := range f.Metric {
		for _, l := range m.Label {
			if !slices.Contains(names, l.GetName()) {
				names = append(names, l.GetName())
			}
		}
	}
	slices.Sort(names)
	for p := range promised {
		name, labels, _ := strings.Cut(strings.TrimSuffix(p, "}"), "{")
		if sorted := slices.Sorted(slices.Values(strings.FieldsFunc(labels, func(r rune) bool { return r == ',' }))); name == f.GetName() && slices.Equal(sorted, names) {
			return p
		}
	}
	if len(names) == 0 {
		return f.GetName()
	}
	return f.GetName() + "{" + strings.Join(names, ",") + "}"
}

func metricRow(signature string, f *dto.MetricFamily) [3]string {
	return [3]string{signature, strings.ToLower(f.GetType().String()), f.GetHelp()}
}

func metricTable(b *strings.Builder, rows [][3]string) {
	if len(rows) == 0 {
		return
	}
	b.WriteString("\n| metric | type | |\n|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", r[0], r[1], r[2])
	}
}

// wantBothBuckets: a histogram has native buckets and classic ones.
func wantBothBuckets(t *testing.T, f *dto.MetricFamily) {
	t.Helper()
	for _, m := range f.Metric {
		if h := m.GetHistogram(); h.Schema == nil || len(h.Bucket) == 0 {
			t.Errorf("%s: got schema %v and %d classic buckets, want both", f.GetName(), h.Schema, len(h.Bucket))
			return
		}
	}
}
