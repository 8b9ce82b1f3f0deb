// Package library is part of the program and may link everything.
package library

import (
	_ "darklaunch/appserver/store/hbase"
	_ "darklaunch/loadgen"
	_ "darklaunch/mirror"
)
