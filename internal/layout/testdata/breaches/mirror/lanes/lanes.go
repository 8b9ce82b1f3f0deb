// Package lanes breaks nothing.
package lanes
