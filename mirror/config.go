package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"darklaunch/mirror/guard"
	"darklaunch/mirror/ids"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/process"
	"darklaunch/mirror/sample"
	"darklaunch/mirror/shadow"
	"darklaunch/mirror/translate"
)

// ErrConfig is wrapped by New's errors about its Config.
var ErrConfig = errors.New("configuration")

// Config describes a mirror.
type Config struct {
	// Fronts are the listeners with their live services. At least one.
	Fronts []Front
	// Shadow is host:port, or https://host:port, of the system on trial. Empty
	// means that live traffic is relayed and measured, and not copied.
	Shadow string
	// Headers are rules for header fields of the copies.
	Headers []shadow.Rule

	// Salt names the experiment; another is another draw of users. At most 256
	// bytes of printable text. Empty means "darklaunch".
	Salt string
	// Sample and Admit are the shares of users, in ppm, who are mirrored and
	// compared, and who are mirrored. Admit below Sample means as Sample.
	Sample, Admit int32
	// Missing is the rule for exchanges that name no user.
	Missing sample.Missing
	// Allow and Deny are keys that are in at every share, and at none.
	Allow, Deny []string
	// Descriptors tell field names in proto: extractors, and which gRPC methods
	// have no side effects. Nil knows of none.
	Descriptors *sample.Descriptors
	// Unsafe copies methods that may change state on all routes, not only on
	// those that say so.
	Unsafe bool

	// State is the directory in which it is kept who is clean. Empty keeps nothing.
	State string
	// KillFile is a path at which a file means off. Empty is none.
	KillFile string
	// Switchback is the share, in ppm, of 5 s slices in which nothing is sent,
	// so that live can be compared with and without. Zero is none, 500,000 the most.
	Switchback int32
	// Guard is when mirroring switches itself off because live is hurt. Unguarded
	// says that it never does.
	Guard     guard.Config
	Unguarded bool
	// Recycle closes connections that stay dark after a resume, at what looks
	// like a message boundary.
	Recycle bool

	// Pairs is a file that the pair stream is written to, made anew. Empty is none.
	Pairs string
	// Verdict is where the pair stream is sent: host:port, https://host:port for TLS,
	// or unix:PATH. Empty is none.
	Verdict string
	// VerdictToken comes before the stream, where the verdict asks for one.
	VerdictToken string
	// VerdictCA is a file (PEM) with the authorities that the verdict's certificate is
	// verified against. Empty means the system's.
	VerdictCA string
	// Record lists what pairs may show in the clear, as record.Config.Allow.
	Record []string

	// Scrape says which processes tell in the pair stream what their work costs.
	Scrape process.Config

	// InFlight bounds the copies that a role was sent and has not answered.
	// Zero means 64, 4,096 is the most.
	InFlight int
	// PendingBytes bounds what copies hold, in bytes; bodies that are still
	// being read may take a tenth more, and roles' answers as much again. Zero
	// means 64 MiB.
	PendingBytes int
	// MaxBody bounds the body of a request that is copied, in bytes. Zero means
	// 1 MiB.
	MaxBody int
	// MaxAge is how long a copy may wait. Zero means 10s.
	MaxAge time.Duration
	// ShadowTimeout bounds one request to a role. Zero means 5s.
	ShadowTimeout time.Duration
	// DrainTimeout bounds the end of Run. Zero means 10s.
	DrainTimeout time.Duration

	blockLength time.Duration // tests have shorter ones

	// Version is told in the pair stream, for people.
	Version string
	// Log may be nil.
	Log *slog.Logger
}

