package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/mirror"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/record"
	"darklaunch/mirror/sample"
	"darklaunch/mirror/translate"
	"darklaunch/verdict"
	"darklaunch/verdict/compare"
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

// readDescriptors reads --descriptors.
func readDescriptors(name string) (*sample.Descriptors, error) {
	set, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read --descriptors: %w", err)
	}
	d, err := sample.ParseDescriptors(set)
	if err != nil {
		return nil, usageErrorf("--descriptors %s: %w", name, err)
	}
	return d, nil
}

const mirrorTranslateLong = `Show what rules of translation make of one exchange: the calls, and how the new
answers look in the old shape where the input holds them, with what then differs
from live's answer. Leaves that the rule's reads do not name are digests on the
way back, as they are to the verdict.

The input is JSON: {"request": {"method", "path", "header", "body"}, "answer":
{"status", "header", "body"}, "answers": [{"status", "grpc_status", "body"}…]}. Of
gRPC the path is the method's, there is no method, and bodies are messages as JSON.`

func (p *program) mirrorTranslate() *cobra.Command {
	rules, input, descriptors := "", "", ""
	var ghosts []string
	cmd := &cobra.Command{
		Use:     "translate --rules FILE --input exchange.json",
		Short:   "Show what rules of translation make of one exchange",
		Long:    mirrorTranslateLong,
		Example: "  darklaunch mirror translate --rules scenarios/translate/inbox.yaml --descriptors scenarios/translate/legacy.binpb --input exchange.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var d *sample.Descriptors
			if descriptors != "" {
				var err error
				if d, err = readDescriptors(descriptors); err != nil {
					return err
				}
			}
			r, err := readRules(rules, translate.Config{Methods: d, Admitted: func(user string) bool { return !slices.Contains(ghosts, user) }})
			if err != nil {
				return err
			}
			text, err := os.ReadFile(input)
			if err != nil {
				return fmt.Errorf("read --input: %w", err)
			}
			shown, err := translated(r, text)
			if _, ok := errors.AsType[*translate.RuleError](err); ok {
				return fmt.Errorf("%s:%w", rules, err)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", input, err)
			}
			out := json.NewEncoder(p.stdout)
			out.SetIndent("", "  ")
			out.SetEscapeHTML(false)
			return out.Encode(shown)
		},
	}
	f := cmd.Flags()
	f.StringVar(&rules, "rules", "", "`file` with the rules; see darklaunch schema translate")
	f.StringVar(&input, "input", "", "`file` with the exchange, JSON")
	f.StringVar(&descriptors, "descriptors", "", "`file` with a protobuf FileDescriptorSet of both sides' gRPC methods")
	f.StringArrayVar(&ghosts, "ghost", nil, "`user` who is not mirrored; repeated")
	_ = cmd.MarkFlagRequired("rules") // fails for flags that there aren't
	_ = cmd.MarkFlagRequired("input")
	return cmd
}

// exchangeInput is an exchange as people write it.
type exchangeInput struct {
	Request struct {
		Method string            `json:"method"`
		Path   string            `json:"path"`
		Header map[string]string `json:"header"`
		Body   json.RawMessage   `json:"body"`
	} `json:"request"`
	Answer  answerInput   `json:"answer"`
	Answers []answerInput `json:"answers"`
}

type answerInput struct {
	Status int               `json:"status"`
	GRPC   *int              `json:"grpc_status"`
	Header map[string]string `json:"header"`
	Body   json.RawMessage   `json:"body"`
}

// translatedOutput is what rules make of an exchange.
type translatedOutput struct {
	Route   string       `json:"route"`
	Rule    int          `json:"rule,omitempty"`
	Line    int          `json:"line,omitempty"`
	Dropped string       `json:"dropped,omitempty"`
	Calls   []callOutput `json:"calls,omitempty"`
	Keep    any          `json:"keep,omitempty"`
	Back    *backOutput  `json:"back,omitempty"`
}

