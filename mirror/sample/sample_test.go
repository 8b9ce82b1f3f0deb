package sample

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// fields is a Header made of "name: value" lines.
type fields []string

func (fs fields) Field(name string, n int) (string, bool) {
	for _, f := range fs {
		k, v, _ := strings.Cut(f, ": ")
		if strings.EqualFold(k, name) {
			if n == 0 {
				return v, true
			}
			n--
		}
	}
	return "", false
}

func mustExtract(t testing.TB, d *Descriptors, texts ...string) []Extractor {
	t.Helper()
	var es []Extractor
	for _, text := range texts {
		e, err := ParseExtractor(text, d)
		if err != nil {
			t.Fatal(err)
		}
		es = append(es, e)
	}
	return es
}

// golden are the buckets that every implementation must agree on, salt s1.
var golden = map[string]int32{
	"": 771747, "a": 479864, "ann": 810645, "u1": 1192, "user-42": 857288, "42": 116607, "ann@example.org": 308494,
	"Ünïcode": 153874, "日本語": 898089, "ip:127.0.0.1": 332169, strings.Repeat("x", 64): 698570,
}

// checkBuckets says what is wrong with a bucket function.
func checkBuckets(bucket func(salt, key string) int32) error {
	for key, want := range golden {
		if got := bucket("s1", key); got != want {
			return fmt.Errorf("bucket of %q under s1: got %d, want %d", key, got, want)
		}
	}
	const users, bins = 100_000, 100
	var count [bins]float64
	for i := range users {
		count[bucket("another", fmt.Sprintf("user-name-%d", i))/(Buckets/bins)]++
	}
	chi2 := 0.0
	for _, c := range count {
		chi2 += (c - users/bins) * (c - users/bins) / (users / bins)
	}
	if chi2 > 170 { // p < 1e-5 with 99 degrees of freedom; the salt is fixed, so it never flickers
		return fmt.Errorf("users are spread unevenly: chi² %.0f over %d bins", chi2, bins)
	}
	return nil
}

func TestBuckets(t *testing.T) {
	if err := checkBuckets(Bucket); err != nil {
		t.Error(err)
	}
	planted := map[string]func(salt, key string) int32{
		"the first 8 bytes only": func(salt, key string) int32 { return Bucket(salt, key[:min(len(key), 8)]) },
		"no salt":                func(_, key string) int32 { return Bucket("", key) },
		"folded case":            func(salt, key string) int32 { return Bucket(salt, strings.ToUpper(key)) },
		"32 bits":                func(salt, key string) int32 { return int32(newHasher(salt).text(key) >> 32 % Buckets) },
	}
	for name, bucket := range planted {
		if checkBuckets(bucket) == nil {
			t.Errorf("planted fault %q was not noticed", name)
		}
	}
}

// checkSticky says how a sampler fails to sample users: by a user whose
// exchanges fare differently, or by one whom a larger share loses.
func checkSticky(decide func(x *Exchange, share Share) Decision, keys []string, shares []Share) error {
	id := uint64(0)
	for _, key := range keys {
		was := Decision{}
		for _, share := range shares {
			x := &Exchange{Request: Message{Header: fields{"x-user: " + key}}}
			first := decide(x, share)
			for range 5 {
				id++
				x.ID, x.Path = id, fmt.Sprint("/", id)
				if again := decide(x, share); !cmp.Equal(first, again) {
					return fmt.Errorf("%q at %v: one exchange is %+v and another %+v", key, share, first, again)
				}
			}
			if was.Admitted && !first.Admitted || was.Author.Sampled && !first.Author.Sampled {
				return fmt.Errorf("%q is lost at the larger share %v", key, share)
			}
			if first.Author.Sampled && !first.Author.Admitted {
				return fmt.Errorf("%q at %v is compared and not mirrored", key, share)
			}
			was = first
		}
	}
	return nil
}

