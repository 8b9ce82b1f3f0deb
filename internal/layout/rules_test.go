package layout

// DO NOT RELAX THESE RULES TO FIX A BUILD. Each stands for a decision of the
// design: what imports what is how the two paths, a request through the
// mirror and one through the application, can be read off the folder names.
// A change here changes the design, and is discussed as such.

// A rule forbids imports between packages of this module. Patterns are
// directories; dir/... stands for dir and all below it, ... for all there is.
type rule struct {
	who    []string // whose imports are looked at, those of their tests included
	not    []string // what they may not import
	except []string // but what of it they may
	unless []string // and who of them may import all of it
	why    string
}

var importRules = []rule{
	{
		who: []string{"mirror/..."},
		not: []string{"loadgen/...", "appserver/..."},
		why: "mirror, loadgen and appserver never import each other",
	}, {
		who: []string{"loadgen/..."},
		not: []string{"mirror/...", "appserver/..."},
		why: "mirror, loadgen and appserver never import each other",
	}, {
		who: []string{"appserver/..."},
		not: []string{"mirror/...", "loadgen/..."},
		why: "mirror, loadgen and appserver never import each other",
	}, {
		who: []string{"mirror/...", "loadgen/...", "verdict/..."},
		not: []string{"api/messages/...", "api/legacy/..."},
		why: "the mirror, the generator and the verdict work on any service: nothing in them knows mail",
	}, {
		who:    []string{"appserver/action", "appserver/index", "appserver/search"},
		not:    []string{"appserver/...", "api/..."},
		except: []string{"appserver/action", "appserver/index", "appserver/search"},
		why:    "what a mailbox means depends on its log, and on no server, store or wire",
	}, {
		who: []string{"appserver/action", "appserver/index"},
		not: []string{"appserver/index", "appserver/search"},
		why: "search builds on index, and index on action, never the other way",
	}, {
		who:    []string{"appserver/ring"},
		not:    []string{"appserver/...", "api/..."},
		except: []string{"appserver/ring"},
		why:    "who should serve a user follows from the members alone",
	}, {
		who:    []string{"verdict/..."},
		not:    []string{"mirror/..."},
		except: []string{"mirror/translate"},
		why:    "of the mirror, the verdict needs the way back of the translation alone",
	}, {
		who:    []string{"..."},
		not:    []string{"appserver/store/hbase/...", "appserver/store/pebble/...", "dashboards/prom/..."},
		unless: []string{"cmd/..."},
		why:    "heavy libraries are linked by the program alone",
	}, {
		who: []string{"dashboards"},
		not: []string{"..."},
		why: "what is shown is data, which a page and Grafana share: it needs nobody's code",
	}, {
		who:    []string{"..."},
		not:    []string{"appserver/legacy/..."},
		unless: []string{"cmd/...", "appserver/legacy/..."},
		why:    "the old systems keep their data in a heavy library, and nothing new is to rest on them",
	}, {
		who:    []string{"appserver/legacy", "appserver/legacy/inbox", "appserver/legacy/chat"},
		not:    []string{"appserver/...", "api/messages/..."},
		except: []string{"appserver/legacy", "appserver/search"},
		why:    "the old systems know nothing of the new one, but tell words as it does",
	}, {
		who:    []string{"dashboards/prom/...", "dashboards/rules/..."},
		not:    []string{"..."},
		except: []string{"dashboards/rules", "internal/..."},
		why:    "what shows metrics knows their names, and none of the programs that have them",
	}, {
		who: []string{"internal/..."},
		not: []string{"appserver/...", "mirror/...", "loadgen/...", "verdict/...", "dashboards/...", "scenarios/..."},
		why: "internal serves the components and knows none of them",
	}, {
		who:    []string{"api/..."},
		not:    []string{"..."},
		except: []string{"api/..."},
		why:    "a contract depends on nobody's code",
	}, {
		who: []string{"..."},
		not: []string{"cmd/..."},
		why: "the program is the top; tests that need several components live in it",
	},
}

// purePackages start no goroutine, do no I/O and ask no clock: time, seed and
// input are arguments.
var purePackages = []string{
	"appserver/action", "appserver/fence", "appserver/index", "appserver/ring", "appserver/search",
	"dashboards", "internal/wire",
	"mirror/guard", "mirror/ids", "mirror/observe", "mirror/openapi", "mirror/record", "mirror/sample", "mirror/translate",
	"loadgen/arrival", "loadgen/draw", "loadgen/population", "loadgen/session",
	"verdict/compare", "verdict/history", "verdict/join", "verdict/judge", "verdict/noise", "verdict/report", "verdict/stat",
}

// impureImports are the standard library's ways out of a pure package.
var impureImports = []string{
	"crypto/rand", "io/ioutil", "log/...", "net", "net/http/...", "net/rpc/...", "net/smtp",
	"os/...", "plugin", "syscall/...",
}

// impureFuncs ask a clock or wait for one.
var impureFuncs = map[string][]string{
	"time": {"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"},
}

// seeded are the functions of the random packages that take their seed from
// the caller; all others share one that nobody chose.
var seeded = map[string][]string{
	"math/rand":    {"New", "NewSource", "NewZipf"},
	"math/rand/v2": {"New", "NewChaCha8", "NewPCG", "NewZipf"},
}

// changing are the package variables that may change, and why.
var changing = map[string]string{
	"internal/testenv.env": "TestMain has no other way to hand tests what they share",
}

// changingBuiltins change their first argument.
var changingBuiltins = []string{"clear", "copy", "delete"}

// generated is where code stands that nobody wrote by hand.
var generated = []string{"api/..."}
