package prom

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
)

// Kind is what a Condition is about: a closed set.
type Kind string

// The kinds there are.
const (
	NoTargets       Kind = "no_targets"       // nobody is scraped
	TargetDown      Kind = "target_down"      // it gives no metrics, or none that can be taken
	AllTargetsDown  Kind = "all_targets_down" // nothing new is seen
	DiskFull        Kind = "disk_full"        // samples are refused
	WriteFailed     Kind = "write_failed"     // samples are lost
	BlockSetAside   Kind = "block_set_aside"  // some hours are not shown
	LogDamaged      Kind = "log_damaged"      // what came after the damage is lost
	UpkeepFailed    Kind = "upkeep_failed"    // blocks are not written or merged
	ManySeries      Kind = "too_many_series"  // new series are refused
	RuleFailed      Kind = "rule_failed"      // its alerts can't be relied on
	AlertsNotTold   Kind = "alerts_not_told"  // an Alertmanager does not take them
	maxTargetsNamed      = 20                 // of those that are down
	recentRefusal        = 5 * time.Minute    // how long a refused series is worth a word
	maxText              = 300                // of what others say
)

// A Condition is something about a Server that a person should know.
type Condition struct {
	Kind  Kind      `json:"kind"`
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
}

// Conditions are all that hold now, the most pressing first; none if all is
// well. Their number and length are bounded.
func (s *Server) Conditions() []Condition {
	counts := s.counters()
	all := s.storeConditions(counts)
	all = append(all, s.targetConditions()...)
	all = append(all, s.ruleConditions()...)
	if failed := counts["prometheus_notifications_errors_total"] + counts["prometheus_notifications_dropped_total"]; failed > 0 {
		all = append(all, Condition{Kind: AlertsNotTold, Text: fmt.Sprintf("alertmanager: %.0f alerts could not be sent since the start", failed)})
	}
	all = append(all, s.aside...)
	return s.dated(all)
}

// dated fills in when each began.
func (s *Server) dated(all []Condition) []Condition {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := map[string]time.Time{}
	for i, c := range all {
		if !c.Since.IsZero() {
			continue
		}
		key := string(c.Kind) + about(c.Text)
		if _, ok := s.since[key]; !ok {
			s.since[key] = time.Now()
		}
		since[key], all[i].Since = s.since[key], s.since[key]
	}
	s.since = since
	return all
}

// about is what a text begins with: whom it is about.
func about(text string) string {
	who, _, _ := strings.Cut(text, ":")
	return who
}

func (s *Server) storeConditions(counts map[string]float64) (all []Condition) {
	switch err := s.store.trouble(); {
	case errors.Is(err, errNoRoom):
		all = append(all, Condition{Kind: DiskFull, Text: err.Error()})
	case err != nil:
		all = append(all, Condition{Kind: WriteFailed, Text: "samples can't be written: " + short(err.Error())})
	}
	if counts[logCorruptions] > 0 {
		all = append(all, Condition{Kind: LogDamaged, Since: s.started, Text: "the log of " + s.cfg.Dir + " was damaged: what came after the damage is lost"})
	}
	for _, m := range []string{"prometheus_tsdb_compactions_failed_total", "prometheus_tsdb_head_truncations_failed_total", "prometheus_tsdb_reloads_failures_total"} {
		if n := counts[m]; n > 0 {
			all = append(all, Condition{Kind: UpkeepFailed, Text: fmt.Sprintf("%s: %.0f times since the start; the log grows meanwhile", m, n)})
		}
	}
	if at := s.store.refused.Load(); at != 0 && time.Since(time.Unix(0, at)) < recentRefusal {
		all = append(all, Condition{Kind: ManySeries, Text: fmt.Sprintf("%v: there are %d, and new ones are refused", errManySeries, s.store.series.Load())})
	}
	return all
}

// A TargetState is how the last scrape of a target went.
type TargetState struct {
	Job      string        `json:"job"`
	Instance string        `json:"instance"`
	Health   string        `json:"health"` // up, down or unknown: not scraped yet
	Error    string        `json:"error,omitempty"`
	Scraped  time.Time     `json:"scraped,omitzero"`
	Took     time.Duration `json:"took_ns"`
}

// Targets are the states of all targets, by job and instance.
func (s *Server) Targets() (all []TargetState) {
	for job, targets := range s.scraper.TargetsActive() {
		for _, t := range targets {
			state := TargetState{Job: job, Instance: t.URL().Host, Health: string(t.Health()), Scraped: t.LastScrape(), Took: t.LastScrapeDuration()}
			if err := t.LastError(); err != nil {
				state.Error = short(err.Error())
			}
			all = append(all, state)
		}
	}
	slices.SortFunc(all, func(a, b TargetState) int {
		return strings.Compare(a.Job+"\x00"+a.Instance, b.Job+"\x00"+b.Instance)
	})
	return all
}

func (s *Server) targetConditions() (all []Condition) {
	targets := s.Targets()
	down := slices.DeleteFunc(slices.Clone(targets), func(t TargetState) bool { return t.Health != string(scrape.HealthBad) })
	switch {
	case len(s.cfg.Targets) == 0:
		return []Condition{{Kind: NoTargets, Text: "nobody is scraped: there is nothing to show"}}
	case len(down) > 1 && len(down) == len(targets):
		all = append(all, Condition{Kind: AllTargetsDown, Text: fmt.Sprintf("all %d targets are down: nothing new is seen", len(down))})
	}
	for i, t := range down {
		if i == maxTargetsNamed {
			return append(all, Condition{Kind: TargetDown, Text: fmt.Sprintf("and %d more targets are down", len(down)-i)})
		}
		all = append(all, Condition{Kind: TargetDown, Text: fmt.Sprintf("target %s %s is down: %s", t.Job, t.Instance, t.Error)})
	}
	return all
}

func (s *Server) ruleConditions() (all []Condition) {
	for _, g := range s.rules.RuleGroups() {
		for _, r := range g.Rules() {
			if err := r.LastError(); r.Health() == rules.HealthBad && err != nil && len(all) < maxTargetsNamed {
				all = append(all, Condition{Kind: RuleFailed, Text: fmt.Sprintf("rule %s can't be evaluated: %s", r.Name(), short(err.Error()))})
			}
		}
	}
	return all
}

// logCorruptions is upstream's name of how often the log was found damaged.
const logCorruptions = "prometheus_tsdb_wal_corruptions_total"

// counters are the sums of upstream's counters about itself, by name.
func (s *Server) counters() map[string]float64 {
	sums := map[string]float64{}
	families, err := s.registry.Gather()
	if err != nil {
		s.log.Warn("own metrics are not all there", "err", err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			sums[f.GetName()] += m.GetCounter().GetValue()
		}
	}
	return sums
}

// short is a text of others, bounded.
func short(text string) string {
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}
