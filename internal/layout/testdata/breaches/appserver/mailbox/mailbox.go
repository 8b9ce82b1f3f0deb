// Package mailbox links a store that only the program may link, and knows the mirror
// and the old systems.
package mailbox

import (
	_ "darklaunch/appserver/legacy"      // breach: imports appserver/legacy: the old systems keep their data in a heavy library, and nothing new is to rest on them
	_ "darklaunch/appserver/store/hbase" // breach: imports appserver/store/hbase: heavy libraries are linked by the program alone
	_ "darklaunch/mirror/lanes"          // breach: imports mirror/lanes: mirror, loadgen and appserver never import each other
)
