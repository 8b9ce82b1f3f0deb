package lanes

import (
	"testing"

	_ "darklaunch/appserver" // breach: imports appserver: mirror, loadgen and appserver never import each other
)

// A test may ask the clock, start goroutines and change variables.
var changed int

func TestNothing(*testing.T) { changed++ }
