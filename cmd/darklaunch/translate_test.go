package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chatv1 "darklaunch/api/legacy/chat/v1"
	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/pairstream"
	"darklaunch/mirror/translate"
	"darklaunch/verdict"
	"darklaunch/verdict/compare"
)

// darkLaunch is the old Inbox and Chat behind a mirror, with second copies of them
// for controls and an application server for the shadow.
type darkLaunch struct {
	t           *testing.T
	mirror      *running
	inbox, chat string // the fronts
	metrics     string
	pairs       string // file
}

const translations = "../../scenarios/translate/"

func launch(t *testing.T, sample string, extra ...string) *darkLaunch {
	t.Helper()
	dir := t.TempDir()
	old := func(kind string, args ...string) string {
		r := start(t, slices.Concat([]string{"legacy", kind, "--listen", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "data")}, args)...)
		return r.ready(kind)
	}
	shadow := start(t, "appserver", "serve", "--listen", "127.0.0.1:0", "--store", "memory:", "--trusted-ids").ready("grpc")
	config := readFile(t, translations+"mirror.yaml")
	for from, to := range map[string]string{
		"127.0.0.1:7500": shadow, "127.0.0.1:7711": "127.0.0.1:0", "127.0.0.1:7712": "127.0.0.1:0",
		"127.0.0.1:7701": old("inbox"), "127.0.0.1:7721": old("inbox", "--accept-assigned"),
		"127.0.0.1:7702": old("chat"), "127.0.0.1:7722": old("chat", "--accept-assigned"),
		"scenarios/translate/": translations, "sample: 10%": "sample: " + sample,
	} {
		if !strings.Contains(config, from) {
			t.Fatalf("mirror.yaml has no %s", from)
		}
		config = strings.ReplaceAll(config, from, to)
	}
	config += "\nlimits: {max-age: 1m, shadow-timeout: 30s}\n" // a busy machine is slow, and nothing is to be dropped for it
	d := &darkLaunch{t: t, pairs: filepath.Join(dir, "pairs")}
	file := filepath.Join(dir, "mirror.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d.mirror = start(t, slices.Concat([]string{"mirror", "--config", file, "--pairs", d.pairs, "--admin", "127.0.0.1:0"}, extra)...)
	d.metrics = d.mirror.ready("admin")
	d.inbox, d.chat = d.mirror.ready("inbox"), d.mirror.ready("chat")
	return d
}

// ask makes a request of the Inbox.
func (d *darkLaunch) ask(user, method, path, body string) (int, map[string]any) {
	d.t.Helper()
	r, err := http.NewRequest(method, "http://"+d.inbox+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("X-User", user)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	var v map[string]any
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(text, &v); err != nil {
			d.t.Fatalf("%s %s: %v in %s", method, path, err, text)
		}
	}
	return resp.StatusCode, v
}

