package lanes

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// A state directory holds two files. users is who was clean when the last run
// ended, written once, then. running is locked while a mirror has the
// directory, and empty unless one does or has died: what a run that died had
// noted is worth nothing, as it can't tell what was missed since; so nothing is
// written while it lasts.
const (
	usersFile   = "users"
	runningFile = "running"
	stateHeader = "darklaunch users v1 crc32c %08x\n"
)

// ErrInUse is returned by Open when another mirror has the state directory.
var ErrInUse = errors.New("in use by another mirror")

// ErrCorrupt is returned by Open when the state cannot be trusted. Removing the
// directory starts a new experiment, in which all users are taken for clean.
var ErrCorrupt = errors.New("corrupt")

// Start is how a run of the lanes began.
type Start int

const (
	// NewExperiment: who was admitted is taken for clean, by the operator's word.
	NewExperiment Start = iota
	// Continued: it is known who is clean.
	Continued
	// Distrusted: the last run died, and all users are tainted until seeded.
	Distrusted
)

type state struct {
	dir     string
	salt    string // hashed
	running *os.File
	started bool // there is an experiment, and the directory says that it runs
}

type savedState struct {
	Salt    string        `json:"salt"`
	Stopped int64         `json:"stopped"`
	Cohorts []savedCohort `json:"cohorts"`
	Users   []savedUser   `json:"users"`
}

type savedCohort struct {
	Below int32                     `json:"below"`
	On    map[string]savedCondition `json:"on"` // by role; one that is not there is tainted
}

type savedUser struct {
	ID   uint64                    `json:"id,string"`
	Rank int32                     `json:"rank"`
	On   map[string]savedCondition `json:"on"`
}

type savedCondition struct {
	Clean  bool  `json:"clean,omitempty"`
	Mark   int64 `json:"mark,omitempty"`
	Missed int64 `json:"missed,omitempty"`
}

// openState takes the directory and brings c to the state in it. Without one,
// or where nobody can be tainted, each run starts anew; then it returns nil.
func openState(cfg Config, c *core, now int64) (*state, Start, error) {
	cfg.Sample = max(cfg.Sample, 0)
	admit := max(cfg.Sample, cfg.Admit)
	c.sample, c.admit, c.cap = cfg.Sample, admit, admit
	c.start(admit, now)
	if cfg.State == "" {
		return nil, NewExperiment, nil
	}
	sum := sha256.Sum256([]byte("darklaunch experiment " + cfg.Salt))
	s := &state{dir: cfg.State, salt: hex.EncodeToString(sum[:8])}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, 0, err
	}
	died, err := s.lock()
	if err != nil {
		return nil, 0, err
	}
	start, err := s.load(c, cfg, died, now)
	if err != nil {
		s.running.Close()
		return nil, 0, err
	}
	return s, start, nil
}

