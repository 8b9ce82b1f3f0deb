package dashboards

func appserver() Dashboard {
	const rate = "[$__rate_interval]"
	by := func(label, metric string) Query {
		return plain(`sum by (`+label+`) (rate(`+metric+rate+`))`, "{{"+label+"}}")
	}
	return Dashboard{
		UID: "darklaunch-appserver", Title: "Darklaunch: application server",
		Description: "How do the mailboxes answer, and in which part of a call does the time go?",
		Variables: append(jobAndInstance("appserver_inflight_requests"),
			choose("method", "Method", "Methods of the service.", "appserver_requests_total")),
		Rows: []Row{
			{"Calls", []Panel{
				lines("Calls by method", RequestsPerSec, "The load, by what is asked.",
					by("method", `appserver_requests_total{method=~"$method"}`)).size(8, 8),
				lines("Calls that failed", Share, "Share of calls that ended as the server's fault, by code. Unavailable is an outcome that is not known: callers ask again under the same key.",
					plain(`sum by (code) (rate(appserver_requests_total{method=~"$method",code=~"Unknown|DeadlineExceeded|Unimplemented|Internal|Unavailable|DataLoss"}`+rate+`)) / on () group_left sum(rate(appserver_requests_total{method=~"$method"}`+rate+`))`, "{{code}}")).size(8, 8),
				lines("Messages by channel", RequestsPerSec, "Sent messages, by where they come from.",
					by("channel", `appserver_requests_total{method="Send",channel!="none"}`)).size(8, 8),
				lines("Latency p50 by method", Seconds, "Half of the calls are faster. Reads of loaded mailboxes need no store: they are far faster than writes."+bucketError,
					plain(quantile("0.50", `appserver_request_seconds{method=~"$method"}`, "method"), "{{method}}")),
				lines("Latency p99 by method", Seconds, "One call of a hundred is slower: mailboxes that had to be loaded, and writes. The marks are single calls; /api/v1/traces of a server's --admin has their spans."+bucketError,
					plain(quantile("0.99", `appserver_request_seconds{method=~"$method"}`, "method"), "{{method}}").traced()),
				lines("Time by stage", Cores, "Seconds spent in each part of calls, a second: where to look for time. Waiting counts, so it may be more than there are cores. commit is the store's durable write.",
					plain(`sum by (stage) (histogram_sum(rate(appserver_stage_seconds{}`+rate+`)))`, "{{stage}}")),
				lines("Under way and refused", Count, "Calls in the server, and those a second that it refused as there were too many. Refusals are honest: nothing was done.",
					plain(`sum(appserver_inflight_requests{})`, "under way"),
					plain(`sum by (reason) (rate(appserver_shed_total{}`+rate+`))`, "refused: {{reason}}").as(Error).in(PerSecond)),
			}},
			{"Mailboxes", []Panel{
				lines("Loads", PerSecond, "Mailboxes read from the store, by how it ended. They follow users who come; many with steady users say that the cache is too small.",
					by("result", "mailbox_loads_total{}")).size(8, 8),
				lines("Commits", PerSecond, "Puts, by how they ended. unknown was settled by reading back.",
					by("result", "mailbox_commits_total{}")).size(8, 8),
				lines("Actions in a commit", CountPerRequest, "Mean number of actions that went to the store in one put. Above 1, writers to one mailbox share puts.",
					plain(`histogram_avg(sum(rate(mailbox_commit_actions{}`+rate+`)))`, "actions")).size(8, 8),
				lines("Lost to another owner", PerSecond, "Puts that the fence refused since another server has the row, and actions that were replayed at loads. The first is not 0 only while ownership moves.",
					plain(`sum(rate(mailbox_fenced_total{}`+rate+`))`, "fenced").as(Error),
					plain(`sum(rate(mailbox_replayed_actions_total{}`+rate+`))`, "replayed actions")).size(8, 8),
				lines("Deliveries due", Count, "Outbox entries of loaded mailboxes. They go back to 0; a line that stays up says that a recipient's cell is away, and nothing is lost.",
					plain(`sum(outbox_entries{})`, "due")).size(8, 8),
				lines("Delivery", Seconds, "From an action to its durable delivery to one recipient."+bucketError,
					quantiles("outbox_delivery_seconds{}", "", "delivery", "0.50", "0.99")...).size(8, 8),
			}},
			{"Calls for other servers", []Panel{
				lines("Forwarded calls", PerSecond, "Calls that came to a server that does not own the user, by how they ended. They rise while the ring changes, and for callers that don't know it.",
					by("result", "appserver_forwarded_total{}")),
				lines("Time of forwarded calls", Seconds, "What the second hop takes."+bucketError,
					quantiles("appserver_forward_seconds{}", "", "forward", "0.50", "0.99")...),
			}},
		},
	}
}