type callOutput struct {
	Call   string            `json:"call"`
	Header map[string]string `json:"header"`
	Body   json.RawMessage   `json:"body,omitempty"`
}

type backOutput struct {
	Status      int             `json:"status"`
	GRPC        *int            `json:"grpc_status,omitempty"`
	Body        json.RawMessage `json:"body,omitempty"`
	Live        json.RawMessage `json:"live,omitempty"`
	Differences []string        `json:"differences"`
}

func translated(r *translate.Rules, text []byte) (*translatedOutput, error) {
	var in exchangeInput
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, usageErrorf("want an exchange: %w", err)
	}
	x, err := in.exchange(r)
	if err != nil {
		return nil, err
	}
	out := &translatedOutput{Route: x.Route}
	made, err := r.Forward(x, nil)
	if errors.Is(err, translate.ErrNoCounterpart) {
		out.Dropped = lanes.NoCounterpart.String()
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	out.Rule, out.Line = made.Rule, r.Line(made.Rule)
	if made.Keep != nil {
		out.Keep = json.RawMessage(made.Keep)
	}
	for _, c := range made.Calls {
		out.Calls = append(out.Calls, showCall(r, &c))
	}
	if len(in.Answers) > 0 {
		out.Back, err = in.back(r, x, &made)
	}
	return out, err
}

func showCall(r *translate.Rules, c *translate.Call) callOutput {
	s := callOutput{Call: c.Method + " " + c.Target, Header: map[string]string{}, Body: c.Body}
	for _, f := range c.Header {
		s.Header[f.Name] = f.Value
	}
	if c.GRPC {
		s.Call = c.Target
		s.Body, _ = r.Document(c.Target, false, c.Body) // it was made of it
	}
	return s
}

// exchange is what the input says that live was asked and answered.
func (in *exchangeInput) exchange(r *translate.Rules) (*translate.Exchange, error) {
	q := &in.Request
	path, query, _ := strings.Cut(q.Path, "?")
	x := &translate.Exchange{
		ID: "00000000000000000000000000000000", Method: q.Method, Path: path, Query: query, GRPC: q.Method == "",
		Status: in.Answer.Status, GRPCStatus: -1, Request: translate.Message{Header: inputFields(q.Header)}, Answer: translate.Message{Header: inputFields(in.Answer.Header)},
	}
	if x.GRPC {
		x.Method, x.GRPCStatus = "POST", 0
		if in.Answer.GRPC != nil {
			x.GRPCStatus = *in.Answer.GRPC
		}
	}
	x.Status = cmp.Or(x.Status, 200)
	if _, err := url.ParseQuery(query); err != nil {
		return nil, usageErrorf("request: path: %w", err)
	}
	list := make([]sample.Route, 0)
	for _, pattern := range r.Routes() {
		list = append(list, sample.Route{Pattern: pattern})
	}
	routes, err := sample.NewRoutes(list)
	if err != nil {
		return nil, usageErrorf("--rules: %w", err)
	}
	x.Route = "other"
	if found := routes.Find(x.Method, x.Path); found != nil {
		x.Route = found.Pattern
	}
	if x.Request.Body, err = inputBody(r, x.GRPC, path, false, q.Body); err == nil {
		x.Answer.Body, err = inputBody(r, x.GRPC, path, true, in.Answer.Body)
	}
	return x, err
}

func inputBody(r *translate.Rules, grpc bool, path string, answer bool, text json.RawMessage) ([]byte, error) {
	if !grpc || len(text) == 0 || string(text) == "null" {
		return text, nil
	}
	b, err := r.Message(path, answer, text)
	if err != nil {
		return nil, usageErrorf("%s: %w", path, err)
	}
	return b, nil
}

func inputFields(header map[string]string) (all []translate.Field) {
	for _, name := range slices.Sorted(maps.Keys(header)) {
		all = append(all, translate.NewField([]byte(name), []byte(header[name])))
	}
	return all
}

