package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"darklaunch/appserver/store"
)

// RegistryConfig of a Registry.
type RegistryConfig struct {
	// Timeout of sessions. Zero means 4s. Negative: they do not expire.
	Timeout time.Duration
	// File keeps the members over the end of the process, synced at each change. Its
	// directory must be there. Empty: they are kept in memory.
	File string
}

// A Registry is a Coordinator in memory, for servers of one process; and what is behind
// the one of the row-store process. Its methods may be called from any number of
// goroutines. Sessions that are not touched expire at the next call after that, and
// while Run runs.
type Registry struct {
	cfg RegistryConfig

	mu       sync.Mutex
	kept     registryFile
	sessions map[uint64]time.Time // when each was heard of last
	changed  chan struct{}        // closed at the next change
}

// registryFile is what is kept.
type registryFile struct {
	Incarnation uint64                     `json:"incarnation"`
	Number      uint64                     `json:"number"`
	Session     uint64                     `json:"session"` // given last
	Members     map[string]registeredEntry `json:"members"`
	Config      []byte                     `json:"config,omitempty"`
}

type registeredEntry struct {
	Session uint64 `json:"session"`
	Record  []byte `json:"record"`
}

// NewRegistry returns a Registry. The sessions of one that was kept go on, and have as
// long as new ones to be heard of. The error is of the file.
func NewRegistry(cfg RegistryConfig) (*Registry, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 4 * time.Second
	}
	r := &Registry{cfg: cfg, sessions: map[uint64]time.Time{}, changed: make(chan struct{})}
	// Of two registries made one after the other the second is newer, as far as the
	// machine's clock can say.
	r.kept = registryFile{Incarnation: uint64(time.Now().UnixMicro()), Number: 1, Members: map[string]registeredEntry{}}
	if cfg.File == "" {
		return r, nil
	}
	b, err := os.ReadFile(cfg.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r, r.save(r.kept)
	case err != nil:
		return nil, fmt.Errorf("membership: %w", err)
	}
	if err := json.Unmarshal(b, &r.kept); err != nil {
		return nil, fmt.Errorf("membership in %s: %w", cfg.File, err)
	}
	if r.kept.Members == nil {
		r.kept.Members = map[string]registeredEntry{}
	}
	for _, m := range r.kept.Members {
		r.sessions[m.Session] = time.Now()
	}
	return r, nil
}

// save writes what is to be kept from now on.
func (r *Registry) save(k registryFile) error {
	if r.cfg.File == "" {
		return nil
	}
	b, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	dir := filepath.Dir(r.cfg.File)
	f, err := os.CreateTemp(dir, filepath.Base(r.cfg.File)+".*")
	if err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), r.cfg.File)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("membership: %w", err), os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("membership: %w", err)
	}
	return nil
}

// Run ends sessions that were not heard of for too long, until ctx ends. It returns nil.
func (r *Registry) Run(ctx context.Context) error {
	if r.cfg.Timeout < 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(r.cfg.Timeout / 16)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.mu.Lock()
			r.expire()
			r.mu.Unlock()
		}
	}
}

// expire ends sessions. The caller holds mu. What cannot be saved stays until it can.
func (r *Registry) expire() {
	if r.cfg.Timeout < 0 {
		return
	}
	gone := map[uint64]bool{}
	for id, heard := range r.sessions {
		if time.Since(heard) > r.cfg.Timeout {
			gone[id] = true
		}
	}
	if len(gone) > 0 && r.drop(gone) == nil {
		maps.DeleteFunc(r.sessions, func(id uint64, _ time.Time) bool { return gone[id] })
	}
}

// drop removes the records of sessions. The caller holds mu.
func (r *Registry) drop(gone map[uint64]bool) error {
	return r.update(func(k *registryFile) bool {
		n := len(k.Members)
		maps.DeleteFunc(k.Members, func(_ string, m registeredEntry) bool { return gone[m.Session] })
		return len(k.Members) != n
	})
}

