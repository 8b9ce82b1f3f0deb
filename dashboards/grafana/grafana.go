// Package grafana writes the dashboards of package dashboards in Grafana's own
// form. The files below json are its output, for those who import them; program
// generate writes them, and a test refuses others.
//
// They need Grafana 10 or later, as heatmaps are of native histograms, and a
// Prometheus that has scraped these.
package grafana

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/grafana/grafana-foundation-sdk/go/cog/variants"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/statetimeline"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"

	"darklaunch/dashboards"
)

// Tag is on all dashboards, and links them to each other.
const Tag = "darklaunch"

// File is what a dashboard's file is called.
func File(d *dashboards.Dashboard) string { return d.UID + ".json" }

// document is a dashboard whose annotations have the fields of the Prometheus
// data source, which the SDK's have not.
type document struct {
	dashboard.Dashboard
	Annotations annotations `json:"annotations"`
}

type annotations struct {
	List []annotation `json:"list"`
}

type annotation struct {
	dashboard.AnnotationQuery
	TitleFormat string `json:"titleFormat"`
	Step        string `json:"step"` // a minute if it were not said
}

// Render returns d as JSON that Grafana imports.
func Render(d *dashboards.Dashboard) ([]byte, error) {
	doc := document{Dashboard: *dashboard.NewDashboard()}
	doc.Uid, doc.Title, doc.Description = &d.UID, &d.Title, &d.Description
	doc.Tags = []string{Tag}
	doc.Editable = new(false)
	doc.GraphTooltip = new(dashboard.DashboardCursorSyncCrosshair)
	doc.Time = &dashboard.DashboardDashboardTime{From: "now-30m", To: "now"}
	doc.Refresh = new("10s")
	doc.Links = []dashboard.DashboardLink{{
		Title: "Darklaunch", Type: dashboard.DashboardLinkTypeDashboards, Icon: "external link", Tags: []string{Tag}, AsDropdown: true, IncludeVars: true, KeepTime: true,
	}}
	doc.Templating.List = variables(d)
	for _, a := range dashboards.Annotations() {
		look, _ := a.Role.Look()
		doc.Annotations.List = append(doc.Annotations.List, annotation{
			dashboard.AnnotationQuery{Name: a.Name, Datasource: source(), Enable: true, IconColor: look.Color, Expr: &a.Expr}, a.Text, a.Every.String(),
		})
	}
	var err error
	if doc.Panels, err = panels(d); err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", d.UID, err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // expressions are to be read
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		return nil, fmt.Errorf("dashboard %s: %w", d.UID, err)
	}
	return b.Bytes(), nil
}

// source is the data source that a reader chooses; no installation's own is
// written down.
func source() common.DataSourceRef {
	return common.DataSourceRef{Type: new("prometheus"), Uid: new("${datasource}")}
}

func variables(d *dashboards.Dashboard) []dashboard.VariableModel {
	list := []dashboard.VariableModel{{
		Type: dashboard.VariableTypeDatasource, Name: "datasource", Label: new("Data source"), Query: text("prometheus"),
	}}
	for _, v := range d.Variables {
		m := dashboard.VariableModel{Name: v.Name, Label: &v.Title, Description: &v.Description}
		if v.Metric == "" {
			m.Type, m.Query, m.Current = dashboard.VariableTypeTextbox, text(v.Default), option(v.Default, v.Default)
			list = append(list, m)
			continue
		}
		of := v.Metric
		if v.Name == "instance" {
			of += `{job=~"$job"}`
		}
		m.Type, m.Datasource = dashboard.VariableTypeQuery, new(source())
		m.Query = text("label_values(" + of + ", " + v.Label + ")")
		m.Refresh, m.Sort = new(dashboard.VariableRefreshOnTimeRangeChanged), new(dashboard.VariableSortAlphabeticalAsc)
		m.Multi, m.IncludeAll, m.AllValue = new(true), new(true), new(dashboards.Any)
		m.Current = option("All", "$__all")
		if v.Default != dashboards.Any {
			m.Current = option(v.Default, v.Default)
		}
		list = append(list, m)
	}
	return list
}

func text(s string) *dashboard.StringOrMap { return &dashboard.StringOrMap{String: &s} }

func option(shown, value string) *dashboard.VariableOption {
	return &dashboard.VariableOption{
		Text:  dashboard.StringOrArrayOfString{String: &shown},
		Value: dashboard.StringOrArrayOfString{String: &value},
	}
}