// drive does n things of some users, drawn by seed, in order.
func (d *darkLaunch) drive(seed uint64, users []string, n int) {
	t := d.t
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+d.chat, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	chat := chatv1.NewChatClient(conn)
	rng := rand.New(rand.NewPCG(seed, 1))
	pick := func(list []string) string { return list[rng.IntN(len(list))] }
	words := []string{"apple", "river", "stone", "cloud", "ember", "frost"}
	text := func() string { return pick(words) + " " + pick(words) + " " + pick(words) }
	type message struct{ thread, id string }
	known := map[string][]message{} // by user
	called := func(err error, want ...codes.Code) {
		t.Helper()
		if code := status.Code(err); code != codes.OK && !slices.Contains(want, code) {
			t.Fatal(err)
		}
	}
	for i := range n {
		if i%16 == 0 {
			d.settled() // lanes are bounded, and a loop has no think time
		}
		me := pick(users)
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-user", me)
		m := message{"999999", "999999"} // which nobody has
		if all := known[me]; len(all) > 0 && rng.IntN(20) > 0 {
			m = all[rng.IntN(len(all))]
		}
		sent := func(code int, v map[string]any) {
			t.Helper()
			if code == http.StatusNotFound && m.thread == "999999" {
				return
			}
			if code != http.StatusOK {
				t.Fatalf("send: got %d", code)
			}
			for _, u := range append(v["to"].([]any), me) {
				known[u.(string)] = append(known[u.(string)], message{v["thread"].(string), v["id"].(string)})
			}
		}
		flag := []string{"true", "false"}[rng.IntN(2)]
		switch rng.IntN(16) {
		case 0, 1, 2:
			to := slices.Clone(users)
			rng.Shuffle(len(to), func(i, k int) { to[i], to[k] = to[k], to[i] })
			quoted, _ := json.Marshal(to[:1+rng.IntN(2)])
			sent(d.ask(me, "POST", "/messages", fmt.Sprintf(`{"to":%s,"subject":%q,"body":%q}`, quoted, text(), text())))
		case 3, 4:
			sent(d.ask(me, "POST", "/messages", fmt.Sprintf(`{"thread":%q,"body":%q}`, m.thread, text())))
		case 5:
			d.ask(me, "POST", "/threads/"+m.thread+"/read", `{"read":`+flag+`}`)
		case 6:
			d.ask(me, "POST", "/threads/"+m.thread+"/messages/"+m.id+"/read", `{"read":`+flag+`}`)
		case 7:
			d.ask(me, "POST", "/threads/"+m.thread+"/move", `{"folder":"`+[]string{"INBOX", "OTHER"}[rng.IntN(2)]+`"}`)
		case 8:
			if rng.IntN(3) == 0 {
				d.ask(me, "DELETE", "/threads/"+m.thread, "")
			} else {
				d.ask(me, "DELETE", "/threads/"+m.thread+"/messages/"+m.id, "")
			}
		case 9:
			d.ask(me, "GET", "/threads"+[]string{"", "?folder=INBOX", "?unread=true", "?unread=false&folder=OTHER", "?limit=3"}[rng.IntN(5)], "")
		case 10:
			d.ask(me, "GET", "/threads/"+m.thread+[]string{"", "?limit=2"}[rng.IntN(2)], "")
		case 11:
			d.ask(me, "GET", "/search?q="+url.QueryEscape(pick(words)), "")
		case 12:
			d.ask(me, "GET", "/count"+[]string{"", "?folder=INBOX"}[rng.IntN(2)], "")
		case 13, 14:
			to := pick(users)
			_, err := chat.Send(ctx, &chatv1.SendRequest{To: to, Body: text()})
			called(err, codes.InvalidArgument) // oneself
		case 15:
			both := []string{me, pick(users)}
			slices.Sort(both)
			_, err := chat.History(ctx, &chatv1.HistoryRequest{Conversation: both[0] + ":" + both[1], Limit: int32(rng.IntN(5))})
			called(err, codes.NotFound, codes.InvalidArgument)
			_, err = chat.Presence(ctx, &chatv1.PresenceRequest{Users: users[:1]})
			called(err)
		}
	}
}

// settled waits until no copy is pending.
func (d *darkLaunch) settled() map[string]float64 {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	for {
		m := scrape(d.t, "http://"+d.metrics+"/metrics")
		if m[`mirror_copies_pending{role="shadow"}`]+m[`mirror_copies_pending{role="control"}`] == 0 {
			return m
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			d.t.Fatal("copies are still pending")
		}
	}
}

// end stops the mirror and returns its pairs.
func (d *darkLaunch) end() (all []*pairv1.Pair) {
	d.t.Helper()
	d.mirror.signal(os.Interrupt)
	if code, _, stderr := d.mirror.end(); code != exitDone {
		d.t.Fatalf("mirror: got %d; stderr: %s", code, stderr)
	}
	f, err := os.Open(d.pairs)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for r := pairstream.NewReader(f); ; {
		record, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			d.t.Fatal(err)
		}
		if p := record.GetPair(); p != nil {
			all = append(all, p)
		}
	}
}