// update changes what is kept if f, which gets a copy, reports that it has changed the
// members. The caller holds mu.
func (r *Registry) update(f func(*registryFile) bool) error {
	next := r.kept
	next.Members = maps.Clone(r.kept.Members)
	if !f(&next) {
		return nil
	}
	next.Number++
	return r.replace(next)
}

func (r *Registry) replace(next registryFile) error {
	if err := r.save(next); err != nil {
		return err
	}
	r.kept = next
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

// heard notes a sign of life, or returns ErrExpired. The caller holds mu.
func (r *Registry) heard(session uint64) error {
	r.expire()
	if _, ok := r.sessions[session]; !ok {
		return ErrExpired
	}
	r.sessions[session] = time.Now()
	return nil
}

// Timeout is that of sessions. Where they do not expire it is an hour.
func (r *Registry) Timeout() time.Duration {
	if r.cfg.Timeout < 0 {
		return time.Hour
	}
	return r.cfg.Timeout
}

// Begin gives a new session.
func (r *Registry) Begin() (session uint64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire()
	next := r.kept
	next.Session++
	if err := r.save(next); err != nil { // else a number could be given twice
		return 0, err
	}
	r.kept = next
	r.sessions[next.Session] = time.Now()
	return next.Session, nil
}

// Register is Session.Register of a session.
func (r *Registry) Register(session uint64, name string, record []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.heard(session); err != nil {
		return err
	}
	is, ok := r.kept.Members[name]
	if ok && is.Session != session {
		return fmt.Errorf("%s: %w", name, ErrTaken)
	}
	return r.update(func(k *registryFile) bool {
		k.Members[name] = registeredEntry{session, slices.Clone(record)}
		return !ok || string(is.Record) != string(record)
	})
}

// Deregister is Session.Deregister of a session.
func (r *Registry) Deregister(session uint64, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.heard(session); err != nil {
		return err
	}
	return r.update(func(k *registryFile) bool {
		is, ok := k.Members[name]
		if !ok || is.Session != session {
			return false
		}
		delete(k.Members, name)
		return true
	})
}

// Touch is Session.Touch of a session.
func (r *Registry) Touch(session uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard(session)
}

// End ends a session and removes what it has registered.
func (r *Registry) End(session uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.drop(map[uint64]bool{session: true}); err != nil {
		return err
	}
	delete(r.sessions, session)
	return nil
}

// Snapshot returns what there is, and a channel that is closed at the next change.
func (r *Registry) Snapshot() (Snapshot, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire()
	s := Snapshot{At: store.Ring{Incarnation: r.kept.Incarnation, Number: r.kept.Number}, Records: map[string][]byte{}, Config: r.kept.Config}
	for name, m := range r.kept.Members {
		s.Records[name] = m.Record
	}
	return s, r.changed
}

// SetConfig replaces the live configuration. It takes any bytes: those who read them
// decide what they mean.
func (r *Registry) SetConfig(b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.kept
	next.Config = slices.Clone(b)
	return r.replace(next)
}

// Open implements Coordinator.
func (r *Registry) Open(context.Context) (Session, error) {
	id, err := r.Begin()
	if err != nil {
		return nil, err
	}
	return &localSession{r, id}, nil
}

// localSession is a Session in the process of its Registry.
type localSession struct {
	registry *Registry
	id       uint64
}

func (s *localSession) Timeout() time.Duration { return s.registry.Timeout() }

func (s *localSession) Register(_ context.Context, name string, record []byte) error {
	return s.registry.Register(s.id, name, record)
}

func (s *localSession) Deregister(_ context.Context, name string) error {
	return s.registry.Deregister(s.id, name)
}

func (s *localSession) Read(context.Context) (Snapshot, <-chan struct{}, error) {
	if err := s.registry.Touch(s.id); err != nil {
		return Snapshot{}, nil, err
	}
	snapshot, changed := s.registry.Snapshot()
	return snapshot, changed, nil
}

func (s *localSession) Touch(context.Context) error { return s.registry.Touch(s.id) }

func (s *localSession) Close() error { return s.registry.End(s.id) }
