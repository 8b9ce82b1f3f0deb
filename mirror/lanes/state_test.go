package lanes

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// experiment runs a mirror on a directory: it opens, lets a user lose a write
// on shadow, and ends well or dies.
func experiment(t *testing.T, cfg Config, loser uint64, dies bool) {
	t.Helper()
	l := mustOpen(t, cfg)
	lost := write(loser)
	lost.Drop[Shadow], lost.Roles[Control] = BreakerOpen, false
	l.Offer(lost)
	if dies {
		l.state.running.Close() // as the kernel does
	} else if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// cleanOn opens the directory again, and returns on which roles users are clean.
func cleanOn(t *testing.T, cfg Config, start Start, users ...uint64) map[uint64][NumRoles]bool {
	t.Helper()
	l := mustOpen(t, cfg)
	defer l.Close()
	if l.Start() != start {
		t.Errorf("got start %d, want %d", l.Start(), start)
	}
	out := map[uint64][NumRoles]bool{}
	for _, u := range us(users...) {
		out[u.ID] = [NumRoles]bool{l.core.condition(u, Shadow).clean, l.core.condition(u, Control).clean}
	}
	return out
}

func TestTaintOutlivesTheProcess(t *testing.T) {
	base := func(t *testing.T) Config {
		return Config{Sample: 500_000, Unsafe: both, State: t.TempDir(), Salt: "s1"}
	}
	no := [NumRoles]bool{}
	for _, c := range []struct {
		name   string
		dies   bool
		change func(cfg *Config)
		start  Start
		want   map[uint64][NumRoles]bool // of 1, who lost a write, 2, who did nothing, and 600,000, who was not in
	}{
		{"ended well", false, func(*Config) {}, Continued, map[uint64][NumRoles]bool{1: {false, true}, 2: both, 600_000: no}},
		{"died", true, func(*Config) {}, Distrusted, map[uint64][NumRoles]bool{1: no, 2: no, 600_000: no}},
		{"another salt", false, func(cfg *Config) { cfg.Salt = "s2" }, NewExperiment, map[uint64][NumRoles]bool{1: both, 2: both, 600_000: no}},
		{"died, another salt", true, func(cfg *Config) { cfg.Salt = "s2" }, NewExperiment, map[uint64][NumRoles]bool{1: both, 2: both, 600_000: no}},
		{"an empty directory", false, func(cfg *Config) { cfg.State = t.TempDir() }, NewExperiment, map[uint64][NumRoles]bool{1: both, 2: both, 600_000: no}},
		{"more users", false, func(cfg *Config) { cfg.Sample = 1_000_000 }, Continued, map[uint64][NumRoles]bool{1: {false, true}, 2: both, 600_000: no}},
		{"fewer users", false, func(cfg *Config) { cfg.Sample = 2 }, Continued, map[uint64][NumRoles]bool{1: {false, true}, 2: no, 600_000: no}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := base(t)
			experiment(t, cfg, 1, c.dies)
			c.change(&cfg)
			if diff := cmp.Diff(c.want, cleanOn(t, cfg, c.start, 1, 2, 600_000)); diff != "" {
				t.Errorf("clean on each role (-want +got):\n%s", diff)
			}
			// It is as well the third time, as nothing happened.
			if diff := cmp.Diff(c.want, cleanOn(t, cfg, Continued, 1, 2, 600_000)); diff != "" {
				t.Errorf("the time after that (-want +got):\n%s", diff)
			}
		})
	}
}

func TestARunThatCopiesNothingUnsafeTaints(t *testing.T) {
	cfg := Config{Sample: 500_000, Unsafe: both, State: t.TempDir()}
	experiment(t, cfg, 1, false)
	safe := cfg
	safe.Unsafe = [NumRoles]bool{}
	l := mustOpen(t, safe)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := cleanOn(t, cfg, Continued, 2); got[2] != [NumRoles]bool{} {
		t.Errorf("got user 2 clean on %v, want neither role: what they wrote in between was not sent", got[2])
	}
	// But before the first run that does, there is no experiment to spoil.
	cfg.State = t.TempDir()
	safe.State = cfg.State
	if err := mustOpen(t, safe).Close(); err != nil {
		t.Fatal(err)
	}
	if got := cleanOn(t, cfg, NewExperiment, 2); got[2] != both {
		t.Errorf("got user 2 clean on %v, want both roles at the start of the experiment", got[2])
	}
}

func TestARoleThatComesLaterIsTainted(t *testing.T) {
	cfg := Config{Sample: 500_000, Unsafe: [NumRoles]bool{Shadow: true}, State: t.TempDir()}
	experiment(t, cfg, 1, false)
	cfg.Unsafe = both
	if got := cleanOn(t, cfg, Continued, 2); got[2] != [NumRoles]bool{Shadow: true} {
		t.Errorf("got user 2 clean on %v, want shadow alone", got[2])
	}
}

