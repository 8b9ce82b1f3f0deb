package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb"

	"darklaunch/dashboards"
	testhbase "darklaunch/internal/testenv/hbase"
)

// A scraped is what the programs of a run exported, kept as a Prometheus keeps it.
type scraped struct {
	t       *testing.T
	db      *tsdb.DB
	targets []scrapeTarget
	pages   map[string][]byte // the last of each target, by job
}

type scrapeTarget struct{ job, addr string }

func newScraped(t *testing.T) *scraped {
	t.Helper()
	db, err := tsdb.Open(t.TempDir(), nil, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &scraped{t: t, db: db, pages: map[string][]byte{}}
}

func (s *scraped) target(job, addr string) { s.targets = append(s.targets, scrapeTarget{job, addr}) }

// protobuf is asked for as Prometheus asks: in text there are no native histograms.
const protobuf = `application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited`

// scrape takes all targets' metrics in. One that does not answer has ended.
func (s *scraped) scrape() {
	s.t.Helper()
	for _, target := range s.targets {
		req, err := http.NewRequestWithContext(s.t.Context(), "GET", "http://"+target.addr+"/metrics", nil)
		if err != nil {
			s.t.Fatal(err)
		}
		req.Header.Set("Accept", protobuf)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			continue
		}
		s.pages[target.job] = body
		if err := s.take(target, body, resp.Header.Get("Content-Type")); err != nil {
			s.t.Fatalf("metrics of %s: %v", target.job, err)
		}
	}
}

func (s *scraped) take(target scrapeTarget, page []byte, kind string) error {
	p, err := textparse.New(page, kind, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	app := s.db.Appender(s.t.Context())
	of := func() labels.Labels {
		var l labels.Labels
		p.Labels(&l)
		b := labels.NewBuilder(l)
		return b.Set("job", target.job).Set("instance", target.addr).Labels()
	}
	for {
		entry, err := p.Next()
		switch {
		case errors.Is(err, io.EOF):
			return app.Commit()
		case err != nil:
			return errors.Join(err, app.Rollback())
		case entry == textparse.EntrySeries:
			_, _, v := p.Series()
			_, err = app.Append(0, of(), now, v)
		case entry == textparse.EntryHistogram:
			_, _, h, fh := p.Histogram()
			_, err = app.AppendHistogram(0, of(), now, h, fh)
		}
		if err != nil {
			return errors.Join(err, app.Rollback())
		}
	}
}

// query evaluates an expression now and returns how many series have a number.
func (s *scraped) query(e *promql.Engine, expr string) (int, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	q, err := e.NewInstantQuery(ctx, s.db, nil, expr, time.Now())
	if err != nil {
		return 0, err
	}
	defer q.Close()
	r := q.Exec(ctx)
	v, err := r.Vector()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, sample := range v {
		if sample.H != nil || !math.IsNaN(sample.F) {
			n++
		}
	}
	return n, nil
}

// families are what a program exported last.
func (s *scraped) families(job string) map[string]*dto.MetricFamily {
	s.t.Helper()
	all := map[string]*dto.MetricFamily{}
	d := expfmt.NewDecoder(bytes.NewReader(s.pages[job]), expfmt.NewFormat(expfmt.TypeProtoDelim))
	for {
		var f dto.MetricFamily
		if err := d.Decode(&f); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			s.t.Fatalf("metrics of %s: %v", job, err)
		}
		all[f.GetName()] = &f
	}
}

// A place is where a build keeps its mailboxes, and who says which of its servers
// serves a user.
type place struct{ store, coordinator string }

// exported has a mirror between users and three builds of the application server,
// live's a cell of two servers in a directory, and a verdict on them, and returns
// where what they export is. at makes a place for the build of that name.
func exported(t *testing.T, at func(s *scraped, role string) place) *scraped {
	t.Helper()
	s := newScraped(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	builds := map[string]string{}
	serve := func(role, store string, more ...string) {
		server := start(t, append([]string{"appserver", "serve", "--listen", "127.0.0.1:0", "--store", store, "--cache", "1MiB", "--metrics", "127.0.0.1:0"}, more...)...)
		s.target(role, server.ready("metrics"))
		builds[role] = server.ready("grpc")
	}
	for _, role := range []string{"shadow", "control"} {
		serve(role, at(s, role).store)
	}
	cell := at(s, "live")
	done(t, exitDone, "appserver", "init", "--coordinator", cell.coordinator)
	for _, name := range []string{"a", "b"} {
		serve("live", cell.store, "--name", name, "--coordinator", cell.coordinator, "--directory", cell.coordinator, "--reply-secret", "s")
	}
	done(t, exitDone, "cell", "add", "one", "--directory", cell.coordinator, "--server", builds["live"])
	judge := start(t, "verdict", "serve", "--listen", "127.0.0.1:0", "--config", file("verdict.yaml", hurried), "--admin", "127.0.0.1:0")
	s.target("verdict", judge.ready("admin"))
	verdictAddr := judge.ready("verdict")
	m := start(t, "mirror", "--listen", "127.0.0.1:0", "--live", builds["live"], "--shadow", builds["shadow"], "--control", builds["control"],
		"--key", "header:x-user", "--sample", "50%", "--salt", "run", "--mirror-unsafe", "--verdict", verdictAddr,
		"--scrape", "shadow=http://"+s.addr("shadow")+"/metrics", "--scrape", "control=http://"+s.addr("control")+"/metrics",
		"--config", file("mirror.yaml", "record: [\"json:$.id\"]\n"), "--admin", "127.0.0.1:0")
	s.target("mirror", m.ready("admin"))
	scenario := writeScenario(t, "apiVersion: load/v1\nextends: messages-chat\npopulation: {users: 200}\n"+
		"arrivals: {curve: [{phase: settle, for: 1s, hold: 8/s}, {phase: measure, for: 400s, hold: 8/s}]}\n"+
		"session: {think: {lognormal: {median: 150ms, sigma: 1, max: 2s}}}\n")
	load := start(t, "load", "run", scenario, "--target", m.ready("mirror"), "--metrics", "127.0.0.1:0")
	s.target("load", load.ready("metrics"))

	return s
}

func (s *scraped) addr(job string) string {
	i := slices.IndexFunc(s.targets, func(t scrapeTarget) bool { return t.job == job })
	return s.targets[i].addr
}

func promEngine() *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: 1e7, Timeout: time.Minute, EnableAtModifier: true, EnableNegativeOffset: true, Parser: parser.NewParser(parser.Options{}),
	})
}