// back translates the new answers as a verdict does, of a record that shows what the
// rule reads.
func (in *exchangeInput) back(r *translate.Rules, x *translate.Exchange, made *translate.Translation) (*backOutput, error) {
	allow := []string{}
	for _, read := range r.Reads(x.Route) {
		allow = append(allow, read.Place)
	}
	policy, err := record.New(record.Config{Key: []byte("darklaunch mirror translate"), Allow: allow})
	if err != nil {
		return nil, usageErrorf("--rules: %w", err)
	}
	shows := func(text []byte) []byte {
		if len(text) == 0 || string(text) == "null" {
			return nil
		}
		_, shown := policy.Body("application/json", "", text, false)
		return shown
	}
	answer := func(a answerInput, body []byte) *pairv1.Answer {
		out := &pairv1.Answer{Status: uint32(cmp.Or(a.Status, 200)), Body: &pairv1.Body{Format: pairv1.Format_FORMAT_JSON, Content: shows(body)}}
		if a.GRPC != nil {
			code := uint32(*a.GRPC)
			out.GrpcStatus = &code
		}
		return out
	}
	live := in.Answer
	if x.GRPC {
		live.GRPC = &x.GRPCStatus
	}
	liveBody, err := normal(r, x.GRPC, x.Path, live.Body)
	if err != nil {
		return nil, err
	}
	p := &pairv1.Pair{
		Route: x.Route, RulesHash: r.Hash(), Rule: uint32(made.Rule), Keep: shows(made.Keep),
		Sides: []*pairv1.Side{
			{Role: pairv1.Role_ROLE_LIVE, Clean: true, Exchanges: []*pairv1.Exchange{{
				Request: &pairv1.Request{Method: x.Method, Path: x.Route, Body: &pairv1.Body{Format: pairv1.Format_FORMAT_JSON, Content: shows(in.Request.Body)}},
				Answer:  answer(live, liveBody),
			}}},
			{Role: pairv1.Role_ROLE_SHADOW, Clean: true},
		},
	}
	for i, a := range in.Answers {
		if i >= len(made.Calls) {
			return nil, usageErrorf("answers: got %d, want one for each of %d calls", len(in.Answers), len(made.Calls))
		}
		c := made.Calls[i]
		if c.GRPC && a.GRPC == nil {
			a.GRPC = new(int)
		}
		body, err := normal(r, c.GRPC, c.Target, a.Body)
		if err != nil {
			return nil, err
		}
		p.Sides[1].Exchanges = append(p.Sides[1].Exchanges, &pairv1.Exchange{Request: &pairv1.Request{Method: c.Method}, Answer: answer(a, body)})
	}
	recorded, err := verdict.Recorded(p, p.Sides[1])
	if err != nil {
		return nil, err
	}
	if _, err := r.Back(recorded, nil); err != nil { // to a verdict a difference, to people a reason
		return nil, err
	}
	got, err := verdict.Back(r)(p, p.Sides[1])
	if err != nil {
		return nil, err
	}
	out := &backOutput{Status: got.Status, Body: got.Body.Content, Live: p.Sides[0].Exchanges[0].Answer.Body.Content, Differences: []string{}}
	if got.GRPC >= 0 {
		out.GRPC = &got.GRPC
	}
	result := compare.New(compare.Config{}).Answers(x.Route, compare.Recorded(p.Sides[0].Exchanges[0]), got)
	for _, diff := range result.Differences {
		out.Differences = append(out.Differences, fmt.Sprintf("%s %s: live %s, role %s", diff.Path, diff.Kind, diff.Live, diff.Role))
	}
	return out, nil
}

// normal is a gRPC message's JSON as expressions see it.
func normal(r *translate.Rules, grpc bool, path string, text json.RawMessage) ([]byte, error) {
	b, err := inputBody(r, grpc, path, true, text)
	if err != nil || !grpc || len(b) == 0 {
		return b, err
	}
	document, ok := r.Document(path, true, b)
	if !ok {
		return nil, usageErrorf("answer of %s: it is no message", path)
	}
	return document, nil
}
