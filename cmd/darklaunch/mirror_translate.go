package main

import (
	"fmt"
	"os"

	"darklaunch/mirror"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/sample"
	"darklaunch/mirror/translate"
)

// config reads the rules of a front; there may be none.
func (s *rulesSetting) config(d *sample.Descriptors, admitted func(string) bool) (t mirror.Translate, err error) {
	if s.Rules == "" {
		return t, nil
	}
	t.Roles[lanes.Shadow] = len(s.Roles) == 0
	for _, role := range s.Roles {
		t.Roles[map[string]lanes.Role{"shadow": lanes.Shadow, "control": lanes.Control}[role]] = true // the schema has checked it
	}
	t.Rules, err = readRules(s.Rules, translate.Config{Methods: d, Admitted: admitted})
	return t, err
}

// readRules reads a file of rules.
func readRules(name string, cfg translate.Config) (*translate.Rules, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read --rules: %w", err)
	}
	rules, err := translate.Parse(text, schemaText("translate"), cfg)
	if err != nil {
		return nil, usageErrorf("%s:%w", name, err)
	}
	return rules, nil
}
