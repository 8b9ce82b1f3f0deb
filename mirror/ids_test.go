package mirror

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"darklaunch/mirror/ids"
	"darklaunch/mirror/lanes"
)

// naming is a service that names threads by itself: a POST makes one, and a GET
// of its path, or of all, shows it.
func naming(t *testing.T, prefix string, step int) *service {
	var mu sync.Mutex
	next, of := 1000, map[string][]string{}
	return newService(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		u := r.Header.Get("x-user")
		w.Header().Set("Content-Type", "application/json")
		id := strings.TrimPrefix(r.URL.Path, "/threads/")
		switch {
		case r.Method == "POST":
			next += step
			id = fmt.Sprint(prefix, next)
			of[u] = append(of[u], id)
		case id == r.URL.Path: // all
			type thread struct {
				ID string `json:"id"`
			}
			all := []thread{}
			for _, id := range of[u] {
				all = append(all, thread{id})
			}
			json.NewEncoder(w).Encode(map[string]any{"threads": all})
			return
		case !strings.Contains(strings.Join(of[u], " ")+" ", id+" "):
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprintf(w, `{"id":%q,"of":%q}`, id, u)
	})
}

// TestIDs lets users make threads and read them on a live service and a shadow
// that each name them by themselves: with a table nothing differs, and without
// one most does.
func TestIDs(t *testing.T) {
	const users, each = 8, 6
	for name, table := range map[string]ids.Config{
		"with a table": {Learn: []string{"json:$.id"}, Requests: []string{"path:/threads/{key}"}, Answers: []string{"json:$.threads[*].id"}},
		"without":      {},
	} {
		t.Run(name, func(t *testing.T) {
			live, shadow := naming(t, "live-", 1), naming(t, "s", 7)
			file := filepath.Join(t.TempDir(), "pairs")
			cfg := Config{Unsafe: true, Pairs: file, Fronts: []Front{{}}}
			cfg.Fronts[0].IDs[lanes.Shadow] = table
			r := newRig(t, cfg, live, shadow)
			var wg sync.WaitGroup
			for u := range users {
				wg.Go(func() { r.useThreads(user(u), each) })
			}
			wg.Wait()
			r.settled(users * each * 3)
			if table.Learn == nil {
				r.stop()
				if _, unequal, _ := compared(t, file); unequal < users*each {
					t.Errorf("got %d unequal pairs without a table, want most: the fault did not happen", unequal)
				}
				return
			}
			count := func(outcome string) float64 {
				return r.metric(`mirror_ids_total{front="mirror",outcome="` + outcome + `",role="shadow"}`)
			}
			if count("learned") != users*each || count("unknown") != 0 || count("conflict") != 0 || count("rewritten") < users*each {
				t.Errorf("got %v learned, %v rewritten, %v unknown, %v conflicts", count("learned"), count("rewritten"), count("unknown"), count("conflict"))
			}
			// What nobody has learned is sent as it is, and not compared.
			if got := r.get("user-1", "/threads/from-before"); got != http.StatusNotFound {
				t.Fatalf("got %d", got)
			}
			r.settled(users*each*3 + 1)
			if all := shadow.requests(); all[len(all)-1].path != "/threads/from-before" || count("unknown") != 1 {
				t.Errorf("the shadow got %s, %v unknown ids were counted; want the id as it was, and 1", all[len(all)-1].path, count("unknown"))
			}
			r.stop()
			if same, unequal, unknown := compared(t, file); same != users*each*3 || unequal != 0 || unknown != 1 {
				t.Errorf("got %d equal, %d unequal pairs, %d with unknown ids, want all equal but the last", same, unequal, unknown)
			}
		})
	}
}

// compared sums up the pairs of a stream.
func compared(t *testing.T, file string) (same, unequal, unknown uint64) {
	t.Helper()
	_, windows, _ := readPairs(t, file)
	for _, w := range windows {
		for _, r := range w.Routes {
			same, unequal, unknown = same+r.Differences.Same, unequal+r.Differences.ShadowOnly, unknown+r.UnknownIds
		}
	}
	return same, unequal, unknown
}

// useThreads makes n threads of user's, and reads each and all after it.
func (r *rig) useThreads(user string, n int) {
	c := clients(1, false)[0]
	defer c.CloseIdleConnections()
	do := func(method, path string) (made struct{ ID string }) {
		req, err := http.NewRequest(method, "http://"+r.addr(0)+path, nil)
		if err != nil {
			r.t.Error(err)
			return
		}
		req.Header.Set("x-user", user)
		resp, err := c.Do(req)
		if err != nil {
			r.t.Error(err)
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if err := json.Unmarshal(b, &made); err != nil || resp.StatusCode != 200 {
			r.t.Errorf("live answered %s %s: %v", resp.Status, b, err)
		}
		return made
	}
	for range n {
		made := do("POST", "/threads")
		do("GET", "/threads/"+made.ID)
		do("GET", "/threads")
	}
}