func TestUsersAreSampledWholeAndRampsOnlyAdd(t *testing.T) {
	xUser := mustExtract(t, nil, "header:x-user")
	rapid.Check(t, func(t *rapid.T) {
		s := New(Config{
			Salt:  rapid.String().Draw(t, "salt"),
			Allow: rapid.SliceOf(rapid.StringMatching(`[a-z]{1,2}`)).Draw(t, "allow"),
			Deny:  rapid.SliceOf(rapid.StringMatching(`[a-z]{1,2}`)).Draw(t, "deny"),
		})
		keys := rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,2}|[0-9]{1,9}`), 1, 20).Draw(t, "keys")
		ppm := rapid.SliceOfN(rapid.Int32Range(0, Buckets), 1, 6).Draw(t, "ppm")
		slices.Sort(ppm)
		lead := rapid.Int32Range(0, 1000).Draw(t, "lead")
		var shares []Share
		for _, n := range ppm {
			shares = append(shares, Share{Sample: n, Admit: n + lead - 500}) // Admit < Sample too
		}
		err := checkSticky(func(x *Exchange, sh Share) Decision { return s.Decide(x, xUser, nil, sh) }, keys, shares)
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestPlantedSamplersAreNoticed(t *testing.T) {
	xUser := mustExtract(t, nil, "header:x-user")
	s := New(Config{Salt: "s1"})
	keys := numbers(100)
	shares := []Share{{Sample: 1}, {Sample: 200_000}, {Sample: 500_000}, {Sample: 900_000}}
	planted := map[string]func(x *Exchange, share Share) Decision{
		"requests instead of users": func(x *Exchange, share Share) Decision {
			d := s.Decide(x, xUser, nil, share)
			d.Author.Sampled, d.Author.Admitted = share.has(bucket(s.hash.number(x.ID)))
			d.Admitted = d.Author.Admitted
			return d
		},
		"a new draw at each share": func(x *Exchange, share Share) Decision {
			return New(Config{Salt: fmt.Sprint(share.Sample)}).Decide(x, xUser, nil, share)
		},
		"compared and not mirrored": func(x *Exchange, share Share) Decision {
			d := s.Decide(x, xUser, nil, share)
			d.Author.Admitted = d.Author.Rank < share.Admit
			return d
		},
	}
	for name, decide := range planted {
		if checkSticky(decide, keys, shares) == nil {
			t.Errorf("planted sampler %q was not noticed", name)
		}
	}
}

func TestDecide(t *testing.T) {
	const all, some = Buckets, 400_000
	// Under s1: u1 1192, 42 116607, ann@example.org 308494, a 479864, ann 810645.
	keys := mustExtract(t, nil, "header:x-user", "cookie:user")
	touch := mustExtract(t, nil, "json:$.to[*]", "answer:json:$.to[*]")
	user := func(name string) Message { return Message{Header: fields{"x-user: " + name}} }
	send := func(from, body, answer string) Exchange {
		return Exchange{Method: "POST", Unsafe: true, Request: Message{Header: fields{"x-user: " + from}, Body: []byte(body)}, Answer: Message{Body: []byte(answer)}}
	}
	for _, c := range []struct {
		name         string
		missing      Missing
		x            Exchange
		share        Share
		touch        []Extractor
		author       string
		touched      []string // admitted ones marked with +
		admitted     bool
		sampled      bool
		why          Reason
		unattributed Reason
	}{
		{name: "in", x: Exchange{Request: user("u1")}, share: Share{Sample: some}, author: "u1", admitted: true, sampled: true},
		{name: "out", x: Exchange{Request: user("a")}, share: Share{Sample: some}, author: "a", why: NotIn},
		{name: "admitted ahead", x: Exchange{Request: user("a")}, share: Share{Sample: some, Admit: all}, author: "a", admitted: true},
		{name: "second extractor", x: Exchange{Request: Message{Header: fields{"cookie: x=1; user=u1"}}}, share: Share{Sample: some}, author: "u1", admitted: true, sampled: true},
		{name: "allowed", x: Exchange{Request: user("vip")}, author: "vip", admitted: true, sampled: true},
		{name: "denied", x: Exchange{Request: user("robot")}, share: Share{Sample: all}, author: "robot", why: Denied},
		{name: "nobody", x: Exchange{}, share: Share{Sample: all}, why: Absent},
		{name: "nobody writes", x: Exchange{Unsafe: true}, share: Share{Sample: all}, why: Absent, unattributed: Absent},
		{name: "empty name", x: Exchange{Request: user("")}, share: Share{Sample: all}, why: Absent},
		{name: "not text", x: Exchange{Request: user("\xff")}, share: Share{Sample: all}, why: NotText},
		{name: "client address instead", missing: MissingClient, x: Exchange{Client: netip.MustParseAddr("::ffff:127.0.0.1")}, share: Share{Sample: some}, author: "ip:127.0.0.1", admitted: true, sampled: true},
		{name: "client address unknown", missing: MissingClient, x: Exchange{}, share: Share{Sample: all}, why: Absent},
		{name: "random, all", missing: MissingRandom, x: Exchange{ID: 7}, share: Share{Sample: all}, admitted: true, sampled: true},
		{name: "random, none", missing: MissingRandom, x: Exchange{ID: 7}, why: NotIn},

		{name: "touched is in", x: send("a", `{"to":["ann","42","42"]}`, ""), share: Share{Sample: some}, touch: touch, author: "a", touched: []string{"42+", "ann"}, admitted: true},
		{name: "author among touched", x: send("u1", `{"to":["u1","ann"]}`, ""), share: Share{Sample: some}, touch: touch, author: "u1", touched: []string{"ann"}, admitted: true, sampled: true},
		{name: "touched by the answer", x: send("a", `{}`, `{"to":["u1"]}`), share: Share{Sample: some}, touch: touch, author: "a", touched: []string{"u1+"}, admitted: true},
		{name: "nobody touched is in", x: send("a", `{"to":["ann"]}`, ""), share: Share{Sample: some}, touch: touch, author: "a", touched: []string{"ann"}, why: NotIn},
		{name: "denied author, touched in", x: send("robot", `{"to":["u1"]}`, ""), share: Share{Sample: some}, touch: touch, author: "robot", touched: []string{"u1+"}, admitted: true},
		{name: "an empty list names nobody", x: send("u1", `{"to":[]}`, ""), share: Share{Sample: some}, touch: touch, author: "u1", admitted: true, sampled: true},
		{name: "no list", x: send("u1", `{}`, `{}`), share: Share{Sample: some}, touch: touch, author: "u1", admitted: true, sampled: true, unattributed: Absent},
		{name: "no list, refused", x: func() Exchange { x := send("u1", `{}`, `{}`); x.Refused = true; return x }(), share: Share{Sample: some}, touch: touch, author: "u1", admitted: true, sampled: true},
		{name: "no list, safe", x: Exchange{Request: user("u1")}, share: Share{Sample: some}, touch: touch, author: "u1", admitted: true, sampled: true},
		{name: "list cut", x: func() Exchange {
			x := send("u1", `{"to":["42","an`, ``)
			x.Request.Truncated = true
			return x
		}(), share: Share{Sample: some}, touch: touch, author: "u1", touched: []string{"42+"}, admitted: true, sampled: true, unattributed: Truncated},
		{name: "cut behind the list", x: func() Exchange {
			x := send("u1", `{"to":["42"],"bo`, ``)
			x.Request.Truncated = true
			return x
		}(), share: Share{Sample: some}, touch: touch, author: "u1", touched: []string{"42+"}, admitted: true, sampled: true},
		{name: "one recipient is no name", x: send("u1", `{"to":["42",{}]}`, ``), share: Share{Sample: some}, touch: touch, author: "u1", touched: []string{"42+"}, admitted: true, sampled: true, unattributed: WrongType},
		{name: "a crowd", x: send("u1", `{"to":["v`+strings.Join(numbers(MaxTouched+1), `","v`)+`"]}`, ``), share: Share{Sample: 2000}, touch: touch, author: "u1", touched: nil, admitted: true, sampled: true, unattributed: TooMany},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := New(Config{Salt: "s1", Missing: c.missing, Allow: []string{"vip", "robot"}, Deny: []string{"robot"}})
			d := s.Decide(&c.x, keys, c.touch, c.share)
			if d.Author.Key != c.author || d.Admitted != c.admitted || d.Author.Sampled != c.sampled || d.Why != c.why || d.Unattributed != c.unattributed {
				t.Errorf("got author %q, admitted %v, sampled %v, why %q, unattributed %q; want %q, %v, %v, %q, %q",
					d.Author.Key, d.Admitted, d.Author.Sampled, d.Why, d.Unattributed, c.author, c.admitted, c.sampled, c.why, c.unattributed)
			}
			if c.unattributed == TooMany {
				if len(d.Touched) != MaxTouched {
					t.Errorf("got %d touched users, want %d", len(d.Touched), MaxTouched)
				}
				return
			}
			var touched []string
			for _, u := range d.Touched {
				if u.Admitted {
					u.Key += "+"
				}
				touched = append(touched, u.Key)
			}
			slices.Sort(touched)
			if diff := cmp.Diff(c.touched, touched); diff != "" {
				t.Errorf("touched (-want +got):\n%s", diff)
			}
		})
	}
}

