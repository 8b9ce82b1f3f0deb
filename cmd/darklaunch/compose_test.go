package main

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/config"
	"go.yaml.in/yaml/v3"

	"darklaunch/dashboards"
)

// composed is a compose file, as far as ours use the format.
type composed struct {
	Name     string
	Services map[string]struct {
		Image       string
		NetworkMode string `yaml:"network_mode"`
		Restart     string
		Command     []string
		Environment map[string]string
		Volumes     []string
		DependsOn   []string `yaml:"depends_on"`
	}
	Volumes map[string]struct{}
}

// strictly decodes YAML whose keys all must be known.
func strictly(t *testing.T, text string, into any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatal(err)
	}
}

var pinned = regexp.MustCompile(`^[a-z/]+:v?\d+\.\d+\.\d+$`)

// TestCompose checks what can be without containers: that files are well formed, that
// what they name is there, and that images are one version.
func TestCompose(t *testing.T) {
	const dir = "../../deploy"
	var c composed
	strictly(t, readFile(t, filepath.Join(dir, "compose.yaml")), &c)
	inside := map[string]string{} // where in a container → where on disk
	for name, s := range c.Services {
		if !pinned.MatchString(s.Image) {
			t.Errorf("%s: image %q is not pinned", name, s.Image)
		}
		if s.NetworkMode != "host" {
			t.Errorf("%s: network %q, want host, where loopback is the programs'", name, s.NetworkMode)
		}
		for _, v := range s.Volumes {
			parts := strings.Split(v, ":")
			if strings.HasPrefix(v, ".") {
				inside[parts[1]] = filepath.Join(dir, parts[0])
				if _, err := os.Stat(inside[parts[1]]); err != nil || len(parts) != 3 || parts[2] != "ro" {
					t.Errorf("%s: volume %s: %v, want one that is there, read-only", name, v, err)
				}
			} else if _, ok := c.Volumes[parts[0]]; !ok {
				t.Errorf("%s: nobody declares volume %s", name, parts[0])
			}
		}
		for _, other := range s.DependsOn {
			if _, ok := c.Services[other]; !ok {
				t.Errorf("%s depends on %s, which there isn't", name, other)
			}
		}
	}
	if !slices.Contains(c.Services["prometheus"].Command, "--web.listen-address=127.0.0.1:9090") || c.Services["grafana"].Environment["GF_SERVER_HTTP_ADDR"] != "127.0.0.1" {
		t.Error("want Prometheus and Grafana on loopback alone")
	}

	cfg, err := config.Load(readFile(t, inside["/etc/prometheus/prometheus.yml"]), nil)
	if err != nil {
		t.Fatal(err)
	}
	if native := cfg.GlobalConfig.ScrapeNativeHistograms; native == nil || !*native {
		t.Error("native histograms are not scraped")
	}
	for _, f := range cfg.RuleFiles {
		if !strings.HasPrefix(f, "/etc/prometheus/darklaunch/") {
			t.Errorf("rules %s are in no volume", f)
		}
	}
	var jobs []string
	for _, s := range cfg.ScrapeConfigs {
		jobs = append(jobs, s.JobName)
	}
	for _, d := range dashboards.All() {
		for _, v := range d.Variables {
			if v.Label == "job" && v.Default != dashboards.Any && !slices.Contains(jobs, v.Default) {
				t.Errorf("%s looks for job %s, which is not scraped: %v", d.UID, v.Default, jobs)
			}
		}
	}
	testGrafanaProvisioning(t, inside)
}

// testGrafanaProvisioning checks what Grafana reads at its start.
func testGrafanaProvisioning(t *testing.T, inside map[string]string) {
	dir := inside["/etc/grafana/provisioning"]
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, Type, UID, Access, URL string
			IsDefault                    bool           `yaml:"isDefault"`
			JSONData                     map[string]any `yaml:"jsonData"`
		}
	}
	strictly(t, readFile(t, filepath.Join(dir, "datasources/prometheus.yaml")), &sources)
	if len(sources.Datasources) != 1 || sources.Datasources[0].URL != "http://127.0.0.1:9090" || !sources.Datasources[0].IsDefault {
		t.Errorf("got data sources %+v, want the Prometheus of the compose file", sources.Datasources)
	}
	var boards struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Folder, Type string
			AllowUIUpdates     bool `yaml:"allowUiUpdates"`
			Options            struct{ Path string }
		}
	}
	strictly(t, readFile(t, filepath.Join(dir, "dashboards/darklaunch.yaml")), &boards)
	if len(boards.Providers) != 1 {
		t.Fatalf("got %d providers, want one", len(boards.Providers))
	}
	at := inside[path.Clean(boards.Providers[0].Options.Path)]
	files, err := filepath.Glob(filepath.Join(at, "*.json"))
	if err != nil || at == "" || len(files) != len(dashboards.All()) {
		t.Errorf("%s: got %d dashboards, %v, want %d", boards.Providers[0].Options.Path, len(files), err, len(dashboards.All()))
	}
	for _, f := range files {
		if !json.Valid([]byte(readFile(t, f))) {
			t.Errorf("%s is no JSON", f)
		}
	}
}