// onRows gives each build a row store of its own.
func onRows(s *scraped, role string) place {
	r := start(s.t, "appserver", "store", "--listen", "127.0.0.1:0", "--data", s.t.TempDir(), "--metrics", "127.0.0.1:0")
	s.target("rows-"+role, r.ready("metrics"))
	rows := "rows:" + r.ready("rows")
	return place{rows, rows}
}

// empty are the queries that find nothing in such a run, and why, by dashboard,
// panel and legend.
var empty = map[string]string{
	"darklaunch-objective/Alerts that fire/firing": "nobody evaluates rules here",
}

const onHBaseAlone = "of HBase's client"

// An asking is one query of a panel, as a server gets it.
type asking struct{ where, expr string }

// askings are those of all dashboards, with all that a reader may choose at its default.
func askings() (all []asking) {
	for _, d := range dashboards.All() {
		value := d.Defaults("1m")
		for _, p := range d.Panels() {
			for _, q := range p.Queries {
				all = append(all, asking{d.UID + "/" + p.Title + "/" + q.Legend, dashboards.Expand(q.Expr, value)})
			}
		}
	}
	return all
}

// testPanels scrapes the run until every query of every dashboard has found
// something, but for those that may be empty.
func testPanels(t *testing.T, s *scraped, may map[string]string) {
	t.Helper()
	e := promEngine()
	left := askings()
	finds := func(a asking) bool {
		n, err := s.query(e, a.expr)
		if err != nil {
			t.Fatalf("%s: %v", a.where, err)
		}
		return n > 0
	}
	if finds(asking{"a metric that nobody exports", `rate(nobody_exports_this_total{job=~".+"}[1m])`}) {
		t.Error("a metric that nobody exports is found")
	}
	for where := range may {
		if !slices.ContainsFunc(left, func(a asking) bool { return a.where == where }) {
			t.Errorf("%s may be empty, and is on no dashboard", where)
		}
	}
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Second) {
		s.scrape()
		left = slices.DeleteFunc(left, finds)
		if !slices.ContainsFunc(left, func(a asking) bool { return may[a.where] == "" }) {
			break
		}
		if time.Now().After(deadline) {
			t.Error("waited 3 min for all queries to find something")
			break
		}
	}
	for _, a := range left {
		if why := may[a.where]; why != "" {
			t.Logf("%s is empty: %s", a.where, why)
		} else {
			t.Errorf("%s finds nothing: %s", a.where, a.expr)
		}
	}
	for _, a := range dashboards.Annotations() {
		if n, err := s.query(e, a.Expr); err != nil || n == 0 && strings.Contains(a.Expr, "loadgen_phase") {
			t.Errorf("annotation %s: got %d series, %v", a.Name, n, err)
		}
	}
}

// TestDashboards: in a run of all programs, each query of each panel finds
// something, and what the programs export is what the reference says.
func TestDashboards(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs for half a minute")
	}
	s := exported(t, onRows)
	may := maps.Clone(empty)
	for _, a := range askings() {
		if strings.Contains(a.expr, "gohbase_") {
			may[a.where] = onHBaseAlone
		}
	}
	testPanels(t, s, may)
	testReference(t, s)
}

// TestDashboardsOnHBase: so do those of HBase's client, where that is the store.
func TestDashboardsOnHBase(t *testing.T) {
	srv := testhbase.Standalone(t, testhbase.Shared)
	s := exported(t, func(_ *scraped, role string) place {
		name := fmt.Sprintf("dash-%s-%d", role, time.Now().UnixNano())
		on := place{fmt.Sprintf("hbase:%s/%s", srv.Quorum, name), fmt.Sprintf("zk:%s/%s", srv.Quorum, name)}
		done(t, exitDone, "appserver", "init", "--store", on.store, "--regions", "2")
		return on
	})
	testPanels(t, s, empty)
}
