package scenario

import (
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"darklaunch/internal/strictyaml"
	"darklaunch/loadgen"
	"darklaunch/loadgen/population"
)

// quantity is a number that may be written with a unit: seconds as 4s or 2m,
// bytes as 60B or 64KiB, a rate as 200/s.
type quantity float64

var units = []struct {
	suffix string
	times  float64
}{{"/s", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"B", 1}}

// UnmarshalYAML implements yaml.Unmarshaler.
func (q *quantity) UnmarshalYAML(n *yaml.Node) error {
	for _, u := range units {
		if s, ok := strings.CutSuffix(n.Value, u.suffix); ok {
			if x, err := strconv.ParseFloat(s, 64); err == nil {
				*q = quantity(x * u.times)
				return nil
			}
		}
	}
	if x, err := strconv.ParseFloat(n.Value, 64); err == nil {
		*q = quantity(x)
		return nil
	}
	if d, err := time.ParseDuration(n.Value); err == nil {
		*q = quantity(d.Seconds())
		return nil
	}
	return strictyaml.ErrorAt(n, "%q: want a number, or one with a unit as 4s, 64KiB or 200/s", n.Value)
}

func (q quantity) duration() time.Duration { return time.Duration(float64(q) * float64(time.Second)) }

// objective is one as the file writes it.
type objective struct{ loadgen.Objective }

// UnmarshalYAML implements yaml.Unmarshaler.
func (o *objective) UnmarshalYAML(n *yaml.Node) (err error) {
	if o.Objective, err = loadgen.ParseObjective(n.Value); err != nil {
		return strictyaml.ErrorAt(n, "%w", err)
	}
	return nil
}

// law is a distribution as the file writes it: a number, or a mapping of the
// law's name to its parameters. Nil Law is none.
type law struct{ population.Law }

// UnmarshalYAML implements yaml.Unmarshaler.
func (l *law) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode {
		var q quantity
		if err := n.Decode(&q); err != nil {
			return err
		}
		l.Law = population.Constant{Value: float64(q)}
		return nil
	}
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
		return strictyaml.ErrorAt(n, "want a number, or one law as {lognormal: {median: 4s, sigma: 1}}")
	}
	name, of := n.Content[0].Value, n.Content[1]
	if name == "mixture" {
		return l.mixture(of)
	}
	var p map[string]quantity
	if err := of.Decode(&p); err != nil {
		return err
	}
	get := func(key string) float64 { return float64(p[key]) }
	switch name {
	case "lognormal":
		l.Law = population.LogNormal{Median: get("median"), Sigma: get("sigma"), Min: get("min"), Max: get("max")}
	case "pareto":
		l.Law = population.Pareto{Xm: get("xm"), Alpha: get("alpha"), Max: get("max")}
	case "exponential":
		l.Law = population.Exponential{Mean: get("mean"), Max: get("max")}
	case "geometric":
		l.Law = population.Geometric{P: get("p")}
	case "uniform":
		l.Law = population.Table{Points: []population.Point{{Value: get("from"), Share: 0}, {Value: get("to"), Share: 1}}}
	default:
		return strictyaml.ErrorAt(n, "%s: want lognormal, pareto, exponential, geometric, uniform or mixture", name)
	}
	if err := l.Check(); err != nil {
		return strictyaml.ErrorAt(n, "%v", err)
	}
	return nil
}

func (l *law) mixture(n *yaml.Node) error {
	var parts []struct {
		Weight float64 `yaml:"weight"`
		Law    law     `yaml:"law"`
	}
	if err := n.Decode(&parts); err != nil {
		return err
	}
	var m population.Mixture
	for _, p := range parts {
		m.Parts = append(m.Parts, population.Part{Weight: p.Weight, Law: p.Law.Law})
	}
	if l.Law = m; m.Check() != nil {
		return strictyaml.ErrorAt(n, "%v", m.Check())
	}
	return nil
}
