package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"darklaunch/mirror"
	"darklaunch/mirror/guard"
	"darklaunch/mirror/ids"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/process"
	"darklaunch/mirror/sample"
	"darklaunch/mirror/shadow"
)

// mirrorSettings is what flags and file say of a mirror. The file's keys are
// in schemas/mirror.schema.json.
type mirrorSettings struct {
	Front  frontSettings   `yaml:",inline"` // the only one, unless there are Fronts
	Fronts []frontSettings `yaml:"fronts"`

	Shadow      string           `yaml:"shadow"`
	Headers     []headerSettings `yaml:"headers"`
	Salt        string           `yaml:"salt"`
	Sample      share            `yaml:"sample"`
	Admit       share            `yaml:"admit"`
	Missing     missingKey       `yaml:"missing-key"`
	Allow       []string         `yaml:"allow"`
	Deny        []string         `yaml:"deny"`
	Unsafe      bool             `yaml:"mirror-unsafe"`
	Descriptors string           `yaml:"descriptors"`
	Switchback  share            `yaml:"switchback"`
	State       string           `yaml:"state"`
	KillFile    string           `yaml:"kill-file"`
	Recycle     bool             `yaml:"recycle"`
	Verdict     string           `yaml:"verdict"`
	Token       string           `yaml:"verdict-token"`
	VerdictCA   string           `yaml:"verdict-ca"`
	Pairs       string           `yaml:"pairs"`
	Record      []string         `yaml:"record"`
	Scrape      []string         `yaml:"scrape"`
	Requests    string           `yaml:"scrape-requests"`
	Limits      limitSettings    `yaml:"limits"`
	Guard       guardSettings    `yaml:"guard"`
}

type guardSettings struct {
	Off      bool          `yaml:"off"`
	Overhead time.Duration `yaml:"overhead"`
	Errors   share         `yaml:"errors"`
	Blocks   int           `yaml:"blocks"`
}

type frontSettings struct {
	Name    string          `yaml:"name"`
	Listen  string          `yaml:"listen"`
	Live    []string        `yaml:"live"`
	Control string          `yaml:"control"`
	Keys    []string        `yaml:"key"`
	Routes  []routeSettings `yaml:"routes"`
	OpenAPI string          `yaml:"openapi"`
	Assign  []assignSetting `yaml:"assign"`
	IDs     []idsSetting    `yaml:"ids"`
	Rules   rulesSetting    `yaml:"translate"`
	Cert    string          `yaml:"tls-cert"`
	Key     string          `yaml:"tls-key"`
	LiveCA  string          `yaml:"live-ca"`
	LiveH2C bool            `yaml:"live-h2c"`
	Proxy   proxyProtocol   `yaml:"proxy-protocol"`
}

type routeSettings struct {
	Pattern string        `yaml:"pattern"`
	Mirror  *bool         `yaml:"mirror"`
	Unsafe  bool          `yaml:"unsafe"`
	Stream  bool          `yaml:"stream"`
	Touch   []string      `yaml:"touch"`
	Compare []string      `yaml:"compare"`
	Masks   []maskSetting `yaml:"masks"`
	Share   share         `yaml:"share"`
}

type maskSetting struct {
	Field  string `yaml:"field"`
	Within string `yaml:"within"`
}

type assignSetting struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

type idsSetting struct {
	Role     string   `yaml:"role"`
	Learn    []string `yaml:"learn"`
	Requests []string `yaml:"requests"`
	Answers  []string `yaml:"answers"`
	Max      int      `yaml:"max"`
}

type rulesSetting struct {
	Rules string   `yaml:"rules"`
	Roles []string `yaml:"roles"`
}

type headerSettings struct {
	Name   string `yaml:"name"`
	Action string `yaml:"action"`
	Value  string `yaml:"value"`
}

type limitSettings struct {
	InFlight      int           `yaml:"in-flight"`
	PendingBytes  size          `yaml:"pending-bytes"`
	MaxBody       size          `yaml:"max-body"`
	MaxAge        time.Duration `yaml:"max-age"`
	ShadowTimeout time.Duration `yaml:"shadow-timeout"`
}

// missingKey is the name of a sample.Missing.
type missingKey string

var missingKeys = map[missingKey]sample.Missing{
	"skip": sample.MissingSkip, "random": sample.MissingRandom, "client-addr": sample.MissingClient,
}

// proxyProtocol is where PROXY protocol headers are spoken.
type proxyProtocol string

// one returns a parser of a name out of a set.
func one[T ~string](names ...T) func(string) (T, error) {
	return func(s string) (T, error) {
		if slices.Contains(names, T(s)) {
			return T(s), nil
		}
		return "", fmt.Errorf("%q: want one of %q", s, names)
	}
}

func text[T ~string](v T) string { return string(v) }

