package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"darklaunch/appserver/directory"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
)

// checkResult is the machine form of appserver check.
type checkResult struct {
	Schema   string            `json:"schema"`
	Users    int               `json:"users"`
	Actions  uint64            `json:"actions"`
	Lagging  int               `json:"lagging"` // whose metadata is behind the log, which the next load repairs
	Broken   map[string]string `json:"broken"`  // what is wrong, by user
	Complete bool              `json:"complete"`
}

func (p *program) appserverCheck() *cobra.Command {
	var (
		place    storePlace
		language string
	)
	var out *output
	cmd := &cobra.Command{
		Use:   "check --store STORE",
		Short: "Hold the metadata and keywords of all mailboxes against their logs",
		Long: `Read every mailbox and hold its metadata and keywords against its log. Metadata that
lags behind is no fault. Servers may go on meanwhile. Ends with 1 if something is wrong.`,
		Example: "  darklaunch appserver check --store rows:127.0.0.1:7400",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.check(cmd.Context(), place, language, out)
		},
	}
	f := cmd.Flags()
	storeVar(f, &place, "store", "the store: pebble:DIR (its server stopped), rows:HOST:PORT or hbase:ZOOKEEPER[,ZOOKEEPER]/TABLE")
	f.StringVar(&language, "language", "", "`language` of the servers' search")
	out = p.outputVar(f)
	_ = cmd.MarkFlagRequired("store") // fails for a flag that there isn't
	return cmd
}

func (p *program) check(ctx context.Context, place storePlace, language string, out *output) error {
	s, err := place.open(ctx, nil)
	if err != nil {
		return fmt.Errorf("%w (--store)", err)
	}
	defer s.Close()
	r := checkResult{Schema: "appserver-check/v1", Broken: map[string]string{}}
	for row, err := range s.Scan(ctx, store.Range{}) {
		if err != nil {
			return fmt.Errorf("read the users: %w", err)
		}
		if directory.IsDocument(row.User) || row.Fence.Flags&store.Sealed != 0 {
			continue // no mailbox, or one that is in another cell
		}
		found, err := mailbox.Check(ctx, s, row.User, language)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			r.Broken[row.User] = oneLine(err)
		}
		r.Users++
		r.Actions += found.Actions
		if found.Lag > 0 {
			r.Lagging++
		}
	}
	r.Complete = true
	if err := out.result(r); err != nil {
		return err
	}
	tellBroken(out.text(), r.Broken)
	fmt.Fprintf(out.text(), "%d mailboxes, %d actions; %d with metadata behind the log, %d broken\n", r.Users, r.Actions, r.Lagging, len(r.Broken))
	if len(r.Broken) > 0 {
		return fmt.Errorf("%d of %d mailboxes differ from their logs", len(r.Broken), r.Users)
	}
	return nil
}
