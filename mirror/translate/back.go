package translate

import (
	"errors"
	"fmt"
)

// Answer is an answer as a record has it: leaves that it does not show are digests,
// which are texts that are equal where the values are.
type Answer struct {
	// Status is HTTP's, and GRPCStatus that of a gRPC call; -1 of others.
	Status, GRPCStatus int
	Header             []Field
	// JSON is the body; nil if it is none.
	JSON []byte
}

// Recorded is an exchange of live's and what a role that speaks another API made of
// it, as a record has them.
type Recorded struct {
	// Rule is the number of the rule by which the role was called.
	Rule int
	// Method and Request are what live was asked.
	Method  string
	Request Message
	Live    Answer
	// Keep is what the rule kept: Translation.Keep as the record shows it.
	Keep []byte
	// Answers are the role's, one a call and in order.
	Answers []Answer
}

// Back says how the role's answers look as an answer of live's API. Where live's
// answer and the role's are both errors the body, whose text is each one's own, is
// taken to be live's, and header fields that the rule does not make always are.
// late is as for Forward.
func (r *Rules) Back(x *Recorded, late func() bool) (Answer, error) {
	if x.Rule < 1 || x.Rule > len(r.rules) || len(x.Answers) == 0 {
		return Answer{}, fmt.Errorf("rule %d with %d answers: no such rule, or nothing to translate", x.Rule, len(x.Answers))
	}
	u := r.rules[x.Rule-1]
	last := x.Answers[len(x.Answers)-1]
	if u.back == nil {
		return last, nil
	}
	m := meter{late: late}
	in, err := x.input()
	if err != nil {
		return Answer{}, u.error("back", err)
	}
	out := Answer{Status: 200, GRPCStatus: -1, Header: x.Live.Header}
	status := defaultStatus(&last, x.Live.GRPCStatus >= 0)
	if u.back.status != nil {
		v, ok, err := u.back.status.one(&m, in)
		if err != nil {
			return Answer{}, err
		}
		n, whole := v.(int)
		if !ok || !whole {
			return Answer{}, u.back.status.error(errors.New("want a number"))
		}
		status = n
	}
	bad := status >= 400
	if x.Live.GRPCStatus >= 0 {
		out.GRPCStatus, bad = status, status != 0
	} else {
		out.Status = status
	}
	made, err := fieldsOf(u.back.header, &m, in)
	if err != nil {
		return Answer{}, err
	}
	out.Header = over(x.Live.Header, made)
	if bad && failed(x.Live.Status, x.Live.GRPCStatus) {
		out.JSON = x.Live.JSON
		return out, nil
	}
	if bad || u.back.body == nil {
		return out, nil
	}
	v, ok, err := u.back.body.build(&m, in)
	if err != nil || !ok {
		return out, err
	}
	out.JSON, err = toJSON(v)
	return out, err
}

// input is what the expressions of a way back read.
func (x *Recorded) input() (map[string]any, error) {
	live, err := x.Live.input()
	if err != nil {
		return nil, fmt.Errorf("live's answer: %w", err)
	}
	var asked any
	if len(x.Request.Body) > 0 {
		if asked, err = readJSON(x.Request.Body); err != nil {
			return nil, fmt.Errorf("live's request: %w", err)
		}
	}
	var kept any
	if len(x.Keep) > 0 {
		if kept, err = readJSON(x.Keep); err != nil {
			return nil, fmt.Errorf("what was kept: %w", err)
		}
		if object, ok := kept.(map[string]any); ok {
			kept = object["keep"]
		}
	}
	calls := make([]any, len(x.Answers))
	for i := range x.Answers {
		if calls[i], err = x.Answers[i].input(); err != nil {
			return nil, fmt.Errorf("answer %d: %w", i+1, err)
		}
	}
	return map[string]any{
		"request": map[string]any{"method": x.Method, "header": object(x.Request.Header), "body": asked},
		"answer":  live, "calls": calls, "keep": kept,
	}, nil
}

func (a *Answer) input() (any, error) {
	var body any
	if len(a.JSON) > 0 {
		var err error
		if body, err = readJSON(a.JSON); err != nil {
			return nil, err
		}
	}
	return answer(a.Status, a.GRPCStatus, a.Header, body), nil
}

// over is list with the fields of made in the place of theirs.
func over(list, made []Field) []Field {
	out := make([]Field, 0, len(list)+len(made))
	for _, f := range list {
		if field(made, f.Name) == "" {
			out = append(out, f)
		}
	}
	return append(out, made...)
}

// httpStatus are gRPC's codes as google.rpc.Code maps them to HTTP.
var httpStatus = [...]int{
	200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401,
}

// defaultStatus is the status of a in the protocol of live.
func defaultStatus(a *Answer, grpc bool) int {
	switch {
	case a.GRPCStatus >= 0 && grpc:
		return a.GRPCStatus
	case a.GRPCStatus >= len(httpStatus):
		return 500
	case a.GRPCStatus >= 0:
		return httpStatus[a.GRPCStatus]
	case !grpc:
		return a.Status
	}
	for code, status := range httpStatus {
		if status == a.Status {
			return code
		}
	}
	return 2 // UNKNOWN
}