// Front is a listener with its live service.
type Front struct {
	// Name is a label value: at most 40 letters, digits, - and _, and not
	// "admin" or "metrics". Empty means "mirror".
	Name string
	// Listen is host:port; port 0 means any free one.
	Listen string
	// Live are the addresses of the live service: host:port, or
	// https://host:port for TLS.
	Live []string
	// Control is the address of a second copy of the live build. Empty is none.
	Control string
	// Keys are extractors; the first that yields a value names the user.
	Keys []string
	// Routes are those that are told apart; others are learned.
	Routes []Route
	// Assign are values of live's answers that unsafe copies carry, for roles
	// that take what live decided.
	Assign []Assign
	// IDs are where live and a role, of lanes.NumRoles, each name what they make;
	// see package ids. A config without Learn is none.
	IDs [lanes.NumRoles]ids.Config

	// Translate says which roles speak another API than live.
	Translate Translate

	// Certificate and Key are PEM files; TLS ends here when they are set.
	Certificate, Key string
	// LiveCA is a PEM file that live's certificates are verified against. Empty
	// means the system's.
	LiveCA string
	// LiveH2C says that a plain live speaks HTTP/2 by prior knowledge.
	LiveH2C bool
	// ProxyIn demands a PROXY protocol header of clients, ProxyOut sends one to live.
	ProxyIn, ProxyOut bool
}

// Translate is how copies become calls of another API.
type Translate struct {
	// Rules are applied. Nil means that all roles speak live's API.
	Rules *translate.Rules
	// Roles are those that speak the other one.
	Roles [lanes.NumRoles]bool
}

// Route is how the exchanges of one pattern are treated.
type Route struct {
	// Pattern is "METHOD /path", "/path" or "/pkg.Service/Method".
	Pattern string
	// Skip relays and measures its exchanges, and copies none.
	Skip bool
	// Unsafe copies those too that may change state.
	Unsafe bool
	// Stream says that its answers have no end in sight: they are copied when
	// their request has ended, and never compared. That gRPC methods answer so
	// Config.Descriptors say; other answers are found out after a second.
	Stream bool
	// Compare are the headers of answers that are compared beside status, body
	// and trailers. Nil means content-type.
	Compare []string
	// Masks are where answers may differ. Both answers are then shipped, and
	// compared by a verdict, of a share of the users in ppm that is fixed and is
	// theirs alone, whatever the sample. A zero Share means all.
	Masks []Mask
	Share int32
	// Touch are extractors of other users that an exchange touches.
	Touch []string
}

// Mask is a place in answers whose values may differ.
type Mask struct {
	// Field is header:NAME, json:$.a.b[*], form:NAME or proto:1.3.
	Field string
	// Within is by how much: a number, or a duration for times. Empty is any.
	// What is compared so must be shown by Config.Record.
	Within string
}

// Assign puts a value of live's answer into the copy.
type Assign struct {
	// From is a place in live's answer, as json:$.id, and To one in the request:
	// header:NAME, json:$.NAME or proto:N.
	From, To string
}

func (cfg Config) withDefaults() Config {
	cfg.Salt = cmp.Or(cfg.Salt, "darklaunch")
	cfg.InFlight = cmp.Or(cfg.InFlight, 64)
	cfg.PendingBytes = cmp.Or(cfg.PendingBytes, 64<<20)
	cfg.MaxBody = cmp.Or(cfg.MaxBody, 1<<20)
	cfg.MaxAge = cmp.Or(cfg.MaxAge, 10*time.Second)
	cfg.ShadowTimeout = cmp.Or(cfg.ShadowTimeout, 5*time.Second)
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, 10*time.Second)
	cfg.blockLength = cmp.Or(cfg.blockLength, blockLength)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Fronts = slices.Clone(cfg.Fronts)
	for i := range cfg.Fronts {
		f := &cfg.Fronts[i]
		f.Name, f.Routes = cmp.Or(f.Name, "mirror"), f.Translate.routed(f.Routes)
	}
	return cfg
}

