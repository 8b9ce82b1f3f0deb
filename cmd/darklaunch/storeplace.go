package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/pflag"
)

// storePlace is where rows are kept.
type storePlace struct {
	kind  string // memory, pebble, rows or hbase
	at    string // a directory, an address, or ZooKeeper's addresses with commas between
	table string // of hbase
}

func (s storePlace) String() string {
	switch s.kind {
	case "":
		return ""
	case "hbase":
		return s.kind + ":" + s.at + "/" + s.table
	}
	return s.kind + ":" + s.at
}

// storeVar defines a flag such as pebble:DIR.
func storeVar(f *pflag.FlagSet, p *storePlace, name, usage string) {
	f.Var(value[storePlace]{p, "store", parseStorePlace, storePlace.String}, name, usage)
}

// tableName is what HBase takes, without a namespace.
var tableName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]*$`)

func parseStorePlace(s string) (storePlace, error) {
	kind, at, _ := strings.Cut(s, ":")
	place := storePlace{kind: kind, at: at}
	ok := false
	switch kind {
	case "memory":
		ok = s == "memory:"
	case "pebble":
		ok = at != ""
	case "rows":
		ok = isHostPort(at)
	case "hbase":
		place.at, place.table, ok = strings.Cut(at, "/")
		ok = ok && tableName.MatchString(place.table)
		for server := range strings.SplitSeq(place.at, ",") {
			ok = ok && isHostPort(server)
		}
	}
	if !ok {
		return storePlace{}, fmt.Errorf("%q is not a store: want memory:, pebble:DIR, rows:HOST:PORT or hbase:HOST:PORT[,HOST:PORT]/TABLE", s)
	}
	return place, nil
}

func isHostPort(s string) bool {
	host, port, ok := splitHostPort(s)
	return ok && host != "" && port != 0
}
