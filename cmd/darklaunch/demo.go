package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"darklaunch/appserver/legacy/migrate"
	"darklaunch/internal/strictyaml"
	"darklaunch/mirror"
	"darklaunch/mirror/lanes"
	"darklaunch/scenarios"
	"darklaunch/verdict/judge"
)

const demoLong = `Rehearse a dark launch on this machine: an old Inbox and an old Chat serve
users, a mirror copies what a sample of them do into a new system that nobody sees,
and a verdict says whether the new one is as fast and as right.

Everything runs as processes of its own on free loopback ports, each a command of
this program that you could have typed; their logs and configurations are in --out
where it is given. --fault plants a fault in the new system, which the verdict is
to find. The new system's cell has a row store of its own, or with --store hbase an HBase
and a ZooKeeper that run already, in which its table and its nodes are made, and removed at
the end. With --head the new system is judged by its predecessor: a cell of that program
is on trial, and a cell of this one its control, under the same translation and load; so
a change of the new system is measured before it is made.

Exit codes are the verdict's: 0 pass, 10 fail, 11 can't tell.`

// demoCommand is one run of darklaunch demo.
type demoCommand struct {
	program *program
	out     *output
	length  time.Duration
	users   int
	sample  share
	store   demoStore
	mail    string
	faults  []string
	head    string
	list    bool
	linger  bool
	dir     string
	seed    uint64
}