// lock takes the directory, and reports whether the last to have it died.
func (s *state) lock() (died bool, err error) {
	s.running, err = os.OpenFile(filepath.Join(s.dir, runningFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	if err := syscall.Flock(int(s.running.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		s.running.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, ErrInUse
		}
		return false, err
	}
	info, err := s.running.Stat()
	if err != nil {
		s.running.Close()
		return false, err
	}
	return info.Size() > 0, nil
}

func (s *state) load(c *core, cfg Config, died bool, now int64) (Start, error) {
	start := NewExperiment
	saved, err := readState(filepath.Join(s.dir, usersFile))
	if err != nil {
		return start, err
	}
	switch {
	case saved != nil && saved.Salt == s.salt:
		start = Continued
		c.restoreFrom(saved, now)
		if died {
			start = Distrusted
			c.taintAll(now)
		}
	case cfg.Unsafe == [NumRoles]bool{}:
		return start, nil // no experiment begins before somebody can be tainted
	default:
		if err := s.write(c.save(s.salt, now)); err != nil {
			return start, err
		}
	}
	s.started = true
	return start, s.mark("running\n")
}

// mark notes that a run lasts, durably, or with "" that it does not.
func (s *state) mark(text string) error {
	if err := s.running.Truncate(0); err != nil {
		return err
	}
	if _, err := s.running.WriteAt([]byte(text), 0); err != nil {
		return err
	}
	if err := s.running.Sync(); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// close writes the state of a run that ends well, and gives the directory up.
func (s *state) close(saved *savedState) error {
	defer s.running.Close()
	if !s.started {
		return nil
	}
	if err := s.write(saved); err != nil {
		return err
	}
	return s.mark("")
}

func (s *state) write(saved *savedState) error {
	body, err := json.Marshal(saved)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, usersFile)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, stateHeader+"%s\n", checksum(body), body)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(s.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func checksum(body []byte) uint32 { return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) }

// readState returns nil if there is none.
func readState(path string) (*savedState, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseState(b)
}

func parseState(b []byte) (*savedState, error) {
	header, body, _ := bytes.Cut(b, []byte("\n"))
	body = bytes.TrimSuffix(body, []byte("\n"))
	if string(header)+"\n" != fmt.Sprintf(stateHeader, checksum(body)) {
		return nil, fmt.Errorf("%s: %w: its checksum is not %08x; remove the directory to start a new experiment", usersFile, ErrCorrupt, checksum(body))
	}
	var saved savedState
	if err := json.Unmarshal(body, &saved); err != nil {
		return nil, fmt.Errorf("%s: %w: %v", usersFile, ErrCorrupt, err)
	}
	if len(saved.Cohorts) == 0 || len(saved.Cohorts) > maxCohorts {
		return nil, fmt.Errorf("%s: %w: %d cohorts", usersFile, ErrCorrupt, len(saved.Cohorts))
	}
	return &saved, nil
}

// save returns what is to be known by the next run: the cohorts, and users who
// differ from theirs. Who is shed leaves, and a role that takes no unsafe
// copies in this run misses them.
func (c *core) save(salt string, now int64) *savedState {
	s := &savedState{Salt: salt, Stopped: now}
	for _, co := range c.cohorts {
		s.Cohorts = append(s.Cohorts, savedCohort{Below: co.below, On: c.saveOn(co.on)})
	}
	for id, u := range c.known {
		if u.rank < c.cap && u.on != c.cohort(u.rank) {
			s.Users = append(s.Users, savedUser{ID: id, Rank: u.rank, On: c.saveOn(u.on)})
		}
	}
	slices.SortFunc(s.Users, func(a, b savedUser) int { return cmp.Compare(a.ID, b.ID) })
	return s
}

func (c *core) saveOn(on [NumRoles]condition) map[string]savedCondition {
	out := map[string]savedCondition{}
	for r, cond := range on {
		if c.tracked[r] {
			out[Role(r).String()] = savedCondition{cond.clean, cond.mark, cond.missed}
		}
	}
	return out
}

// restoreFrom brings c, with its shares set, to where the last run ended.
func (c *core) restoreFrom(s *savedState, now int64) {
	c.cohorts = nil
	for _, co := range s.Cohorts {
		c.cohorts = append(c.cohorts, cohort{below: co.Below, on: loadOn(co.On, now)})
	}
	for _, u := range s.Users {
		if len(c.known) < c.limit {
			c.known[u.ID] = user{rank: u.Rank, on: loadOn(u.On, now)}
		} else {
			c.distrust(now)
		}
	}
	admit := c.admit
	c.cap = s.Cohorts[len(s.Cohorts)-1].Below
	c.admit = c.cap
	c.setShare(c.sample, admit, now)
}

func loadOn(on map[string]savedCondition, now int64) [NumRoles]condition {
	out := tainted(now)
	for r := range out {
		if cond, ok := on[Role(r).String()]; ok {
			out[r] = condition{cond.Clean, cond.Mark, cond.Missed}
		}
	}
	return out
}
