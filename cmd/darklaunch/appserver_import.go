package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"darklaunch/appserver/legacy"
	"darklaunch/appserver/legacy/chat"
	"darklaunch/appserver/legacy/inbox"
	"darklaunch/appserver/legacy/migrate"
	"darklaunch/appserver/store"
	"darklaunch/mirror/sample"
	"darklaunch/mirror/translate"
)

const appserverImportLong = `Bring users of the old Inbox and Chat into a cell: what --from holds (the data of servers
that are stopped, or copies) becomes action logs, with metadata and keywords. Every user's
log is read back and compared by count and hash. Run again after it was ended at any point,
it goes on where it was: what is there already is held against what there should be.

With --salt and --sample only the users whom a mirror with the same two samples. With
--index and --total one of several jobs that each take a part of the users. With --mirror
the users are named as seeded there, with the time that the old data go up to.`

// importFlags are what import and compare have in common.
type importFlags struct {
	from         []string
	place        storePlace
	language     string
	salt         string
	sample       share
	index, total int
}

func (c *importFlags) define(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&c.from, "from", nil, "`directory` of an old Inbox's or Chat's data; repeated for both")
	storeVar(f, &c.place, "store", "the cell's store: pebble:DIR (its server stopped), rows:HOST:PORT or hbase:ZOOKEEPER[,ZOOKEEPER]/TABLE")
	f.StringVar(&c.language, "language", "", "`language` of the servers' search")
	f.StringVar(&c.salt, "salt", "", "`text` that names the mirror's experiment, with --sample")
	shareVar(f, &c.sample, "sample", sample.Buckets, "take only this share of users, the mirror's")
	f.IntVar(&c.index, "index", 0, "`number` of this job, from 0 (default 0)")
	f.IntVar(&c.total, "total", 1, "how many `jobs` share the users")
	for _, name := range []string{"from", "store"} {
		_ = cmd.MarkFlagRequired(name) // fails for a flag that there isn't
	}
}

func (c *importFlags) check(f *pflag.FlagSet) error {
	switch {
	case c.total < 1 || c.index < 0 || c.index >= c.total:
		return usageErrorf("--index: %d of --total %d is no part: want 0 to total-1", c.index, c.total)
	case f.Changed("salt") != f.Changed("sample"):
		return usageErrorf("--salt and --sample go together")
	}
	return nil
}

// takes reports whether a user is to be imported by this job.
func (c *importFlags) takes(user string) bool {
	return migrate.Part(user, c.index, c.total) && c.sampled(user)
}

func (c *importFlags) sampled(user string) bool { return sample.Bucket(c.salt, user) < int32(c.sample) }

// name is what the cell calls a user, as rules of translation do: who is not in the
// sample has no mailbox there and is a ghost.
func (c *importFlags) name(user string) string {
	if c.sampled(user) {
		return user
	}
	return translate.GhostPrefix + user
}

// open opens the old data and the cell's store. close lets go of both.
func (c *importFlags) open(ctx context.Context) (o *migrate.Old, s store.Store, at time.Time, close func() error, err error) {
	o, at, closeOld, err := c.old()
	if err != nil {
		return nil, nil, at, nil, err
	}
	s, err = c.place.open(ctx, nil)
	if err != nil {
		return nil, nil, at, nil, errors.Join(fmt.Errorf("%w (--store)", err), closeOld())
	}
	return o, s, at, func() error {
		s.Close() // as nothing waits to be written
		return closeOld()
	}, nil
}

