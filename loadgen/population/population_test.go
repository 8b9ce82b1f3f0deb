package population

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"darklaunch/loadgen/draw"
)

func newPopulation(t testing.TB, c Config) *Population {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// topShares returns the share of calls that the most active 1 % and 10 % of users make.
func topShares(calls []float64) (top1, top10 float64) {
	calls = slices.Clone(calls)
	slices.SortFunc(calls, func(a, b float64) int { return int(math.Copysign(1, b-a)) })
	sum := 0.0
	for _, n := range calls {
		sum += n
	}
	for i, n := range calls {
		if i < len(calls)/100 {
			top1 += n / sum
		}
		if i < len(calls)/10 {
			top10 += n / sum
		}
	}
	return top1, top10
}

// TestFewUsersDoMost: with sigma 1.4 the most active 1 % do Φ(1.4 − z(0.99)) = 17.7 % and
// the top 10 % do Φ(1.4 − z(0.9)) = 54.7 %. Of 100,000 users' weights the first varies by
// 0.6 points from seed to seed, the second by 0.5. Picks, 100 a user, sort noise to the
// top, which adds 0.1 and 0.5.
func TestFewUsersDoMost(t *testing.T) {
	const users = 100_000
	p := newPopulation(t, Config{Seed: 1, Users: users})
	weights := make([]float64, users)
	for u := range weights {
		weights[u] = p.Activity(User(u))
	}
	picks := make([]float64, users)
	for n := range uint64(100 * users) {
		picks[p.Pick(n)]++
	}
	for name, calls := range map[string][]float64{"weights": weights, "picks": picks} {
		top1, top10 := topShares(calls)
		if math.Abs(top1-0.177) > 0.02 || math.Abs(top10-0.547) > 0.02 {
			t.Errorf("%s: the top 1 %% do %.3f, the top 10 %% %.3f, want 0.177 and 0.547 ± 0.02", name, top1, top10)
		}
	}
	// Each user's picks are Poisson about the weight: χ² over the users is about their
	// number.
	chi2 := 0.0
	for u, n := range picks {
		want := 100 * weights[u]
		chi2 += (n - want) * (n - want) / want
	}
	if got := chi2 / users; math.Abs(got-1) > 0.05 {
		t.Errorf("picks: χ² of %.3f a user, want 1 ± 0.05", got)
	}
	// All alike, as the robot has it, must not pass.
	even := newPopulation(t, Config{Seed: 1, Users: users, Sigma: -1})
	for u := range weights {
		weights[u] = even.Activity(User(u))
	}
	if top1, top10 := topShares(weights); math.Abs(top1-0.01) > 1e-9 || math.Abs(top10-0.1) > 1e-9 {
		t.Errorf("sigma none: the top 1 %% do %.3f, the top 10 %% %.3f, want 0.01 and 0.1", top1, top10)
	}
}

func TestCap(t *testing.T) {
	const users = 20_000
	free := newPopulation(t, Config{Seed: 1, Users: users})
	capped := newPopulation(t, Config{Seed: 1, Users: users, Cap: 20})
	most, mostFree, sum := 0.0, 0.0, 0.0
	for u := range User(users) {
		most = max(most, capped.Activity(u))
		mostFree = max(mostFree, free.Activity(u))
		sum += capped.Activity(u)
	}
	if math.Abs(most-20) > 1e-6 || mostFree < 40 || math.Abs(sum/users-1) > 1e-9 {
		t.Errorf("most %.3f (%.1f without the cap), average %.6f, want 20 (above 40) and 1", most, mostFree, sum/users)
	}
}

func TestContacts(t *testing.T) {
	for _, users := range []int{2, 3, 4, 5, 6, 50, 1000} {
		p := newPopulation(t, Config{Seed: 3, Users: users})
		for u := range User(min(users, 60)) {
			seen := map[User]bool{u: true}
			for k := range users - 1 {
				c := p.Contact(u, k)
				if seen[c] || int(c) >= users {
					t.Fatalf("%d users: contact %d of %d is %d: itself, a second time, or nobody", users, k, u, c)
				}
				seen[c] = true
			}
			if n := p.Contacts(u); n < 1 || n >= users {
				t.Fatalf("%d users: user %d has %d contacts", users, u, n)
			}
		}
	}
	// The median of 100,000 sizes of sigma 1 is known to √(π/2n) = 0.4 %.
	p := newPopulation(t, Config{Seed: 3, Users: 100_000})
	sizes := make([]float64, p.Users())
	for u := range sizes {
		sizes[u] = float64(p.Contacts(User(u)))
	}
	slices.Sort(sizes)
	if median := sizes[len(sizes)/2]; math.Abs(median-60) > 1 {
		t.Errorf("median contact list of %v, want 60 ± 1", median)
	}
}

// TestPopularity holds ranks against (rank+1)^−q: χ² with as many degrees of freedom as
// ranks less one, below its 99.9 % point.
func TestPopularity(t *testing.T) {
	const n, ranks = 400_000, 30
	chi2 := func(drawn, expected float64) float64 {
		z := newZipf(drawn)
		r := draw.New(1, draw.Steps, 0, 0)
		var count [ranks]float64
		for range n {
			count[z.draw(ranks, r.Rand)]++
		}
		norm := 0.0
		for k := range ranks {
			norm += math.Pow(float64(k+1), -expected)
		}
		sum := 0.0
		for k, got := range count {
			want := n * math.Pow(float64(k+1), -expected) / norm
			sum += (got - want) * (got - want) / want
		}
		return sum
	}
	const limit = 58.3
	for _, q := range []float64{0, 0.6, 0.8, 0.99, 1, 1.2, 3} {
		if got := chi2(q, q); got > limit {
			t.Errorf("exponent %v: χ² %.1f, want at most %v", q, got, limit)
		}
	}
	if got := chi2(0.8, 0.82); got < limit {
		t.Errorf("0.8 taken for 0.82: χ² %.1f, want above %v", got, limit)
	}
}

func TestRecipients(t *testing.T) {
	const users = 20_000
	p := newPopulation(t, Config{Seed: 4, Users: users})
	r := draw.New(1, draw.Steps, 0, 0)
	const n = 200_000
	hot := 0.0
	for i := range n {
		u := p.Pick(uint64(i))
		to := p.Recipient(u, r.Rand)
		if to == u {
			t.Fatalf("%d writes to itself", u)
		}
		if to < 10 { // 0.05 % of 20,000
			hot++
		}
	}
	// 5 %, and 0.05 % of the rest by chance; four standard errors of 0.0005.
	if got := hot / n; math.Abs(got-0.0505) > 0.002 {
		t.Errorf("hot accounts get %.4f of the messages, want 0.0505 ± 0.002", got)
	}
	small := newPopulation(t, Config{Seed: 4, Users: 30})
	for _, n := range []int{0, 1, 7, 29, 250} {
		to := small.AppendRecipients([]User{99}, 5, n, r.Rand)[1:]
		distinct := slices.Compact(slices.Sorted(slices.Values(to)))
		if want := min(n, 29); len(to) != want || len(distinct) != want || slices.Contains(to, 5) {
			t.Errorf("%d recipients of user 5 of 30: got %v, want %d others", n, to, want)
		}
	}
}

// TestRecent: the logarithm of the rank is uniform, so rank k of n has the probability
// log((k+2)/(k+1))/log(n+1).
func TestRecent(t *testing.T) {
	const n, things = 200_000, 40
	r := draw.New(1, draw.Steps, 0, 0)
	var count [things]float64
	for range n {
		count[Recent(things, r.Rand)]++
	}
	chi2 := 0.0
	for k, got := range count {
		want := n * math.Log(float64(k+2)/float64(k+1)) / math.Log(things+1)
		chi2 += (got - want) * (got - want) / want
	}
	if chi2 > 72.1 { // the 99.9 % point for 39 degrees of freedom
		t.Errorf("χ² %.1f, want at most 72.1", chi2)
	}
	if got := Recent(1, r.Rand); got != 0 {
		t.Errorf("of one thing, number %d", got)
	}
}

// TestGolden: a change of these values changes every plan.
func TestGolden(t *testing.T) {
	p := newPopulation(t, Config{Seed: 42, Users: 20_000})
	r := draw.New(42, draw.Steps, 7, 1)
	mix := DefaultMix()
	got := fmt.Sprint(
		[]User{p.Pick(0), p.Pick(1), p.Pick(2), p.Pick(1 << 40)},
		p.Contacts(17), []User{p.Contact(17, 0), p.Contact(17, 1)},
		p.AppendRecipients(nil, 17, 3, r.Rand),
		mix.Draw(r.Rand), mix.Draw(r.Rand),
		Recent(40, r.Rand), string(AppendText(nil, 40, r.Rand)))
	const want = "[2709 11957 3619 9400] 49 [4182 4805] [16642 14150 16019] {email 6 2316 296291} {chat 1 37 0} 4Whisper sophie doubt in. Blanket come at"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMemoryOfAUser(t *testing.T) {
	const users = 1_000_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	p := newPopulation(t, Config{Seed: 1, Users: users, Cap: 100})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := (float64(after.HeapAlloc) - float64(before.HeapAlloc)) / users; got > 8.5 {
		t.Errorf("%.2f bytes a user, want 8", got)
	}
	runtime.KeepAlive(p)
}

func TestPopulationsThatMakeNoSense(t *testing.T) {
	tests := map[string]struct {
		config Config
		want   string
	}{
		"one user":   {Config{Users: 1}, "1 users"},
		"sigma":      {Config{Users: 10, Sigma: 6}, "sigma 6"},
		"nan":        {Config{Users: 10, Sigma: math.NaN()}, "sigma NaN"},
		"cap":        {Config{Users: 10, Cap: 0.5}, "cap 0.5"},
		"hot":        {Config{Users: 10, HotMessages: 1.5}, "1.5 of messages"},
		"contacts":   {Config{Users: 10, Contacts: LogNormal{Sigma: 1}}, "contacts: log-normal"},
		"popularity": {Config{Users: 10, Popularity: 9}, "popularity 9"},
	}
	for name, tt := range tests {
		if _, err := New(tt.config); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, tt.want)
		}
	}
}

