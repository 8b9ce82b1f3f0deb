// Package mirror measures mirroring proxies side by side: what a request costs
// them in CPU, and what they add to its latency, with no, a tenth and all of the
// traffic copied. It is all benchmarks; bench/RESULTS.md keeps their last run.
package mirror
