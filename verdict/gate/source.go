package gate

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// checkOut puts the arm's revision in a worktree, and says what is compared.
func (g *gate) checkOut(ctx context.Context, a *arm) error {
	dir, err := filepath.Abs(a.Dir)
	if err != nil {
		return err
	}
	a.Dir, a.name = dir, filepath.Base(dir)
	if a.Revision == "" {
		// A directory need not be a repository.
		if commit, err := git(ctx, dir, "describe", "--always", "--dirty", "--abbrev=12"); err == nil {
			a.version = commit
		}
		return nil
	}
	commit, err := git(ctx, dir, "rev-parse", "--verify", "--end-of-options", a.Revision+"^{commit}")
	if err != nil {
		return fmt.Errorf("find the revision of %s: %w", a.role, err)
	}
	top, err := git(ctx, dir, "rev-parse", "--show-toplevel")
	if err != nil {
		return fmt.Errorf("find the repository of %s: %w", a.role, err)
	}
	below, err := filepath.Rel(top, dir)
	if err != nil {
		return err
	}
	tree := filepath.Join(g.Temp, "tree-"+string(a.role))
	g.Progress(fmt.Sprintf("check out %s for %s", a.Revision, a.role))
	if _, err := git(ctx, top, "worktree", "add", "--detach", tree, commit); err != nil {
		return fmt.Errorf("check out %s: %w", a.role, err)
	}
	a.name, a.version, a.Dir = a.Revision, commit[:min(12, len(commit))], filepath.Join(tree, below)
	return nil
}

// removeWorktrees takes back what checkOut did. It is done with Temp still there
// and after whatever ended ctx.
func (g *gate) removeWorktrees() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, s := range []struct{ role, repository, revision string }{{"base", g.Base.Dir, g.Base.Revision}, {"head", g.Head.Dir, g.Head.Revision}} {
		if s.revision != "" {
			// It fails if there is none, and a failure leaves what "git worktree prune" finds.
			_, _ = git(ctx, s.repository, "worktree", "remove", "--force", filepath.Join(g.Temp, "tree-"+s.role))
		}
	}
}

// git runs git in dir and returns what it printed.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("git %s: %v: %s", args[0], err, text)
	}
	return text, nil
}
