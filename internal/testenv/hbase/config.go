package hbase

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
)

// A property is one of a Hadoop configuration file.
type property struct {
	Name  string `xml:"name"`
	Value string `xml:"value"`
}

func writeXML(path string, properties []property) error {
	data, err := xml.MarshalIndent(struct {
		XMLName    xml.Name   `xml:"configuration"`
		Properties []property `xml:"property"`
	}{Properties: properties}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append([]byte(xml.Header), data...), 0o644)
}

// A layout is where a server of either shape keeps its files and listens.
type layout struct {
	dir                    string
	zk, master             int
	region                 []int // one a region server
	name, nameWeb          int   // the NameNode's
	data, dataIPC, dataWeb int   // the DataNode's
}

func (l layout) conf() string { return filepath.Join(l.dir, "conf") }
func (l layout) tmp() string  { return filepath.Join(l.dir, "tmp") }

// site is what both shapes have in hbase-site.xml: small, on loopback, and
// quick to notice that a server is gone. The defaults take over 20 s for that:
// the pauses in lease recovery (4 s, paid twice when hbase:meta moves) and the
// master's own calls to the dead server (60 s) are what costs.
func (l layout) site() []property {
	return []property{
		{"hbase.tmp.dir", l.tmp()},
		{"hbase.zookeeper.quorum", "127.0.0.1"},
		{"hbase.zookeeper.property.clientPort", fmt.Sprint(l.zk)},
		{"hbase.zookeeper.property.dataDir", filepath.Join(l.dir, "zookeeper")},
		{"hbase.zookeeper.property.admin.enableServer", "false"},
		{"hbase.zookeeper.property.tickTime", "1000"},
		{"zookeeper.session.timeout", "4000"},
		{"hbase.master.hostname", "localhost"},
		{"hbase.regionserver.hostname", "localhost"},
		{"hbase.master.ipc.address", "127.0.0.1"},
		{"hbase.regionserver.ipc.address", "127.0.0.1"},
		{"hbase.master.port", fmt.Sprint(l.master)},
		{"hbase.master.info.port", "-1"},
		{"hbase.regionserver.info.port", "-1"},
		{"hbase.wal.provider", "filesystem"},
		{"hbase.unsafe.regionserver.hostname.disable.master.reversedns", "false"},
		{"hbase.regionserver.handler.count", "16"},
		{"hbase.regionserver.metahandler.count", "6"},
		{"hbase.master.handler.count", "8"},
		{"hbase.regionserver.global.memstore.size", "0.3"},
		{"hfile.block.cache.size", "0.2"},
		{"hbase.hregion.memstore.mslab.enabled", "false"},
		{"hbase.procedure.remote.dispatcher.delay.msec", "20"},
		{"hbase.master.wait.on.regionservers.mintostart", fmt.Sprint(len(l.region))},
		{"hbase.master.wait.on.regionservers.maxtostart", fmt.Sprint(len(l.region))},
		{"hbase.master.wait.on.regionservers.interval", "300"},
		{"hbase.master.wait.on.regionservers.timeout", "3000"},
		{"hbase.master.balancer.stochastic.maxRunningTime", "1000"},
		{"hbase.security.authentication", "simple"},
		{"hbase.lease.recovery.first.pause", "500"},
		{"hbase.lease.recovery.pause", "300"},
		{"hbase.lease.recovery.dfs.timeout", "4000"}, // until it is tried again; 64s by default
		{"hbase.regionserver.msginterval", "1000"},
		{"hbase.rpc.timeout", "2000"},
		{"hbase.client.pause", "50"},
	}
}

// standalone puts all in one process over local files. These have no lease that
// would fence a paused server: it can acknowledge a write that is lost.
func (l layout) standalone() []property {
	return append(l.site(),
		property{"hbase.cluster.distributed", "false"},
		property{"hbase.rootdir", "file://" + filepath.Join(l.dir, "hbase")},
		property{"hbase.unsafe.stream.capability.enforce", "false"},
		property{"hbase.regionserver.port", fmt.Sprint(l.region[0])},
	)
}

func (l layout) distributed() []property {
	return append(l.site(),
		property{"hbase.cluster.distributed", "true"},
		property{"hbase.rootdir", l.fs() + "/hbase"},
	)
}

func (l layout) fs() string { return fmt.Sprintf("hdfs://127.0.0.1:%d", l.name) }

func (l layout) core() []property {
	return []property{
		{"fs.defaultFS", l.fs()},
		{"hadoop.tmp.dir", l.tmp()},
	}
}

func (l layout) hdfs() []property {
	return []property{
		{"dfs.replication", "1"},
		{"dfs.namenode.name.dir", "file://" + filepath.Join(l.dir, "name")},
		{"dfs.namenode.rpc-address", fmt.Sprintf("127.0.0.1:%d", l.name)},
		{"dfs.namenode.http-address", fmt.Sprintf("127.0.0.1:%d", l.nameWeb)},
		{"dfs.namenode.safemode.extension", "0"},
		{"dfs.namenode.safemode.threshold-pct", "0.999f"},
		{"dfs.namenode.edits.noeditlogchannelflush", "true"},
		{"dfs.namenode.handler.count", "8"},
		{"dfs.namenode.lease-recheck-interval-ms", "1000"},
		{"dfs.datanode.data.dir", "file://" + filepath.Join(l.dir, "data")},
		{"dfs.datanode.address", fmt.Sprintf("127.0.0.1:%d", l.data)},
		{"dfs.datanode.ipc.address", fmt.Sprintf("127.0.0.1:%d", l.dataIPC)},
		{"dfs.datanode.http.address", fmt.Sprintf("127.0.0.1:%d", l.dataWeb)},
		{"dfs.datanode.hostname", "localhost"},
		{"dfs.datanode.handler.count", "8"},
		{"dfs.datanode.max.transfer.threads", "512"},
		{"dfs.datanode.synconclose", "false"},
		{"dfs.datanode.du.reserved", "0"},
		{"dfs.heartbeat.interval", "1"},
		{"dfs.permissions.enabled", "false"},
		{"dfs.client.block.write.replace-datanode-on-failure.policy", "NEVER"},
		{"dfs.client.socket-timeout", "10000"},
		{"ipc.client.connect.max.retries.on.timeouts", "3"},
	}
}

func (l layout) zooCfg() string {
	return fmt.Sprintf(`tickTime=1000
dataDir=%s
clientPort=%d
clientPortAddress=127.0.0.1
admin.enableServer=false
maxClientCnxns=0
minSessionTimeout=2000
maxSessionTimeout=60000
4lw.commands.whitelist=*
`, filepath.Join(l.dir, "zookeeper"), l.zk)
}

const log4j = `log4j.rootLogger=WARN,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %-5p [%t] %c{2}: %m%n
`

// write makes the directories and configuration files of a layout.
func (l layout) write(site []property) error {
	// HDFS looks for its web pages even where nobody asks for them.
	for _, dir := range []string{l.tmp(), filepath.Join(l.conf(), "webapps", "hdfs"), filepath.Join(l.conf(), "webapps", "datanode")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	files := map[string][]property{"hbase-site.xml": site}
	if l.name != 0 {
		files["core-site.xml"], files["hdfs-site.xml"] = l.core(), l.hdfs()
	}
	for name, properties := range files {
		if err := writeXML(filepath.Join(l.conf(), name), properties); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"zoo.cfg": l.zooCfg(), "log4j.properties": log4j} {
		if err := os.WriteFile(filepath.Join(l.conf(), name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
