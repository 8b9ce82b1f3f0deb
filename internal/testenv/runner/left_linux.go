package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"darklaunch/internal/testenv/proc"
)

// leftBehind ends the descendants of this process, empties the directories and
// says what it found: each process with the ports that it listened on, each
// file, and each port that this process itself listens on.
func leftBehind(dirs []string, grace time.Duration) ([]string, error) {
	left, err := processes(grace)
	if err != nil {
		return nil, err
	}
	ports, err := proc.Listening(os.Getpid())
	if err != nil {
		return nil, err
	}
	for _, port := range ports {
		left = append(left, "port "+port+", listened on by the runner")
	}
	for _, dir := range dirs {
		files, err := files(dir)
		if err != nil {
			return nil, err
		}
		left = append(left, files...)
	}
	return left, nil
}

// processes ends what is left, and names what did not end by itself.
func processes(grace time.Duration) ([]string, error) {
	alive, err := descendants(grace)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, p := range alive {
		left = append(left, p.String())
		ports, err := proc.Listening(p.PID)
		if err != nil {
			return nil, err
		}
		for _, port := range ports {
			left = append(left, fmt.Sprintf("port %s, listened on by %s", port, p))
		}
	}
	// What one of them starts meanwhile is ended in the next round.
	for deadline := time.Now().Add(10 * time.Second); len(alive) > 0; {
		if time.Now().After(deadline) {
			return left, fmt.Errorf("%v do not end", alive)
		}
		for _, p := range alive {
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
		}
		if alive, err = descendants(100 * time.Millisecond); err != nil {
			return left, err
		}
	}
	return left, nil
}

// descendants lists the living descendants, after giving them time to end. The
// dead among this process's children are buried.
func descendants(patience time.Duration) ([]proc.Info, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		all, err := proc.Descendants(os.Getpid())
		if err != nil {
			return nil, err
		}
		var alive []proc.Info
		for _, p := range all {
			if p.Zombie {
				var status syscall.WaitStatus
				_, _ = syscall.Wait4(p.PID, &status, syscall.WNOHANG, nil) // fails if it is another's child
				continue
			}
			alive = append(alive, p)
		}
		if len(alive) == 0 || time.Now().After(deadline) {
			return alive, nil
		}
	}
}

// files empties a directory and names what was in it.
func files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var inside []string
		_ = filepath.WalkDir(path, func(file string, d os.DirEntry, err error) error {
			if err == nil && file != path && len(inside) < 5 {
				inside = append(inside, strings.TrimPrefix(file, path+"/"))
			}
			return nil
		})
		text := path
		if len(inside) > 0 {
			text += " with " + strings.Join(inside, ", ")
		}
		left = append(left, text)
		if err := os.RemoveAll(path); err != nil {
			return left, err
		}
	}
	return left, nil
}
