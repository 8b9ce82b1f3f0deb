package noise_test

import (
	"fmt"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/verdict/compare"
	"darklaunch/verdict/noise"
)

// A shadow answers each user with another total than live and control do.
func Example() {
	side := func(role pairv1.Role, json string) *pairv1.Side {
		body := &pairv1.Body{Format: pairv1.Format_FORMAT_JSON, Content: []byte(json)}
		return &pairv1.Side{Role: role, Clean: true, Exchanges: []*pairv1.Exchange{{Answer: &pairv1.Answer{Status: 200, Body: body}}}}
	}
	comparer := compare.New(compare.Config{})
	ledger := noise.New(noise.Config{Control: true})
	for user := range uint64(20) { // one a block
		o := comparer.Pair(&pairv1.Pair{
			Reason: pairv1.Reason_REASON_UNEQUAL, Route: "GET /cart", KeyHash: user + 1,
			Sides: []*pairv1.Side{
				side(pairv1.Role_ROLE_LIVE, `{"total":10,"at":1}`),
				side(pairv1.Role_ROLE_SHADOW, `{"total":11,"at":2}`),
				side(pairv1.Role_ROLE_CONTROL, `{"total":10,"at":3}`),
			},
		})
		ledger.Add(&o)
		ledger.Window(&pairv1.RouteWindow{Route: "GET /cart", Differences: &pairv1.Differences{Same: 99, ShadowOnly: 1}})
		ledger.EndBlock()
	}
	for _, f := range ledger.Report().Fields {
		fmt.Printf("%s: %s differs in %.1f %%, beside noise of %.1f %%: %s, gates %v\n", f.Path, f.Kind, 100*f.Rate.Value, 100*f.Noise.Value, f.Tier, f.Gates)
	}
	// Output:
	// json:$.total: value differs in 1.0 %, beside noise of 0.0 %: confirmed, gates true
	// json:$.at: value differs in 1.0 %, beside noise of 1.0 %: observed, gates false
}