// translating compares as a verdict with both files of rules does.
func translating(t *testing.T) *compare.Comparer {
	t.Helper()
	var all []*translate.Rules
	for _, name := range []string{"inbox.yaml", "chat.yaml"} {
		r, err := readRules(translations+name, translate.Config{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	rules, err := compare.ParseRules([]byte(readFile(t, translations+"differences.yaml")), schemaText("differences"), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return compare.New(compare.Config{Rules: rules, Back: verdict.Back(all...)})
}

// TestTranslated: what users do with the old Inbox and Chat reaches an application
// server of another API, and what that answers is, translated back, what live
// answered; and one answer that is changed is found with its field.
func TestTranslated(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: seven servers")
	}
	t.Parallel()
	d := launch(t, "100%")
	d.drive(1, []string{"ann", "bob", "cid"}, 500)
	metrics := d.settled()
	for series, n := range metrics {
		if strings.HasPrefix(series, "mirror_copies_dropped_total") && n > 0 && !strings.Contains(series, `"no_counterpart"`) {
			t.Errorf("%s is %v, want 0", series, n)
		}
		if strings.HasPrefix(series, "mirror_users_tainted") && n > 0 {
			t.Errorf("%s is %v, want 0", series, n)
		}
	}
	c := translating(t)
	compared := map[string]int{}
	var planted *pairv1.Pair
	for _, p := range d.end() {
		before := proto.Clone(p).(*pairv1.Pair)
		o := c.Pair(p)
		if o.Skip != compare.Compared {
			t.Errorf("%s: not compared: %s", p.GetRoute(), o.Skip)
			continue
		}
		compared[p.GetRoute()]++
		for role, r := range map[string]*compare.Result{"shadow": &o.Shadow, "control": o.Control} {
			if r == nil || len(r.Differences) > 0 {
				t.Errorf("%s: %s differs: got %+v in %v", p.GetRoute(), role, r, before)
			}
		}
		if p.GetRoute() == "GET /threads/{thread}" && p.Sides[0].Exchanges[0].Answer.Status == 200 {
			planted = before
		}
	}
	for _, route := range []string{
		"GET /threads", "GET /threads/{thread}", "GET /search", "GET /count", "POST /messages", "POST /threads/{thread}/read",
		"POST /threads/{thread}/messages/{id}/read", "POST /threads/{thread}/move", "DELETE /threads/{thread}",
		"DELETE /threads/{thread}/messages/{id}", "/legacy.chat.v1.Chat/Send", "/legacy.chat.v1.Chat/History",
	} {
		if compared[route] == 0 {
			t.Errorf("no pair of %s was compared", route)
		}
	}
	t.Logf("pairs compared: %v", compared)

	if planted == nil {
		t.Fatal("no thread was read")
	}
	for _, s := range planted.Sides {
		if s.Role == pairv1.Role_ROLE_SHADOW {
			body := s.Exchanges[0].Answer.Body
			changed := regexp.MustCompile(`"message_count":"[^"]*"`).ReplaceAllString(string(body.Content), `"message_count":"~n:1:int:0123456789abcdef"`)
			if changed == string(body.Content) {
				t.Fatalf("nothing to change in %s", body.Content)
			}
			body.Content = []byte(changed)
		}
	}
	o := c.Pair(planted)
	if len(o.Shadow.Differences) != 1 || o.Shadow.Differences[0].Path != "json:$.thread.messages" {
		t.Errorf("a planted fault: got %+v, want a difference at json:$.thread.messages", o.Shadow)
	}
}

// TestGhosts: where some users are mirrored, those who are not are ghosts to the
// shadow: what they write to users who are gets there, their mailboxes stay empty,
// and answers are equal all the same.
func TestGhosts(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: seven servers")
	}
	t.Parallel()
	d := launch(t, "50%", "--salt", "s1") // ann 810645, a 479864, u1 1192, 42 116607
	d.drive(2, []string{"ann", "a", "u1", "user-42"}, 300)
	if m := d.settled(); m[`mirror_users_tainted{role="shadow"}`] > 0 {
		t.Errorf("%v users are tainted on the shadow, want none", m[`mirror_users_tainted{role="shadow"}`])
	}
	c := translating(t)
	compared, ghosts := 0, 0
	for _, p := range d.end() {
		for _, s := range p.GetSides() {
			for _, x := range s.GetExchanges() {
				if strings.Contains(string(x.GetAnswer().GetBody().GetContent()), `"ghost:`) {
					ghosts++
				}
			}
		}
		before := proto.Clone(p)
		o := c.Pair(p)
		if o.Skip != compare.Compared {
			t.Errorf("%s: not compared: %s", p.GetRoute(), o.Skip)
			continue
		}
		compared++
		if len(o.Shadow.Differences) > 0 {
			t.Errorf("%s differs: got %+v in %v", p.GetRoute(), o.Shadow, before)
		}
	}
	if compared == 0 || ghosts == 0 {
		t.Errorf("got %d pairs compared, %d answers with ghosts; want some of each", compared, ghosts)
	}
	t.Logf("%d pairs compared, %d answers with ghosts", compared, ghosts)
}

// TestMirrorTranslate shows what the built-in rules make of the exchanges in testdata,
// both ways.
func TestMirrorTranslate(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]string{"inbox-list": "inbox", "chat-send": "chat", "chat-presence": "chat"} {
		in := filepath.Join("testdata", "translate", name+".json")
		code, stdout, stderr := start(t, "mirror", "translate", "--rules", translations+rules+".yaml", "--descriptors", translations+"legacy.binpb", "--input", in, "--ghost", "cid").end()
		if code != exitDone || stderr != "" {
			t.Errorf("%s: got %d; stderr: %s", name, code, stderr)
			continue
		}
		golden := strings.TrimSuffix(in, ".json") + ".golden"
		if *update {
			if err := os.WriteFile(golden, []byte(stdout), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want := readFile(t, golden); stdout != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, stdout, want)
		}
	}
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		text, want string
		code       int
	}{
		"a rule that fails": {`{"request":{"method":"GET","path":"/threads?limit=x"},"answer":{"body":{}}}`, "inbox.yaml", exitCouldNotRun},
		"no JSON":           {`{"request":`, "want an exchange", exitUsage},
		"an unknown key":    {`{"requests":{}}`, "want an exchange", exitUsage},
	} {
		file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := start(t, "mirror", "translate", "--rules", translations+"inbox.yaml", "--descriptors", translations+"legacy.binpb", "--input", file).end()
		if code != tt.code || stdout != "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: got %d, %q and %q, want %d and %q", name, code, stdout, stderr, tt.code, tt.want)
		}
	}
}

