// Package gate measures how often a gate is right: it has darklaunch compare a
// service with itself, and with ones that cost a known part more CPU time a
// request, while another process loads the machine. It is all benchmarks;
// bench/RESULTS.md keeps their last run.
package gate
