package chatv1

import _ "darklaunch/mirror/lanes" // breach: imports mirror/lanes: a contract depends on nobody's code

// Generated code has an init and changes variables.
var file int

func init() { file = 1 }
