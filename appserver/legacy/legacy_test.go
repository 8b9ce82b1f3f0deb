package legacy

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestOpenRefuses(t *testing.T) {
	held, err := Open(t.TempDir(), Inbox, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	chat := t.TempDir()
	d, err := Open(chat, Chat, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	files := t.TempDir()
	if err := os.WriteFile(filepath.Join(files, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	db, err := pebble.Open(other, &pebble.Options{Logger: logger{d.cfg.Log}})
	if err == nil {
		err = errors.Join(db.Set([]byte("a"), []byte("b"), pebble.Sync), db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, dir string
		readOnly  bool
		want      error
	}{
		{"in use", held.dir, false, ErrInUse},
		{"in use, to be read", held.dir, true, ErrInUse},
		{"of another kind", chat, false, ErrKind},
		{"of another kind, to be read", chat, true, ErrKind},
		{"of another program", files, false, ErrKind},
		{"another Pebble", other, false, ErrKind},
		{"another Pebble, to be read", other, true, ErrKind},
		{"nothing, to be read", t.TempDir(), true, ErrKind},
		{"absent, to be read", filepath.Join(chat, "absent"), true, os.ErrNotExist},
	} {
		if d, err := Open(tt.dir, Inbox, Config{ReadOnly: tt.readOnly}); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
			if err == nil {
				_ = d.Close()
			}
		}
	}
}

// What was answered before the machine stopped is there; stamps go on behind it, and the
// position says that the server did not end in order.
func TestCrash(t *testing.T) {
	fs := vfs.NewCrashableMem()
	now := time.UnixMilli(5000)
	cfg := Config{FS: fs, Now: func() time.Time { return now }}
	d, err := Open("data", Chat, cfg)
	if err != nil {
		t.Fatal(err)
	}
	key := []byte("Mkey")
	set := func(b *pebble.Batch, s Stamp) error { return b.Set(key, []byte(s.Text()), nil) }
	for range 3 {
		if _, err := d.Do(nil, set); err != nil {
			t.Fatal(err)
		}
	}
	cfg.FS = fs.CrashClone(vfs.CrashCloneCfg{})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	now = time.UnixMilli(4000) // and the clock stepped back
	d, err = Open("data", Chat, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if p := d.Position(); p.Closed || p.Stamp != (Stamp{3, 5002}) || !p.At().Equal(time.UnixMilli(5002)) {
		t.Errorf("got position %+v, want change 3 at 5002, not closed", p)
	}
	if got, err := Get(d.db, key); string(got) != "3" || err != nil {
		t.Errorf("got %q, %v, want the last change", got, err)
	}
	if s, err := d.Do(nil, set); err != nil || s != (Stamp{4, 5003}) {
		t.Errorf("got %+v, %v, want stamps to go on", s, err)
	}
	now = time.UnixMilli(9000)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.ReadOnly = true
	d, err = Open("data", Chat, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if p := d.Position(); !p.Closed || !p.At().Equal(time.UnixMilli(9000)) {
		t.Errorf("got position %+v, want it closed at 9000", p)
	}
}

func TestParseStamp(t *testing.T) {
	for _, tt := range []struct {
		id, time string
		want     *Stamp
		ok       bool
	}{
		{"", "", nil, true},
		{"7", "0", &Stamp{7, 0}, true},
		{"18446744073709551615", "9214646399999", &Stamp{1<<64 - 1, 9214646399999}, true},
		{"7", "", nil, false},
		{"", "7", nil, false},
		{"07", "7", nil, false},
		{"0", "7", nil, false},
		{"7", "-1", nil, false},
		{"7", "9214646400000", nil, false},
		{"x", "7", nil, false},
	} {
		got, err := ParseStamp(tt.id, tt.time)
		if (err == nil) != tt.ok || (got == nil) != (tt.want == nil) || got != nil && *got != *tt.want {
			t.Errorf("%q at %q: got %v, %v, want %v", tt.id, tt.time, got, err, tt.want)
		}
	}
}
