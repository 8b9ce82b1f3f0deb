package prom

import (
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// object is a YAML mapping.
type object map[string]any

// upstreamConfig is cfg as upstream's own configuration file would say it: what
// loads such a file also checks it and fills in what it leaves out.
func upstreamConfig(cfg Config, log *slog.Logger) (*config.Config, error) {
	text, err := yaml.Marshal(object{
		"global": object{
			"scrape_interval":     model.Duration(cfg.Interval).String(),
			"scrape_timeout":      model.Duration(min(cfg.Interval, 10*time.Second)).String(),
			"evaluation_interval": model.Duration(cfg.evaluation()).String(),
			"body_size_limit":     fmt.Sprintf("%dB", cfg.MaxBody),
			"sample_limit":        cfg.MaxSamples,
			// Native histograms for their accuracy, and classic ones too, so that a
			// query that was written for either finds it.
			"scrape_native_histograms":         true,
			"always_scrape_classic_histograms": true,
			"label_limit":                      64,
			"label_name_length_limit":          256,
			"label_value_length_limit":         1024,
		},
		"scrape_configs": scrapeConfigs(cfg),
		"alerting":       object{"alertmanagers": alertmanagers(cfg.Alertmanagers)},
	})
	if err != nil {
		return nil, err
	}
	c, err := config.Load(string(text), log)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return c, nil
}

func scrapeConfigs(cfg Config) (all []object) {
	for _, job := range jobs(cfg.Targets) {
		c := object{"job_name": job}
		if cfg.CA != "" {
			c["tls_config"] = object{"ca_file": cfg.CA}
		}
		all = append(all, c)
	}
	return all
}

func jobs(targets []Target) []string {
	names := map[string]bool{}
	for _, t := range targets {
		names[t.Job] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func alertmanagers(urls []*url.URL) (all []object) {
	for _, u := range urls {
		c := object{
			"scheme": u.Scheme, "path_prefix": u.Path, "timeout": "10s",
			"static_configs": []object{{"targets": []string{u.Host}}},
		}
		if password, ok := u.User.Password(); ok {
			c["basic_auth"] = object{"username": u.User.Username(), "password": password}
		}
		all = append(all, c)
	}
	return all
}

// targetGroups is what a discovery would find.
func targetGroups(targets []Target) map[string][]*targetgroup.Group {
	groups := map[string][]*targetgroup.Group{}
	for _, job := range jobs(targets) {
		g := &targetgroup.Group{Source: job}
		for _, t := range targets {
			if t.Job != job {
				continue
			}
			set := model.LabelSet{model.AddressLabel: model.LabelValue(t.Address)}
			if t.TLS {
				set[model.SchemeLabel] = "https"
			}
			g.Targets = append(g.Targets, set)
		}
		groups[job] = []*targetgroup.Group{g}
	}
	return groups
}

func alertmanagerGroups(c *config.Config) map[string][]*targetgroup.Group {
	groups := map[string][]*targetgroup.Group{}
	for id, am := range c.AlertingConfig.AlertmanagerConfigs.ToMap() {
		for _, d := range am.ServiceDiscoveryConfigs {
			if static, ok := d.(discovery.StaticConfig); ok {
				groups[id] = append(groups[id], static...)
			}
		}
	}
	return groups
}

// loader gives upstream the rules that are in memory.
type loader struct {
	files  []Rules
	parser parser.Parser
}

func (l loader) Load(name string, ignoreUnknown bool, names model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	i := slices.IndexFunc(l.files, func(r Rules) bool { return r.Name == name })
	if i < 0 {
		return nil, []error{fmt.Errorf("there are no rules %q", name)}
	}
	return rulefmt.Parse(l.files[i].Text, ignoreUnknown, names, l.parser, slog.New(slog.DiscardHandler))
}

func (l loader) Parse(query string) (parser.Expr, error) { return l.parser.ParseExpr(query) }
