package scenarios

import (
	"cmp"
	"maps"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"darklaunch/loadgen/population"
	"darklaunch/loadgen/scenario"
)

func load(t *testing.T, name string) *scenario.Scenario {
	t.Helper()
	schema, err := os.ReadFile("../cmd/darklaunch/schemas/scenario.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	s, err := scenario.Load(FS(), name+".yaml", schema)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAllCompileAndPlan(t *testing.T) {
	names := Names()
	if len(names) < 5 {
		t.Fatalf("got %v, want the five there are", names)
	}
	for _, name := range names {
		n := 0
		err := load(t, name).Simulate(scenario.Run{Seed: 1, ID: "t"}, 0, 1, 10*time.Millisecond, func(scenario.Made) { n++ })
		if err != nil || n < 500 {
			t.Errorf("%s: got %d calls, %v, want its load", name, n, err)
		}
	}
}

// realised is what a plan comes to.
type realised struct {
	calls    int // that are measured
	streams  int
	length   float64 // of a session in calls
	sessions map[uint64]bool
	mix      map[string]float64 // shares
	users    map[uint64]int
	drafts   []population.Draft
}

func realise(t *testing.T, name string, scale float64) realised {
	t.Helper()
	sc := load(t, name)
	r := realised{length: sc.Calls(), sessions: map[uint64]bool{}, mix: map[string]float64{}, users: map[uint64]int{}}
	err := sc.Simulate(scenario.Run{Seed: 42, ID: "t", Scale: scale}, 0, 1, 20*time.Millisecond, func(m scenario.Made) {
		if m.Settle {
			return
		}
		if m.Stream {
			r.streams++
			return
		}
		r.calls++
		r.sessions[m.Session] = true
		r.mix[m.Op]++
		r.users[m.Call.User]++
		if m.HasDraft {
			r.drafts = append(r.drafts, m.Draft)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for op := range r.mix {
		r.mix[op] /= float64(r.calls)
	}
	return r
}

// near says whether got is within tolerance, absolute, of want.
func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s: got %.4f, want %.4f ± %.4f", what, got, want, tolerance)
	}
}

// TestMessagesChatIsWhatItSays holds the realised load to the chain's stationary mix
// without uploads and downloads, and to the figures that the file names.
func TestMessagesChatIsWhatItSays(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: plans 100,000 calls and more")
	}
	r := realise(t, "messages-chat", 10)
	if r.calls < 80_000 {
		t.Fatalf("got %d calls, want a large number", r.calls)
	}
	// Sampling gives a share of 0.3 of 90,000 calls a deviation of 0.0015, somewhat more by sessions.
	for op, want := range map[string]float64{"list": 0.290, "read": 0.360, "mark": 0.177, "reply": 0.123, "send": 0.0088, "search": 0.0101, "move": 0.0155, "delete": 0.0132} {
		near(t, "share of "+op, r.mix[op], want, 0.01)
	}
	writes := r.mix["mark"] + r.mix["reply"] + r.mix["send"] + r.mix["move"] + r.mix["delete"]
	near(t, "share of writes", writes, 0.337, 0.015)
	near(t, "messages a session", float64(len(r.drafts))/float64(r.calls)*r.length, 1.2, 0.15)
	near(t, "streams a session that begins", float64(r.streams)/(100*120), 0.5, 0.03)
	checkContent(t, r.drafts)

	people, err := population.New(population.Config{Seed: 42, Users: 20000, Sigma: 1.4})
	if err != nil {
		t.Fatal(err)
	}
	users := make([]population.User, people.Users())
	for i := range users {
		users[i] = population.User(i)
	}
	slices.SortFunc(users, func(a, b population.User) int { return cmp.Compare(people.Activity(b), people.Activity(a)) })
	share := func(of []population.User) float64 {
		sum := 0
		for _, u := range of {
			sum += r.users[uint64(u)]
		}
		return float64(sum) / float64(r.calls)
	}
	near(t, "share of calls of the most active hundredth", share(users[:200]), 0.18, 0.03)
	near(t, "share of calls of the most active tenth", share(users[:2000]), 0.55, 0.04)
}

// checkContent holds channels, sizes and recipients to the file's figures.
func checkContent(t *testing.T, drafts []population.Draft) {
	t.Helper()
	n := float64(len(drafts))
	channels := map[population.Channel]float64{}
	var chatBodies, mailBodies []int
	pairs, chats, long := 0.0, 0.0, 0.0
	for _, d := range drafts {
		channels[d.Channel]++
		if d.Recipients < 1 || d.Recipients > 100 || d.Body > 64<<10 {
			t.Fatalf("got %+v, want at most 100 recipients and 64 KiB", d)
		}
		switch d.Channel {
		case population.Chat:
			chats++
			if d.Recipients == 1 {
				pairs++
			}
			chatBodies = append(chatBodies, d.Body)
		case population.Email, population.Message:
			mailBodies = append(mailBodies, d.Body)
			if d.Body >= 8<<10 {
				long++
			}
		}
	}
	for c, want := range map[population.Channel]float64{population.Email: 0.04, population.SMS: 0.05, population.Chat: 0.84, population.Message: 0.07} {
		near(t, "share of "+c.String(), channels[c]/n, want, 0.012)
	}
	near(t, "chats between two", pairs/chats, 0.96, 0.01)
	slices.Sort(chatBodies)
	near(t, "median of a chat body", float64(chatBodies[len(chatBodies)/2]), 60, 4)
	// Of 2002's mails 32.4 % had 8 kB or more.
	near(t, "mails of 8 KiB or more", long/float64(len(mailBodies)), 0.324, 0.05)
}

// TestMessagesMailIsWhatItSays compares with MMB's mix, without downloads.
func TestMessagesMailIsWhatItSays(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: plans 100,000 calls and more")
	}
	r := realise(t, "messages-mail", 5)
	for op, want := range map[string]float64{"list": 0.08, "read": 0.51, "send": 0.045, "reply": 0.045, "move": 0.10, "delete": 0.20, "search": 0.01} {
		near(t, "share of "+op, r.mix[op], want, 0.02)
	}
	if r.streams != 0 {
		t.Errorf("got %d streams, want none", r.streams)
	}
	for _, d := range r.drafts {
		if d.Channel != population.Email && d.Channel != population.Message {
			t.Fatalf("got a message by %v, want mail", d.Channel)
		}
	}
	if r.mix["mark"] != 0 {
		t.Errorf("got %v of marks, want none", r.mix["mark"])
	}
}

// TestRobotIsNaive shows what it does not have: sessions, and users who differ.
func TestRobotIsNaive(t *testing.T) {
	r := realise(t, "robot", 2)
	if len(r.sessions) != r.calls {
		t.Errorf("got %d sessions in %d calls, want each call alone", len(r.sessions), r.calls)
	}
	for _, op := range []string{"list", "search", "send", "counts"} {
		near(t, "share of "+op, r.mix[op], 0.25, 0.015)
	}
	counts := slices.Sorted(maps.Values(r.users))
	if most := counts[len(counts)-1]; most > 12 {
		t.Errorf("got %d calls of one of 20,000 users, want all alike", most)
	}
}
