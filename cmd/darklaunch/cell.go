package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/zeebo/xxh3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/client"
	"darklaunch/appserver/directory"
)

const cellLong = `Operate on cells as units, by the directory above them.

A cell is a coordinator, application servers and a store; the directory says which
cells there are and which user is in which. These commands change the directory,
and move users by asking servers: they reach no store of a cell.`

// cellCommand is one run of darklaunch cell.
type cellCommand struct {
	program *program
	place   directoryPlace
	timeout time.Duration
	at      int // users who are moved at once

	servers            []string
	zone, build, state string
	weight             int
	from, to           string
	share              share
	ranges             []string
	out                *output
}

func (p *program) cell() *cobra.Command {
	c := &cellCommand{program: p}
	cmd := &cobra.Command{
		Use:     "cell",
		Short:   "Add, drain, upgrade and list cells, and move users between them",
		Long:    cellLong,
		Example: "  darklaunch cell list --directory zk:127.0.0.1:2181/darklaunch",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	directoryVar(f, &c.place)
	durationVar(f, &c.timeout, "timeout", time.Minute, "how long it may take; of drain and move, each user")
	_ = cmd.MarkPersistentFlagRequired("directory") // fails for a flag that there isn't
	cmd.AddCommand(c.add(), c.list(), c.setState("drain", directory.Draining), c.setState("fail", directory.Failed), c.move(), c.upgrade())
	return cmd
}

func (c *cellCommand) command(use, short, long, example string, args cobra.PositionalArgs, run func(context.Context, *directory.Directory, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: args,
		Example: "  darklaunch cell " + example + " --directory zk:127.0.0.1:2181/darklaunch",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			keeper, err := c.place.open(cmd.Context(), nil)
			if err != nil {
				return fmt.Errorf("%w (--directory)", err)
			}
			defer func() { err = errors.Join(err, keeper.Close()) }()
			d := directory.New(keeper, directory.Config{Timeout: c.timeout})
			if err := run(cmd.Context(), d, args); err != nil {
				return fmt.Errorf("%w (--directory %s)", err, c.place)
			}
			return nil
		},
	}
}

func (c *cellCommand) say(format string, args ...any) error {
	_, err := fmt.Fprintf(c.program.stdout, format+"\n", args...)
	return err
}

// edit changes one cell, which has to be there.
func (c *cellCommand) edit(ctx context.Context, d *directory.Directory, name string, change func(*directory.Cell)) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return d.Edit(ctx, func(cells []directory.Cell) ([]directory.Cell, error) {
		i := slices.IndexFunc(cells, func(c directory.Cell) bool { return c.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("cell %s: %w", name, directory.ErrNoCell)
		}
		change(&cells[i])
		return cells, nil
	})
}

func (c *cellCommand) add() *cobra.Command {
	cmd := c.command("add NAME --server ADDR", "Add a cell, or change what the directory says of one",
		`Add a cell to the directory, or replace what it says of one. Servers follow within
seconds, and new users are placed in the emptiest cell that accepts them: in a new
one until it has as many as the others.

--range FROM-TO, shares of the hash of users, gives a part of the users who were not
placed one by one to the cell, for good: they cost the directory nothing.`,
		"add two --server 10.0.1.1:7500 --server 10.0.1.2:7500", cobra.ExactArgs(1),
		func(ctx context.Context, d *directory.Directory, args []string) error {
			cell := directory.Cell{Name: args[0], Servers: c.servers, Zone: c.zone, Build: c.build, Weight: c.weight, State: directory.State(c.state)}
			if err := cell.Check(); err != nil {
				return usageErrorf("%w (--server, --state, --weight)", err)
			}
			parts, err := parseRanges(c.ranges)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, c.timeout)
			defer cancel()
			did := "added"
			err = d.Edit(ctx, func(cells []directory.Cell) ([]directory.Cell, error) {
				i := slices.IndexFunc(cells, func(c directory.Cell) bool { return c.Name == cell.Name })
				if i < 0 {
					return append(cells, cell), nil
				}
				did, cells[i] = "changed", cell
				return cells, nil
			})
			if err != nil {
				return err
			}
			for _, p := range parts {
				if err := d.Assign(ctx, p[0], p[1], cell.Name); err != nil {
					return err
				}
			}
			return c.say("cell %s %s", cell.Name, did)
		})
	f := cmd.Flags()
	f.StringArrayVar(&c.servers, "server", nil, "`address` of a server of the cell, or a name for all; may be repeated")
	f.StringVar(&c.zone, "zone", "", "`name` of the data centre that it is in")
	f.StringVar(&c.build, "build", "", "`version` that its servers run")
	f.StringVar(&c.state, "state", string(directory.Open), "open: it accepts new users; closed: it serves those it has")
	f.IntVar(&c.weight, "weight", 1, "`share` of new users in relation to the other cells")
	f.StringArrayVar(&c.ranges, "range", nil, "`FROM-TO` of the hash, as 0%-25%: its users, if they are new, are this cell's; may be repeated")
	_ = cmd.MarkFlagRequired("server") // fails for a flag that there isn't
	return cmd
}

