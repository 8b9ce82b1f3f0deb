package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"darklaunch/appserver/legacy"
	"darklaunch/appserver/legacy/chat"
	"darklaunch/appserver/legacy/inbox"
	"darklaunch/appserver/legacy/mail"
	"darklaunch/internal/testenv/install"
)

const legacyImportLong = `Fill the data of an old Inbox, and of an old Chat, before their servers are started.

With --mail a directory of mails is read: mboxes, maildirs, files of one mail each, in any
depth. Addresses become users, In-Reply-To and References threads, bodies their text; mail
in a directory or file named spam or junk goes to the recipients' folder OTHER. corpus is
the corpus that make corpus fetches. What cannot be read is listed with a reason.

With --generate made-up users write made-up text to each other, the same for the same
seed, in the Inbox and, where --chat names one, in Chat.`

// legacyImportResult is the machine form of legacy import.
type legacyImportResult struct {
	Schema   string         `json:"schema"`
	Mails    int            `json:"mails"`
	Imported int            `json:"imported"`
	Chat     int            `json:"chat"`
	Users    int            `json:"users"`
	Skipped  []mail.Skipped `json:"skipped"`
}

// legacyImport is one run of darklaunch legacy import.
type legacyImport struct {
	program    *program
	out        *output
	data, chat string
	mail       string
	generate   int
	seed       uint64
	end        string
}

func (p *program) legacyImport() *cobra.Command {
	c := &legacyImport{program: p}
	cmd := &cobra.Command{
		Use:   "import --data DIR --mail DIR|corpus",
		Short: "Fill the data of an old Inbox and Chat",
		Long:  legacyImportLong,
		Example: `  darklaunch legacy import --data inbox.data --mail corpus
  darklaunch legacy import --data inbox.data --chat chat.data --generate 2000 --seed 1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&c.data, "data", "", "`directory` of the Inbox's data; made if need be")
	f.StringVar(&c.chat, "chat", "", "`directory` of the Chat's data; made if need be")
	f.StringVar(&c.mail, "mail", "", "`directory` of mails, or corpus")
	f.IntVar(&c.generate, "generate", 0, "make up so many `users` and what they write (default 0)")
	f.Uint64Var(&c.seed, "seed", 1, "`number` that --generate makes everything from")
	f.StringVar(&c.end, "end", "", "`time` (RFC 3339) of the newest that --generate makes (default: an hour ago)")
	c.out = p.outputVar(f)
	_ = cmd.MarkFlagRequired("data") // fails for a flag that there isn't
	return cmd
}

func (c *legacyImport) run(ctx context.Context) (err error) {
	end := time.Now().Add(-time.Hour)
	if c.end != "" {
		if end, err = time.Parse(time.RFC3339, c.end); err != nil {
			return usageErrorf("--end: %w", err)
		}
	}
	switch {
	case (c.mail == "") == (c.generate == 0):
		return usageErrorf("want one of --mail and --generate")
	case c.generate < 0 || c.generate > 10_000_000:
		return usageErrorf("--generate: %d is not a number of users: want 1 to 10000000", c.generate)
	case c.chat != "" && c.generate == 0:
		return usageErrorf("--chat goes with --generate: mails are the Inbox's")
	}
	if c.mail == "corpus" {
		if c.mail, err = install.Locate(install.Mails); err != nil {
			return fmt.Errorf("%w (--mail)", err)
		}
	}
	r := legacyImportResult{Schema: "legacy-import/v1", Skipped: []mail.Skipped{}}
	var mails []mail.Mail
	if c.mail != "" {
		if mails, r.Skipped, err = mail.ReadDir(ctx, c.mail); err != nil {
			return fmt.Errorf("read mails (--mail): %w", err)
		}
		r.Mails = len(mails) + len(r.Skipped)
	}
	cfg := legacy.Config{AcceptAssigned: true, NoSync: true}
	x, err := inbox.Open(c.data, cfg)
	if err != nil {
		return fmt.Errorf("%w (--data)", err)
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	if c.generate > 0 {
		err = c.fill(ctx, x, cfg, end, &r)
	} else {
		r.Imported, err = mail.Fill(ctx, x, mails, &r.Skipped)
	}
	if err != nil {
		return err
	}
	users, err := x.Users()
	if err != nil {
		return err
	}
	r.Users = len(users)
	if err := c.out.result(r); err != nil {
		return err
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(c.out.text(), "skipped %s: %s\n", relative(c.mail, s.File), s.Reason)
	}
	fmt.Fprintf(c.out.text(), "%d of %d mails imported, %d messages of Chat; %d users of the Inbox\n", r.Imported, r.Mails, r.Chat, r.Users)
	return nil
}

func relative(dir, file string) string {
	if rel, err := filepath.Rel(dir, file); err == nil {
		return rel
	}
	return file
}

// fill puts made-up messages into the Inbox, and into the Chat if there is one.
func (c *legacyImport) fill(ctx context.Context, x *inbox.Inbox, cfg legacy.Config, end time.Time, r *legacyImportResult) (err error) {
	var talk *chat.Chat
	if c.chat != "" {
		if talk, err = chat.Open(c.chat, cfg); err != nil {
			return fmt.Errorf("%w (--chat)", err)
		}
		defer func() { err = errors.Join(err, talk.Close()) }()
	}
	if x.Position().ID > 0 || talk != nil && talk.Position().ID > 0 {
		return fmt.Errorf("fill %s: there is something in it already: %w", c.data, os.ErrExist)
	}
	var threads []string // of the Inbox's messages
	return legacy.Generate(c.generate, c.seed, end.UnixMilli(), func(g legacy.Generated) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if g.Kind == legacy.Chat {
			if talk == nil {
				return nil
			}
			r.Chat++
			_, err := talk.Send(g.From, g.To[0], g.Body, &legacy.Stamp{ID: uint64(r.Chat), Time: g.Time})
			return err
		}
		d := inbox.Draft{To: g.To, Subject: g.Subject, Body: g.Body}
		if g.Reply >= 0 {
			d.Thread = threads[g.Reply]
		}
		folder := inbox.FolderInbox
		if g.Filtered {
			folder = inbox.FolderOther
		}
		r.Imported++
		sent, err := x.Import(g.From, d, folder, g.Read, legacy.Stamp{ID: uint64(r.Imported), Time: g.Time})
		threads = append(threads, sent.Thread)
		r.Mails = r.Imported
		return err
	})
}
