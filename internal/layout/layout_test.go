package layout

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/go/packages"
)

const module = "darklaunch"

// TestTree checks the rules against this module. Rows B11, B12, B16, B17 of the
// checklist.
func TestTree(t *testing.T) {
	pkgs := load(t, "../..")
	if len(pkgs) < 5 {
		t.Fatalf("found %d packages, want the whole module", len(pkgs))
	}
	for _, b := range check(pkgs) {
		t.Error(b)
	}
}

// TestPlantedBreaches checks the rules against a module in which each is
// broken: every line that ends in "// breach: TEXT" must be reported with
// TEXT, and no other line.
func TestPlantedBreaches(t *testing.T) {
	pkgs := load(t, "testdata/breaches")
	expect := regexp.MustCompile(`// breach: (.*)`)
	var want []string
	for _, p := range pkgs {
		for _, f := range p.Syntax {
			for _, group := range f.Comments {
				for _, c := range group.List {
					if m := expect.FindStringSubmatch(c.Text); m != nil {
						want = append(want, breach(p, c.Pos(), m[1]))
					}
				}
			}
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(slices.Compact(want), check(pkgs)); diff != "" {
		t.Errorf("breaches (-planted +found):\n%s", diff)
	}
	for _, r := range importRules {
		if !slices.ContainsFunc(want, func(b string) bool { return strings.Contains(b, r.why) }) {
			t.Errorf("no breach is planted of: %s", r.why)
		}
	}
}

func load(t *testing.T, dir string) []*packages.Package {
	t.Helper()
	pkgs, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes |
			packages.NeedTypesInfo | packages.NeedImports,
		Dir:   dir,
		Tests: true,
	}, "./...")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pkgs {
		for _, e := range p.Errors {
			t.Errorf("load: %v", e)
		}
	}
	return pkgs
}

// check returns the breaches in pkgs, sorted, each once.
func check(pkgs []*packages.Package) []string {
	var found []string
	for _, p := range pkgs {
		if strings.HasSuffix(p.ID, ".test") {
			continue // the main function that the Go tool generates
		}
		c := checker{pkg: p, dir: directory(p), found: &found}
		for _, f := range p.Syntax {
			c.file(f)
		}
		c.packageComment()
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// directory is where in the module the package is; a test package is where
// what it tests is.
func directory(p *packages.Package) string {
	path := strings.TrimSuffix(p.PkgPath, "_test")
	return strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
}

func breach(p *packages.Package, pos token.Pos, text string) string {
	at := p.Fset.Position(pos)
	return fmt.Sprintf("%s/%s:%d: %s", directory(p), filepath.Base(at.Filename), at.Line, text)
}

type checker struct {
	pkg   *packages.Package
	dir   string
	found *[]string
}

func (c checker) report(pos token.Pos, format string, args ...any) {
	*c.found = append(*c.found, breach(c.pkg, pos, fmt.Sprintf(format, args...)))
}

func (c checker) file(f *ast.File) {
	isTest := strings.HasSuffix(c.pkg.Fset.Position(f.Pos()).Filename, "_test.go")
	for _, spec := range f.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		c.imports(spec.Pos(), path)
		if !isTest && slices.Contains(purePackages, c.dir) && matches(impureImports, path) {
			c.report(spec.Pos(), "a pure package imports %s", path)
		}
	}
	if isTest || matches(generated, c.dir) {
		return
	}
	for _, decl := range f.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			c.report(fn.Pos(), "an init function")
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		c.globals(n)
		if slices.Contains(purePackages, c.dir) {
			c.purity(n)
		}
		return true
	})
}

func (c checker) imports(pos token.Pos, path string) {
	ours, ok := strings.CutPrefix(path, module+"/")
	if !ok || ours == c.dir {
		return
	}
	for _, r := range importRules {
		if matches(r.who, c.dir) && matches(r.not, ours) && !matches(r.except, ours) && !matches(r.unless, c.dir) {
			c.report(pos, "imports %s: %s", ours, r.why)
		}
	}
}

