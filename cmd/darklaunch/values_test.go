package main

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// check parses each input; an input whose want is nil must be refused.
func check[T any](t *testing.T, parse func(string) (T, error), format func(T) string, cases map[string]any) {
	t.Helper()
	for in, want := range cases {
		got, err := parse(in)
		if want == nil {
			if err == nil {
				t.Errorf("%q: got %v, want an error", in, got)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if diff := cmp.Diff(want, any(got)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
		// What a flag shows as its default must be a value that it takes.
		if again, err := parse(format(got)); err != nil || !cmp.Equal(again, got) {
			t.Errorf("%q: shown as %q, which parses as %v, %v", in, format(got), again, err)
		}
	}
}

func TestDurations(t *testing.T) {
	check(t, parseDuration, time.Duration.String, map[string]any{
		"10s": 10 * time.Second, "1m30s": 90 * time.Second, "0s": time.Duration(0), "500ms": 500 * time.Millisecond,
		"": nil, "10": nil, "-1s": nil, "10 s": nil, "1d": nil, "soon": nil,
	})
}

func TestRates(t *testing.T) {
	check(t, parseRate, rate.String, map[string]any{
		"2000/s": rate(2000), "0.5/s": rate(0.5), "max": rate(math.Inf(1)),
		"": nil, "2000": nil, "0/s": nil, "-1/s": nil, "1e3/s": nil, "NaN/s": nil, "Inf/s": nil, "5/m": nil, "/s": nil, "./s": nil, "1.2.3/s": nil, "MAX": nil,
	})
}

func TestSizes(t *testing.T) {
	check(t, parseSize, size.String, map[string]any{
		"64MiB": size(64 << 20), "512B": size(512), "1GiB": size(1 << 30), "0B": size(0), "1500KiB": size(1500 << 10),
		"": nil, "64": nil, "64MB": nil, "-1B": nil, "1.5MiB": nil, "MiB": nil, "9223372036854775807GiB": nil, "+1B": nil,
	})
}

func TestShares(t *testing.T) {
	check(t, parseShare, share.String, map[string]any{
		"10%": share(100_000), "0.07%": share(700), "2500ppm": share(2500), "0%": share(0), "100%": share(1_000_000), "1000000ppm": share(1_000_000), "0.0001%": share(1),
		"": nil, "10": nil, "101%": nil, "-1%": nil, "0.00001%": nil, "0.5ppm": nil, "NaN%": nil, "1e1%": nil, "%": nil, "10 %": nil,
	})
	for ppm := range share(1_000_001) {
		if got, err := parseShare(ppm.String()); err != nil || got != ppm {
			t.Fatalf("%d ppm is shown as %s, which parses as %d, %v", ppm, ppm, got, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	check(t, parseAddress, address.String, map[string]any{
		"localhost:80": address{false, "localhost:80"}, "https://a.example:443": address{true, "a.example:443"}, "[::1]:80": address{false, "[::1]:80"},
		"": nil, "localhost": nil, ":80": nil, "localhost:0": nil, "localhost:http": nil, "localhost:70000": nil, "http://localhost:80": nil,
		"https://a.example:443/path": nil, "user@host:80": nil, "::1:80": nil,
	})
	check(t, parseListen, func(s string) string { return s }, map[string]any{
		"127.0.0.1:0": "127.0.0.1:0", ":8601": ":8601", "[::1]:1": "[::1]:1",
		"": nil, "8601": nil, "127.0.0.1": nil, "127.0.0.1:x": nil, "https://127.0.0.1:1": nil,
	})
	check(t, parseListenOrNot, func(s string) string { return s }, map[string]any{
		"": "", "127.0.0.1:0": "127.0.0.1:0", "8601": nil, " ": nil,
	})
}
