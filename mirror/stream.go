package mirror

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/hist"
	"darklaunch/internal/pairstream"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/pairs"
	"darklaunch/mirror/record"
)

// openPairs makes what matches answers, and the streams that tell of them.
func (m *Mirror) openPairs(reg prometheus.Registerer) error {
	key := make([]byte, 32) // digests can be compared within a run
	rand.Read(key)
	policy, err := record.New(record.Config{Key: key, Allow: m.cfg.Record})
	if err != nil {
		return err
	}
	cfg := pairs.Config{Salt: m.cfg.Salt, Record: policy, Fill: m.fill}
	cfg.Roles[lanes.Shadow] = m.cfg.Shadow != ""
	known := map[string]bool{}
	for _, f := range m.cfg.Fronts {
		cfg.Roles[lanes.Control] = cfg.Roles[lanes.Control] || f.Control != ""
		for _, r := range f.Routes {
			if !known[r.Pattern] {
				known[r.Pattern] = true
				route, err := comparing(&r, f.Translate.Rules != nil, policy)
				if err != nil {
					return fmt.Errorf("front %s: %w", f.Name, err)
				}
				if err := f.Translate.compared(&route, &r, policy); err != nil {
					return fmt.Errorf("front %s: %w", f.Name, err)
				}
				route.Unsafe = r.Unsafe || m.cfg.Unsafe
				m.ships = m.ships || route.Elsewhere
				cfg.Routes = append(cfg.Routes, route)
			}
		}
	}
	header := m.header(cfg.Roles)
	if m.cfg.Pairs != "" {
		open := func(context.Context) (io.WriteCloser, error) { return os.Create(m.cfg.Pairs) }
		cfg.Streams = append(cfg.Streams, pairs.NewStream(pairs.StreamConfig{Open: open, Header: header}))
	}
	if m.cfg.Verdict != "" {
		open, err := m.cfg.openVerdict()
		if err != nil {
			return err
		}
		cfg.Streams = append(cfg.Streams, pairs.NewStream(pairs.StreamConfig{Open: open, Header: header}))
	}
	m.told = len(cfg.Streams) > 0
	m.pairs = pairs.New(cfg, reg)
	header.Routes = m.pairs.Header()
	return nil
}

// openVerdict returns what connects to the verdict.
func (c *Config) openVerdict() (func(context.Context) (io.WriteCloser, error), error) {
	network, address := "tcp", c.Verdict
	var encrypted *tls.Config
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	} else if hostport, ok := strings.CutPrefix(address, "https://"); ok {
		host, _, err := net.SplitHostPort(hostport)
		if err != nil {
			return nil, fmt.Errorf("verdict %s: %w", address, err)
		}
		address, encrypted = hostport, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	}
	if c.VerdictCA != "" {
		if encrypted == nil {
			return nil, errors.New("authorities of a verdict that is not https://")
		}
		pem, err := os.ReadFile(c.VerdictCA)
		if err != nil {
			return nil, fmt.Errorf("authorities of the verdict: %w", err)
		}
		encrypted.RootCAs = x509.NewCertPool()
		if !encrypted.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("authorities of the verdict: no certificate in %s", c.VerdictCA)
		}
	}
	return func(ctx context.Context) (io.WriteCloser, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		if encrypted != nil {
			conn = tls.Client(conn, encrypted)
		}
		if c.VerdictToken == "" {
			return conn, nil
		}
		conn.SetWriteDeadline(time.Now().Add(tokenTimeout))
		if _, err := conn.Write(pairstream.AppendToken(nil, c.VerdictToken)); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}, nil
}

// tokenTimeout bounds the handshake and the token.
const tokenTimeout = 10 * time.Second

// streamRoles are the roles as the pair stream has them.
var streamRoles = [lanes.NumRoles]pairv1.Role{lanes.Shadow: pairv1.Role_ROLE_SHADOW, lanes.Control: pairv1.Role_ROLE_CONTROL}

func (m *Mirror) header(in [lanes.NumRoles]bool) *pairv1.Header {
	var id [8]byte
	rand.Read(id[:])
	salt := sha256.Sum256([]byte(m.cfg.Salt))
	h := &pairv1.Header{
		MirrorId: hex.EncodeToString(id[:]), Experiment: m.cfg.Salt, SaltHash: salt[:], Version: m.cfg.Version, StartTime: time.Now().UnixNano(),
	}
	for r, in := range in {
		if in {
			h.Roles = append(h.Roles, streamRoles[r])
		}
	}
	return h
}

// processRoles are those of scraped processes as the pair stream has them.
var processRoles = map[string]pairv1.Role{
	"live": pairv1.Role_ROLE_LIVE, "shadow": pairv1.Role_ROLE_SHADOW, "control": pairv1.Role_ROLE_CONTROL,
}

// fill adds to a window what the lanes count and what processes say.
func (m *Mirror) fill(w *pairv1.Window) {
	s := m.lanes.Snapshot()
	w.Sending = m.sending.Load()
	w.Sampling = s.Sample > 0
	f := m.tally.fractions(m.Share())
	w.Users = &pairv1.Users{
		SamplePpm: uint32(s.Sample), EffectivePpm: uint32(max(s.Effective, 0)), Sampled: uint64(s.Sampled), Shed: uint64(s.Shed),
		UserFraction: f.Users, RequestFraction: f.Requests, TouchedFraction: f.Touched,
	}
	for r := range lanes.NumRoles {
		w.Users.Tainted = append(w.Users.Tainted, &pairv1.Tainted{Role: streamRoles[r], Users: uint64(s.Tainted[r])})
		a := &pairv1.Accounting{Role: streamRoles[r], Offered: s.Offered[r], Sent: s.Sent[r], Pending: uint64(s.Pending[r])}
		for why := lanes.NotDropped + 1; why < lanes.NumReasons; why++ {
			if n := s.Dropped[r][why]; n > 0 {
				a.Dropped = append(a.Dropped, &pairv1.Loss{Reason: why.String(), Count: n})
			}
		}
		w.Accounting = append(w.Accounting, a)
	}
	var lateness hist.Hist
	m.lanes.Lateness(&lateness)
	w.Rig = m.cost.rig(time.Duration(w.Length), &lateness)
	for _, p := range m.scraper.Take() {
		w.Processes = append(w.Processes, &pairv1.Process{
			Role: processRoles[p.Role], Name: p.URL, Time: p.Time.UnixNano(),
			CpuSeconds: p.CPU, Allocations: p.Allocations, Requests: p.Requests, StartSeconds: p.Start,
		})
	}
}
