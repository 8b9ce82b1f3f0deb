package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/client"
	"darklaunch/appserver/directory"
)

const msgLong = `Act as a user of the messages application: by the server at --cell, or by the cell that
--directory says the user is in. What is read or was done is printed as one JSON object
a line. A call whose outcome is unknown is repeated under the same key within --timeout;
with --key a command can be repeated by hand.

An address is a user id. One with an @ in it may be meant as mail, and has to say:
user:ann@corp or mail:ann@example.org.`

// msgCommand is one run of darklaunch msg.
type msgCommand struct {
	program *program
	flags   *pflag.FlagSet
	cell    address
	place   directoryPlace
	user    string
	timeout time.Duration

	to, tags, untags, ids, from  []string
	thread, subject, body        string
	key, folder, query, page     string
	wait                         string
	limit                        int
	through, after               uint64
	read, unread, archived, mute bool
}

func (p *program) msg() *cobra.Command {
	c := &msgCommand{program: p}
	cmd := &cobra.Command{
		Use:     "msg --cell ADDR --as USER COMMAND",
		Short:   "Send, list, read and search messages as a user",
		Long:    msgLong,
		Example: "  darklaunch msg --cell 127.0.0.1:7500 --as ann send --to bob --subject Lunch --body 'At noon?'",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	addressVar(f, &c.cell, "cell", "a server, of any cell")
	directoryVar(f, &c.place)
	f.StringVar(&c.user, "as", "", "the `user` to act as")
	durationVar(f, &c.timeout, "timeout", 10*time.Second, "how long a call may take, with its repetitions")
	_ = cmd.MarkPersistentFlagRequired("as") // fails for a flag that there isn't
	cmd.AddCommand(c.commands()...)
	return cmd
}

func (c *msgCommand) commands() []*cobra.Command {
	return []*cobra.Command{
		c.command("send", "Send a message: a new one with --to, a reply with --thread", "--to bob --body 'At noon?'", c.send, "to", "thread", "subject", "body", "key", "wait"),
		c.command("list", "List threads, newest first", "--folder other --unread", c.list, "folder", "unread", "archived", "tag", "from", "query", "limit", "page"),
		c.command("read", "Read a thread: its messages, newest first", "--thread t-6xk3", c.readThread, "thread!", "limit", "page"),
		c.command("search", "Search messages, newest first", "--query 'noon from:bob'", c.search, "query!", "limit", "page"),
		c.command("mark", "Change attributes of a thread, or with --id of messages in it", "--thread t-6xk3 --read", c.mark,
			"thread!", "id", "read", "archived", "muted", "tag", "untag", "folder", "through", "key"),
		c.command("delete", "Delete a thread's messages, or with --id some of them", "--thread t-6xk3", c.delete, "thread!", "id", "through", "key"),
		c.command("stats", "Show figures of the mailbox and its folders", "", c.stats),
		c.command("subscribe", "Add members to a thread", "--thread t-6xk3 --to cy", c.subscribe, "thread!", "to!", "key"),
		c.command("unsubscribe", "Leave a thread, or remove an email address from it with --to", "--thread t-6xk3", c.unsubscribe, "thread!", "to", "key"),
		c.command("unread", "Show the home page's numbers of unread messages", "", c.counts),
		c.command("watch", "Show the mailbox's events as they happen, until interrupted or --limit of them", "--limit 10", c.watch, "after", "limit"),
	}
}

// command makes one command with some of the flags; those with ! are required.
func (c *msgCommand) command(name, short, example string, run func(context.Context, *client.Client) error, flags ...string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     name,
		Short:   short,
		Example: strings.TrimRight("  darklaunch msg --cell 127.0.0.1:7500 --as ann "+name+" "+example, " "),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.flags = cmd.Flags()
			return c.call(cmd.Context(), name, run)
		},
	}
	f := cmd.Flags()
	for _, flag := range flags {
		flag, required := strings.CutSuffix(flag, "!")
		c.define(f, flag, name)
		if required {
			_ = cmd.MarkFlagRequired(flag) // fails for a flag that there isn't
		}
	}
	return cmd
}

