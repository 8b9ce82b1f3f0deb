// Package mirror may import verdict, but not the generator.
package mirror

import (
	_ "darklaunch/loadgen" // breach: imports loadgen: mirror, loadgen and appserver never import each other
	_ "darklaunch/verdict"
)
