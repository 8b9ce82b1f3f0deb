package verdict

import (
	"errors"
	"fmt"
	"time"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/mirror/translate"
	"darklaunch/verdict/compare"
)

// mostBack is how long the way back of one answer may take.
const mostBack = 100 * time.Millisecond

// failedBack is the Failure of an answer of which a rule can make none of live's.
const failedBack = "translate"

var errNotWhole = errors.New("not all of an answer was kept")

// Back returns compare.Config.Back by rules of translation.
func Back(all ...*translate.Rules) func(*pairv1.Pair, *pairv1.Side) (*compare.Answer, error) {
	by := map[string]*translate.Rules{}
	for _, r := range all {
		by[string(r.Hash())] = r
	}
	return func(p *pairv1.Pair, role *pairv1.Side) (*compare.Answer, error) {
		rules := by[string(p.GetRulesHash())]
		if rules == nil {
			return nil, fmt.Errorf("rules %x are not known", p.GetRulesHash())
		}
		x, err := Recorded(p, role)
		if err != nil {
			return nil, err
		}
		start := time.Now()
		made, err := rules.Back(x, func() bool { return time.Since(start) > mostBack })
		if err != nil {
			return &compare.Answer{Failure: failedBack, GRPC: -1}, nil
		}
		return answerOf(&made, p.GetSides()[0].GetExchanges()[0].GetAnswer()), nil
	}
}

// Recorded is what rules read of a pair on the way back of a role's answers. An error
// means that not all was recorded that is needed.
func Recorded(p *pairv1.Pair, role *pairv1.Side) (*translate.Recorded, error) {
	live := p.GetSides()[0].GetExchanges()
	if len(live) != 1 {
		return nil, errNotWhole
	}
	asked := live[0].GetRequest()
	x := &translate.Recorded{
		Rule: int(p.GetRule()), Method: asked.GetMethod(), Keep: p.GetKeep(),
		Request: translate.Message{Header: recordedFields(asked.GetHeader())},
	}
	if b := asked.GetBody(); b.GetFormat() == pairv1.Format_FORMAT_JSON {
		x.Request.Body = b.GetContent()
	}
	var err error
	if x.Live, err = recorded(live[0]); err != nil {
		return nil, err
	}
	for _, e := range role.GetExchanges() {
		one, err := recorded(e)
		if err != nil {
			return nil, err
		}
		x.Answers = append(x.Answers, one)
	}
	return x, nil
}

// recorded is an answer as rules read it.
func recorded(x *pairv1.Exchange) (translate.Answer, error) {
	a := x.GetAnswer()
	if a == nil || x.GetFailure() != "" || a.GetBody().GetTruncated() {
		return translate.Answer{}, errNotWhole
	}
	out := translate.Answer{Status: int(a.GetStatus()), GRPCStatus: -1, Header: recordedFields(a.GetHeader())}
	if a.GrpcStatus != nil {
		out.GRPCStatus = int(a.GetGrpcStatus())
	}
	if a.GetBody().GetFormat() == pairv1.Format_FORMAT_JSON {
		out.JSON = a.GetBody().GetContent()
	}
	return out, nil
}

func recordedFields(list []*pairv1.Field) []translate.Field {
	out := make([]translate.Field, len(list))
	for i, f := range list {
		out[i] = translate.Field{Name: f.GetName(), Value: f.GetValue()}
	}
	return out
}

// answerOf is an answer that a rule made. A body that is live's, as those of errors
// are, is live's in all respects.
func answerOf(a *translate.Answer, live *pairv1.Answer) *compare.Answer {
	own := compare.Recorded(&pairv1.Exchange{Answer: live})
	out := &compare.Answer{Status: a.Status, GRPC: a.GRPCStatus, Trailer: own.Trailer, Body: own.Body}
	for _, f := range a.Header {
		out.Header = append(out.Header, compare.Field(f))
	}
	if live.GetBody().GetFormat() != pairv1.Format_FORMAT_JSON && a.JSON == nil {
		return out
	}
	out.Body.Hash, out.Body.Size = nil, int64(len(a.JSON))
	if out.Body.Content = a.JSON; a.JSON != nil {
		out.Body.Format = compare.JSON
	}
	return out
}
