package dashboards

import "strings"

// ofRole makes a query a role, from an expression in which JOB stands for the
// matcher of its processes, CALLS for its rate of requests, and a legend.
func ofRole(expr, legend string) []Query {
	const rate = "[$__rate_interval]"
	calls := map[Role]string{
		Live:    `sum(rate(mirror_requests_total{` + anywhere + `}` + rate + `))`,
		Shadow:  `sum(rate(mirror_backend_requests_total{` + anywhere + `,role="shadow"}` + rate + `))`,
		Control: `sum(rate(mirror_backend_requests_total{` + anywhere + `,role="control"}` + rate + `))`,
	}
	var all []Query
	for _, r := range []Role{Live, Shadow, Control} {
		with := strings.NewReplacer("JOB", `job=~"$`+string(r)+`"`, "CALLS", calls[r])
		all = append(all, plain(with.Replace(expr), string(r)+" "+legend).as(r))
	}
	return all
}

func processes() Dashboard {
	const rate = "[$__rate_interval]"
	var jobs []Variable
	for _, r := range []Role{Live, Shadow, Control} {
		jobs = append(jobs, Variable{
			Name: string(r), Title: strings.ToUpper(string(r[:1])) + string(r[1:]), Description: "Processes of " + string(r) + ", by the name that they are scraped under.",
			Default: string(r), Metric: "process_cpu_seconds_total", Label: "job",
		})
	}
	return Dashboard{
		UID: "darklaunch-processes", Title: "Darklaunch: processes, live against shadow",
		Description: "What does a request cost on each side? A build may be as fast as the old one and need twice the machines. " +
			"Live's, shadow's and control's processes are told apart by the job that they are scraped under. Of Go programs; CPU, memory and descriptors of any that export process metrics.",
		Variables: jobs,
		Rows: []Row{
			{"Cost of a request", []Panel{
				lines("CPU for a request", SecondsPerCall, "CPU time of the processes over requests that passed the mirror. Right only where they serve nothing else; then it is the number to plan machines by.",
					ofRole(`sum(rate(process_cpu_seconds_total{JOB}`+rate+`)) / CALLS`, "CPU")...),
				lines("Allocations for a request", CountPerRequest, "Objects that a request leaves to the garbage collector. A rise foretells CPU and pauses at higher load.",
					ofRole(`sum(rate(go_memstats_mallocs_total{JOB}`+rate+`)) / CALLS`, "objects")...),
			}},
			{"Processes", []Panel{
				lines("CPU", Cores, "All processes of a role together.",
					ofRole(`sum(rate(process_cpu_seconds_total{JOB}`+rate+`))`, "CPU")...).size(8, 8),
				lines("Resident memory", Bytes, "All processes of a role together. A line that rises under steady load is a leak, or a cache that fills.",
					ofRole(`sum(process_resident_memory_bytes{JOB})`, "resident")...).size(8, 8),
				lines("Heap", Bytes, "Live and not yet collected objects. The lowest points, after collections, are what is held.",
					ofRole(`sum(go_memstats_heap_alloc_bytes{JOB})`, "heap")...).size(8, 8),
				lines("Garbage collections", PerSecond, "How often the collector ran.",
					ofRole(`sum(rate(go_gc_duration_seconds_count{JOB}`+rate+`))`, "collections")...).size(8, 8),
				lines("Longest pause of a collection", Seconds, "Of the last ones that the runtime remembers, the worst of all processes. Pauses show in p99 and above.",
					ofRole(`max(go_gc_duration_seconds{JOB,quantile=~"1|1.0"})`, "pause")...).size(8, 8),
				lines("Goroutines", Count, "They follow the calls under way. A line that only rises is a leak.",
					ofRole(`sum(go_goroutines{JOB})`, "goroutines")...).size(8, 8),
				lines("Open descriptors", Count, "Connections and files.",
					ofRole(`sum(process_open_fds{JOB})`, "descriptors")...).size(8, 8),
				lines("Descriptors used", Share, "Of those that the system allows, the worst of all processes. At 100 % connections are refused.",
					ofRole(`max(process_open_fds{JOB} / process_max_fds{JOB})`, "used")...).size(8, 8),
				lines("Time since start", Seconds, "Of the process that was started last. A fall is a restart: caches are cold after it, and the evidence is of another process.",
					ofRole(`time() - max(process_start_time_seconds{JOB})`, "up")...).size(8, 8),
			}},
		},
	}
}