func numbers(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprint(i)
	}
	return out
}

func TestMissingRandomIsAShareOfRequests(t *testing.T) {
	s := New(Config{Salt: "s1", Missing: MissingRandom})
	in := 0
	for id := range uint64(20_000) {
		d := s.Decide(&Exchange{ID: id}, nil, nil, Share{Sample: 100_000})
		again := s.Decide(&Exchange{ID: id}, nil, nil, Share{Sample: 100_000})
		if !cmp.Equal(d, again) {
			t.Fatalf("exchange %d: got %+v, then %+v", id, d, again)
		}
		if d.Admitted {
			in++
		}
	}
	if math.Abs(float64(in)-2_000) > 200 {
		t.Errorf("got %d of 20000 exchanges at 10 %%, want about 2000", in)
	}
}

// TestFractions draws users who write to one another at 10 %, and wants the
// three fractions that arithmetic says: a tenth of the users, 1-0.9² of the
// messages, and as many touched users as the true sets have.
func TestFractions(t *testing.T) {
	const users, messages = 20_000, 60_000
	s, share := New(Config{Salt: "tally"}), Share{Sample: 100_000}
	from, to := mustExtract(t, nil, "query:from"), mustExtract(t, nil, "query:to")
	rnd := rand.New(rand.NewPCG(1, 2))
	var tally Tally
	in, seen, touched := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for range messages {
		x := Exchange{Query: fmt.Sprintf("from=u%d&to=u%d", rnd.IntN(users), rnd.IntN(users))}
		d := s.Decide(&x, from, to, share)
		tally.Add(&d)
		for _, u := range append(d.Touched, d.Author) {
			seen[u.Key] = true
			if u.Admitted {
				in[u.Key] = true
			}
			if d.Admitted {
				touched[u.Key] = true
			}
		}
	}
	got := tally.Fractions(share)
	want := Fractions{
		Users:    float64(len(in)) / float64(len(seen)),
		Requests: 0.19,
		Touched:  float64(len(touched)) / float64(len(seen)),
		Seen:     float64(len(seen)),
	}
	near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 0.01*math.Max(a, b)+0.005 })
	if diff := cmp.Diff(want, got, near); diff != "" {
		t.Errorf("fractions (-want +got):\n%s", diff)
	}
	if math.Abs(got.Users-0.1) > 0.01 || got.Touched < 2*got.Users {
		t.Errorf("got %+v, want a tenth of the users and far more touched ones", got)
	}
	if z := new(Tally).Fractions(share); z != (Fractions{}) {
		t.Errorf("without traffic got %+v, want zeros", z)
	}
}

