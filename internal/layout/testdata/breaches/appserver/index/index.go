// Package index knows a store, and what builds on it.
package index

import (
	_ "darklaunch/appserver"        // breach: imports appserver: what a mailbox means depends on its log, and on no server, store or wire
	_ "darklaunch/appserver/search" // breach: imports appserver/search: search builds on index, and index on action, never the other way
)