// parseRanges returns slices [from, to) of the directory.
func parseRanges(ranges []string) (parts [][2]int, err error) {
	for _, r := range ranges {
		from, to, ok := strings.Cut(r, "-")
		lo, loErr := parseShare(from)
		hi, hiErr := parseShare(to)
		if !ok || loErr != nil || hiErr != nil || lo >= hi {
			return nil, usageErrorf("--range: %q is not a range: want FROM-TO, as 0%%-25%%", r)
		}
		parts = append(parts, [2]int{int(lo) * directory.Slices / 1_000_000, int(hi) * directory.Slices / 1_000_000})
	}
	return parts, nil
}

func (c *cellCommand) list() *cobra.Command {
	type listed struct {
		directory.Cell
		Users int     `json:"users"`
		Range float64 `json:"range"`
	}
	cmd := c.command("list", "List the cells, with the users that the directory has placed in each", "", "list", cobra.NoArgs,
		func(ctx context.Context, d *directory.Directory, _ []string) error {
			ctx, cancel := context.WithTimeout(ctx, c.timeout)
			defer cancel()
			if _, err := d.Refresh(ctx); err != nil {
				return err
			}
			users, ranges, err := d.Filled(ctx)
			if err != nil {
				return err
			}
			all := []listed{}
			text := c.out.text()
			fmt.Fprintf(text, "%-16s %-9s %8s %6s %-12s %-12s %s\n", "CELL", "STATE", "USERS", "RANGE", "BUILD", "ZONE", "SERVERS")
			for _, cell := range d.Cells() {
				l := listed{cell, users[cell.Name], float64(ranges[cell.Name]) / directory.Slices}
				if l.State == "" {
					l.State = directory.Open
				}
				all = append(all, l)
				fmt.Fprintf(text, "%-16s %-9s %8d %5.1f%% %-12s %-12s %s\n", l.Name, l.State, l.Users, 100*l.Range, l.Build, l.Zone, strings.Join(l.Servers, ","))
				delete(users, cell.Name)
				delete(ranges, cell.Name)
			}
			for name := range ranges {
				users[name] += 0
			}
			for name, n := range users {
				fmt.Fprintf(c.program.stderr, "darklaunch: the directory names cell %q, with %d users, and has no such cell\n", name, n)
			}
			return c.out.result(all)
		})
	c.out = c.program.outputVar(cmd.Flags())
	return cmd
}

func (c *cellCommand) setState(name string, state directory.State) *cobra.Command {
	short, long := "Stop calling a cell that is down", `Stop calling a cell: its users are UNAVAILABLE at once instead of after a time-out, and
what is owed to them waits in the senders' mailboxes. cell add makes it open again.`
	if state == directory.Draining {
		short, long = "Move all users out of a cell", `Place no more users in a cell, and move those it has to the others, each to the
emptiest at the time, or to --to. It may be stopped, and run again. A user cannot
write for some milliseconds. It ends when the cell has no users.`
	}
	cmd := c.command(name+" CELL", short, long, name+" two", cobra.ExactArgs(1),
		func(ctx context.Context, d *directory.Directory, args []string) error {
			if err := c.edit(ctx, d, args[0], func(cell *directory.Cell) { cell.State = state }); err != nil {
				return err
			}
			if state != directory.Draining {
				return c.say("cell %s is %s", args[0], state)
			}
			return c.drain(ctx, d, args[0])
		})
	if state == directory.Draining {
		cmd.Flags().StringVar(&c.to, "to", "", "`cell` that takes the users (default: the emptiest)")
		cmd.Flags().IntVar(&c.at, "parallel", 8, "`number` of users who are moved at once")
	}
	return cmd
}