func TestAnUncleanStopIsOnlyHealedByALaterImport(t *testing.T) {
	cfg := Config{Sample: 500_000, Unsafe: both, State: t.TempDir()}
	experiment(t, cfg, 1, true)
	before := time.Now()
	l := mustOpen(t, cfg)
	defer l.Close()
	if l.SeedAll(before); l.core.condition(us(2)[0], Shadow).clean {
		t.Error("a state from before the restart made a user clean")
	}
	if l.SeedAll(time.Now()); !l.core.condition(us(2)[0], Shadow).clean {
		t.Error("a state from after the restart did not make a user clean")
	}
}

func TestPendingAndUnansweredWritesTaintAtShutdown(t *testing.T) {
	cfg := Config{Sample: 500_000, Unsafe: both, State: t.TempDir()}
	l := mustOpen(t, cfg)
	unanswered, pending := write(1), write(2)
	l.Offer(unanswered)
	sendAll(t, l)
	l.Offer(pending)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	l.On()
	if s := l.Snapshot(); s.Off != Shutdown || s.Dropped[Shadow][Shutdown] != 1 {
		t.Errorf("got off for %v and %d dropped, want shutdown and 1", s.Off, s.Dropped[Shadow][Shutdown])
	}
	finish(l, unanswered, Did)
	want := map[uint64][NumRoles]bool{1: {}, 2: {}, 3: both}
	if diff := cmp.Diff(want, cleanOn(t, cfg, Continued, 1, 2, 3)); diff != "" {
		t.Errorf("clean on each role (-want +got):\n%s", diff)
	}
}

func TestTwoMirrorsCannotShareAState(t *testing.T) {
	cfg := Config{Sample: 500_000, Unsafe: both, State: t.TempDir()}
	l := mustOpen(t, cfg)
	if _, err := Open(cfg); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), cfg.State) {
		t.Errorf("got %v, want ErrInUse and the directory's name", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := Open(cfg)
	if err != nil {
		t.Fatalf("after the first has closed: %v", err)
	}
	l.Close()
}

func TestCorruptStateIsAnError(t *testing.T) {
	cfg := Config{Sample: 500_000, Unsafe: both, State: t.TempDir()}
	experiment(t, cfg, 1, false)
	path := filepath.Join(cfg.State, usersFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(whole) + 1 {
		bad := bytes.Clone(whole)
		if i < len(whole) {
			bad[i] ^= 0x20
		} else {
			bad = bad[:len(bad)/2]
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(cfg)
		if err == nil && i == len(whole)-1 {
			l.Close() // the last byte is a line end, and may be missing
			continue
		}
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), cfg.State) {
			t.Fatalf("byte %d changed: got %v, want ErrCorrupt and the directory's name", i, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := cleanOn(t, cfg, Continued, 2); got[2] != both {
		t.Errorf("the whole file again: got user 2 clean on %v, want both roles", got[2])
	}
}

func TestStateThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Unsafe: both, State: filepath.Join(file, "sub")}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error that names the directory", err)
	}
	cfg := Config{Sample: 500_000, Unsafe: both, State: t.TempDir()}
	l := mustOpen(t, cfg)
	if err := os.Mkdir(filepath.Join(cfg.State, usersFile+".new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err == nil {
		t.Error("the state could not be written, and nobody was told")
	}
	if err := os.Remove(filepath.Join(cfg.State, usersFile+".new")); err != nil {
		t.Fatal(err)
	}
	if got := cleanOn(t, cfg, Distrusted, 2); got[2] != [NumRoles]bool{} {
		t.Errorf("after a state that was not written: got user 2 clean on %v, want neither role", got[2])
	}
}

func FuzzState(f *testing.F) {
	for _, body := range []string{`{"salt":"x","cohorts":[{"below":5,"on":{"shadow":{"clean":true}}}],"users":[{"id":"7","rank":1,"on":{}}]}`, `{"cohorts":[]}`, `[]`} {
		f.Add([]byte(body), true)
		f.Add([]byte(body), false)
	}
	f.Fuzz(func(t *testing.T, body []byte, sum bool) {
		if sum { // so that more than the checksum is tried
			body = append([]byte(strings.Replace(stateHeader, "%08x", hex8(checksum(body)), 1)), body...)
		}
		saved, err := parseState(body)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			return
		}
		c := newCore(Config{Unsafe: both, MaxUsers: 5}.withDefaults())
		c.restoreFrom(saved, sec)
		for id := range uint64(10) {
			c.meetUser(User{ID: id, Rank: int32(id)}, sec)
		}
		c.setShare(1_000_000, 0, 2*sec)
		if len(c.cohorts) == 0 || len(c.cohorts) > maxCohorts {
			t.Fatalf("got %d cohorts", len(c.cohorts))
		}
	})
}

func hex8(n uint32) string {
	const digits = "0123456789abcdef"
	var b [8]byte
	for i := range b {
		b[i] = digits[n>>(28-4*i)&15]
	}
	return string(b[:])
}