var frontName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`)

// check refuses what can't be meant. Addresses are resolved for it.
func (cfg *Config) check() error {
	if len(cfg.Fronts) == 0 {
		return errors.New("no front: want an address to listen on, and live's")
	}
	if !utf8.ValidString(cfg.Salt) || len(cfg.Salt) > 256 || strings.ContainsFunc(cfg.Salt, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("salt %q: want at most 256 bytes of printable text", cfg.Salt)
	}
	for _, n := range []struct {
		name        string
		value, most int
	}{
		{"sample", int(cfg.Sample), sample.Buckets}, {"admit", int(cfg.Admit), sample.Buckets}, {"switchback", int(cfg.Switchback), sample.Buckets / 2},
		{"in-flight", cfg.InFlight, 4096}, {"pending-bytes", cfg.PendingBytes, 1 << 40}, {"max-body", cfg.MaxBody, cfg.PendingBytes},
	} {
		if n.value < 0 || n.value > n.most {
			return fmt.Errorf("%s %d: want 0 to %d", n.name, n.value, n.most)
		}
	}
	if g := cfg.Guard; g.Overhead < 0 || g.Blocks < 0 || !(g.Errors >= 0 && g.Errors <= 1) {
		return fmt.Errorf("guard %v, %v, %d blocks: want limits above zero, and a share", g.Overhead, g.Errors, g.Blocks)
	}
	names := map[string]bool{"admin": true, "metrics": true}
	for i := range cfg.Fronts {
		f := &cfg.Fronts[i]
		if !frontName.MatchString(f.Name) || names[f.Name] {
			return fmt.Errorf("front %q: want a name of its own, of letters, digits, - and _", f.Name)
		}
		names[f.Name] = true
		if err := f.check(cfg.Missing); err != nil {
			return fmt.Errorf("front %s: %w", f.Name, err)
		}
	}
	return cfg.checkTargets()
}

func (f *Front) check(missing sample.Missing) error {
	switch {
	case f.Listen == "":
		return errors.New("no address to listen on")
	case len(f.Live) == 0:
		return errors.New("no address of live")
	case len(f.Keys) == 0 && missing == sample.MissingSkip:
		return errors.New("no key: want an extractor that names the user, as header:x-user, or another rule for a missing key")
	case (f.Certificate == "") != (f.Key == ""):
		return errors.New("a certificate and its key go together")
	}
	for _, a := range append([]string{f.Listen}, f.Live...) {
		if _, _, err := hostPort(a); err != nil {
			return err
		}
	}
	return nil
}

// checkTargets refuses to copy to live, or to a front.
func (cfg *Config) checkTargets() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	type named struct{ what, address string }
	targets := []named{{"the shadow", cfg.Shadow}}
	var others []named
	for _, f := range cfg.Fronts {
		targets = append(targets, named{"the control of " + f.Name, f.Control})
		others = append(others, named{"front " + f.Name, f.Listen})
		for _, live := range f.Live {
			others = append(others, named{"live of " + f.Name, live})
		}
	}
	for _, t := range targets {
		if t.address == "" {
			continue
		}
		at, err := resolve(ctx, t.address)
		if err != nil {
			return fmt.Errorf("%s: %w", t.what, err)
		}
		rest := others
		if t.what != "the shadow" && cfg.Shadow != "" {
			rest = append(rest, named{"the shadow", cfg.Shadow})
		}
		for _, o := range rest {
			if is, err := resolve(ctx, o.address); err == nil && meet(at, is) {
				return fmt.Errorf("%s %s is %s %s: a copy must go to neither live nor a front, and to each role once", t.what, t.address, o.what, o.address)
			}
		}
	}
	return nil
}

func hostPort(address string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(strings.TrimPrefix(address, "https://"))
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(text, 10, 16)
		port = uint16(n)
	}
	if err != nil {
		return "", 0, fmt.Errorf("address %q: want host:port or https://host:port", address)
	}
	return host, port, nil
}

// resolve returns all addresses that a host:port stands for.
func resolve(ctx context.Context, address string) ([]netip.AddrPort, error) {
	host, port, err := hostPort(address)
	if err != nil {
		return nil, err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", address, err)
	}
	all := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		all[i] = netip.AddrPortFrom(ip.Unmap(), port)
	}
	return all, nil
}

// meet reports whether a connection to one of a may end where one to b does.
func meet(a, b []netip.AddrPort) bool {
	for _, x := range a {
		for _, y := range b {
			same := x.Addr() == y.Addr() || everywhere(x, y) || everywhere(y, x)
			if x.Port() != 0 && x.Port() == y.Port() && same {
				return true
			}
		}
	}
	return false
}

// everywhere reports whether all stands for all addresses of this machine, and
// one is such.
func everywhere(all, one netip.AddrPort) bool {
	if !all.Addr().IsUnspecified() {
		return false
	}
	if one.Addr().IsLoopback() || one.Addr().IsUnspecified() {
		return true
	}
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(one.Addr().AsSlice())
	})
}
