// Package translate is pure in all but name.
package translate

import (
	_ "log/slog" // breach: a pure package imports log/slog
	"math/rand/v2"
	_ "os" // breach: a pure package imports os
	"time"
)

// Now does what a pure package may not.
func Now() time.Time {
	go func() {}()     // breach: a pure package starts a goroutine
	if rand.N(2) > 0 { // breach: a pure package calls math/rand/v2.N, which has no seed
		time.Sleep(1) // breach: a pure package calls time.Sleep
	}
	_ = rand.New(rand.NewPCG(1, 2)).IntN(3)
	_ = time.Unix(1, 0).After(time.Unix(2, 0))
	clock := time.Now // breach: a pure package calls time.Now
	return clock()
}
