// Package verdict may import the translation, but not the rest of the mirror.
package verdict

import (
	_ "darklaunch/mirror/lanes" // breach: imports mirror/lanes: of the mirror, the verdict needs the way back of the translation alone
	_ "darklaunch/mirror/translate"
)
