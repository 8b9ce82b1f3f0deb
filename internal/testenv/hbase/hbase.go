// Package hbase lends tests a real HBase, in two shapes.
//
// Standalone is one process over local files: enough for what clients see, and
// for SIGKILL. Cluster is HDFS, ZooKeeper, a master and two region servers: a
// server of it may also be stopped and go on, where local files would lose
// acknowledged writes, as nothing fences a stopped writer there.
//
// Under testenv run each shape starts once for all packages, at the first
// request; else once for the package. Tests share it: each makes tables of its
// own. It is apart from package testenv because it needs an HBase client to
// know that HBase serves.
package hbase

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"darklaunch/internal/testenv"
	"darklaunch/internal/testenv/install"
	"darklaunch/internal/testenv/keeper"
	"darklaunch/internal/testenv/proc"
)

// A Hold says how a test holds a server.
type Hold int

const (
	// Shared is held together with other tests. The holder hurts nothing.
	Shared Hold = iota
	// Alone waits until nobody else holds the server and keeps others waiting
	// until the test ends. The holder may hurt it as it likes: it is made
	// whole afterwards.
	Alone
)

// Names of the Cluster's processes. The one of Standalone is Only.
const (
	Only      = "hbase"
	Master    = "master"
	Region1   = "rs1"
	Region2   = "rs2"
	ZooKeeper = "zk"
	NameNode  = "nn"
	DataNode  = "dn"
)

// A Server is a test's hold on an HBase, until the test ends. Its methods may
// be called from any goroutine of the test; a failure of theirs fails the test.
type Server struct {
	Quorum string // host:port of its ZooKeeper, which is what clients take

	t    testing.TB
	loan *keeper.Loan
}

// Standalone returns the HBase of one process.
func Standalone(t testing.TB, hold Hold) *Server {
	t.Helper()
	return borrow(t, standalone, hold)
}

// Cluster returns the distributed HBase.
func Cluster(t testing.TB, hold Hold) *Server {
	t.Helper()
	return borrow(t, cluster, hold)
}

func borrow(t testing.TB, server string, hold Hold) *Server {
	t.Helper()
	testenv.Need(t, install.HBase)
	// Subtests hold in the name of their parent: they must not wait for it.
	name, _, _ := strings.Cut(t.Name(), "/")
	request := keeper.Request{
		Server:    server,
		Holder:    fmt.Sprintf("%s (process %d)", name, os.Getpid()),
		Exclusive: hold == Alone,
	}
	loan, err := lender(t)(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range loan.Processes {
				t.Logf("the last lines of %s:\n%s", p.Name, proc.Tail(p.Log, 30))
			}
		}
		if err := loan.Close(); err != nil {
			t.Errorf("hand %s back: %v", server, err)
		}
	})
	return &Server{Quorum: loan.Addr, t: t, loan: loan}
}

// Borrow lends the HBase of one process to a command that is no test, from the keeper
// that listens on socket.
func Borrow(socket, holder string) (*keeper.Loan, error) {
	return keeper.Dial(socket, keeper.Request{Server: standalone, Holder: holder})
}

// lender is the keeper that testenv run has started, or one for the package.
func lender(t testing.TB) func(keeper.Request) (*keeper.Loan, error) {
	t.Helper()
	if socket := os.Getenv(keeper.Socket); socket != "" {
		return func(r keeper.Request) (*keeper.Loan, error) { return keeper.Dial(socket, r) }
	}
	l := testenv.Launcher(t)
	k := testenv.Shared(t, "keeper", func(context.Context) (*keeper.Keeper, error) {
		return keeper.New(Starts(l), nil), nil
	})
	return k.Borrow
}

// drain is how long a region server is stopped before it is killed.
const drain = time.Second

// Kill ends a process with SIGKILL and returns when it is gone. A region server is
// stopped for a moment before that, so that what it has sent to the DataNode is on the
// disk: one that dies in the middle of a write can leave the last block of its log with
// more bytes in the DataNode's mind than on its disk ("Block length mismatch"), and its
// regions wait until the DataNode is started again. With more than one DataNode another
// has the block; here there is one.
func (s *Server) Kill(process string) {
	s.t.Helper()
	if process == Region1 || process == Region2 {
		s.Stop(process)
		time.Sleep(drain)
	}
	s.check(s.loan.Kill(process))
}

// Stop stops a process with SIGSTOP and returns when it is stopped.
func (s *Server) Stop(process string) { s.t.Helper(); s.check(s.loan.Stop(process)) }

// Continue lets a stopped process go on with SIGCONT. A region server that was
// stopped for longer than its session of 4s ends itself soon after.
func (s *Server) Continue(process string) { s.t.Helper(); s.check(s.loan.Continue(process)) }

// Restart starts a process again at its address, ending it first where it runs,
// and returns when it is ready; a region server, when the master knows it.
func (s *Server) Restart(process string) { s.t.Helper(); s.check(s.loan.Restart(process)) }

// Runs reports whether a process takes connections, as a stopped one does too. On a
// machine that is too busy for it a region server may lose its session and end itself.
func (s *Server) Runs(process string) bool {
	for _, p := range s.loan.Processes {
		if p.Name == process {
			conn, err := net.DialTimeout("tcp", p.Addr, time.Second)
			if err == nil {
				_ = conn.Close()
			}
			return err == nil
		}
	}
	s.t.Errorf("no process is named %q", process)
	return false
}

// Log returns what a process has written so far, at most its last n lines.
func (s *Server) Log(process string, n int) string {
	for _, p := range s.loan.Processes {
		if p.Name == process {
			return proc.Tail(p.Log, n)
		}
	}
	s.t.Errorf("no process is named %q", process)
	return ""
}

func (s *Server) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Error(err)
	}
}
