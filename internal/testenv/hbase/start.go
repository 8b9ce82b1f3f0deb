package hbase

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"darklaunch/internal/testenv/install"
	"darklaunch/internal/testenv/keeper"
	"darklaunch/internal/testenv/proc"
)

// Names of the two shapes, as the keeper knows them.
const (
	standalone = "hbase-standalone"
	cluster    = "hbase-cluster"
)

// Starts tells a keeper how to start both shapes by means of l.
func Starts(l *proc.Launcher) keeper.Starts {
	return keeper.Starts{
		standalone: func(ctx context.Context) (*proc.Group, error) { return startStandalone(ctx, l) },
		cluster:    func(ctx context.Context) (*proc.Group, error) { return startCluster(ctx, l) },
	}
}

// A starter starts the processes of one group.
type starter struct {
	layout
	launcher  *proc.Launcher
	java, lib string
	group     *proc.Group
}

func newStarter(l *proc.Launcher, g *proc.Group) (*starter, error) {
	s := &starter{launcher: l, group: g}
	var err error
	if s.java, err = install.Locate(install.Java); err != nil {
		return nil, err
	}
	s.lib, err = install.Locate(install.HBase)
	return s, err
}

// jvm returns the arguments that run class with at most heap of memory. The
// simple collector and compiler start soonest and are smallest.
func (s *starter) jvm(heap, class string, args ...string) []string {
	opens := "--add-opens=java.base/"
	return append([]string{"-Xmx" + heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss512k",
		"-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData",
		opens + "java.lang=ALL-UNNAMED", opens + "java.nio=ALL-UNNAMED", opens + "sun.nio.ch=ALL-UNNAMED",
		opens + "java.lang.reflect=ALL-UNNAMED", opens + "java.util.concurrent=ALL-UNNAMED",
		"--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED",
		"-Djava.net.preferIPv4Stack=true", "-Djava.io.tmpdir=" + s.tmp(), "-Dhadoop.log.dir=" + s.dir,
		"-cp", s.conf() + ":" + filepath.Join(s.lib, "*"), class}, args...)
}

// spawn starts a process that listens on ports, the first of them for clients.
func (s *starter) spawn(name string, argv []string, ports ...int) (*proc.Process, error) {
	return s.spawnReady(name, argv, nil, ports...)
}

func (s *starter) spawnReady(name string, argv []string, ready func(context.Context) error, ports ...int) (*proc.Process, error) {
	p, err := s.launcher.Spawn(proc.Spec{
		Name:   name,
		Addr:   loopback(ports[0]),
		Path:   s.java,
		Args:   argv,
		Dir:    s.dir,
		Log:    filepath.Join(s.dir, name+".log"),
		Ports:  ports,
		Ready:  ready,
		Within: 90 * time.Second,
		End:    syscall.SIGKILL, // its data goes with it
	})
	if err != nil {
		return nil, err
	}
	s.group.Processes = append(s.group.Processes, p)
	return p, nil
}

const (
	masterClass = "org.apache.hadoop.hbase.master.HMaster"
	regionClass = "org.apache.hadoop.hbase.regionserver.HRegionServer"
	quorumClass = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
	nameClass   = "org.apache.hadoop.hdfs.server.namenode.NameNode"
	dataClass   = "org.apache.hadoop.hdfs.server.datanode.DataNode"
)

func startStandalone(ctx context.Context, l *proc.Launcher) (*proc.Group, error) {
	return proc.Retry(3, func(ports []int) (*proc.Group, error) {
		g := &proc.Group{Name: standalone, Addr: loopback(ports[0]), Within: 2 * time.Minute}
		return l.Build(ctx, g, func() error {
			s, err := newStarter(l, g)
			if err != nil {
				return err
			}
			s.layout = layout{dir: g.Dir, zk: ports[0], master: ports[1], region: ports[2:]}
			if err := s.write(s.standalone()); err != nil {
				return err
			}
			ready := func(ctx context.Context) error { return serves(ctx, g.Addr, s.region, g.Processes) }
			_, err = s.spawnReady("hbase", s.jvm("384m", masterClass, "start"), ready, ports...)
			return err
		})
	})
}

func startCluster(ctx context.Context, l *proc.Launcher) (*proc.Group, error) {
	return proc.Retry(9, func(ports []int) (*proc.Group, error) {
		g := &proc.Group{Name: cluster, Addr: loopback(ports[0]), Within: 3 * time.Minute}
		return l.Build(ctx, g, func() error {
			s, err := newStarter(l, g)
			if err != nil {
				return err
			}
			s.layout = layout{
				dir: g.Dir, zk: ports[0], master: ports[1], region: ports[2:4],
				name: ports[4], nameWeb: ports[5], data: ports[6], dataIPC: ports[7], dataWeb: ports[8],
			}
			return s.cluster(ctx)
		})
	})
}

// cluster starts the processes of a distributed HBase: HDFS with one DataNode,
// ZooKeeper, a master and the region servers.
func (s *starter) cluster(ctx context.Context) error {
	if err := s.write(s.distributed()); err != nil {
		return err
	}
	zk, err := s.spawn("zk", s.jvm("48m", quorumClass, filepath.Join(s.conf(), "zoo.cfg")), s.zk)
	if err != nil {
		return err
	}
	if out, err := s.launcher.Output(ctx, s.java, s.jvm("96m", nameClass, "-format", "-nonInteractive")...); err != nil {
		return fmt.Errorf("format the NameNode: %w\n%s", err, out)
	}
	nn, err := s.spawn("nn", s.jvm("96m", nameClass), s.name, s.nameWeb)
	if err != nil {
		return err
	}
	// HBase waits long between two tries when it comes before these.
	for _, p := range []*proc.Process{zk, nn} {
		if err := p.Await(ctx); err != nil {
			return err
		}
	}
	if _, err := s.spawn("dn", s.jvm("96m", dataClass), s.data, s.dataIPC, s.dataWeb); err != nil {
		return err
	}
	if _, err := s.spawn("master", s.jvm("160m", masterClass, "start"), s.master); err != nil {
		return err
	}
	var servers []*proc.Process
	for i, port := range s.region {
		// Its own readiness is the master's knowledge of it, so that Restart
		// returns when it takes regions.
		ready := func(ctx context.Context) error {
			return registered(ctx, s.group.Addr, []int{port}, servers[i:i+1])
		}
		argv := s.jvm("192m", regionClass, "-D", "hbase.regionserver.port="+strconv.Itoa(port), "start")
		p, err := s.spawnReady(fmt.Sprintf("rs%d", i+1), argv, ready, port)
		if err != nil {
			return err
		}
		servers = append(servers, p)
	}
	s.group.Ready = func(ctx context.Context) error { return serves(ctx, s.group.Addr, s.region, servers) }
	return nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
