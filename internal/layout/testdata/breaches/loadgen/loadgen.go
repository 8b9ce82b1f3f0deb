// Package loadgen breaks what it may not import.
package loadgen

import (
	_ "darklaunch/api/legacy/chat/v1" // breach: imports api/legacy/chat/v1: the mirror, the generator and the verdict work on any service: nothing in them knows mail
	_ "darklaunch/appserver"          // breach: imports appserver: mirror, loadgen and appserver never import each other
)