// TestBuiltinTranslations: the record of the built-in mirror shows what the ways back
// read and no more.
func TestBuiltinTranslations(t *testing.T) {
	t.Parallel()
	var settings mirrorSettings
	if err := loadConfig(translations+"mirror.yaml", schemaText("mirror"), &settings); err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	for _, name := range []string{"inbox.yaml", "chat.yaml"} {
		r, err := readRules(translations+name, translate.Config{})
		if err != nil {
			t.Fatal(err)
		}
		for _, route := range r.Routes() {
			for _, read := range r.Reads(route) {
				needed[read.Place] = true
			}
		}
	}
	for _, place := range settings.Record {
		if !needed[place] {
			t.Errorf("the record shows %s, which no way back reads", place)
		}
		delete(needed, place)
	}
	for place := range needed {
		t.Errorf("the record does not show %s, which a way back reads", place)
	}
}

// TestTranslateReference: the example of the reference is one.
func TestTranslateReference(t *testing.T) {
	t.Parallel()
	_, rest, _ := strings.Cut(readFile(t, "../../docs/reference/translate.md"), "```yaml\n")
	text, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the reference has no example")
	}
	d, err := readDescriptors(translations + "legacy.binpb")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readRules(file, translate.Config{Methods: d}); err != nil {
		t.Error(err)
	}
}
