// Package search is as it should be.
package search