// panels lays rows and their panels out.
func panels(d *dashboards.Dashboard) (all []dashboard.PanelOrRowPanel, err error) {
	y := 0
	for i, r := range d.Rows {
		all = append(all, dashboard.PanelOrRowPanel{RowPanel: &dashboard.RowPanel{
			Type: "row", Id: uint32(i + 1), Title: &r.Title, GridPos: place(0, y, dashboards.Columns, 1), Panels: []dashboard.Panel{},
		}})
		y++
		x, highest := 0, 0
		for j := range r.Panels {
			p := &r.Panels[j]
			if x+p.Width > dashboards.Columns {
				x, y, highest = 0, y+highest, 0
			}
			made, err := panel(p)
			if err != nil {
				return nil, fmt.Errorf("panel %q: %w", p.Title, err)
			}
			made.GridPos = place(x, y, p.Width, p.Height)
			all = append(all, dashboard.PanelOrRowPanel{Panel: made})
			x, highest = x+p.Width, max(highest, p.Height)
		}
		y += highest
	}
	return all, nil
}

func place(x, y, w, h int) *dashboard.GridPos {
	return &dashboard.GridPos{X: uint32(x), Y: uint32(y), W: uint32(w), H: uint32(h)}
}

func panel(p *dashboards.Panel) (*dashboard.Panel, error) {
	unit, err := unitOf(p.Unit)
	if err != nil {
		return nil, err
	}
	made := &dashboard.Panel{
		Id: new(uint32(p.ID)), Title: &p.Title, Description: &p.Description, Datasource: new(source()),
		FieldConfig: &dashboard.FieldConfigSource{Defaults: dashboard.FieldConfig{Unit: &unit, Thresholds: thresholds(p)}, Overrides: []dashboard.DashboardFieldConfigSourceOverrides{}},
	}
	for i, q := range p.Queries {
		made.Targets = append(made.Targets, target(p.Kind, i, q))
		if err := override(made, p.Kind, i, q); err != nil {
			return nil, err
		}
	}
	switch p.Kind {
	case dashboards.TimeSeries:
		lines(made)
	case dashboards.Stat:
		numbers(made, p)
	case dashboards.Table:
		rows(made, p)
	case dashboards.Heatmap:
		density(made, unit)
	case dashboards.Timeline:
		timeline(made, p)
	default:
		return nil, fmt.Errorf("there is no kind %q", p.Kind)
	}
	return made, nil
}

// ref names the i-th query of a panel.
func ref(i int) string { return string(rune('A' + i)) }

func target(k dashboards.Kind, i int, q dashboards.Query) variants.Dataquery {
	t := prometheus.Dataquery{Expr: q.Expr, LegendFormat: &q.Legend, RefId: new(ref(i)), Datasource: new(source()), EditorMode: new(prometheus.QueryEditorModeCode)}
	format := prometheus.PromQueryFormatTimeSeries
	switch k {
	case dashboards.Table:
		format = prometheus.PromQueryFormatTable
	case dashboards.Heatmap:
		format = prometheus.PromQueryFormatHeatmap
	}
	t.Exemplar = new(q.Exemplars)
	t.Format, t.Instant, t.Range = &format, new(k.Instant()), new(!k.Instant())
	return t
}

// override draws a query's series as its role is drawn, and in its own unit.
func override(to *dashboard.Panel, k dashboards.Kind, i int, q dashboards.Query) error {
	var properties []dashboard.DynamicConfigValue
	set := func(id string, value any) {
		properties = append(properties, dashboard.DynamicConfigValue{Id: id, Value: value})
	}
	if q.Unit != "" {
		unit, err := unitOf(q.Unit)
		if err != nil {
			return err
		}
		set("unit", unit)
		if k == dashboards.TimeSeries {
			set("custom.axisPlacement", common.AxisPlacementRight)
		}
	}
	if look, ok := q.Role.Look(); ok && k == dashboards.TimeSeries {
		set("color", dashboard.FieldColor{Mode: dashboard.FieldColorModeIdFixed, FixedColor: &look.Color})
		set("custom.lineWidth", look.Width)
		if look.Dash != nil {
			set("custom.lineStyle", common.LineStyle{Fill: new(common.LineStyleFillDash), Dash: look.Dash})
		}
	}
	matcher := dashboard.MatcherConfig{Id: "byFrameRefID", Options: ref(i)}
	if k == dashboards.Table { // all queries are one frame then
		matcher = dashboard.MatcherConfig{Id: "byName", Options: q.Legend}
	}
	if len(properties) > 0 {
		to.FieldConfig.Overrides = append(to.FieldConfig.Overrides, dashboard.DashboardFieldConfigSourceOverrides{Matcher: matcher, Properties: properties})
	}
	return nil
}

func thresholds(p *dashboards.Panel) *dashboard.ThresholdsConfig {
	first := dashboards.Neutral
	switch {
	case p.FromBad:
		first = dashboards.Bad
	case p.Thresholds != nil:
		first = dashboards.Good
	}
	t := &dashboard.ThresholdsConfig{Mode: dashboard.ThresholdsModeAbsolute, Steps: []dashboard.Threshold{{Color: first.Color()}}}
	for _, s := range p.Thresholds {
		t.Steps = append(t.Steps, dashboard.Threshold{Value: new(s.Value), Color: s.Level.Color()})
	}
	return t
}