func storage() Dashboard {
	const rate = "[$__rate_interval]"
	hbase := func(q string) Query {
		return plain(`histogram_quantile(`+q+`, sum by (le, operation) (rate(gohbase_operation_duration_seconds_bucket{}`+rate+`)))`, "p"+q[2:]+" {{operation}}")
	}
	return Dashboard{
		UID: "darklaunch-store", Title: "Darklaunch: store",
		Description: "Is the store what makes the application slow or wrong? Of any store; HBase's client has a row of its own.",
		Variables:   jobAndInstance("store_operations_total"),
		Rows: []Row{
			{"Operations", []Panel{
				lines("Operations", PerSecond, "Calls of the store. Reads are loads of mailboxes and of what is not in memory; puts are commits.",
					plain(`sum by (op) (rate(store_operations_total{}`+rate+`))`, "{{op}}")).size(8, 8),
				lines("Operations that did not end well", PerSecond, "fenced: another server had the row, as it should be when ownership moves. refused: the store has no room. unknown: it may or may not be written, and is read back. failed: could not be read.",
					plain(`sum by (op, result) (rate(store_operations_total{result!="ok"}`+rate+`))`, "{{op}} {{result}}")).size(8, 8),
				lines("Share with an unknown outcome", Share, "Of puts. Each costs a read to settle; a server that dies, or a time-out that is too short.",
					plain(`sum(rate(store_operations_total{op="put",result="unknown"}`+rate+`)) / sum(rate(store_operations_total{op="put"}`+rate+`))`, "unknown").as(Error)).size(8, 8),
				lines("Latency p50", Seconds, "Of a put: until it is durable. Of a scan: with what its caller did."+bucketError,
					plain(quantile("0.50", "store_operation_seconds{}", "op"), "{{op}}")).size(8, 8),
				lines("Latency p99", Seconds, "A tail of puts that reads have not is the store's log or its disk."+bucketError,
					plain(quantile("0.99", "store_operation_seconds{}", "op"), "{{op}}")).size(8, 8),
				heatmap("Latency of puts", "A second band is a second kind of put: a flush, a compaction, a collection of garbage on the store's side.",
					plain(`sum(rate(store_operation_seconds{op="put"}`+rate+`))`, "put")).size(8, 8),
				lines("Bytes", BytesPerSecond, "Qualifiers and values that were read, or are known to be written.",
					plain(`sum by (op) (rate(store_bytes_total{}`+rate+`))`, "{{op}}")),
				lines("Cells written", PerSecond, "By family: actions are the log, metadata and keywords are made from it, outbox are deliveries. fence is one for each put.",
					plain(`sum by (family) (rate(store_cells_written_total{}`+rate+`))`, "{{family}}")),
			}},
			{"HBase's client", []Panel{
				lines("Latency of operations", Seconds, "As the client has it, with its own retries. Far above the operation's latency at the region server: it waits for a region that moves. Classic buckets, four times as wide from one to the next: an order of magnitude, no more. Empty on other stores.",
					hbase("0.50"), hbase("0.99")),
				lines("Operations by result", PerSecond, "As the client ends them. Errors that the server does not show above were retried.",
					plain(`sum by (operation, result) (rate(gohbase_operation_duration_seconds_count{}`+rate+`))`, "{{operation}} {{result}}")),
			}},
		},
	}
}

func cacheAndRing() Dashboard {
	const rate = "[$__rate_interval]"
	return Dashboard{
		UID: "darklaunch-cells", Title: "Darklaunch: cache and ring",
		Description: "Do the caches hold those who are active, and do all servers agree who serves whom?",
		Variables:   jobAndInstance("cache_capacity_bytes"),
		Rows: []Row{
			{"Caches", []Panel{
				lines("Hits", Share, "Share of look-ups that found what they sought. With the active users in memory about 95 %; a fall without more users is a restart or a ring that changed.",
					plain(`sum by (cache) (rate(cache_requests_total{result="hit"}`+rate+`)) / sum by (cache) (rate(cache_requests_total{}`+rate+`))`, "{{cache}}")).goodFrom(0.95).size(8, 8),
				lines("Size and bound", Bytes, "Under its bound the cache holds all that was ever asked for; at it, the least recently used go.",
					plain(`sum by (cache) (cache_size_bytes{})`, "{{cache}} size"),
					plain(`sum by (cache) (cache_capacity_bytes{})`, "{{cache}} bound").as(Margin)).size(8, 8),
				lines("Evictions", PerSecond, "size: for want of room. lost: another server has the mailbox now.",
					plain(`sum by (cache, reason) (rate(cache_evictions_total{}`+rate+`))`, "{{cache}} {{reason}}")).size(8, 8),
				lines("Look-ups", PerSecond, "By what they found.",
					plain(`sum by (cache, result) (rate(cache_requests_total{}`+rate+`))`, "{{cache}} {{result}}")).size(24, 7),
			}},
			{"Ring and directory", []Panel{
				lines("Members of each cell's ring", Count, "As the servers see it: the lowest and the highest of them. Apart, they do not see the same members; at most for some seconds, while one comes or goes.",
					plain(`max by (cell) (ring_members{})`, "{{cell}} most"),
					plain(`min by (cell) (ring_members{})`, "{{cell}} fewest").as(Target)).size(8, 8),
				number("Views of the ring", Count, "How many different rings the servers of a cell go by. More than one for longer than a change takes: a server is cut off from the coordinator.",
					plain(`count by (cell) (count by (cell, hash) (ring_view_info{}))`, "{{cell}}")).badFrom(2).size(8, 8),
				lines("Changes of the ring", PerSecond, "Members that came, went or failed.",
					plain(`sum by (cell, type) (rate(ring_changes_total{}`+rate+`))`, "{{cell}} {{type}}")).size(8, 8),
				lines("Users moved by the last change", Share, "Of n servers, one that comes or goes should move about one in n.",
					plain(`max by (cell) (ring_moved_ratio{})`, "{{cell}}")),
				lines("Look-ups in the directory", PerSecond, "Which cell has a user, by what was found and where.",
					plain(`sum by (result) (rate(directory_lookups_total{}`+rate+`))`, "{{result}}")),
			}},
		},
	}
}
