// Package ops knows a component, and a program.
package ops

import (
	_ "darklaunch/cmd/library"  // breach: imports cmd/library: the program is the top; tests that need several components live in it
	_ "darklaunch/mirror/lanes" // breach: imports mirror/lanes: internal serves the components and knows none of them
)
