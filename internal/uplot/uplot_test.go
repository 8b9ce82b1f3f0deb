package uplot

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

// TestLibrary holds that the vendored library is the published one: the checksums
// are of the files in uplot-1.6.32.tgz.
func TestLibrary(t *testing.T) {
	for _, f := range []struct{ name, content, want string }{
		{"uPlot.iife.min.js", Script, "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"},
		{"uPlot.min.css", Style, "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"},
		{"LICENSE", License, "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd"},
	} {
		sum := sha256.Sum256([]byte(f.content))
		if got := hex.EncodeToString(sum[:]); got != f.want {
			t.Errorf("%s: got %s, want %s", f.name, got, f.want)
		}
	}
	if !strings.Contains(Script, "(v"+Version+")") || !strings.Contains(Script, "github.com/leeoniya/uPlot") {
		t.Errorf("the script is not of version %s, or does not say whose it is", Version)
	}
}
