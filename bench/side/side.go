// Package side compares programs that do the same job, side by side: in one
// run, on one machine, turn by turn, so that what disturbs one disturbs all.
// It measures what a process costs in CPU, and keeps the tables that come of it
// in bench/RESULTS.md. On a shared machine only the ratios mean anything.
package side

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"darklaunch/verdict/stat"
)

// CPU is the time that a process and its live children have run on a core, all
// threads together, as /proc/PID/task/*/schedstat counts it in nanoseconds.
// Threads and children that have ended are not in it.
func CPU(pid int) (time.Duration, error) {
	var sum time.Duration
	err := family(pid, func(pid int) error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*", pid))
		if err != nil || len(tasks) == 0 {
			return fmt.Errorf("process %d: %w", pid, fs.ErrNotExist)
		}
		for _, task := range tasks {
			ran, err := taskCPU(task)
			if err != nil {
				return err
			}
			sum += ran
		}
		return nil
	})
	return sum, err
}

func taskCPU(task string) (time.Duration, error) {
	b, err := os.ReadFile(task + "/schedstat")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // the thread has just ended
	}
	if err != nil {
		return 0, err
	}
	ran, _, _ := strings.Cut(string(b), " ")
	ns, err := strconv.ParseInt(ran, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s/schedstat: %w", task, err)
	}
	return time.Duration(ns), nil
}

// A Variant is one of the programs compared.
type Variant struct {
	Name string

	// Run does the job once and returns what it measured, by name. Every run
	// of every variant returns the same names.
	Run func() (map[string]float64, error)
}

// Results holds for each variant, in order, and each measure the values of all
// rounds.
type Results struct {
	Variants []string
	values   map[string]map[string][]float64
}

// Interleave runs every variant once a round, in turn, and turns the order
// round every other time, so that a drift of the machine favours none.
func Interleave(rounds int, variants ...Variant) (*Results, error) {
	r := &Results{values: map[string]map[string][]float64{}}
	for _, v := range variants {
		r.Variants = append(r.Variants, v.Name)
		r.values[v.Name] = map[string][]float64{}
	}
	for round := range rounds {
		for i := range variants {
			if round%2 == 1 {
				i = len(variants) - 1 - i
			}
			v := variants[i]
			measured, err := v.Run()
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", v.Name, round+1, err)
			}
			for name, x := range measured {
				r.values[v.Name][name] = append(r.values[v.Name][name], x)
			}
		}
	}
	return r, nil
}

// Median is the middle of a variant's values of a measure.
func (r *Results) Median(variant, measure string) float64 {
	return median(r.values[variant][measure])
}

// Ratio is the median over rounds of variant ÷ base within each round, with
// the least and the greatest.
func (r *Results) Ratio(variant, base, measure string) (mid, low, high float64) {
	over, under := r.values[variant][measure], r.values[base][measure]
	var ratios []float64
	for i := range over {
		ratios = append(ratios, over[i]/under[i])
	}
	return median(ratios), slices.Min(ratios), slices.Max(ratios)
}

// Differences are variant − base within each round.
func (r *Results) Differences(variant, base, measure string) []float64 {
	from := r.values[base][measure]
	d := slices.Clone(r.values[variant][measure])
	for i := range d {
		d[i] -= from[i]
	}
	return d
}

// An Interval is the centre of values, and 95 % bounds of it.
type Interval struct{ Centre, Lower, Upper float64 }

// Paired is the Hodges–Lehmann estimate of differences within pairs, with bounds by
// signed ranks: one pair that the machine spoilt does not move it. With less than six
// the bounds are infinite.
func Paired(differences []float64) Interval {
	const alpha = 0.05
	lower, upper, ok := stat.RankInterval(differences, alpha)
	low, high, _ := stat.RankInterval(differences, 1) // no error allowed for leaves the centre
	centre := (low + high) / 2
	if !ok && len(differences) > 100 { // too many for ranks
		centre = stat.Mean(differences)
		lower, upper = stat.MeanInterval(differences, 1, alpha)
	}
	return Interval{centre, lower, upper}
}

// Said tells whether what lies between bounds is at most limit.
func Said(lower, upper, limit float64) string {
	switch {
	case upper <= limit:
		return "holds"
	case lower > limit:
		return "**does not hold**"
	}
	return "not settled"
}

func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// A Column is a measure as a table shows it.
type Column struct {
	Measure string
	Title   string // with the unit
	Format  string // of fmt, for a float64
}