func Example() {
	p, err := New(Config{Seed: 42, Users: 20_000})
	if err != nil {
		fmt.Println(err)
		return
	}
	const n = 7 // the number of an arrival
	user := p.Pick(n)
	r := draw.New(42, draw.Steps, n, 1)
	mix := DefaultMix()
	m := mix.Draw(r.Rand)
	fmt.Printf("user %d sends %d bytes by %v to %v\n", user, m.Body, m.Channel, p.AppendRecipients(nil, user, m.Recipients, r.Rand))
	fmt.Printf("%s…\n", AppendText(nil, m.Body, r.Rand)[:68])
	// Output:
	// user 15661 sends 244 bytes by chat to [199]
	// Choose breakfast butterfly sure woman you it your painting in baby b…
}

func BenchmarkPick(b *testing.B) {
	p := newPopulation(b, Config{Seed: 1, Users: 1_000_000})
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		p.Pick(n)
		n++
	}
}

func BenchmarkRecipient(b *testing.B) {
	p := newPopulation(b, Config{Seed: 1, Users: 1_000_000})
	r := draw.New(1, draw.Steps, 0, 0)
	b.ReportAllocs()
	for b.Loop() {
		p.Recipient(17, r.Rand)
	}
}

func BenchmarkDraft(b *testing.B) {
	mix := DefaultMix()
	r := draw.New(1, draw.Steps, 0, 0)
	b.ReportAllocs()
	for b.Loop() {
		mix.Draw(r.Rand)
	}
}