// old opens the old data. close lets go of them.
func (c *importFlags) old() (o *migrate.Old, at time.Time, close func() error, err error) {
	var x *inbox.Inbox
	var talk *chat.Chat
	close = func() error {
		var errs []error
		if x != nil {
			errs = append(errs, x.Close())
		}
		if talk != nil {
			errs = append(errs, talk.Close())
		}
		return errors.Join(errs...)
	}
	cfg := legacy.Config{ReadOnly: true}
	for _, dir := range c.from {
		position, openErr := openOld(dir, cfg, &x, &talk)
		if openErr != nil {
			return nil, at, nil, errors.Join(fmt.Errorf("%w (--from)", openErr), close())
		}
		if t := position.At(); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if o, err = migrate.NewOld(x, talk); err != nil {
		return nil, at, nil, errors.Join(err, close())
	}
	o.Name = c.name
	return o, at, close, nil
}

// openOld opens a directory as what it is.
func openOld(dir string, cfg legacy.Config, x **inbox.Inbox, talk **chat.Chat) (legacy.Position, error) {
	var asInbox error
	if *x == nil {
		opened, err := inbox.Open(dir, cfg)
		if err == nil {
			*x = opened
			return opened.Position(), nil
		}
		if asInbox = err; !errors.Is(err, legacy.ErrKind) {
			return legacy.Position{}, err
		}
	}
	if *talk == nil {
		opened, err := chat.Open(dir, cfg)
		if err == nil {
			*talk = opened
			return opened.Position(), nil
		}
		if asInbox != nil {
			return legacy.Position{}, asInbox
		}
		return legacy.Position{}, err
	}
	return legacy.Position{}, usageErrorf("%s: want one Inbox and one Chat at most", dir)
}

// importResult is the machine form of appserver import.
type importResult struct {
	Schema   string            `json:"schema"`
	Users    int               `json:"users"`   // imported, now or before
	Passed   int               `json:"passed"`  // of the old data, not in the sample or another job's
	Actions  int               `json:"actions"` // in their logs
	Messages int               `json:"messages"`
	Written  int               `json:"written"` // actions that were not there yet
	Hash     string            `json:"hash"`    // SHA-256 over users and their logs, times aside
	At       time.Time         `json:"at"`      // the old data go up to here
	Inbox    *legacy.Position  `json:"inbox,omitempty"`
	Chat     *legacy.Position  `json:"chat,omitempty"`
	Index    int               `json:"index"`
	Total    int               `json:"total"`
	Seeded   int               `json:"seeded"` // that the mirror took as clean
	Broken   map[string]string `json:"broken"` // what is wrong, by user
}

func (p *program) appserverImport() *cobra.Command {
	var c importFlags
	var mirror address
	var token string
	var out *output
	cmd := &cobra.Command{
		Use:   "import --from DIR --store STORE",
		Short: "Bring users of the old Inbox and Chat into a cell",
		Long:  appserverImportLong,
		Example: `  darklaunch appserver import --from inbox.data --from chat.data --store rows:127.0.0.1:7400
  darklaunch appserver import --from inbox.data --store rows:127.0.0.1:7400 --salt s1 --sample 10% --mirror 127.0.0.1:8601`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(cmd.Flags()); err != nil {
				return err
			}
			secret, err := readToken(token, "--mirror-token")
			if err != nil {
				return err
			}
			return p.importOld(cmd.Context(), &c, mirror, secret, out)
		},
	}
	c.define(cmd)
	addressVar(cmd.Flags(), &mirror, "mirror", "the mirror's --admin, to name the users to as seeded")
	cmd.Flags().StringVar(&token, "mirror-token", "", "bearer `token` (or @FILE that holds it) of --mirror")
	out = p.outputVar(cmd.Flags())
	return cmd
}

func (p *program) importOld(ctx context.Context, c *importFlags, mirror address, token string, out *output) (err error) {
	o, s, at, closeBoth, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeBoth()) }()
	r := importResult{Schema: "appserver-import/v1", At: at.UTC(), Index: c.index, Total: c.total, Broken: map[string]string{}}
	if o.Inbox != nil {
		position := o.Inbox.Position()
		r.Inbox = &position
	}
	if o.Chat != nil {
		position := o.Chat.Position()
		r.Chat = &position
	}
	done, err := c.importUsers(ctx, o, s, &r)
	if err != nil {
		return err
	}
	if mirror.HostPort != "" {
		if r.Seeded, err = seed(ctx, mirror, token, done, at); err != nil {
			return fmt.Errorf("name the users as seeded (--mirror): %w", err)
		}
	}
	if err := out.result(r); err != nil {
		return err
	}
	tellBroken(out.text(), r.Broken)
	fmt.Fprintf(out.text(), "%d users, %d messages, %d actions (%d new), sha256 %s; old data up to %s; %d users passed over, %d seeded, %d broken\n",
		r.Users, r.Messages, r.Actions, r.Written, r.Hash, r.At.Format(time.RFC3339Nano), r.Passed, r.Seeded, len(r.Broken))
	if len(r.Broken) > 0 {
		return fmt.Errorf("%d users could not be imported", len(r.Broken))
	}
	return nil
}

// tellBroken prints what is wrong by user, a line each.
func tellBroken(w io.Writer, broken map[string]string) {
	for _, u := range slices.Sorted(maps.Keys(broken)) {
		fmt.Fprintf(w, "%s: %s\n", u, broken[u])
	}
}

