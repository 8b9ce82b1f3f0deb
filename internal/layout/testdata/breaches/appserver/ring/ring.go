// Package ring knows who keeps the members.
package ring

import (
	_ "darklaunch/appserver/mailbox" // breach: imports appserver/mailbox: who should serve a user follows from the members alone
)
