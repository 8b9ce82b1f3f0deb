package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
)

// zooKeeper keeps documents as nodes below a path. A node's version, plus one, is the
// document's; nodes are never removed, so that it only grows.
type zooKeeper struct {
	conn  *zk.Conn
	path  string
	calls chan struct{} // a place for each call under way
}

// maxCalls bounds the calls to ZooKeeper under way: the library's wait for as long as
// there is no connection.
const maxCalls = 64

// session is how long ZooKeeper remembers a client that is gone. Nothing here is bound
// to it.
const session = 10 * time.Second

// ZooKeeper returns a Keeper below a path of the ensemble at addrs, and makes the path
// when something is first written. It connects when it can.
func ZooKeeper(addrs []string, path string, log *slog.Logger) (Keeper, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	conn, _, err := zk.Connect(addrs, session, zk.WithLogger(zkLog{log}), zk.WithEventCallback(func(zk.Event) {}))
	if err != nil {
		return nil, fmt.Errorf("directory in ZooKeeper: %w", err)
	}
	return &zooKeeper{conn, "/" + strings.Trim(path, "/"), make(chan struct{}, maxCalls)}, nil
}

// zkLog takes what the library says, which is about every connect.
type zkLog struct{ log *slog.Logger }

func (l zkLog) Printf(format string, args ...any) {
	l.log.Debug("zookeeper client", "says", fmt.Sprintf(format, args...))
}

// errBusy is returned while too many calls wait for ZooKeeper.
var errBusy = errors.New("too many calls wait for ZooKeeper")

// call runs f, which may wait for longer than ctx allows.
func call[T any](ctx context.Context, k *zooKeeper, f func() (T, error)) (result T, err error) {
	select {
	case k.calls <- struct{}{}:
	default:
		return result, errBusy
	}
	type answer struct {
		result T
		err    error
	}
	done := make(chan answer, 1)
	go func() { // it ends with the connection, at the latest when that is closed
		defer func() { <-k.calls }()
		r, err := f()
		done <- answer{r, err}
	}()
	select {
	case a := <-done:
		return a.result, a.err
	case <-ctx.Done():
		return result, fmt.Errorf("ZooKeeper does not answer: %w", ctx.Err())
	}
}

func (k *zooKeeper) node(name string) string { return strings.TrimSuffix(k.path, "/") + "/" + name }

type document struct {
	bytes   []byte
	version uint64
	changed <-chan zk.Event
}

func (k *zooKeeper) Get(ctx context.Context, name string) ([]byte, uint64, error) {
	d, err := call(ctx, k, func() (document, error) {
		b, stat, err := k.conn.Get(k.node(name))
		if errors.Is(err, zk.ErrNoNode) {
			return document{}, nil
		}
		if err != nil {
			return document{}, err
		}
		return document{bytes: b, version: versionOf(stat)}, nil
	})
	return d.bytes, d.version, err
}

func versionOf(stat *zk.Stat) uint64 { return uint64(stat.Version) + 1 }

func (k *zooKeeper) Put(ctx context.Context, name string, b []byte, version uint64) (uint64, error) {
	next, err := call(ctx, k, func() (uint64, error) {
		if version == 0 {
			if err := k.parents(k.node(name)); err != nil {
				return 0, err
			}
			_, err := k.conn.Create(k.node(name), b, 0, zk.WorldACL(zk.PermAll))
			return 1, err
		}
		stat, err := k.conn.Set(k.node(name), b, int32(version-1))
		if err != nil {
			return 0, err
		}
		return versionOf(stat), nil
	})
	if errors.Is(err, zk.ErrNodeExists) || errors.Is(err, zk.ErrBadVersion) || errors.Is(err, zk.ErrNoNode) {
		return 0, fmt.Errorf("%s: %v: %w", name, err, ErrConflict)
	}
	return next, err
}

// parents makes the nodes above one.
func (k *zooKeeper) parents(node string) error {
	for i := 1; i < len(node); i++ {
		if node[i] != '/' {
			continue
		}
		if _, err := k.conn.Create(node[:i], nil, 0, zk.WorldACL(zk.PermAll)); err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return err
		}
	}
	return nil
}

func (k *zooKeeper) Wait(ctx context.Context, name string, version uint64) error {
	d, err := call(ctx, k, func() (document, error) {
		ok, stat, changed, err := k.conn.ExistsW(k.node(name))
		d := document{changed: changed}
		if err == nil && ok { // it may say that there is a node though it failed
			d.version = versionOf(stat)
		}
		return d, err
	})
	if err != nil || d.version != version {
		return err
	}
	select {
	case e := <-d.changed:
		return e.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *zooKeeper) Close() error {
	k.conn.Close()
	return nil
}