func (p *program) demo() *cobra.Command {
	c := &demoCommand{program: p}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See all of it work: a dark launch on this machine",
		Long:  demoLong,
		Example: `  darklaunch demo
  darklaunch demo --fault slow-search --for 90s --out out
  darklaunch demo --head ./darklaunch-of-my-branch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.head != "" && !cmd.Flags().Changed("sample") {
				c.sample = headSample
			}
			return c.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.DurationVar(&c.length, "for", time.Minute, "how long users are at work; 40s at least")
	f.IntVar(&c.users, "users", 2000, "how many users there are")
	c.sample = 100_000
	shareVar(f, &c.sample, "sample", 100_000, "share of the users who are mirrored; with --head 20% where nothing else is said")
	demoStoreVar(f, &c.store)
	f.StringVar(&c.mail, "mail", "", "real mails as the old data: a `directory` of mbox files or maildirs, or corpus for what make corpus has fetched")
	f.StringArrayVar(&c.faults, "fault", nil, "plant the fault of this `name` in the new system")
	f.StringVar(&c.head, "head", "", "`program` of the new system on trial; this one's is its control then, whose latency it is held against")
	f.BoolVar(&c.list, "list-faults", false, "list the faults, and end")
	f.BoolVar(&c.linger, "linger", false, "keep everything running after the verdict, until interrupted")
	f.StringVar(&c.dir, "out", "", "write reports, logs and configurations to this `directory`")
	f.Uint64Var(&c.seed, "seed", 1, "draws users, mails and load; the same one makes the same demo")
	c.out = p.outputVar(f)
	return cmd
}

func (c *demoCommand) run(ctx context.Context) (err error) {
	faults, err := demoFaults()
	if err != nil {
		return err
	}
	if c.list {
		for _, f := range faults {
			fmt.Fprintf(c.out.text(), "%-20s %s\n", f.Name, f.Does)
		}
		return nil
	}
	for _, name := range c.faults {
		if !slices.ContainsFunc(faults, func(f demoFault) bool { return f.Name == name }) {
			return usageErrorf("--fault: %q is not a fault; --list-faults lists them", name)
		}
	}
	switch {
	case len(c.faults) > 1:
		return usageErrorf("--fault: one at a time")
	case c.length < 40*time.Second:
		return usageErrorf("--for: %v is too short for a verdict: want 40s at least", c.length)
	case c.users < 100:
		return usageErrorf("--users: want 100 at least")
	}
	if c.head, err = headProgram(c.head); err != nil {
		return err
	}
	if err := c.store.reachable(ctx); err != nil {
		return err
	}
	d, err := c.newDemo()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close(ctx)) }()
	return d.run(ctx)
}

// demoFault is a fault as scenarios/demo/faults.yaml tells of it.
type demoFault struct {
	Name    string `yaml:"name"`
	Does    string `yaml:"does"`
	Symptom string `yaml:"symptom"`
}

func demoFaults() ([]demoFault, error) {
	var f struct {
		Faults []demoFault `yaml:"faults"`
	}
	text, err := fs.ReadFile(scenarios.FS(), "demo/faults.yaml")
	if err != nil {
		return nil, err
	}
	root, err := strictyaml.Read(text, []byte("{}"))
	if err != nil {
		return nil, err
	}
	err = strictyaml.Decode(root, &f)
	return f.Faults, err
}

// demo is a demo under way.
type demo struct {
	*demoCommand
	self   string       // this program
	client *http.Client // for what runs on this machine
	crew   *crew
	dir    string // of everything
	temp   bool   // dir is to be removed
	dark   *demoCell

	control *demoCell // with --head
	at      demoPlaces
}

// demoPlaces are where everything is, once it is there.
type demoPlaces struct {
	Inbox, Chat, InboxControl, ChatControl string // the old systems, as the mirror reaches them
	Verdict, VerdictAdmin                  string
	MirrorInbox, MirrorChat                string // where users come
	MirrorAdmin                            string
	Board                                  string
	Metrics                                []string // NAME=ADDR, as dash takes them
}

// demoSalt names the demo's experiment.
const demoSalt = "demo"

// demoSettle is how long users are at work before it counts.
const demoSettle = 10 * time.Second

// demoJudged is what the verdict's configuration is filled in with.
type demoJudged struct {
	Dir                      string
	Operations               []string // that have a limit of their own
	Frequent                 []string // of them, those with enough calls to tell a tail
	Mail                     bool     // real mails: some have one time, and no order that both systems keep
	Head                     bool     // the control is a cell too
	MinDuration, MaxDuration time.Duration
}

func (c *demoCommand) newDemo() (*demo, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d := &demo{demoCommand: c, self: self, dir: c.dir, client: &http.Client{Timeout: 10 * time.Second}}
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "darklaunch-demo-"); err != nil {
			return nil, fmt.Errorf("make a directory for the demo: %w", err)
		}
		d.temp = true
	}
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return nil, err
	}
	for _, sub := range []string{"logs", "data", "config"} {
		if err := os.MkdirAll(filepath.Join(d.dir, sub), 0o755); err != nil {
			return nil, usageErrorf("--out: %w", err)
		}
	}
	d.crew = d.newCrew(self)
	d.dark = &demoCell{crew: d.newCrew(cmp.Or(c.head, self)), name: "dark", faults: c.faults}
	if c.head != "" {
		d.control = &demoCell{crew: d.newCrew(self), name: "control", prefix: "control-"}
	}
	return d, nil
}

// newCrew returns a crew that runs a program.
func (d *demo) newCrew(program string) *crew {
	return &crew{supervisor: []string{d.self, "gate", "supervise"}, self: program, logs: filepath.Join(d.dir, "logs")}
}

// close ends everything, also where the demo was interrupted.
func (d *demo) close(ctx context.Context) error {
	d.crew.stop()
	err := errors.Join(d.dark.end(ctx), d.control.end(ctx))
	if d.temp {
		_ = os.RemoveAll(d.dir) // what is left is in the temporary directory
	} else {
		_ = os.RemoveAll(filepath.Join(d.dir, "data"))
	}
	return err
}

// say tells what is happening.
func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out.text(), format+"\n", args...) }

// share is the sample as commands take it.
func (d *demo) share() string { return fmt.Sprintf("%dppm", d.sample) }

func (d *demo) data(name string) string { return filepath.Join(d.dir, "data", name) }

func (d *demo) run(ctx context.Context) error {
	doc, err := d.rehearse(ctx)
	if ctx.Err() != nil {
		return &codedError{exitInconclusive, fmt.Errorf("the demo was cut short: %w", context.Cause(ctx))}
	}
	if err != nil {
		return err
	}
	told := d.program.tellVerdict(d.out, doc, d.reports(), undecidedCode)
	if d.linger {
		d.say("the rest runs on; interrupt to end it. The board: http://%s", d.at.Board)
		<-ctx.Done()
	}
	return told
}

func (d *demo) rehearse(ctx context.Context) (*judge.Document, error) {
	for _, step := range []func(context.Context) error{d.oldSystems, d.newSystem, d.mirrored, d.load} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return d.verdict(ctx)
}

func (d *demo) reports() string {
	if d.temp {
		return ""
	}
	return d.dir
}

// oldSystems makes the data of the old Inbox and Chat and starts both, and a second
// instance of each as the control where no cell is.
func (d *demo) oldSystems(ctx context.Context) error {
	fill := []string{"legacy", "import", "--data", d.data("inbox"), "--chat", d.data("chat"), "--generate", fmt.Sprint(d.users), "--seed", fmt.Sprint(d.seed)}
	if d.mail != "" {
		fill = []string{"legacy", "import", "--data", d.data("inbox"), "--chat", d.data("chat"), "--mail", d.mail}
	}
	whose := fmt.Sprintf("the data of %d users", d.users)
	if d.mail != "" {
		whose = "the mails of " + d.mail
	}
	services := []string{"inbox", "chat"}
	if d.control == nil {
		services = append(services, "inbox-control", "chat-control")
		whose += ", and a control of each"
	}
	d.say("old systems: an Inbox and a Chat with %s", whose)
	if err := d.crew.do(ctx, "legacy-import", fill...); err != nil {
		return err
	}
	for _, name := range append([]string{"inbox-import", "chat-import"}, services[2:]...) {
		of, _, _ := strings.Cut(name, "-")
		if err := os.CopyFS(d.data(name), os.DirFS(d.data(of))); err != nil {
			return fmt.Errorf("copy the old data: %w", err)
		}
	}
	for i, addr := range []*string{&d.at.Inbox, &d.at.Chat, &d.at.InboxControl, &d.at.ChatControl}[:len(services)] {
		name := services[i]
		service, _, control := strings.Cut(name, "-")
		args := []string{"legacy", service, "--listen", "127.0.0.1:0", "--data", d.data(name), "--metrics", "127.0.0.1:0"}
		if control {
			args = append(args, "--accept-assigned")
		}
		at, err := d.crew.start(ctx, name, []string{service, "metrics"}, args...)
		if err != nil {
			return err
		}
		*addr = at[service]
		d.at.Metrics = append(d.at.Metrics, name+"="+at["metrics"])
	}
	return nil
}

// newSystem starts the cell on trial, and with --head the one that it is held against.
func (d *demo) newSystem(ctx context.Context) error {
	d.say("new system: importing the sampled %d.%d %% of the users into a cell that nobody sees, kept in %s", d.sample/10_000, d.sample%10_000/1000, d.store)
	if err := d.startCell(ctx, d.dark); err != nil {
		return err
	}
	for _, f := range d.faults {
		d.say("new system: faulty on purpose, %s", f)
	}
	if d.control == nil {
		return nil
	}
	d.say("new system: that cell is of %s; another, of this program, is its control", d.head)
	err := d.startCell(ctx, d.control)
	d.at.InboxControl, d.at.ChatControl = d.control.addr, d.control.addr
	return err
}

// mirrored starts verdict, mirror and board.
func (d *demo) mirrored(ctx context.Context) error {
	for _, name := range []string{"inbox.yaml", "chat.yaml", "differences.yaml", "legacy.binpb"} {
		text, err := fs.ReadFile(scenarios.FS(), "translate/"+name)
		if err != nil {
			return err
		}
		if _, err := d.config(name, text); err != nil {
			return err
		}
	}
	judged, err := d.verdictConfig()
	if err != nil {
		return err
	}
	at, err := d.crew.start(ctx, "verdict", []string{"verdict", "admin"}, "verdict", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config", judged)
	if err != nil {
		return err
	}
	d.at.Verdict, d.at.VerdictAdmin = at["verdict"], at["admin"]
	copied, err := d.mirrorConfig()
	if err != nil {
		return err
	}
	if at, err = d.crew.start(ctx, "mirror", []string{"inbox", "chat", "admin"}, "mirror", "--config", copied, "--admin", "127.0.0.1:0"); err != nil {
		return err
	}
	d.at.MirrorInbox, d.at.MirrorChat, d.at.MirrorAdmin = at["inbox"], at["chat"], at["admin"]
	dash := []string{"dash", "--listen", "127.0.0.1:0", "--data", d.data("prometheus"), "--verdict", d.at.Verdict, "--mirror", d.at.MirrorAdmin,
		"--scrape", "verdict=" + d.at.VerdictAdmin}
	for _, m := range d.at.Metrics {
		dash = append(dash, "--scrape", m)
	}
	if at, err = d.crew.start(ctx, "dash", []string{"dash"}, dash...); err != nil {
		return err
	}
	d.at.Board = at["dash"]
	d.say("mirror: users come by Inbox http://%s and Chat %s; switches and state at http://%s", d.at.MirrorInbox, d.at.MirrorChat, d.at.MirrorAdmin)
	d.say("board: http://%s", d.at.Board)
	return nil
}

// config writes a configuration, and returns where it is.
func (d *demo) config(name string, text []byte) (string, error) {
	file := filepath.Join(d.dir, "config", name)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return "", fmt.Errorf("write the demo's configuration: %w", err)
	}
	return file, nil
}

func (d *demo) verdictConfig() (string, error) {
	t, err := template.ParseFS(scenarios.FS(), "demo/verdict.yaml.tmpl")
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	err = t.Execute(&b, demoJudged{
		Dir: d.dir, Mail: d.mail != "", Head: d.control != nil, MinDuration: d.length - demoSettle - 5*time.Second, MaxDuration: d.length + 30*time.Second,
		Operations: []string{
			"GET /threads", "GET /threads/{thread}", "GET /search", "GET /count", "POST /messages", "POST /threads/{thread}/read", "POST /threads/{thread}/move",
			"DELETE /threads/{thread}", "/legacy.chat.v1.Chat/Send", "/legacy.chat.v1.Chat/History",
		},
		Frequent: []string{"GET /threads", "GET /threads/{thread}"},
	})
	if err != nil {
		return "", err
	}
	return d.config("verdict.yaml", b.Bytes())
}

// mirrorConfig is that of scenarios/translate with the demo's addresses in place of
// the programs' defaults.
func (d *demo) mirrorConfig() (string, error) {
	text, err := fs.ReadFile(scenarios.FS(), "translate/mirror.yaml")
	if err != nil {
		return "", err
	}
	roles := "[shadow]"
	if d.control != nil {
		roles = "[shadow, control]"
	}
	here := strings.NewReplacer(
		"127.0.0.1:7500", d.dark.addr,
		"127.0.0.1:7701", d.at.Inbox, "127.0.0.1:7721", d.at.InboxControl, "127.0.0.1:7711", "127.0.0.1:0",
		"127.0.0.1:7702", d.at.Chat, "127.0.0.1:7722", d.at.ChatControl, "127.0.0.1:7712", "127.0.0.1:0",
		"{rules: ", "{roles: "+roles+", rules: ",
		"scenarios/translate/", filepath.Join(d.dir, "config")+"/", "sample: 10%", "sample: "+d.share(),
	).Replace(string(text))
	return d.config("mirror.yaml", fmt.Appendf(nil, "%s\n# The demo's own.\nsalt: %s\nstate: %s\nverdict: %s\n", here, demoSalt, d.data("mirror"), d.at.Verdict))
}

// load lets the users work, and tells how it goes.
func (d *demo) load(ctx context.Context) error {
	d.say("load: %d users at work for %v", d.users, d.length)
	begun := time.Now()
	var loads []*member
	for name, target := range map[string]string{"inbox": d.at.MirrorInbox, "chat": d.at.MirrorChat} {
		scenario, err := d.scenario(name)
		if err != nil {
			return err
		}
		if _, err := d.crew.start(ctx, "load-"+name, []string{"metrics"}, "load", "run", scenario, "--target", target, "--seed", fmt.Sprint(d.seed),
			"--metrics", "127.0.0.1:0", "--json", filepath.Join(d.dir, "load-"+name+".json")); err != nil {
			return err
		}
		loads = append(loads, d.crew.members[len(d.crew.members)-1])
	}
	line := newProgress(d.program.stderr)
	defer line.end()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for len(loads) > 0 {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-loads[0].run.Over():
			if err := loads[0].run.Err(); err != nil && !strings.HasSuffix(err.Error(), " 11") { // what it doubts of itself, the verdict judges
				return loads[0].died()
			}
			d.crew.members = slices.DeleteFunc(d.crew.members, func(m *member) bool { return m == loads[0] })
			loads = loads[1:]
		case <-tick.C:
			if err := d.lostBesides(loads); err != nil {
				return err
			}
			if s, err := d.state(ctx); err == nil {
				line.show("%3.0fs  %d users sampled  copies %d sent, %d pending, %d tainted", time.Since(begun).Seconds(), s.Sample.Sampled, s.Copies[lanes.Shadow].Sent, s.Copies[lanes.Shadow].Pending, s.Copies[lanes.Shadow].Tainted)
			}
		}
	}
	return d.settle(ctx)
}

// scenario writes what users of one of the old systems do for as long as the demo
// takes, and returns where it is.
func (d *demo) scenario(name string) (string, error) {
	rate := map[string]string{"inbox": "28/s", "chat": "12/s"}[name]
	return d.config("load-"+name+".yaml", fmt.Appendf(nil, "apiVersion: load/v1\nextends: old-%s\npopulation: {users: %d}\narrivals:\n  curve:\n    - {phase: settle, for: %v, hold: %s}\n    - {phase: measure, for: %v, hold: %s}\n",
		name, d.users, demoSettle, rate, d.length-demoSettle, rate))
}

// lostBesides is the first process that ended by itself, but for those that may.
func (d *demo) lostBesides(loads []*member) error {
	rest := crew{members: slices.DeleteFunc(slices.Clone(d.crew.members), func(m *member) bool { return slices.Contains(loads, m) })}
	return rest.lost()
}

// settle waits until all copies have ended.
func (d *demo) settle(ctx context.Context) error {
	for deadline := time.Now().Add(time.Minute); ; {
		s, err := d.state(ctx)
		if err != nil {
			return err
		}
		pending := 0
		for _, c := range s.Copies {
			pending += c.Pending
		}
		if pending == 0 && s.Pending.Copies == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d copies are still under way a minute after the last user left", pending)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// verdict is the judgement of the whole run, and of the mailboxes at its end.
func (d *demo) verdict(ctx context.Context) (*judge.Document, error) {
	var doc judge.Document
	if err := d.ask(ctx, "http://"+d.at.Verdict+"/api/v1/verdict?comparison="+demoSalt+"&running", &doc); err != nil {
		return nil, fmt.Errorf("ask the verdict: %w", err)
	}
	if err := d.consistent(ctx, &doc); err != nil {
		return nil, err
	}
	return &doc, nil
}

// consistent holds the mailboxes of the sampled users in the new system against those
// in the old ones, which are stopped for it, and puts into doc what it finds: of a
// user who is clean nothing may differ.
func (d *demo) consistent(ctx context.Context, doc *judge.Document) error {
	d.crew.end("inbox")
	d.crew.end("chat")
	file := filepath.Join(d.dir, "consistency.json")
	err := d.crew.do(ctx, "compare", "appserver", "compare", "--from", d.data("inbox"), "--from", d.data("chat"),
		"--store", d.dark.place.String(), "--salt", demoSalt, "--sample", d.share(), "--json", file)
	var found compareOldResult
	if text, readErr := os.ReadFile(file); readErr != nil {
		return errors.Join(err, readErr)
	} else if err := json.Unmarshal(text, &found); err != nil {
		return err
	}
	var differing []string
	for _, f := range found.Differences {
		if !slices.Contains(differing, f.User) {
			differing = append(differing, f.User)
		}
	}
	var is struct {
		Clean []string `json:"clean"`
	}
	if err := d.post(ctx, "http://"+d.at.MirrorAdmin+"/api/v1/users/clean", map[string]any{"keys": differing}, &is); err != nil {
		return err
	}
	s, err := d.state(ctx)
	if err != nil {
		return err
	}
	d.say("consistency: the mailboxes of %d sampled users compared, %d differ, of which %d are of users known to have missed something (%d tainted in all)",
		found.Users, len(differing), len(differing)-len(is.Clean), s.Copies[lanes.Shadow].Tainted)
	if len(is.Clean) == 0 {
		return nil
	}
	i := slices.IndexFunc(found.Differences, func(f migrate.Difference) bool { return f.User == is.Clean[0] })
	first := found.Differences[i]
	doc.Verdict = judge.Fail
	doc.Reasons = slices.Insert(doc.Reasons, 0, judge.Reason{
		Code: reasonConsistency, Metric: reasonConsistency,
		Text: fmt.Sprintf("at the end the mailboxes of %d of %d users differ from the old ones; of %s, thread %s: %s", len(is.Clean), found.Users, first.User, first.Thread, first.What),
	})
	return nil
}

// reasonConsistency is the code of a reason that the judge does not know of.
const reasonConsistency = "consistency"

// post sends JSON and reads JSON.
func (d *demo) post(ctx context.Context, url string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	return exchangeJSON(d.client, r, into)
}

// state is the mirror's.
func (d *demo) state(ctx context.Context) (mirror.Status, error) {
	var s struct {
		Mirror mirror.Status `json:"mirror"`
	}
	if err := d.ask(ctx, "http://"+d.at.MirrorAdmin+"/api/v1/state", &s); err != nil {
		return s.Mirror, err
	}
	if len(s.Mirror.Copies) != int(lanes.NumRoles) {
		return s.Mirror, errors.New("the mirror's state has no copies")
	}
	return s.Mirror, nil
}

// ask reads JSON.
func (d *demo) ask(ctx context.Context, url string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	return exchangeJSON(d.client, r, into)
}
