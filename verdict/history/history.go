// Package history keeps what gates measured of one branch, a line of JSON for each
// metric and run, and finds where in it the level changed.
//
// It tells when something became slower on main, which is another question than
// whether a change does; it never decides a gate. Figures of machines with
// different fingerprints are never compared.
//
// The package is pure.
package history

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"darklaunch/verdict/judge"
	"darklaunch/verdict/stat"
)

// Record is one metric of one run.
type Record struct {
	Time   time.Time `json:"time"`
	Commit string    `json:"commit"`
	// Fingerprint is a hash of the machine's facts and of the load.
	Fingerprint string  `json:"fingerprint"`
	Name        string  `json:"name"`
	Stat        string  `json:"stat,omitempty"`
	Route       string  `json:"route"`
	Unit        string  `json:"unit"`
	Value       float64 `json:"value"`
	// SD is the standard deviation of the run's blocks, Blocks their number.
	SD     float64 `json:"sd"`
	Blocks int     `json:"blocks"`
}

// Of returns what d says of head.
func Of(d *judge.Document) (records []Record) {
	i := slices.IndexFunc(d.Arms, func(a judge.Arm) bool { return a.Role == judge.Head })
	if i < 0 {
		return nil
	}
	head := d.Arms[i]
	for _, m := range d.Metrics {
		v := m.Values.Head
		if v == nil || math.IsNaN(*v) || math.IsInf(*v, 0) {
			continue
		}
		var blocks []float64
		for _, p := range m.Series {
			if p.Values.Head != nil {
				blocks = append(blocks, *p.Values.Head)
			}
		}
		r := Record{Time: d.JudgedAt, Commit: head.Version, Fingerprint: fingerprint(&head), Name: m.Name, Stat: m.Stat, Route: m.Route, Unit: m.Unit, Value: *v, Blocks: m.Blocks}
		if len(blocks) > 1 {
			r.SD = math.Sqrt(stat.Variance(blocks))
		}
		records = append(records, r)
	}
	return records
}

func fingerprint(a *judge.Arm) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q", a.Plan)
	for _, name := range slices.Sorted(maps.Keys(a.Fingerprint)) {
		fmt.Fprintf(h, "%q%q", name, a.Fingerprint[name])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Encode is the records as lines, to be added to a file.
func Encode(records []Record) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for _, r := range records {
		if err := e.Encode(r); err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
	}
	return b.Bytes(), nil
}

// Read reads lines that Encode has made. An error names the line; a last line
// without its end, which a run left that was killed, is no error and no record.
func Read(r io.Reader) (records []Record, err error) {
	lines := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return records, nil
		}
		if err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var rec Record
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&rec); err != nil {
			return nil, fmt.Errorf("history: line %d: %w", n, err)
		}
		records = append(records, rec)
	}
}

// Change is where a metric's level changed.
type Change struct {
	Record         // the first of the new level
	Before float64 // mean of the level before
	After  float64
	P      float64
}

// Effect is how much the new level is above the one before: a ratio less one.
func (c *Change) Effect() float64 { return c.After/c.Before - 1 }

// The newest runs of a metric that are looked at; how sure and how large a change
// must be, and how many runs make a level.
const (
	window    = 200
	level     = 0.001
	magnitude = 0.05
	shortest  = 4
)

// Changes finds the changes in what was recorded on the machine and under the load
// of the newest record, in the order in which they happened.
func Changes(records []Record) (changes []Change) {
	if len(records) == 0 {
		return nil
	}
	newest := records[len(records)-1].Fingerprint
	type key struct{ name, stat, route string }
	series := map[key][]Record{}
	for _, r := range records {
		if r.Fingerprint == newest {
			k := key{r.Name, r.Stat, r.Route}
			series[k] = append(series[k], r)
		}
	}
	for _, s := range series {
		s = s[max(0, len(s)-window):]
		values := make([]float64, len(s))
		for i, r := range s {
			values[i] = r.Value
		}
		points := Split(values)
		for i, at := range points {
			from, to := 0, len(values)
			if i > 0 {
				from = points[i-1]
			}
			if i < len(points)-1 {
				to = points[i+1]
			}
			before, after := values[from:at], values[at:to]
			changes = append(changes, Change{s[at], stat.Mean(before), stat.Mean(after), welch(before, after)})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Stat, b.Stat), cmp.Compare(a.Route, b.Route))
	})
	return changes
}

// Split returns where the level of values changes, ascending: each is the index of
// the first value of a new level.
//
// Where to split is asked of the energy statistic of Matteson and James, "A
// Nonparametric Approach for Multiple Change Point Analysis of Multivariate Data"
// (2014), whether to of Welch's t-test instead of their permutations, as
// Daly and others do in "Hunter: Using Change Point Detection to Hunt for
// Performance Regressions" (2023); so the answer is the same each time. The parts
// are then split on.
func Split(values []float64) (points []int) {
	at, ok := best(values)
	if !ok {
		return nil
	}
	points = append(points, Split(values[:at])...)
	points = append(points, at)
	for _, p := range Split(values[at:]) {
		points = append(points, at+p)
	}
	return points
}

// best is the split of values with the greatest divergence, if it is a change.
func best(values []float64) (at int, ok bool) {
	n := len(values)
	if n < 2*shortest {
		return 0, false
	}
	distance := func(i, j int) float64 { return math.Abs(values[i] - values[j]) }
	// Sums of the distances within the left part, within the right one, and between,
	// kept up to date while values go from right to left.
	var within, rest, between float64
	for i := range n {
		for j := range i {
			rest += distance(i, j)
		}
	}
	most := 0.0
	for k := range n - shortest {
		var left, right float64
		for i := range k {
			left += distance(i, k)
		}
		for j := k + 1; j < n; j++ {
			right += distance(k, j)
		}
		within, rest, between = within+left, rest-right, between-left+right
		if k+1 < shortest {
			continue
		}
		a, b := float64(k+1), float64(n-k-1)
		q := a * b / (a + b) * (2*between/(a*b) - within/(a*(a-1)/2) - rest/(b*(b-1)/2))
		if q > most {
			most, at = q, k+1
		}
	}
	if at == 0 {
		return 0, false
	}
	before, after := stat.Mean(values[:at]), stat.Mean(values[at:])
	if math.Abs(after-before) < magnitude*math.Abs(before) {
		return 0, false
	}
	return at, welch(values[:at], values[at:]) < level
}

// welch is the two-sided p-value of equal means.
func welch(x, y []float64) float64 {
	vx, vy := stat.Variance(x)/float64(len(x)), stat.Variance(y)/float64(len(y))
	diff := math.Abs(stat.Mean(x) - stat.Mean(y))
	if vx+vy == 0 {
		if diff == 0 {
			return 1
		}
		return 0
	}
	df := (vx + vy) * (vx + vy) / (vx*vx/float64(len(x)-1) + vy*vy/float64(len(y)-1))
	return min(1, 2*stat.StudentTest(diff, math.Sqrt(vx+vy), df, 0))
}