func (s *mirrorSettings) define(f *pflag.FlagSet) {
	listenVar(f, &s.Front.Listen, "listen", "", "accept clients on this address; port 0 means any free one")
	f.StringArrayVar(&s.Front.Live, "live", nil, "`address` of the live service, host:port or https://host:port; repeated, the least loaded is picked for each connection")
	f.StringVar(&s.Shadow, "shadow", "", "`address` of the system on trial; empty relays and measures alone")
	f.StringVar(&s.Front.Control, "control", "", "`address` of a second copy of the live build, to tell noise")
	f.StringArrayVar(&s.Scrape, "scrape", nil, "`ROLE=URL` of a process's metrics, as shadow=http://127.0.0.1:9100/metrics; repeated: their CPU time, allocations and requests go into the pair stream")
	shareVar(f, &s.Sample, "sample", 100_000, "share of the users who are mirrored and compared")
	shareVar(f, &s.Admit, "admit", 0, "share of the users who are mirrored ahead of the sample; below --sample means as that")
	f.StringVar(&s.Salt, "salt", "darklaunch", "`text` that names the experiment; another is another draw of users")
	f.StringArrayVar(&s.Front.Keys, "key", nil, "`extractor` that names the user, as header:x-user; repeated, the first that yields a value")
	s.Missing = "skip"
	f.Var(value[missingKey]{&s.Missing, "rule", one[missingKey]("skip", "random", "client-addr"), text[missingKey]}, "missing-key", "what becomes of requests that name no user: skip, random or client-addr")
	f.BoolVar(&s.Unsafe, "mirror-unsafe", false, "copy methods that may change state, on all routes")
	f.StringVar(&s.Descriptors, "descriptors", "", "`file` with a protobuf FileDescriptorSet: field names for proto:, and gRPC methods without side effects")
	f.StringVar(&s.Front.OpenAPI, "openapi", "", "`file` with an OpenAPI 3 description: each of its operations is a route")
	f.StringVar(&s.Front.Rules.Rules, "rules", "", "`file` with rules that make calls of another API of live's exchanges: what the shadow speaks; needs --descriptors for gRPC")
	shareVar(f, &s.Switchback, "switchback", 0, "share of 5 s slices in which nothing is sent, to compare live with and without; at most 50%")
	f.StringVar(&s.Front.Cert, "tls-cert", "", "certificate `file` (PEM): end clients' TLS here")
	f.StringVar(&s.Front.Key, "tls-key", "", "key `file` (PEM) of --tls-cert")
	f.StringVar(&s.Front.LiveCA, "live-ca", "", "`file` (PEM) with the authorities that live's certificates are verified against")
	f.BoolVar(&s.Front.LiveH2C, "live-h2c", false, "a plain live speaks HTTP/2 by prior knowledge: offer h2 to TLS clients")
	f.Var(value[proxyProtocol]{&s.Front.Proxy, "side", one[proxyProtocol]("in", "out", "both"), text[proxyProtocol]}, "proxy-protocol", "PROXY protocol: in demands it of clients, out sends it to live, or both")
	f.StringVar(&s.Verdict, "verdict", "", "send the pair stream to a verdict at this `address`: host:port, https://host:port or unix:PATH")
	f.StringVar(&s.Token, "verdict-token", "", "`token` (or @FILE that holds it) that the verdict asks for")
	f.StringVar(&s.VerdictCA, "verdict-ca", "", "`file` (PEM) with the authorities that the verdict's certificate is verified against")
	f.StringVar(&s.Pairs, "pairs", "", "write the pair stream to this `file`; see mirror pairs")
	f.StringVar(&s.State, "state", "", "`directory` that remembers whose state on the shadow equals live's; empty forgets")
	f.StringVar(&s.KillFile, "kill-file", "", "mirroring is off while there is a file at this `path`")
	f.BoolVar(&s.Recycle, "recycle", false, "after a resume, close connections that are not read any more when they seem to be between messages")
}

// withFlags makes settings the defaults, overwritten by load, overwritten by
// those of its flags that the command line has.
func withFlags[T any](flags *pflag.FlagSet, settings *T, defaults T, load func() error) (T, error) {
	type given struct {
		flag *pflag.Flag
		text string
		list []string
	}
	var all []given
	flags.Visit(func(f *pflag.Flag) {
		g := given{flag: f, text: f.Value.String()}
		if many, ok := f.Value.(pflag.SliceValue); ok {
			g.list = slices.Clone(many.GetSlice())
		}
		all = append(all, g)
	})
	*settings = defaults
	err := load()
	for _, g := range all {
		if many, ok := g.flag.Value.(pflag.SliceValue); ok {
			_ = many.Replace(g.list) // it was accepted before
		} else {
			_ = g.flag.Value.Set(g.text)
		}
	}
	return *settings, err
}

