// Package mirror measures mirroring proxies side by side: what a request costs
// them in CPU, and what they add to its latency, with no, a tenth and all of the
// traffic copied; HTTP/1.1 and gRPC, small and large bodies, saturated and at a
// fixed rate. It is all benchmarks; bench/RESULTS.md keeps their last run.
//
//	go test -run '^$' -bench . -benchtime 1x -timeout 45m ./bench/mirror -rounds 3 -length 4s
//
// is the full size, and the default: 88 runs a round, so about twenty minutes, and
// five for the latency that is added, in slices by turns. With -rounds 1 -length 1s
// -slices 2 it takes two or three, which tells that it works.
package mirror