// matches reports whether dir is covered by one of patterns.
func matches(patterns []string, dir string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		root, below := strings.CutSuffix(pattern, "/...")
		return pattern == "..." || dir == root || below && strings.HasPrefix(dir, root+"/")
	})
}

func (c checker) purity(n ast.Node) {
	switch n := n.(type) {
	case *ast.GoStmt:
		c.report(n.Pos(), "a pure package starts a goroutine")
	case *ast.Ident:
		fn, ok := c.pkg.TypesInfo.Uses[n].(*types.Func)
		if !ok || fn.Pkg() == nil || fn.Signature().Recv() != nil {
			return
		}
		from := fn.Pkg().Path()
		if slices.Contains(impureFuncs[from], fn.Name()) {
			c.report(n.Pos(), "a pure package calls %s.%s", from, fn.Name())
		}
		if allowed, random := seeded[from]; random && !slices.Contains(allowed, fn.Name()) {
			c.report(n.Pos(), "a pure package calls %s.%s, which has no seed", from, fn.Name())
		}
	}
}

// globals reports what changes a package variable: an assignment to it or a
// part of it, a call of a method that takes its address or of a builtin that
// empties or overwrites it.
func (c checker) globals(n ast.Node) {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			for _, left := range n.Lhs {
				c.changes(left)
			}
		}
	case *ast.IncDecStmt:
		c.changes(n.X)
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			c.changes(n.Key)
			c.changes(n.Value)
		}
	case *ast.CallExpr:
		if fn, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 && slices.Contains(changingBuiltins, fn.Name) {
			if _, builtin := c.pkg.TypesInfo.Uses[fn].(*types.Builtin); builtin {
				c.changes(n.Args[0])
			}
		}
	case *ast.SelectorExpr:
		method := c.pkg.TypesInfo.Selections[n]
		if method == nil || method.Kind() != types.MethodVal {
			return
		}
		_, byPointer := method.Obj().(*types.Func).Signature().Recv().Type().(*types.Pointer)
		_, isPointer := c.pkg.TypesInfo.TypeOf(n.X).Underlying().(*types.Pointer)
		if byPointer && !isPointer {
			c.changes(n.X)
		}
	}
}

func (c checker) changes(target ast.Expr) {
	v := c.packageVar(target)
	if v == nil {
		return
	}
	if _, may := changing[directory(c.pkg)+"."+v.Name()]; !may {
		c.report(target.Pos(), "package variable %s is changed", v.Name())
	}
}

// packageVar is the package variable that target is or is a part of.
func (c checker) packageVar(target ast.Expr) *types.Var {
	switch e := target.(type) {
	case *ast.Ident:
		v, ok := c.pkg.TypesInfo.Uses[e].(*types.Var)
		if ok && v.Pkg() != nil && v.Parent() == v.Pkg().Scope() {
			return v
		}
	case *ast.SelectorExpr:
		if _, field := c.pkg.TypesInfo.Selections[e]; !field {
			return c.packageVar(e.Sel) // a name of another package
		}
		return c.packageVar(e.X)
	case *ast.IndexExpr:
		return c.packageVar(e.X)
	case *ast.SliceExpr:
		return c.packageVar(e.X)
	case *ast.ParenExpr:
		return c.packageVar(e.X)
	case *ast.StarExpr:
		return c.packageVar(e.X)
	}
	return nil
}

func (c checker) packageComment() {
	if strings.HasSuffix(c.pkg.PkgPath, "_test") || matches(generated, c.dir) || len(c.pkg.Syntax) == 0 {
		return
	}
	if !slices.ContainsFunc(c.pkg.Syntax, func(f *ast.File) bool { return f.Doc != nil }) {
		c.report(c.pkg.Syntax[0].Name.Pos(), "no package comment")
	}
}