func TestDistinctUsersAreEstimatedWithinTheStatedError(t *testing.T) {
	for _, c := range []struct {
		users int
		err   float64
	}{{100, 0.01}, {100_000, 0.003}, {1_000_000, 0.003}, {5_000_000, 0.01}} {
		if testing.Short() && c.users > 1_000_000 {
			continue
		}
		var m bitmap
		h := newHasher("estimate")
		for i := range c.users {
			m.set(bucket(h.number(uint64(i))))
		}
		if got := m.estimate(Buckets); math.Abs(got-float64(c.users)) > c.err*float64(c.users) {
			t.Errorf("%d users: got %.0f", c.users, got)
		}
	}
	var full bitmap
	for b := range int32(Buckets) {
		full.set(b)
	}
	if got := full.estimate(Buckets); math.IsInf(got, 0) || got < 10_000_000 {
		t.Errorf("no empty bucket: got %v, want a large number", got)
	}
}

func jwt(payload string) string {
	e := base64.RawURLEncoding
	return e.EncodeToString([]byte(`{"alg":"none"}`)) + "." + e.EncodeToString([]byte(payload)) + ".c2ln"
}

func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func BenchmarkDecide(b *testing.B) {
	body := []byte(`{"subject":"lunch","body":"` + strings.Repeat("word ", 100) + `","user":{"name":"Ann","id":1234567},"to":["bob","eve","joe"]}`)
	x := Exchange{
		Method: "POST", Path: "/users/ann/messages", Query: "limit=10&from=ann", Unsafe: true,
		Request: Message{Header: fields{"host: a", "accept: b", "x-user: ann", "cookie: theme=dark; user=ann; s=1", "authorization: Bearer " + jwt(`{"iss":"x","sub":"ann"}`)}, Body: body},
		Client:  netip.MustParseAddr("127.0.0.1"),
	}
	s, share := New(Config{Salt: "s1"}), Share{Sample: 100_000}
	for _, text := range []string{"header:x-user", "cookie:user", "query:from", "path:/users/{key}/messages", "json:$.user.id", "jwt:sub", "client-addr"} {
		keys := mustExtract(b, nil, text)
		b.Run(text, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Decide(&x, keys, nil, share)
			}
		})
	}
	keys, touch := mustExtract(b, nil, "header:x-user"), mustExtract(b, nil, "json:$.to[*]")
	b.Run("touch three", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Decide(&x, keys, touch, share)
		}
	})
	x.Request.Body = frame(append([]byte{0x0a, 3}, "ann"...))
	keys = mustExtract(b, nil, "proto:1")
	b.Run("proto:1", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Decide(&x, keys, nil, share)
		}
	})
}
