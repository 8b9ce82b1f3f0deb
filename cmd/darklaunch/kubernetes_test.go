package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	kubeyaml "sigs.k8s.io/yaml"

	"darklaunch/internal/ops"
)

const kubernetes = "../../deploy/kubernetes/cell.yaml"

// TestKubernetes checks the manifests of a cell without a cluster: against the API's own
// types, field by field, and that what they say of the program and of each other is so.
func TestKubernetes(t *testing.T) {
	m := readManifests(readFile(t, kubernetes))
	m.check()
	for _, wrong := range m.wrong {
		t.Error(wrong)
	}
	if len(m.pods) != 4 || len(m.services) != 3 || len(m.budgets) != 2 {
		t.Errorf("got %d pods, %d services, %d budgets, want ZooKeeper, store, servers and a job; a service of each but that; budgets of what has more than one", len(m.pods), len(m.services), len(m.budgets))
	}
}

// TestKubernetesFaults plants one fault of each kind.
func TestKubernetesFaults(t *testing.T) {
	good := readFile(t, kubernetes)
	for _, tt := range []struct{ from, to, want string }{
		{"podManagementPolicy: Parallel", "podManagmentPolicy: Parallel", "podManagmentPolicy"},
		{"apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n", "policy/v1beta1"},
		{"--advertise=", "--advertize=", "advertize"},
		{"--drain-timeout=30s", "--drain-timeout=soon", "soon"},
		{"--drain-timeout=30s", "--drain-timeout=45s", "grace"},
		{"$(NAMESPACE)", "$(NAMESPAC)", "NAMESPAC"},
		{"--cell=one\n", "--cell=one\n            - extra\n", "extra"},
		{"path: /readyz", "path: /ready", "/ready"},
		{"--metrics=0.0.0.0:9100", "--metrics=0.0.0.0:9101", "9100"},
		{"httpGet: {path: /healthz, port: metrics}", "httpGet: {path: /healthz, port: metric}", "metric"},
		{"serviceName: one\n", "serviceName: two\n", "serviceName"},
		{"selector: {app.kubernetes.io/name: one-store}", "selector: {app.kubernetes.io/name: store}", "service one-store"},
		{"matchLabels: {app.kubernetes.io/name: one}\n", "matchLabels: {app.kubernetes.io/name: two}\n", "budget one"},
		{"{name: data, mountPath: /data}", "{name: dato, mountPath: /data}", "dato"},
		{"readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "read-only"},
		{"runAsNonRoot: true", "runAsNonRoot: false", "root"},
		{"allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "privileges"},
		{"limits: {memory: 1Gi}", "limits: {}", "memory"},
		{"          # Built from this tree, by deploy/Dockerfile.\n", "", "image"},
		{"image: zookeeper:3.9.3", "image: zookeeper", "image"},
		{"rows:one-store:7400", "rows:one-stor:7400", "one-stor"},
	} {
		bad := strings.Replace(good, tt.from, tt.to, 1)
		if bad == good {
			t.Errorf("there is no %q to replace", tt.from)
			continue
		}
		m := readManifests(bad)
		m.check()
		if !slices.ContainsFunc(m.wrong, func(w string) bool { return strings.Contains(w, tt.want) }) {
			t.Errorf("%q for %q: got %q, want %q told", tt.to, tt.from, m.wrong, tt.want)
		}
	}
}

// manifests are the documents of a file, and what is wrong with them.
type manifests struct {
	pods     map[string]pod // by what makes them
	services map[string]*corev1.Service
	budgets  map[string]*policyv1.PodDisruptionBudget
	wrong    []string
}

type pod struct {
	corev1.PodTemplateSpec
	claims []corev1.PersistentVolumeClaim
}

func (m *manifests) fault(format string, args ...any) {
	m.wrong = append(m.wrong, fmt.Sprintf(format, args...))
}

func readManifests(text string) *manifests {
	m := &manifests{pods: map[string]pod{}, services: map[string]*corev1.Service{}, budgets: map[string]*policyv1.PodDisruptionBudget{}}
	m.wrong = append(m.wrong, images(text)...)
	for _, d := range strings.Split(text, "\n---\n")[1:] {
		var kind metav1.TypeMeta
		if err := kubeyaml.Unmarshal([]byte(d), &kind); err != nil {
			m.fault("%v", err)
			continue
		}
		read := func(into any) {
			if err := kubeyaml.UnmarshalStrict([]byte(d), into); err != nil {
				m.fault("%s: %v", kind.Kind, err)
			}
		}
		switch kind.APIVersion + " " + kind.Kind {
		case "v1 ConfigMap":
			read(&corev1.ConfigMap{})
		case "networking.k8s.io/v1 NetworkPolicy":
			read(&networkingv1.NetworkPolicy{})
		case "v1 Service":
			var s corev1.Service
			read(&s)
			m.services[s.Name] = &s
		case "policy/v1 PodDisruptionBudget":
			var b policyv1.PodDisruptionBudget
			read(&b)
			m.budgets[b.Name] = &b
		case "batch/v1 Job":
			var j batchv1.Job
			read(&j)
			m.pods[j.Name] = pod{PodTemplateSpec: j.Spec.Template}
		case "apps/v1 StatefulSet":
			var s appsv1.StatefulSet
			read(&s)
			m.pods[s.Name] = pod{PodTemplateSpec: s.Spec.Template, claims: s.Spec.VolumeClaimTemplates}
			if !matches(s.Spec.Selector, s.Spec.Template.Labels) {
				m.fault("%s does not select its own pods", s.Name)
			}
			if by := m.services[s.Spec.ServiceName]; by == nil || by.Spec.ClusterIP != corev1.ClusterIPNone {
				m.fault("%s: serviceName %s is no headless service above it", s.Name, s.Spec.ServiceName)
			}
		default:
			m.fault("%s %s: want a kind that is checked", kind.APIVersion, kind.Kind)
		}
	}
	return m
}

// images says which lines name an image without a version, or without saying whose it is.
func images(text string) (wrong []string) {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		image, ok := strings.CutPrefix(strings.TrimSpace(l), "image: ")
		if ok && (!strings.Contains(image, ":") || !strings.HasPrefix(strings.TrimSpace(lines[i-1]), "# ")) {
			wrong = append(wrong, fmt.Sprintf("image %s: want a version, and a comment above that says whose it is", image))
		}
	}
	return wrong
}

func matches(s *metav1.LabelSelector, l labels.Set) bool {
	by, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && !by.Empty() && by.Matches(l)
}

func (m *manifests) check() {
	for name, p := range m.pods {
		m.checkPod(name, p)
	}
	for name, s := range m.services {
		if !m.anyPod(func(p pod) bool {
			return labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.Labels)) && !slices.ContainsFunc(s.Spec.Ports, func(at corev1.ServicePort) bool {
				return port(p.Spec.Containers[0], intstr.FromInt32(at.Port)) == 0
			})
		}) {
			m.fault("service %s leads to no pod that has its ports", name)
		}
	}
	for name, b := range m.budgets {
		if !m.anyPod(func(p pod) bool { return matches(b.Spec.Selector, p.Labels) }) {
			m.fault("budget %s is of no pod", name)
		}
	}
}