func lines(to *dashboard.Panel) {
	o := timeseries.NewOptions()
	o.Legend = legend()
	o.Tooltip = common.VizTooltipOptions{Mode: common.TooltipDisplayModeMulti, Sort: common.SortOrderDescending}
	to.Type, to.Options = "timeseries", o
	to.FieldConfig.Defaults.Color = &dashboard.FieldColor{Mode: dashboard.FieldColorModeIdPaletteClassicByName}
	to.FieldConfig.Defaults.Custom = timeseries.FieldConfig{
		DrawStyle: new(common.GraphDrawStyleLine), LineWidth: new(1.0), FillOpacity: new(0.0), ShowPoints: new(common.VisibilityModeNever),
	}
}

func legend() common.VizLegendOptions {
	l := *common.NewVizLegendOptions()
	l.ShowLegend = true
	return l
}

func numbers(to *dashboard.Panel, p *dashboards.Panel) {
	o := stat.NewOptions()
	o.GraphMode, o.Orientation = common.BigValueGraphModeNone, common.VizOrientationAuto
	o.ReduceOptions = common.ReduceDataOptions{Calcs: []string{"lastNotNull"}}
	if p.Thresholds == nil {
		o.ColorMode = common.BigValueColorModeNone
	}
	to.Type, to.Options = "stat", o
	to.FieldConfig.Defaults.Color = &dashboard.FieldColor{Mode: dashboard.FieldColorModeIdThresholds}
}

// rows makes all queries one table, by their labels.
func rows(to *dashboard.Panel, p *dashboards.Panel) {
	order, names := map[string]int{}, map[string]string{}
	for _, l := range p.Labels {
		order[l] = len(order)
	}
	for i, q := range p.Queries {
		column := "Value"
		if len(p.Queries) > 1 {
			column += " #" + ref(i)
		}
		order[column], names[column] = len(order), q.Legend
	}
	to.Type, to.Options = "table", table.NewOptions()
	to.FieldConfig.Defaults.Custom = table.FieldConfig{Align: common.FieldTextAlignmentAuto, Filterable: new(true)}
	to.Transformations = []dashboard.DataTransformerConfig{
		{Id: "merge", Options: map[string]any{}},
		{Id: "organize", Options: map[string]any{"excludeByName": map[string]bool{"Time": true}, "indexByName": order, "renameByName": names}},
	}
}

func density(to *dashboard.Panel, unit string) {
	o := heatmap.NewOptions()
	o.YAxis.Unit = &unit
	o.Color.Mode, o.Color.Scheme = new(heatmap.HeatmapColorModeScheme), "Viridis" // as bright as it is dense, in grey too
	o.Tooltip.Mode, o.Tooltip.YHistogram = common.TooltipDisplayModeSingle, new(true)
	to.Type, to.Options = "heatmap", o
}

func timeline(to *dashboard.Panel, p *dashboards.Panel) {
	o := statetimeline.NewOptions()
	o.Legend, o.ShowValue = legend(), common.VisibilityModeAlways // the text is what tells states apart
	o.Tooltip = common.VizTooltipOptions{Mode: common.TooltipDisplayModeSingle, Sort: common.SortOrderNone}
	to.Type, to.Options = "state-timeline", o
	texts := map[string]dashboard.ValueMappingResult{}
	for i, s := range p.States {
		texts[strconv.Itoa(s.Value)] = dashboard.ValueMappingResult{Text: &s.Text, Color: new(s.Level.Color()), Index: new(int32(i))}
	}
	to.FieldConfig.Defaults.Mappings = []dashboard.ValueMapping{{ValueMap: &dashboard.ValueMap{Type: dashboard.MappingTypeValueToText, Options: texts}}}
	to.FieldConfig.Defaults.Custom = statetimeline.FieldConfig{FillOpacity: new(uint32(80))}
}

// unitOf is Grafana's word for a unit.
func unitOf(u dashboards.Unit) (string, error) {
	switch u {
	case dashboards.None:
		return "none", nil
	case dashboards.Count, dashboards.CountPerRequest:
		return units.Short, nil
	case dashboards.Seconds, dashboards.SecondsPerCall:
		return "s", nil
	case dashboards.Bytes:
		return units.BytesIEC, nil
	case dashboards.Share:
		return units.PercentUnit, nil
	case dashboards.PPM:
		return "ppm", nil
	case dashboards.PerSecond:
		return "ops", nil
	case dashboards.RequestsPerSec:
		return "reqps", nil
	case dashboards.BytesPerSecond:
		return units.BytesPerSecondIEC, nil
	case dashboards.Cores:
		return "suffix: cores", nil
	}
	return "", fmt.Errorf("there is no unit %q", u)
}
