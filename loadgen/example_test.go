package loadgen_test

import (
	"context"
	"fmt"
	"time"

	"darklaunch/loadgen"
	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/transport"
)

// A rate against a URL, judged by an objective. Arrivals come from a plan; here
// something has made one.
func ExampleRun() {
	var plan func(index, total int) (engine.Arrivals, error)

	target, err := loadgen.HTTPTarget("http://127.0.0.1:8080/inbox?user=ann", false, transport.Op{})
	if err != nil {
		fmt.Println(err)
		return
	}
	target.Conns = 64
	objective, err := loadgen.ParseObjective("p99<250ms")
	if err != nil {
		fmt.Println(err)
		return
	}
	res, err := loadgen.Run(context.Background(), loadgen.Config{
		Transport:  target,
		Rate:       2000,
		Arrivals:   plan,
		Warmup:     5 * time.Second,
		For:        10 * time.Second,
		Objectives: []loadgen.Objective{objective},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(res.Verdict, res.Reasons, res.Response.P99)
}