func (m *manifests) anyPod(is func(pod) bool) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(m.pods)), is)
}

func (m *manifests) checkPod(name string, p pod) {
	if sc := p.Spec.SecurityContext; sc == nil || sc.RunAsNonRoot == nil || !*sc.RunAsNonRoot {
		m.fault("%s may run as root", name)
	}
	volumes := map[string]bool{}
	for _, v := range p.Spec.Volumes {
		volumes[v.Name] = true
	}
	for _, c := range p.claims {
		volumes[c.Name] = true
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, v := range c.VolumeMounts {
			if !volumes[v.Name] {
				m.fault("%s: there is no volume %s", name, v.Name)
			}
		}
		sc := c.SecurityContext
		if sc == nil || sc.ReadOnlyRootFilesystem == nil || !*sc.ReadOnlyRootFilesystem {
			m.fault("%s: the root filesystem of %s is not read-only", name, c.Name)
		}
		if sc == nil || sc.AllowPrivilegeEscalation == nil || *sc.AllowPrivilegeEscalation || sc.Capabilities == nil || !slices.Contains(sc.Capabilities.Drop, "ALL") {
			m.fault("%s: %s may get privileges", name, c.Name)
		}
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Memory().IsZero() {
			m.fault("%s: %s has no bound of memory", name, c.Name)
		}
		if strings.HasPrefix(c.Image, "darklaunch:") {
			m.checkProgram(name, c, p.Spec.TerminationGracePeriodSeconds)
		}
	}
}

