package main

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"darklaunch/internal/strictyaml"
	"darklaunch/verdict/gate"
	"darklaunch/verdict/judge"
)

// gateSettings is what the file says of a gate. Its keys are in
// schemas/gate.schema.json.
type gateSettings struct {
	Base         sideSettings  `yaml:"base"`
	Head         sideSettings  `yaml:"head"`
	Both         sideSettings  `yaml:",inline"`
	Load         loadLine      `yaml:"load"`
	Rounds       int           `yaml:"rounds"`
	Quiet        bool          `yaml:"quiet"`
	Ready        time.Duration `yaml:"ready-within"`
	Grace        time.Duration `yaml:"stop-within"`
	Judge        judgeSettings `yaml:",inline"`
	Inconclusive undecided     `yaml:"on-inconclusive"`
	History      string        `yaml:"history"`
}

// sideSettings are of one side, or of both.
type sideSettings struct {
	Revision string            `yaml:"revision"`
	Dir      string            `yaml:"dir"`
	Build    string            `yaml:"build"`
	Start    string            `yaml:"start"`
	Probe    string            `yaml:"probe"`
	Stop     string            `yaml:"stop"`
	Env      map[string]string `yaml:"env"`
}

// loadLine is the arguments of load. A text is cut at its spaces.
type loadLine []string

// UnmarshalYAML reads a text or a list.
func (l *loadLine) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.SequenceNode {
		return node.Decode((*[]string)(l))
	}
	if strings.ContainsAny(node.Value, `'"\`) {
		return strictyaml.ErrorAt(node, "no shell reads this: want a list of arguments where one has spaces or quotes")
	}
	*l = strings.Fields(node.Value)
	return nil
}

// gateRules are what decides in a gate where the file says nothing else: as
// elsewhere, and CPU time a request.
func gateRules() []judge.Rule {
	rules := slices.DeleteFunc(judge.DefaultRules(), func(r judge.Rule) bool { return r.Name == judge.MetricDifferences })
	for i := range rules {
		if rules[i].Name == judge.MetricCPU {
			rules[i].Use = judge.UseGate
		}
	}
	return rules
}

// readGate reads the file name.
func readGate(name string) (*gateSettings, gate.Config, error) {
	s := &gateSettings{Rounds: 15, Inconclusive: undecidedCode}
	var cfg gate.Config
	if err := loadConfig(name, schemaText("gate"), s); err != nil {
		return nil, cfg, err
	}
	if s.Ready < 0 || s.Grace < 0 {
		return nil, cfg, usageErrorf("%s: ready-within, stop-within: want a time above 0", name)
	}
	cfg = gate.Config{
		Base: s.side(&s.Base, filepath.Dir(name)), Head: s.side(&s.Head, filepath.Dir(name)),
		Quiet: s.Quiet, Ready: s.Ready, Grace: s.Grace, Judge: s.Judge.config(),
		Looks: 1 + slices.Index(judge.Looks(), s.Rounds),
	}
	if cfg.Base.Start == "" || cfg.Head.Start == "" {
		return nil, cfg, usageErrorf("%s:1: start: want the command that starts the service", name)
	}
	cfg.Judge.Metrics = append(cfg.Judge.Metrics[:len(s.Judge.Metrics)], gateRules()...)
	if s.History != "" && !filepath.IsAbs(s.History) {
		s.History = filepath.Join(filepath.Dir(name), s.History)
	}
	return s, cfg, nil
}

// side is of with what it leaves out from what is said of both. Directories are
// meant from where the file is.
func (s *gateSettings) side(of *sideSettings, from string) gate.Side {
	or := func(own, both string) string {
		if own != "" {
			return own
		}
		return both
	}
	side := gate.Side{
		Dir: or(or(of.Dir, s.Both.Dir), "."), Revision: of.Revision, Build: or(of.Build, s.Both.Build), Start: or(of.Start, s.Both.Start),
		Probe: or(of.Probe, s.Both.Probe), Stop: or(of.Stop, s.Both.Stop),
	}
	if !filepath.IsAbs(side.Dir) {
		side.Dir = filepath.Join(from, side.Dir)
	}
	env := maps.Clone(s.Both.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, of.Env)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		side.Env = append(side.Env, name+"="+env[name])
	}
	return side
}
