// Package layout holds the rules of this tree as data, and a test that checks
// them against the source: who may import whom, what a pure package may not
// do, and what no package may. It has no code for others to use.
//
// A rule that a change breaks is a decision of the design, not an obstacle:
// see docs/architecture.md before touching it.
package layout
