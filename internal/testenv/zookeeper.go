package testenv

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"darklaunch/internal/testenv/install"
	"darklaunch/internal/testenv/proc"
)

// ZooKeeper returns the package's ZooKeeper. Its sessions may be as short as
// 400 ms. It starts empty; tests keep to paths of their own.
func ZooKeeper(t testing.TB) *Server {
	t.Helper()
	tools := Need(t, install.Java, install.ZooKeeper)
	g := shared(t, "zookeeper", func(ctx context.Context) (*proc.Group, error) {
		return zookeeper(ctx, env.launcher, tools[0], tools[1], 1)
	})
	return &Server{t: t, p: g.Processes[0], Addr: g.Processes[0].Addr()}
}

// ZooKeeperEnsemble starts an ensemble of three for the test. A client takes
// all three addresses.
func ZooKeeperEnsemble(t testing.TB) []*Server {
	t.Helper()
	tools := Need(t, install.Java, install.ZooKeeper)
	g, err := zookeeper(t.Context(), Launcher(t), tools[0], tools[1], 3)
	own(t, g, err)
	var servers []*Server
	for _, p := range g.Processes {
		servers = append(servers, &Server{t: t, p: p, Addr: p.Addr()})
	}
	return servers
}

// zookeeper starts n servers; several are one ensemble.
func zookeeper(ctx context.Context, l *proc.Launcher, java, jar string, n int) (*proc.Group, error) {
	return proc.Retry(3*n, func(ports []int) (*proc.Group, error) {
		g := &proc.Group{Name: "zookeeper"}
		return l.Build(ctx, g, func() error {
			var members strings.Builder
			for i := range n {
				if n > 1 {
					fmt.Fprintf(&members, "server.%d=127.0.0.1:%d:%d\n", i+1, ports[n+i], ports[2*n+i])
				}
			}
			for i := range n {
				spec, err := zookeeperSpec(g.Dir, java, jar, i+1, ports[i], members.String())
				if err != nil {
					return err
				}
				p, err := l.Spawn(spec)
				if err != nil {
					return err
				}
				g.Processes = append(g.Processes, p)
			}
			g.Ready = func(ctx context.Context) error {
				for i := range n {
					if err := zookeeperReady(ctx, loopback(ports[i])); err != nil {
						return err
					}
				}
				return nil
			}
			return nil
		})
	})
}

func zookeeperSpec(dir, java, jar string, id, port int, members string) (proc.Spec, error) {
	name := fmt.Sprintf("zookeeper%d", id)
	home := filepath.Join(dir, name)
	if err := os.Mkdir(home, 0o755); err != nil {
		return proc.Spec{}, err
	}
	conf := fmt.Sprintf(`dataDir=%s
clientPort=%d
clientPortAddress=127.0.0.1
tickTime=200
initLimit=50
syncLimit=25
minSessionTimeout=400
maxClientCnxns=0
admin.enableServer=false
4lw.commands.whitelist=*
%s`, home, port, members)
	if err := os.WriteFile(filepath.Join(home, "myid"), fmt.Append(nil, id), 0o644); err != nil {
		return proc.Spec{}, err
	}
	if err := os.WriteFile(filepath.Join(home, "zoo.cfg"), []byte(conf), 0o644); err != nil {
		return proc.Spec{}, err
	}
	return proc.Spec{
		Name:  name,
		Addr:  loopback(port),
		Ports: []int{port},
		Path:  java,
		Args: []string{"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
			"-Djava.io.tmpdir=" + home, "-Dzookeeper.extendedTypesEnabled=true",
			"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
			// Without a log binding ZooKeeper is silent, even about why it ends.
			"-cp", jar + ":" + filepath.Join(filepath.Dir(jar), "slf4j-simple.jar"),
			"org.apache.zookeeper.server.quorum.QuorumPeerMain", "./zoo.cfg"},
		Dir: home,
		Log: filepath.Join(dir, name+".log"),
		// Not whether it serves: of an ensemble restarted one by one the first
		// cannot.
		Ready: func(ctx context.Context) error {
			answer, err := ask(ctx, loopback(port), "ruok")
			if err == nil && answer != "imok" {
				err = fmt.Errorf("zookeeper answers ruok with %q", answer)
			}
			return err
		},
	}, nil
}

// zookeeperReady asks for the server's mode: ruok is answered even without a
// quorum.
func zookeeperReady(ctx context.Context, addr string) error {
	answer, err := ask(ctx, addr, "srvr")
	if err == nil && !strings.Contains(answer, "Mode: ") {
		err = fmt.Errorf("zookeeper at %s does not serve yet: %q", addr, answer)
	}
	return err
}

// ask sends one request and returns the answer up to the connection's end or
// an \r\n at its own end.
func ask(ctx context.Context, addr, request string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	var answer strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		answer.Write(buf[:n])
		switch {
		case err == io.EOF || strings.HasSuffix(answer.String(), "\r\n"):
			return answer.String(), nil
		case err != nil:
			return "", err
		}
	}
}