// Table is a Markdown table: a row a variant, medians, and for the first column
// the ratio to base.
func (r *Results) Table(base string, columns ...Column) string {
	var b strings.Builder
	b.WriteString("| | " + columns[0].Title + " | ÷ " + base + " |")
	for _, c := range columns[1:] {
		b.WriteString(" " + c.Title + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(columns)+1) + "\n")
	for _, v := range r.Variants {
		mid, low, high := r.Ratio(v, base, columns[0].Measure)
		fmt.Fprintf(&b, "| %s | "+columns[0].Format+" | %.2f [%.2f, %.2f] |", v, r.Median(v, columns[0].Measure), mid, low, high)
		for _, c := range columns[1:] {
			fmt.Fprintf(&b, " "+c.Format+" |", r.Median(v, c.Measure))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// A Claim bounds the ratio of a measure of two variants.
type Claim struct {
	Over, Base string
	Limit      float64
}

// Text is a line of Markdown on whether the claim holds in every round, in none,
// or cannot be told, as by less than three rounds. A variant that was not
// measured is not there yet.
func (c Claim) Text(r *Results, measure string) string {
	said := fmt.Sprintf("* %s ≤ %.2f × %s: ", c.Over, c.Limit, c.Base)
	if !slices.Contains(r.Variants, c.Over) || !slices.Contains(r.Variants, c.Base) {
		return said + "not there yet.\n"
	}
	mid, low, high := r.Ratio(c.Over, c.Base, measure)
	verdict := Said(low, high, c.Limit)
	if len(r.values[c.Over][measure]) < 3 {
		verdict = "not settled by so few rounds"
	}
	return fmt.Sprintf("%s%.2f [%.2f, %.2f], %s.\n", said, mid, low, high, verdict)
}

// Record puts text in place of the section called name in a file of results,
// or adds the section at the end. Other sections stay as they are.
func Record(file, name, text string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
	section := begin + strings.TrimRight(text, "\n") + "\n" + end
	before, rest, found := bytes.Cut(old, []byte(begin))
	if !found {
		return os.WriteFile(file, []byte(string(old)+"\n"+section), 0o644)
	}
	_, after, found := bytes.Cut(rest, []byte(end))
	if !found {
		return fmt.Errorf("%s: the section %s has no end", file, name)
	}
	return os.WriteFile(file, slices.Concat(before, []byte(section), after), 0o644)
}

// Machine is a line on where and when figures were measured.
func Machine() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	now, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf("%s, %d × %s, Linux %s, %s, load average %s before the run",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), field("/proc/cpuinfo", "model name"),
		bytes.TrimSpace(kernel), runtime.Version(), now)
}

// Command is how this test binary was started, as one would ask the go command
// for it, without what is of no account for figures.
func Command() string {
	info, _ := debug.ReadBuildInfo()
	return command(os.Args, strings.TrimPrefix(info.Path, info.Main.Path+"/"))
}

// command takes the path of the test binary's package below the module's.
func command(args []string, path string) string {
	words := []string{"go test"}
	for _, a := range args[1:] {
		switch name, _, _ := strings.Cut(strings.TrimPrefix(a, "-test."), "="); name {
		case "paniconexit0", "testlogfile", "timeout":
		default:
			words = append(words, strings.Replace(a, "-test.", "-", 1))
		}
	}
	return strings.Join(append(words, "./"+strings.TrimSuffix(path, ".test")), " ")
}

func field(file, name string) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown " + name
}

// Usage is what a process and its live children hold.
type Usage struct {
	RSS         int64 // bytes; pages that several share count for each
	Descriptors int
}

// UsageOf asks the kernel for a process's usage, as CPU does for its time.
func UsageOf(pid int) (Usage, error) {
	var u Usage
	err := family(pid, func(pid int) error {
		statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			return err
		}
		fields := strings.Fields(string(statm))
		if len(fields) < 2 {
			return fmt.Errorf("/proc/%d/statm: got %q", pid, statm)
		}
		pages, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return fmt.Errorf("/proc/%d/statm: %w", pid, err)
		}
		u.RSS += pages * int64(os.Getpagesize())
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		u.Descriptors += len(open)
		return err
	})
	return u, err
}

// family visits a process and its live children, and theirs. That a child ends
// meanwhile is no error.
func family(pid int, visit func(pid int) error) error {
	if err := visit(pid); err != nil {
		return err
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/children", pid))
	if err != nil {
		return err
	}
	for _, list := range lists {
		children, err := os.ReadFile(list)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, child := range strings.Fields(string(children)) {
			id, err := strconv.Atoi(child)
			if err != nil {
				return fmt.Errorf("%s: %w", list, err)
			}
			if err := family(id, visit); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