func (c *msgCommand) define(f *pflag.FlagSet, flag, command string) {
	switch flag {
	case "to":
		f.StringArrayVar(&c.to, flag, nil, "a `user`, or mail:ADDRESS; may be repeated")
	case "from":
		f.StringArrayVar(&c.from, flag, nil, "with a message by this `user`, or mail:ADDRESS; may be repeated")
	case "thread":
		f.StringVar(&c.thread, flag, "", "`id` of the thread")
	case "id":
		f.StringArrayVar(&c.ids, flag, nil, "`id` of a message; may be repeated")
	case "subject":
		f.StringVar(&c.subject, flag, "", "`text` of the subject of a new thread")
	case "body":
		f.StringVar(&c.body, flag, "", "`text` of the message; @FILE: what is in the file")
	case "key":
		f.StringVar(&c.key, flag, "", "idempotency `key` (default: a new one)")
	case "wait":
		f.StringVar(&c.wait, flag, "durable", "answer when the message is durable, or delivered to all who are users")
	case "folder":
		f.StringVar(&c.folder, flag, "", "`folder`: inbox or other")
	case "query":
		usage := "`query`, as 'noon OR lunch from:bob'"
		if command == "list" {
			usage = "`words` that must all be in a thread"
		}
		f.StringVar(&c.query, flag, "", usage)
	case "tag":
		f.StringArrayVar(&c.tags, flag, nil, "a `tag`; may be repeated")
	case "untag":
		f.StringArrayVar(&c.untags, flag, nil, "a `tag` to remove; may be repeated")
	case "limit":
		few, usage := 20, "print this `number` at most; 0: all"
		if command == "watch" {
			few, usage = 0, "print this `number` at most (default: all)"
		}
		f.IntVar(&c.limit, flag, few, usage)
	case "page":
		f.StringVar(&c.page, flag, "", "`token` of the page to begin with, from the run before")
	case "unread":
		f.BoolVar(&c.unread, flag, false, "with an unread message; =false: without one")
	case "read":
		f.BoolVar(&c.read, flag, false, "mark as read; =false: as unread")
	case "archived":
		f.BoolVar(&c.archived, flag, false, "archived; =false: not archived")
	case "muted":
		f.BoolVar(&c.mute, flag, false, "left out of the unread numbers; =false: not")
	case "through":
		f.Uint64Var(&c.through, flag, 0, "of a thread, messages up to this `sequence` alone (default: all)")
	case "after":
		f.Uint64Var(&c.after, flag, 0, "events after this `sequence` (default: after now)")
	}
}

func (c *msgCommand) call(ctx context.Context, name string, run func(context.Context, *client.Client) error) error {
	if c.limit < 0 {
		return usageErrorf("--limit: %d is not a number of things: want 0 or more", c.limit)
	}
	if c.key == "" {
		c.key = "msg-" + rand.Text()
	}
	conn, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = run(client.As(ctx, c.user), conn)
	s, ok := status.FromError(err)
	switch {
	case err == nil || !ok:
		return err
	case s.Code() == codes.InvalidArgument:
		return usageErrorf("%s: %s", name, s.Message())
	}
	if c.cell.HostPort == "" {
		return fmt.Errorf("%s: %s: %s (--directory %s)", name, s.Code(), s.Message(), c.place)
	}
	return fmt.Errorf("%s: %s: %s (--cell %s)", name, s.Code(), s.Message(), c.cell)
}

// connect returns a client of the one server, or of whichever serves the user.
func (c *msgCommand) connect(ctx context.Context) (*client.Client, error) {
	switch {
	case (c.cell.HostPort == "") == (c.place == directoryPlace{}):
		return nil, usageErrorf("want either --cell or --directory")
	case c.cell.HostPort != "":
		cfg := client.Config{Timeout: c.timeout}
		if c.cell.TLS {
			cfg.TLS = &tls.Config{}
		}
		return client.New(c.cell.HostPort, cfg)
	}
	keeper, err := c.place.open(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("%w (--directory)", err)
	}
	router := client.NewRouter(client.RouterConfig{
		Directory: directory.New(keeper, directory.Config{Timeout: c.timeout}), Timeout: c.timeout, Closes: keeper})
	return router.Client(), nil
}

