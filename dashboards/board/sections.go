package board

import (
	"fmt"

	"darklaunch/dashboards"
)

// section is a part of the page.
type section struct {
	ID     string  `json:"id"`
	Name   string  `json:"-"` // in the list of sections
	Title  string  `json:"-"` // none: it has its own markup
	About  string  `json:"-"`
	Panels []panel `json:"panels"`
}

// panel is a dashboard's, with its variables expanded, rates' interval aside.
type panel struct {
	dashboards.Panel
	Dashboard string `json:"dashboard"`
}

// place is panels of a dashboard.
type place struct {
	uid string
	ids []int
}

type plan struct {
	id, name, title, about string
	places                 []place
}

// plans are what is on the page, in order: of each dashboard what answers its
// question. Grafana has the rest.
var plans = []plan{
	{id: "verdict", places: []place{{"darklaunch-verdict", []int{101}}}},
	{"compare", "Live and shadow", "Live against shadow", "The same requests on both: how many, how many failed, how long they took. Shadow is judged against control where there is one.", []place{
		{"darklaunch-roles", []int{101, 102, 103, 201, 203, 301, 401, 402, 403, 501}},
	}},
	{"differences", "Differences", "What differs in the answers", "By field, the gravest first, with examples as far as the record may show them.", []place{
		{"darklaunch-differences", []int{101, 103, 104}},
	}},
	{"mirror", "Mirror", "The mirror itself", "Whether live suffers, who is copied, and what was not sent.", []place{
		{"darklaunch-mirror", []int{104, 103, 205, 206, 301, 303, 207, 208, 105, 201}},
	}},
	{"load", "Load", "The load", "Whether what was planned was sent in time. Response counts from when a call was due, service from when it was sent.", []place{
		{"darklaunch-load", []int{102, 202, 401, 302, 402, 205, 101}},
	}},
	{"application", "Application", "The application", "The servers on trial: where their time goes, what the store does, how well the cache holds who is active.", []place{
		{"darklaunch-appserver", []int{101, 105, 106}},
		{"darklaunch-store", []int{105, 102}},
		{"darklaunch-cells", []int{101, 201}},
		{"darklaunch-processes", []int{101, 202}},
	}},
	{id: "alerts", name: "Alerts", title: "Alerts", about: "What the rules of Prometheus say needs somebody, and how much of its budget of errors live has used.", places: []place{
		{"darklaunch-objective", []int{102, 103, 201}},
	}},
}

// contents returns the sections with their panels from all. The error names the panel
// that is not there.
func contents(all []dashboards.Dashboard) ([]section, error) {
	type key struct {
		uid string
		id  int
	}
	known := map[key]panel{}
	for _, d := range all {
		value := d.Defaults("$" + dashboards.RateInterval) // which the page knows
		for _, p := range d.Panels() {
			for i := range p.Queries {
				p.Queries[i].Expr = dashboards.Expand(p.Queries[i].Expr, value)
			}
			known[key{d.UID, p.ID}] = panel{p, d.UID}
		}
	}
	var out []section
	for _, p := range plans {
		s := section{ID: p.id, Name: p.name, Title: p.title, About: p.about, Panels: []panel{}}
		for _, at := range p.places {
			for _, id := range at.ids {
				shown, ok := known[key{at.uid, id}]
				if !ok {
					return nil, fmt.Errorf("board: no dashboard has the panel %s %d of %s", at.uid, id, p.id)
				}
				s.Panels = append(s.Panels, shown)
			}
		}
		out = append(out, s)
	}
	return out, nil
}
