// Package load measures load generators side by side: what a request costs them,
// whether they hold a rate, and whether they tell of a stall what clients would.
// It is all benchmarks; bench/RESULTS.md keeps their last run.
package load