func (c *msgCommand) print(v any) error {
	e := json.NewEncoder(c.program.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// participants are addresses of a flag.
func participants(flag string, addresses []string) ([]*messagesv1.Participant, error) {
	var all []*messagesv1.Participant
	for _, a := range addresses {
		p := &messagesv1.Participant{}
		if user, is := strings.CutPrefix(a, "user:"); is {
			p.Address = &messagesv1.Participant_User{User: user}
		} else if email, is := strings.CutPrefix(a, "mail:"); is {
			p.Address = &messagesv1.Participant_Email{Email: email}
		} else if strings.Contains(a, "@") {
			return nil, usageErrorf("%s: %q may be a user or an email address: want user:%s or mail:%s", flag, a, a, a)
		} else {
			p.Address = &messagesv1.Participant_User{User: a}
		}
		all = append(all, p)
	}
	return all, nil
}

func addressOf(p *messagesv1.Participant) string {
	if email := p.GetEmail(); email != "" {
		return "mail:" + email
	}
	if strings.Contains(p.GetUser(), "@") {
		return "user:" + p.GetUser()
	}
	return p.GetUser()
}

func addressesOf(ps []*messagesv1.Participant) []string {
	all := []string{}
	for _, p := range ps {
		all = append(all, addressOf(p))
	}
	return all
}

func folderOf(name string) (messagesv1.Folder, error) {
	folders := map[string]messagesv1.Folder{"": 0, "inbox": messagesv1.Folder_FOLDER_INBOX, "other": messagesv1.Folder_FOLDER_OTHER}
	f, ok := folders[name]
	if !ok {
		return 0, usageErrorf("--folder: %q is not a folder: want inbox or other", name)
	}
	return f, nil
}

func folderName(f messagesv1.Folder) string {
	return strings.ToLower(strings.TrimPrefix(f.String(), "FOLDER_"))
}

// given is a boolean flag, nil if it was not given.
func (c *msgCommand) given(name string, value bool) *bool {
	if !c.flags.Changed(name) {
		return nil
	}
	return &value
}

// printedMessage is a message as a line.
type printedMessage struct {
	ID       string    `json:"id"`
	Thread   string    `json:"thread"`
	From     string    `json:"from"`
	Body     string    `json:"body"`
	Time     time.Time `json:"time"`
	Sequence uint64    `json:"sequence"`
	Reply    bool      `json:"reply,omitempty"`
	Read     bool      `json:"read"`
	Archived bool      `json:"archived,omitempty"`
	Tags     []string  `json:"tags,omitempty"`
	Files    []string  `json:"files,omitempty"`
}

func toPrinted(m *messagesv1.Message) printedMessage {
	p := printedMessage{ID: m.GetMessageId(), Thread: m.GetThreadId(), From: addressOf(m.GetAuthor()), Body: m.GetBody(), Time: m.GetTime().AsTime(),
		Sequence: m.GetSequence(), Reply: m.GetReply(), Read: m.GetRead(), Archived: m.GetArchived(), Tags: m.GetTags()}
	for _, a := range m.GetAttachments() {
		p.Files = append(p.Files, a.GetName())
	}
	return p
}

// printedThread is a thread as a line.
type printedThread struct {
	Thread   string    `json:"thread"`
	Subject  string    `json:"subject"`
	Folder   string    `json:"folder"`
	Messages int32     `json:"messages"`
	Unread   int32     `json:"unread"`
	Archived bool      `json:"archived,omitempty"`
	Muted    bool      `json:"muted,omitempty"`
	Tags     []string  `json:"tags,omitempty"`
	Members  []string  `json:"members"`
	Newest   time.Time `json:"newest"`
	Snippet  string    `json:"snippet"`
}

func (c *msgCommand) send(ctx context.Context, to *client.Client) error {
	body, err := textOrFile(c.body, "--body")
	if err != nil {
		return err
	}
	recipients, err := participants("--to", c.to)
	if err != nil {
		return err
	}
	waits := map[string]messagesv1.Wait{"durable": messagesv1.Wait_WAIT_DURABLE, "delivered": messagesv1.Wait_WAIT_DELIVERED}
	wait, ok := waits[c.wait]
	if !ok {
		return usageErrorf("--wait: %q is not a thing to wait for: want durable or delivered", c.wait)
	}
	sent, err := to.Send(ctx, &messagesv1.SendRequest{IdempotencyKey: c.key, ThreadId: c.thread, Recipients: recipients, Subject: c.subject, Body: string(body), Wait: wait})
	if err != nil {
		return err
	}
	return c.print(struct {
		printedMessage
		To []string `json:"to"`
	}{printedMessage{ID: sent.GetMessageId(), Thread: sent.GetThreadId(), From: addressOf(&messagesv1.Participant{Address: &messagesv1.Participant_User{User: c.user}}),
		Body: string(body), Time: sent.GetTime().AsTime(), Sequence: sent.GetVersion(), Reply: c.thread != "", Read: true}, addressesOf(sent.GetRecipients())})
}

// walk asks for pages until there are no more, or --limit things were printed.
func (c *msgCommand) walk(page func(size int32, token string) (n int, next string, err error)) error {
	const most = 100
	token := c.page
	for left := c.limit; ; {
		size := most
		if c.limit > 0 {
			size = min(left, most)
		}
		n, next, err := page(int32(size), token)
		if err != nil || next == "" {
			return err
		}
		token = next
		if left -= n; c.limit > 0 && left <= 0 {
			fmt.Fprintf(c.program.stderr, "there are more: --page %s\n", token)
			return nil
		}
	}
}

func (c *msgCommand) list(ctx context.Context, from *client.Client) error {
	folder, err := folderOf(c.folder)
	if err != nil {
		return err
	}
	authors, err := participants("--from", c.from)
	if err != nil {
		return err
	}
	r := &messagesv1.ListThreadsRequest{Folder: folder, Unread: c.given("unread", c.unread), Archived: c.given("archived", c.archived),
		Tags: c.tags, Authors: authors, Keywords: strings.Fields(c.query)}
	return c.walk(func(size int32, token string) (int, string, error) {
		r.PageSize, r.PageToken = size, token
		a, err := from.ListThreads(ctx, r)
		if err != nil {
			return 0, "", err
		}
		for _, t := range a.GetThreads() {
			line := printedThread{Thread: t.GetThreadId(), Subject: t.GetSubject(), Folder: folderName(t.GetFolder()), Messages: t.GetMessageCount(),
				Unread: t.GetUnreadCount(), Archived: t.GetArchived(), Muted: t.GetMuted(), Tags: t.GetTags(), Members: memberNames(t.GetMembers()),
				Newest: t.GetNewestTime().AsTime(), Snippet: t.GetSnippet()}
			if err := c.print(line); err != nil {
				return 0, "", err
			}
		}
		return len(a.GetThreads()), a.GetNextPageToken(), nil
	})
}

func memberNames(members []*messagesv1.Member) []string {
	all := []string{}
	for _, m := range members {
		all = append(all, addressOf(m.GetParticipant()))
	}
	return all
}

func (c *msgCommand) readThread(ctx context.Context, from *client.Client) error {
	return c.walk(func(size int32, token string) (int, string, error) {
		a, err := from.GetThread(ctx, &messagesv1.GetThreadRequest{ThreadId: c.thread, PageSize: size, PageToken: token})
		if err != nil {
			return 0, "", err
		}
		for _, m := range a.GetMessages() {
			if err := c.print(toPrinted(m)); err != nil {
				return 0, "", err
			}
		}
		return len(a.GetMessages()), a.GetNextPageToken(), nil
	})
}

func (c *msgCommand) search(ctx context.Context, in *client.Client) error {
	return c.walk(func(size int32, token string) (int, string, error) {
		a, err := in.Search(ctx, &messagesv1.SearchRequest{Query: c.query, PageSize: size, PageToken: token})
		if err != nil {
			return 0, "", err
		}
		for _, h := range a.GetHits() {
			if err := c.print(map[string]any{"id": h.GetMessageId(), "thread": h.GetThreadId(), "from": addressOf(h.GetAuthor()), "time": h.GetTime().AsTime()}); err != nil {
				return 0, "", err
			}
		}
		return len(a.GetHits()), a.GetNextPageToken(), nil
	})
}

// done is the line of a mutation: what it was done to, and the mailbox's version.
func (c *msgCommand) done(version uint64) error {
	return c.print(map[string]any{"thread": c.thread, "version": version})
}

func (c *msgCommand) mark(ctx context.Context, in *client.Client) error {
	folder, err := folderOf(c.folder)
	if err != nil {
		return err
	}
	change := &messagesv1.Change{Read: c.given("read", c.read), Archived: c.given("archived", c.archived), Muted: c.given("muted", c.mute),
		AddTags: c.tags, RemoveTags: c.untags, Folder: folder}
	a, err := in.Update(ctx, &messagesv1.UpdateRequest{IdempotencyKey: c.key, ThreadId: c.thread, MessageIds: c.ids, Change: change, Through: c.through})
	if err != nil {
		return err
	}
	return c.done(a.GetVersion())
}

func (c *msgCommand) delete(ctx context.Context, in *client.Client) error {
	a, err := in.Delete(ctx, &messagesv1.DeleteRequest{IdempotencyKey: c.key, ThreadId: c.thread, MessageIds: c.ids, Through: c.through})
	if err != nil {
		return err
	}
	return c.done(a.GetVersion())
}

func (c *msgCommand) stats(ctx context.Context, of *client.Client) error {
	m, err := of.MailboxStats(ctx, &messagesv1.MailboxStatsRequest{})
	if err != nil {
		return err
	}
	f, err := of.FolderStats(ctx, &messagesv1.FolderStatsRequest{})
	if err != nil {
		return err
	}
	if err := c.print(map[string]any{"messages": m.GetMessages(), "threads": m.GetThreads(), "replies": m.GetReplies(), "friends": m.GetFriends(),
		"bytes": m.GetCapacityUsedBytes(), "limit_bytes": m.GetCapacityLimitBytes(), "version": m.GetVersion()}); err != nil {
		return err
	}
	for _, s := range f.GetFolders() {
		if err := c.print(map[string]any{"folder": folderName(s.GetFolder()), "threads": s.GetThreads(), "messages": s.GetMessages(),
			"unread_threads": s.GetUnreadThreads(), "unread_messages": s.GetUnreadMessages(), "archived_threads": s.GetArchivedThreads(), "version": f.GetVersion()}); err != nil {
			return err
		}
	}
	return nil
}

func (c *msgCommand) counts(ctx context.Context, of *client.Client) error {
	n, err := of.UnreadCounts(ctx, &messagesv1.UnreadCountsRequest{})
	if err != nil {
		return err
	}
	return c.print(map[string]any{"messages": n.GetMessages(), "threads": n.GetThreads(), "version": n.GetVersion()})
}

func (c *msgCommand) members(version uint64, members []*messagesv1.Member) error {
	return c.print(map[string]any{"thread": c.thread, "members": memberNames(members), "version": version})
}

func (c *msgCommand) subscribe(ctx context.Context, to *client.Client) error {
	members, err := participants("--to", c.to)
	if err != nil {
		return err
	}
	a, err := to.Subscribe(ctx, &messagesv1.SubscribeRequest{IdempotencyKey: c.key, ThreadId: c.thread, Members: members})
	if err != nil {
		return err
	}
	return c.members(a.GetVersion(), a.GetMembers())
}

func (c *msgCommand) unsubscribe(ctx context.Context, from *client.Client) error {
	who, err := participants("--to", c.to)
	if err != nil {
		return err
	}
	if len(who) > 1 {
		return usageErrorf("--to: want one address at most")
	}
	r := &messagesv1.UnsubscribeRequest{IdempotencyKey: c.key, ThreadId: c.thread}
	for _, p := range who {
		r.Member = p
	}
	a, err := from.Unsubscribe(ctx, r)
	if err != nil {
		return err
	}
	return c.members(a.GetVersion(), a.GetMembers())
}

// watch prints events; a stream that a server ends is taken up after the last event.
func (c *msgCommand) watch(ctx context.Context, in *client.Client) error {
	r := &messagesv1.WatchRequest{}
	if c.flags.Changed("after") {
		r.After = &c.after
	}
	printed := 0
	for {
		stream, err := in.Watch(ctx, r)
		for err == nil {
			var e *messagesv1.WatchResponse
			if e, err = stream.Recv(); err != nil {
				break
			}
			resumed := r.After != nil && e.GetStarted() != nil && printed > 0
			r.After = &e.Sequence
			if resumed {
				continue
			}
			if err := c.print(toEvent(e)); err != nil {
				return err
			}
			if printed++; printed == c.limit {
				return nil
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case status.Code(err) != codes.Unavailable || r.After == nil:
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

func toEvent(e *messagesv1.WatchResponse) any {
	line := map[string]any{"sequence": e.GetSequence(), "logged": e.GetLogTime().AsTime()}
	set := func(event, thread string, ids []string) {
		line["event"], line["thread"] = event, thread
		if len(ids) > 0 {
			line["ids"] = ids
		}
	}
	switch x := e.GetEvent().(type) {
	case *messagesv1.WatchResponse_Started_:
		line["event"], line["missed"] = "started", x.Started.GetMissed()
	case *messagesv1.WatchResponse_Message:
		return struct {
			Event string `json:"event"`
			printedMessage
		}{"message", toPrinted(x.Message)}
	case *messagesv1.WatchResponse_Changed_:
		set("changed", x.Changed.GetThreadId(), x.Changed.GetMessageIds())
		change := x.Changed.GetChange()
		for name, is := range map[string]*bool{"read": change.Read, "archived": change.Archived, "muted": change.Muted} {
			if is != nil {
				line[name] = *is
			}
		}
		if f := change.GetFolder(); f != 0 {
			line["folder"] = folderName(f)
		}
		if tags := slices.Concat(change.GetAddTags(), change.GetRemoveTags()); len(tags) > 0 {
			line["tags"], line["untags"] = change.GetAddTags(), change.GetRemoveTags()
		}
	case *messagesv1.WatchResponse_Deleted_:
		set("deleted", x.Deleted.GetThreadId(), x.Deleted.GetMessageIds())
	case *messagesv1.WatchResponse_Membership_:
		set("members", x.Membership.GetThreadId(), nil)
		line["joined"], line["left"] = memberNames(x.Membership.GetJoined()), addressesOf(x.Membership.GetLeft())
	}
	return line
}
