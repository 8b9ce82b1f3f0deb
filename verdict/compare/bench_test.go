package compare

import (
	"fmt"
	"strings"
	"testing"

	pairv1 "darklaunch/api/pair/v1"
)

// BenchmarkPair compares three answers of 4 KiB each, as a mirror records them.
func BenchmarkPair(b *testing.B) {
	body := func(role string) *pairv1.Body {
		var items []string
		for i := range 30 {
			items = append(items, fmt.Sprintf(`{"id":%q,"subject":%q,"unread":%q,"at":%q}`, secret(fmt.Sprint(i)), secret("hello there"), secret("3"), secret(role)))
		}
		text := `{"items":[` + strings.Join(items, ",") + `],"total":"` + secret("30") + `"}`
		return &pairv1.Body{Hash: []byte(role), Size: int64(len(text)), Format: pairv1.Format_FORMAT_JSON, Content: []byte(text)}
	}
	side := func(role pairv1.Role) *pairv1.Side {
		return &pairv1.Side{Role: role, Clean: true, Exchanges: []*pairv1.Exchange{{Answer: &pairv1.Answer{Status: 200, Body: body(role.String()), Header: []*pairv1.Field{{Name: "content-type", Value: "application/json"}}}}}}
	}
	p := &pairv1.Pair{Route: "GET /threads", Sides: []*pairv1.Side{side(pairv1.Role_ROLE_LIVE), side(pairv1.Role_ROLE_SHADOW), side(pairv1.Role_ROLE_CONTROL)}}
	c := New(Config{Rules: parse(b, "rules:\n- path: json:$.items\n  array: keyed\n  key: id\n- path: json:$.items[*].at\n  degrade: [type, format]")})
	if o := c.Pair(p); len(o.Shadow.Differences) > 0 || len(o.Shadow.Uses) != 1 {
		b.Fatalf("got %v, want what the rule hid", told(o.Shadow))
	}
	b.ReportAllocs()
	b.SetBytes(int64(3 * len(p.Sides[0].Exchanges[0].Answer.Body.Content)))
	for b.Loop() {
		c.Pair(p)
	}
}
