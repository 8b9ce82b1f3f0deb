package hist_test

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/internal/hist"
)

// A worker records; once a second its owner takes what is new, adds it to the
// run's result and to what Prometheus sees.
func Example() {
	seen := hist.NewCollector(hist.Opts{
		Name: "loadgen_response_seconds", Help: "From intended time to completion.",
		Labels: []string{"op"}, Series: [][]string{{"send"}, {"read"}},
	})
	prometheus.NewRegistry().MustRegister(seen)

	worker := hist.NewRecorder()
	total := hist.New()
	for second := range 3 {
		for i := range 100 {
			worker.Record(time.Duration(i+second) * time.Millisecond)
		}
		news := worker.Swap()
		total.Merge(news)
		seen.Add(news, "send")
	}
	fmt.Println(total.Count(), total.Mean(), total.Quantile(0.99).Round(time.Millisecond))
	// Output: 300 50.5ms 99ms
}
