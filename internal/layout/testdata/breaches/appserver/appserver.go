// Package appserver changes package variables.
package appserver

import (
	"errors"
	"net/http"
	"regexp"
	"sync"
)

// What is only read may stand in a package.
var (
	ErrGone = errors.New("gone")
	digits  = regexp.MustCompile(`\d+`)
	table   = map[string]int{"a": 1}
	shared  struct{ n [3]int }
	mu      sync.Mutex
	current *http.Client
)

func init() { // breach: an init function
	table["b"] = 2 // breach: package variable table is changed
}

// Change changes them.
func Change() {
	mu.Lock()                     // breach: package variable mu is changed
	defer mu.Unlock()             // breach: package variable mu is changed
	shared.n[1]++                 // breach: package variable shared is changed
	for current = range clients { // breach: package variable current is changed
	}
	http.DefaultClient = current // breach: package variable DefaultClient is changed
	delete(table, "a")           // breach: package variable table is changed
	clear(table)                 // breach: package variable table is changed
	copy(shared.n[:], []int{1})  // breach: package variable shared is changed
	table := map[string]int{}
	delete(table, "a")
	table["c"] = len(digits.FindString("1"))
	var local sync.Mutex
	local.Lock()
}

func clients(func(*http.Client) bool) {}