// drain moves users until the cell has none.
func (c *cellCommand) drain(ctx context.Context, d *directory.Directory, from string) error {
	router := client.NewRouter(client.RouterConfig{Directory: d})
	defer router.Close()
	if _, err := d.Refresh(ctx); err != nil {
		return err
	}
	moved := 0
	for {
		users, err := c.usersOf(ctx, d, router, from, func(string) bool { return true })
		if err != nil {
			return err
		}
		n, err := c.moveAll(ctx, d, router, users, func(user string) (string, error) { return c.target(d, from, user) })
		moved += n
		if err != nil {
			return err
		}
		if len(users) == 0 {
			break
		}
	}
	_, ranges, err := d.Filled(ctx)
	if err != nil {
		return err
	}
	if n := ranges[from]; n > 0 {
		return c.say("cell %s drained, %d users moved; %.1f%% of the hash is its range: new users there still begin in it", from, moved, 100*float64(n)/directory.Slices)
	}
	return c.say("cell %s drained, %d users moved", from, moved)
}

// usersOf are users whose rows are in a cell, or who left it by a move that the
// directory was not told of.
func (c *cellCommand) usersOf(ctx context.Context, d *directory.Directory, router *client.Router, cell string, want func(user string) bool) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, max(c.timeout, 10*time.Minute))
	defer cancel()
	stream, err := messagesv1.NewTransferClient(router.At(cell)).Users(ctx, &messagesv1.UsersRequest{})
	if err != nil {
		return nil, fmt.Errorf("users of cell %s: %w", cell, err)
	}
	var users []string
	for {
		u, err := stream.Recv()
		switch {
		case err == io.EOF:
			return users, nil
		case err != nil:
			return nil, fmt.Errorf("users of cell %s: %w", cell, err)
		case !want(u.GetUser()):
			continue
		}
		if u.GetGone() != "" {
			at, err := d.Lookup(ctx, u.GetUser())
			if err != nil {
				return nil, err
			}
			if at.Generation >= u.GetGeneration() {
				continue
			}
		}
		users = append(users, u.GetUser())
	}
}

// target is the cell for a user who has to leave one.
func (c *cellCommand) target(d *directory.Directory, from, user string) (string, error) {
	if c.to != "" {
		return c.to, nil
	}
	to, ok := d.Emptiest(user, from)
	if !ok {
		return "", fmt.Errorf("no other cell accepts users: %w", directory.ErrNoCell)
	}
	return to, nil
}

// moveAll moves users, several at once, and returns how many; the error is of the first
// that could not be moved.
func (c *cellCommand) moveAll(ctx context.Context, d *directory.Directory, router *client.Router, users []string, target func(string) (string, error)) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan string)
	var moved atomic.Int64
	var wg sync.WaitGroup
	for range max(c.at, 1) {
		wg.Go(func() {
			for user := range next {
				to, err := target(user)
				if err == nil {
					err = c.moveOne(ctx, d, router, user, to)
				}
				if err != nil {
					cancel(fmt.Errorf("move %s: %w", user, err))
					continue
				}
				moved.Add(1)
			}
		})
	}
	for _, user := range users {
		if ctx.Err() != nil {
			break
		}
		next <- user
	}
	close(next)
	wg.Wait()
	return int(moved.Load()), context.Cause(ctx)
}