// config is the settings as the mirror takes them. admitted is asked by rules of
// translation once the mirror runs.
func (s *mirrorSettings) config(admitted func(user string) bool) (mirror.Config, error) {
	cfg := mirror.Config{
		Shadow: s.Shadow, Salt: s.Salt, Sample: int32(s.Sample), Admit: int32(s.Admit), Missing: missingKeys[s.Missing],
		Allow: s.Allow, Deny: s.Deny, Unsafe: s.Unsafe, State: s.State, KillFile: s.KillFile, Switchback: int32(s.Switchback), Recycle: s.Recycle,
		Verdict: s.Verdict, VerdictCA: s.VerdictCA, Pairs: s.Pairs, Record: s.Record, Version: buildVersion().Version,
		InFlight: s.Limits.InFlight, PendingBytes: int(s.Limits.PendingBytes), MaxBody: int(s.Limits.MaxBody),
		MaxAge: s.Limits.MaxAge, ShadowTimeout: s.Limits.ShadowTimeout,
		Guard:     guard.Config{Overhead: s.Guard.Overhead, Errors: float64(s.Guard.Errors) / sample.Buckets, Blocks: s.Guard.Blocks},
		Unguarded: s.Guard.Off,
	}
	for _, h := range s.Headers {
		action := map[string]shadow.Action{"remove": shadow.Remove, "set": shadow.Set, "replace": shadow.Replace}[h.Action]
		cfg.Headers = append(cfg.Headers, shadow.Rule{Name: h.Name, Action: action, Value: h.Value})
	}
	if s.Descriptors != "" {
		var err error
		if cfg.Descriptors, err = readDescriptors(s.Descriptors); err != nil {
			return cfg, err
		}
	}
	cfg.Scrape.Requests = s.Requests
	for _, text := range s.Scrape {
		t, err := process.ParseTarget(text)
		if err != nil {
			return cfg, usageErrorf("%w", err)
		}
		cfg.Scrape.Targets = append(cfg.Scrape.Targets, t)
	}
	var err error
	if cfg.VerdictToken, err = readToken(s.Token, "--verdict-token"); err != nil {
		return cfg, err
	}
	fronts := s.Fronts
	if len(fronts) == 0 {
		fronts = []frontSettings{s.Front}
	} else if !s.Front.empty() {
		return cfg, usageErrorf("a configuration with fronts: --listen, --live, --control, --key, --openapi, --rules, --tls-…, --live-… and --proxy-protocol, and the keys of their names, belong to one of them")
	}
	for _, f := range fronts {
		front := f.config()
		if front.Translate, err = f.Rules.config(cfg.Descriptors, admitted); err != nil {
			return cfg, err
		}
		if f.OpenAPI != "" {
			if front.Routes, err = described(front.Routes, f.OpenAPI, cfg.Descriptors); err != nil {
				return cfg, err
			}
		}
		cfg.Fronts = append(cfg.Fronts, front)
	}
	return cfg, nil
}

func (f *frontSettings) empty() bool {
	return f.Name == "" && f.Listen == "" && len(f.Live) == 0 && f.Control == "" && len(f.Keys) == 0 && len(f.Routes) == 0 && f.OpenAPI == "" && len(f.Assign) == 0 && len(f.IDs) == 0 && f.Rules.Rules == "" &&
		f.Cert == "" && f.Key == "" && f.LiveCA == "" && !f.LiveH2C && f.Proxy == ""
}

func (f *frontSettings) config() mirror.Front {
	front := mirror.Front{
		Name: f.Name, Listen: f.Listen, Live: f.Live, Control: f.Control, Keys: f.Keys,
		Certificate: f.Cert, Key: f.Key, LiveCA: f.LiveCA, LiveH2C: f.LiveH2C,
		ProxyIn: f.Proxy == "in" || f.Proxy == "both", ProxyOut: f.Proxy == "out" || f.Proxy == "both",
	}
	for _, r := range f.Routes {
		route := mirror.Route{
			Pattern: r.Pattern, Skip: r.Mirror != nil && !*r.Mirror, Unsafe: r.Unsafe, Stream: r.Stream, Touch: r.Touch,
			Compare: r.Compare, Share: int32(r.Share),
		}
		for _, m := range r.Masks {
			route.Masks = append(route.Masks, mirror.Mask(m))
		}
		front.Routes = append(front.Routes, route)
	}
	for _, a := range f.Assign {
		front.Assign = append(front.Assign, mirror.Assign(a))
	}
	for _, t := range f.IDs {
		role := map[string]lanes.Role{"shadow": lanes.Shadow, "control": lanes.Control}[t.Role] // the schema has checked it
		front.IDs[role] = ids.Config{Learn: t.Learn, Requests: t.Requests, Answers: t.Answers, Max: t.Max}
	}
	return front
}