// importUsers imports those whom the job takes, and returns them.
func (c *importFlags) importUsers(ctx context.Context, o *migrate.Old, s store.Store, r *importResult) (done []string, err error) {
	users, err := o.Users()
	if err != nil {
		return nil, err
	}
	w, err := migrate.NewWriter(s, c.language, time.Now())
	if err != nil {
		return nil, usageErrorf("--language: %w", err)
	}
	sum := sha256.New()
	for _, u := range users {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !c.takes(u) {
			r.Passed++
			continue
		}
		log, err := o.Log(u)
		if err != nil {
			return nil, fmt.Errorf("old data of %s: %w", u, err)
		}
		got, err := w.Import(ctx, u, log)
		if errors.Is(err, migrate.ErrOther) || errors.Is(err, migrate.ErrDiffers) {
			r.Broken[u] = oneLine(err)
			continue
		} else if err != nil {
			return nil, err
		}
		fmt.Fprintf(sum, "%s\x00%x\n", u, got.Sum)
		r.Users, r.Actions, r.Messages, r.Written = r.Users+1, r.Actions+got.Actions, r.Messages+got.Messages, r.Written+got.Written
		done = append(done, u)
	}
	r.Hash = fmt.Sprintf("%x", sum.Sum(nil))
	return done, nil
}

// seedKeys is how many users one request to a mirror names.
const seedKeys = 1000

// seed tells a mirror that users have the state that live had at a time. It returns how
// many the mirror took as clean.
func seed(ctx context.Context, to address, token string, users []string, at time.Time) (clean int, err error) {
	scheme := "http"
	client := &http.Client{Timeout: 30 * time.Second}
	if to.TLS {
		scheme = "https"
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	}
	for keys := range slices.Chunk(users, seedKeys) {
		body, err := json.Marshal(map[string]any{"keys": keys, "at": at})
		if err != nil {
			return clean, err
		}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+to.HostPort+"/api/v1/users/seeded", bytes.NewReader(body))
		if err != nil {
			return clean, err
		}
		r.Header.Set("Content-Type", "application/json")
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		var answer struct {
			Clean int `json:"clean"`
		}
		if err := exchangeJSON(client, r, &answer); err != nil {
			return clean, err
		}
		clean += answer.Clean
	}
	return clean, nil
}

// exchangeJSON makes a request and reads the JSON that answers it.
func exchangeJSON(client *http.Client, r *http.Request, into any) error {
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", r.URL, resp.Status, bytes.TrimSpace(text[:min(len(text), 200)]))
	}
	return json.Unmarshal(text, into)
}

// compareOldResult is the machine form of appserver compare.
type compareOldResult struct {
	Schema      string               `json:"schema"`
	Users       int                  `json:"users"`
	Differing   int                  `json:"differing"` // users
	Differences []migrate.Difference `json:"differences"`
}

func (p *program) appserverCompare() *cobra.Command {
	var c importFlags
	var file string
	var out *output
	cmd := &cobra.Command{
		Use:   "compare --from DIR --store STORE",
		Short: "Compare mailboxes of the old Inbox and Chat with a cell's",
		Long: `Compare what users have in the old Inbox and Chat (their servers stopped, or copies of
their data) with what they have in a cell: threads, folders, members, what is unread, every
message by author, time and body; and the cell's metadata and keywords with its logs. Ends
with 1 if something differs.`,
		Example: "  darklaunch appserver compare --from inbox.data --from chat.data --store rows:127.0.0.1:7400 --users clean.txt",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(cmd.Flags()); err != nil {
				return err
			}
			return p.compareOld(cmd.Context(), &c, file, out)
		},
	}
	c.define(cmd)
	cmd.Flags().StringVar(&file, "users", "", "`file` of the users to compare, one a line (default: all of the old data)")
	out = p.outputVar(cmd.Flags())
	return cmd
}

func (p *program) compareOld(ctx context.Context, c *importFlags, file string, out *output) (err error) {
	var users []string
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read --users: %w", err)
		}
		users = strings.Fields(string(text))
	}
	o, s, _, closeBoth, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeBoth()) }()
	if file == "" {
		if users, err = o.Users(); err != nil {
			return err
		}
	}
	r := compareOldResult{Schema: "appserver-compare/v1", Differences: []migrate.Difference{}}
	for _, u := range users {
		if !c.takes(u) {
			continue
		}
		found, err := migrate.Compare(ctx, o, s, u, c.language)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		r.Users++
		if len(found) > 0 {
			r.Differing++
		}
		r.Differences = append(r.Differences, found...)
	}
	if err := out.result(r); err != nil {
		return err
	}
	for _, d := range r.Differences {
		fmt.Fprintf(out.text(), "%s %s: %s\n", d.User, d.Thread, d.What)
	}
	fmt.Fprintf(out.text(), "%d users compared, %d differ\n", r.Users, r.Differing)
	if r.Differing > 0 {
		return fmt.Errorf("%d of %d mailboxes differ", r.Differing, r.Users)
	}
	return nil
}