// checkProgram holds a container of ours against the program.
func (m *manifests) checkProgram(name string, c corev1.Container, grace *int64) {
	var args []string
	for _, a := range c.Args {
		args = append(args, variable.ReplaceAllStringFunc(a, func(v string) string {
			if !slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return "$("+e.Name+")" == v }) {
				m.fault("%s: env of %s has no %s", name, c.Name, v)
			}
			return "x"
		}))
		for _, at := range reached.FindAllStringSubmatch(a, -1) {
			if s := m.services[at[1]]; s == nil || !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return strconv.Itoa(int(p.Port)) == at[2] }) {
				m.fault("%s: %s leads to no service %s with port %s", name, a, at[1], at[2])
			}
		}
	}
	flags, err := parsed(args)
	if err != nil {
		m.fault("%s: %v", name, err)
		return
	}
	if drain, err := time.ParseDuration(flags["drain-timeout"]); err == nil && grace != nil && drain >= time.Duration(*grace)*time.Second {
		m.fault("%s: a grace of %d s is not more than the %v to drain", name, *grace, drain)
	}
	answers := ops.Metrics(prometheus.NewRegistry(), nil)
	for _, p := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		if p == nil {
			continue
		}
		w := httptest.NewRecorder()
		answers.ServeHTTP(w, httptest.NewRequest(http.MethodGet, p.HTTPGet.Path, nil))
		if w.Code != http.StatusOK {
			m.fault("%s: nothing answers at %s", name, p.HTTPGet.Path)
		}
		if at := port(c, p.HTTPGet.Port); !strings.HasSuffix(flags["metrics"], fmt.Sprintf(":%d", at)) {
			m.fault("%s: %s is asked at %s (%d), the program answers at %s", name, c.Name, p.HTTPGet.Port.String(), at, flags["metrics"])
		}
	}
}

var (
	variable = regexp.MustCompile(`\$\(\w+\)`)
	reached  = regexp.MustCompile(`(?:(?:rows|zk):|^--server=)([\w.-]+):(\d+)`)
)

// port is the number of a container's port, 0 if it has no such.
func port(c corev1.Container, want intstr.IntOrString) int32 {
	for _, p := range c.Ports {
		if p.Name == want.StrVal || p.ContainerPort == want.IntVal {
			return p.ContainerPort
		}
	}
	return 0
}

// parsed has the program parse its arguments, and returns the flags that were given.
func parsed(args []string) (flags map[string]string, err error) {
	cmd, rest, err := (&program{stdout: io.Discard, stderr: io.Discard}).root(nil).Find(args)
	if err != nil {
		return nil, err
	}
	if !cmd.Runnable() {
		return nil, fmt.Errorf("%q is no command", args)
	}
	if err := errors.Join(cmd.ParseFlags(rest), cmd.ValidateArgs(cmd.Flags().Args())); err != nil {
		return nil, fmt.Errorf("%s: %w", cmd.CommandPath(), err)
	}
	flags = map[string]string{}
	cmd.Flags().Visit(func(f *pflag.Flag) { flags[f.Name] = f.Value.String() })
	return flags, nil
}

// TestComposeCell checks the cell in containers as far as can be without them.
func TestComposeCell(t *testing.T) {
	text := readFile(t, "../../deploy/cell/compose.yaml")
	if wrong := images(text); len(wrong) > 0 {
		t.Error(wrong)
	}
	var c struct {
		Services map[string]struct {
			Image, User     string
			Command         []string
			ReadOnly        bool          `yaml:"read_only"`
			StopGracePeriod time.Duration `yaml:"stop_grace_period"`
		}
	}
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	required := regexp.MustCompile(`\$\{\w+:[?-]([^}]*)\}`)
	serving := 0
	for name, s := range c.Services {
		if s.Image != "darklaunch:dev" {
			continue
		}
		if !s.ReadOnly || s.User != "65532:65532" {
			t.Errorf("%s: got user %q, read-only %v, want neither root nor a writable filesystem", name, s.User, s.ReadOnly)
		}
		var args []string
		for _, a := range s.Command {
			args = append(args, required.ReplaceAllString(a, "x:1"))
			for _, at := range reached.FindAllStringSubmatch(a, -1) {
				if _, ok := c.Services[at[1]]; !ok {
					t.Errorf("%s: %s leads to no service %s", name, a, at[1])
				}
			}
		}
		flags, err := parsed(args)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if drain, err := time.ParseDuration(flags["drain-timeout"]); err == nil {
			serving++
			if drain >= s.StopGracePeriod {
				t.Errorf("%s: it is given %v to stop, and drains for %v", name, s.StopGracePeriod, drain)
			}
		}
	}
	if serving != 4 {
		t.Errorf("got %d that drain, want three servers and a mirror", serving)
	}
}

// TestDockerfile holds that the image is built by the line of Go that the module asks for.
func TestDockerfile(t *testing.T) {
	line := regexp.MustCompile(`(?m)^go (\d+\.\d+)\.`).FindStringSubmatch(readFile(t, "../../go.mod"))
	if want := "\nFROM golang:" + line[1] + "."; !strings.Contains(readFile(t, "../../deploy/Dockerfile"), want) {
		t.Errorf("deploy/Dockerfile: want %q", want)
	}
}
