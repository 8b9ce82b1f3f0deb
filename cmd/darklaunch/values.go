package main

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// value is a flag of a type of ours. parse says in its error what it wants.
type value[T any] struct {
	p      *T
	kind   string
	parse  func(string) (T, error)
	format func(T) string
}

func (v value[T]) Set(s string) (err error) {
	parsed, err := v.parse(s)
	if err == nil {
		*v.p = parsed
	}
	return err
}

func (v value[T]) String() string {
	if v.p == nil {
		return ""
	}
	return v.format(*v.p)
}

func (v value[T]) Type() string { return v.kind }

// durationVar defines a flag such as 10s or 1m30s, not negative.
func durationVar(f *pflag.FlagSet, p *time.Duration, name string, def time.Duration, usage string) {
	*p = def
	f.Var(value[time.Duration]{p, "duration", parseDuration, time.Duration.String}, name, usage)
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration: want a number with a unit, as 500ms, 10s or 1m30s", s)
	}
	return d, nil
}

// address is where a server is.
type address struct {
	TLS      bool   // by TLS, verified
	HostPort string // as net.Dial takes it
}

func (a address) String() string {
	if a.TLS {
		return "https://" + a.HostPort
	}
	return a.HostPort
}

// addressVar defines a flag such as host:443 (plain) or https://host:443.
func addressVar(f *pflag.FlagSet, p *address, name string, usage string) {
	f.Var(value[address]{p, "address", parseAddress, address.String}, name, usage)
}

func parseAddress(s string) (address, error) {
	hostport, tls := strings.CutPrefix(s, "https://")
	host, port, ok := splitHostPort(hostport)
	if !ok || host == "" || port == 0 {
		return address{}, fmt.Errorf("%q is not an address: want host:port (plain) or https://host:port (TLS)", s)
	}
	return address{tls, hostport}, nil
}

// listenVar defines a flag for an address to listen on, as 127.0.0.1:8601;
// port 0 means any free one.
func listenVar(f *pflag.FlagSet, p *string, name, def, usage string) {
	*p = def
	f.Var(value[string]{p, "address", parseListen, func(s string) string { return s }}, name, usage)
}

func parseListen(s string) (string, error) {
	if _, _, ok := splitHostPort(s); !ok {
		return "", fmt.Errorf("%q is not an address to listen on: want host:port, as 127.0.0.1:8601 (port 0: any free one)", s)
	}
	return s, nil
}

// listenOrNotVar is listenVar with an empty value for nowhere.
func listenOrNotVar(f *pflag.FlagSet, p *string, name, def, usage string) {
	*p = def
	f.Var(value[string]{p, "address", parseListenOrNot, func(s string) string { return s }}, name, usage+"; empty for nowhere")
}

func parseListenOrNot(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	return parseListen(s)
}

func splitHostPort(s string) (host string, port int, ok bool) {
	host, p, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(host, "/ @") {
		return "", 0, false
	}
	n, err := strconv.ParseUint(p, 10, 16)
	return host, int(n), err == nil
}

// rate is requests a second; +Inf stands for as many as the target takes.
type rate float64

func (r rate) String() string {
	if math.IsInf(float64(r), 1) {
		return "max"
	}
	return strconv.FormatFloat(float64(r), 'f', -1, 64) + "/s"
}

// rateVar defines a flag such as 2000/s or max.
func rateVar(f *pflag.FlagSet, p *rate, name string, def rate, usage string) {
	*p = def
	f.Var(value[rate]{p, "rate", parseRate, rate.String}, name, usage)
}

func parseRate(s string) (rate, error) {
	if s == "max" {
		return rate(math.Inf(1)), nil
	}
	n, perSecond := strings.CutSuffix(s, "/s")
	r, err := parseDecimal(n)
	if !perSecond || err != nil || r == 0 {
		return 0, fmt.Errorf("%q is not a rate: want a number a second, as 2000/s, or max", s)
	}
	return rate(r), nil
}

// size is a number of bytes.
type size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

func (s size) String() string {
	for _, u := range sizeUnits {
		if int64(s)%u.bytes == 0 && int64(s) >= u.bytes {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// sizeVar defines a flag such as 64MiB or 512B.
func sizeVar(f *pflag.FlagSet, p *size, name string, def size, usage string) {
	*p = def
	f.Var(value[size]{p, "size", parseSize, size.String}, name, usage)
}

func parseSize(s string) (size, error) {
	for _, u := range sizeUnits {
		n, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		whole, err := strconv.ParseUint(n, 10, 63)
		if err != nil || whole > uint64(math.MaxInt64/u.bytes) {
			break
		}
		return size(int64(whole) * u.bytes), nil
	}
	return 0, fmt.Errorf("%q is not a size: want a whole number of B, KiB, MiB or GiB, as 64MiB", s)
}

// share is a part of a whole, in millionths.
type share int

func (s share) String() string {
	return strconv.FormatFloat(float64(s)/1e4, 'f', -1, 64) + "%"
}

// UnmarshalText reads a share in a file.
func (s *share) UnmarshalText(text []byte) (err error) {
	*s, err = parseShare(string(text))
	return err
}

// UnmarshalText reads a size in a file.
func (s *size) UnmarshalText(text []byte) (err error) {
	*s, err = parseSize(string(text))
	return err
}

// shareVar defines a flag such as 10% or 2500ppm.
func shareVar(f *pflag.FlagSet, p *share, name string, def share, usage string) {
	*p = def
	f.Var(value[share]{p, "share", parseShare, share.String}, name, usage)
}

func parseShare(s string) (share, error) {
	ppm := math.NaN()
	if n, ok := strings.CutSuffix(s, "%"); ok {
		if percent, err := parseDecimal(n); err == nil {
			// To a millionth of a millionth, so that 0.07 % is 700 and no neighbour of it.
			ppm = math.Round(percent*1e10) / 1e6
		}
	} else if n, ok := strings.CutSuffix(s, "ppm"); ok {
		if millionths, err := parseDecimal(n); err == nil {
			ppm = millionths
		}
	}
	if ppm != math.Trunc(ppm) || !(ppm <= 1e6) {
		return 0, fmt.Errorf("%q is not a share: want 0%% to 100%% in whole millionths, as 10%% or 2500ppm", s)
	}
	return share(ppm), nil
}

// parseDecimal takes digits with at most one point: no sign, exponent or name.
func parseDecimal(s string) (float64, error) {
	if s == "" || strings.Trim(s, "0123456789.") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseFloat(s, 64)
}