// moveOne moves a user, and first finishes a move that was given up.
func (c *cellCommand) moveOne(ctx context.Context, d *directory.Directory, router *client.Router, user, to string) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	as := client.As(ctx, user)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		at, err := d.Fresh(ctx, user)
		if err != nil {
			return err
		}
		if at.Cell == to {
			return nil
		}
		r := &messagesv1.MoveRequest{From: at.Cell, Generation: at.Generation + 1}
		_, err = messagesv1.NewTransferClient(router.At(to)).Move(as, r)
		for _, detail := range status.Convert(err).Details() {
			if gone, ok := detail.(*messagesv1.WrongCell); ok && gone.GetDirectoryVersion() == r.Generation {
				// It was on its way there, or is there, and the directory does not know.
				_, err = messagesv1.NewTransferClient(router.At(gone.GetCell())).Move(as, r)
			}
		}
		if err == nil {
			continue
		}
		if code := status.Code(err); ctx.Err() != nil || code != codes.Unavailable && code != codes.FailedPrecondition {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

func (c *cellCommand) move() *cobra.Command {
	cmd := c.command("move [USER...] --to CELL", "Move users, or a share of a cell's, to another cell",
		`Move users to a cell: their logs are copied while they write, then the old row is
closed, the rest is copied, and the new row is opened. Nothing that was acknowledged is
lost; a user cannot write for some milliseconds. A move that was stopped half way is
finished by running it again.

With --share and --from, users of a cell are chosen by a hash of their ids.`,
		"move ann bob --to two", cobra.ArbitraryArgs,
		func(ctx context.Context, d *directory.Directory, args []string) error {
			if (len(args) == 0) == (c.share == 0) || (c.share > 0) != (c.from != "") {
				return usageErrorf("want users, or --share with --from")
			}
			if _, err := d.Refresh(ctx); err != nil {
				return err
			}
			router := client.NewRouter(client.RouterConfig{Directory: d})
			defer router.Close()
			if c.share > 0 {
				var err error
				args, err = c.usersOf(ctx, d, router, c.from, func(user string) bool {
					return xxh3.HashString("darklaunch cell move "+user)%1_000_000 < uint64(c.share)
				})
				if err != nil {
					return err
				}
			}
			n, err := c.moveAll(ctx, d, router, args, func(string) (string, error) { return c.to, nil })
			if err != nil {
				return errors.Join(err, c.say("%d users moved to cell %s", n, c.to))
			}
			return c.say("%d users moved to cell %s", n, c.to)
		})
	f := cmd.Flags()
	f.StringVar(&c.to, "to", "", "`cell` that takes the users")
	f.StringVar(&c.from, "from", "", "`cell` of which --share is moved")
	shareVar(f, &c.share, "share", 0, "of the users of --from")
	f.IntVar(&c.at, "parallel", 8, "`number` of users who are moved at once")
	_ = cmd.MarkFlagRequired("to") // fails for a flag that there isn't
	return cmd
}

func (c *cellCommand) upgrade() *cobra.Command {
	cmd := c.command("upgrade CELL --build VERSION", "Say what build a cell is to run, and what is left to do",
		`Note in the directory what a cell's servers are to run, and place no new users in it
until cell add opens it again. Servers of different builds serve side by side, in one
cell and in several; each that gets SIGTERM hands its mailboxes over before it stops.
Programs are replaced by who has started them, one after the other.`,
		"upgrade two --build v1.4.0", cobra.ExactArgs(1),
		func(ctx context.Context, d *directory.Directory, args []string) error {
			if c.build == "" {
				return usageErrorf("--build: want a version")
			}
			var cell directory.Cell
			err := c.edit(ctx, d, args[0], func(to *directory.Cell) {
				to.Build, to.State = c.build, directory.Closed
				cell = *to
			})
			if err != nil {
				return err
			}
			return c.say("cell %s is closed to new users while it goes to %s. For each of its servers (%s): SIGTERM, start the new build, wait for /readyz. Then: darklaunch cell add %s --state open …",
				cell.Name, cell.Build, strings.Join(cell.Servers, ", "), cell.Name)
		})
	cmd.Flags().StringVar(&c.build, "build", "", "`version` that its servers are to run")
	_ = cmd.MarkFlagRequired("build") // fails for a flag that there isn't
	return cmd
}
