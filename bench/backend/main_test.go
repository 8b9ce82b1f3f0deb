package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLateness(t *testing.T) {
	ms := func(xs ...int) (ds []time.Duration) {
		for _, x := range xs {
			ds = append(ds, time.Duration(x)*time.Millisecond)
		}
		return ds
	}
	for _, tt := range []struct {
		name           string
		arrivals, want []time.Duration
	}{
		{"on time", ms(7, 17, 27, 37), ms(0, 0, 0, 0)},
		{"one late", ms(7, 17, 31, 37), ms(0, 0, 0, 4)},
		{"a burst", ms(30, 30, 30, 30), ms(0, 10, 20, 30)},
		{"half the rate", ms(0, 20, 40), ms(0, 10, 20)},
		{"none", nil, []time.Duration{}},
	} {
		if diff := cmp.Diff(tt.want, lateness(tt.arrivals, 100)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}
