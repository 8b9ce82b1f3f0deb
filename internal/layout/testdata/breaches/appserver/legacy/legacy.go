// Package legacy knows what replaces it.
package legacy

import _ "darklaunch/appserver/index" // breach: imports appserver/index: the old systems know nothing of the new one, but tell words as it does
