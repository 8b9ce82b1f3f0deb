// A service for gates to compare: what a request costs is a matter of a flag.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"net/http"
	"os"
)

func main() {
	listen := flag.String("listen", "", "address")
	work := flag.Int("work", 1000, "rounds of SHA-256 a request")
	flag.Parse()
	err := http.ListenAndServe(*listen, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		sum := [32]byte{}
		for range *work {
			sum = sha256.Sum256(sum[:])
		}
		fmt.Fprintf(w, "%x\n", sum[:4])
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
