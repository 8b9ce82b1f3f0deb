package main

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"darklaunch/verdict"
)

// TestWebhookExample holds that the example of what the verdict posts is what it posts.
func TestWebhookExample(t *testing.T) {
	f, err := os.Open("../../deploy/alerting/verdict-webhook.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	var c verdict.Change
	if err := d.Decode(&c); err != nil || c.Comparison == "" || c.State != "fail" || len(c.Reasons) == 0 {
		t.Errorf("got %+v, %v, want a change to fail", c, err)
	}
}

// TestAlertmanagerExample holds that the example's routes lead to receivers that
// there are, and that it silences by alerts that there are.
func TestAlertmanagerExample(t *testing.T) {
	type route struct {
		Receiver string
		Routes   []route
	}
	var example struct {
		Route     route
		Receivers []struct{ Name string }
		Inhibit   []struct {
			Source []string `yaml:"source_matchers"`
		} `yaml:"inhibit_rules"`
	}
	if err := yaml.Unmarshal([]byte(readFile(t, "../../deploy/alerting/alertmanager.yml")), &example); err != nil {
		t.Fatal(err)
	}
	known := func(name string) bool {
		return slices.ContainsFunc(example.Receivers, func(r struct{ Name string }) bool { return r.Name == name })
	}
	for _, r := range append(example.Route.Routes, example.Route) {
		if !known(r.Receiver) {
			t.Errorf("route to %q, which is no receiver", r.Receiver)
		}
	}
	rules := readFile(t, "../../dashboards/rules/darklaunch.rules.yml")
	for _, i := range example.Inhibit {
		_, name, _ := strings.Cut(strings.Trim(i.Source[0], `"`), `="`)
		if !strings.Contains(rules, "- alert: "+name+"\n") {
			t.Errorf("inhibited by %q, which is no alert", name)
		}
	}
}
