package scenario

import (
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"

	"darklaunch/internal/strictyaml"
	"darklaunch/loadgen/arrival"
	"darklaunch/loadgen/population"
)

// file is a scenario as it is written. The schema has said already that keys are
// known and values of the right type.
type file struct {
	APIVersion  string             `yaml:"apiVersion"`
	Extends     string             `yaml:"extends"`
	Name        string             `yaml:"name"`
	Description string             `yaml:"description"`
	Seed        uint64             `yaml:"seed"`
	Target      target             `yaml:"target"`
	Descriptors string             `yaml:"descriptors"`
	Population  people             `yaml:"population"`
	Arrivals    arrivals           `yaml:"arrivals"`
	Session     *chain             `yaml:"session"`
	Mix         map[string]float64 `yaml:"mix"`
	Users       string             `yaml:"users"`
	Content     *content           `yaml:"content"`
	Headers     map[string]string  `yaml:"headers"`
	Ops         map[string]*opFile `yaml:"ops"`
	Objectives  []objective        `yaml:"objectives"`
}

type target struct {
	Protocol     string `yaml:"protocol"`
	Conns        int    `yaml:"conns"`
	Streams      int    `yaml:"streams"`
	PerUser      bool   `yaml:"per_user"`
	CallsPerConn int    `yaml:"calls_per_conn"`
}

type people struct {
	Prefix      *string  `yaml:"prefix"`
	Users       int      `yaml:"users"`
	Sigma       float64  `yaml:"sigma"`
	Cap         float64  `yaml:"cap"`
	Contacts    law      `yaml:"contacts"`
	Popularity  float64  `yaml:"popularity"`
	HotAccounts *float64 `yaml:"hot_accounts"`
	HotMessages *float64 `yaml:"hot_messages"`
}

type arrivals struct {
	Unit    string          `yaml:"unit"`
	Process arrival.Process `yaml:"process"`
	Curve   []stretch       `yaml:"curve"`
	Bursts  arrival.Bursts  `yaml:"bursts"`
}

type stretch struct {
	Phase   arrival.Phase `yaml:"phase"`
	For     quantity      `yaml:"for"`
	Hold    *quantity     `yaml:"hold"`
	Ramp    *span         `yaml:"ramp"`
	Steps   *span         `yaml:"steps"`
	Diurnal *diurnal      `yaml:"diurnal"`
}

type span struct {
	From  quantity `yaml:"from"`
	To    quantity `yaml:"to"`
	Count int      `yaml:"count"`
}

type diurnal struct {
	Mean quantity `yaml:"mean"`
	Day  quantity `yaml:"day"`
}

type chain struct {
	Start   string                        `yaml:"start"`
	Think   law                           `yaml:"think"`
	Weights map[string]float64            `yaml:"weights"`
	Next    map[string]map[string]float64 `yaml:"next"`
	Streams map[string]*streamFile        `yaml:"streams"`
}

type streamFile struct {
	Share *float64 `yaml:"share"`
	Told  string   `yaml:"told"`
}

type content struct {
	Limit struct {
		Body       quantity `yaml:"body"`
		Recipients int      `yaml:"recipients"`
	} `yaml:"limit"`
	Channels map[string]*channel `yaml:"channels"`
}

type channel struct {
	Share      float64 `yaml:"share"`
	As         string  `yaml:"as"`
	Recipients law     `yaml:"recipients"`
	Body       law     `yaml:"body"`
	Attached   float64 `yaml:"attached"`
	Attachment law     `yaml:"attachment"`
}

type opFile struct {
	RPC       string            `yaml:"rpc"`
	Method    string            `yaml:"method"`
	Path      string            `yaml:"path"`
	Headers   map[string]string `yaml:"headers"`
	Request   any               `yaml:"request"`
	Body      *string           `yaml:"body"`
	When      string            `yaml:"when"`
	Otherwise string            `yaml:"otherwise"`
	Let       map[string]string `yaml:"let"`
	Save      map[string]string `yaml:"save"`
	Think     law               `yaml:"think"`
	Timeout   quantity          `yaml:"timeout"`
}

// source is one of the files that a scenario is made of.
type source struct {
	name string
	root *yaml.Node
}

// reader reads a scenario's files.
type reader struct {
	files   fs.FS
	schema  []byte
	file    file
	sources []source  // the last has the last word
	digest  hash.Hash // of all their text
}

// maxExtends bounds how deep scenarios extend each other.
const maxExtends = 8

// read reads the scenario called name, after the one that it extends.
func (r *reader) read(name string, depth int) error {
	text, err := fs.ReadFile(r.files, name)
	if err != nil {
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			err = path.Err
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	root, err := strictyaml.Read(text, r.schema)
	if err != nil {
		return fmt.Errorf("%s:%w", name, err)
	}
	var head struct {
		Extends string `yaml:"extends"`
	}
	if err := strictyaml.Decode(root, &head); err != nil {
		return fmt.Errorf("%s:%w", name, err)
	}
	if head.Extends != "" {
		base := path.Join(path.Dir(name), head.Extends)
		line, _ := strictyaml.Locate(root, []string{"extends"})
		if depth == maxExtends || base == name {
			return fmt.Errorf("%s:%d: extends: %s: scenarios extend each other in a circle, or more than %d deep", name, line, head.Extends, maxExtends)
		}
		if err := r.read(base, depth+1); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s:%d: extends: want a scenario beside this file, or the name of a built-in one: %w", name, line, err)
			}
			return err
		}
	}
	if err := strictyaml.Decode(root, &r.file); err != nil {
		return fmt.Errorf("%s:%w", name, err)
	}
	r.sources = append(r.sources, source{name, root})
	r.digest.Write(text)
	return nil
}

// errorf is the error of what stands at the path at, its steps separated by
// dots: in the last file that has the longest part of it.
func (r *reader) errorf(at, format string, args ...any) error {
	steps := strings.Split(at, ".")
	best, deepest, line := r.sources[len(r.sources)-1], 0, 1
	for i := len(r.sources) - 1; i >= 0; i-- {
		for n := len(steps); n > deepest; n-- {
			if there(r.sources[i].root, steps[:n]) {
				best, deepest = r.sources[i], n
				line, _ = strictyaml.Locate(best.root, steps[:n])
			}
		}
	}
	_, key := strictyaml.Locate(best.root, steps)
	return fmt.Errorf("%s:%d: %s: %w", best.name, line, key, fmt.Errorf(format, args...))
}

// there says whether the path exists below node.
func there(node *yaml.Node, path []string) bool {
	for _, step := range path {
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		next := (*yaml.Node)(nil)
		switch node.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(node.Content); i += 2 {
				if node.Content[i].Value == step {
					next = node.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			var i int
			if _, err := fmt.Sscan(step, &i); err == nil && i < len(node.Content) {
				next = node.Content[i]
			}
		}
		if next == nil {
			return false
		}
		node = next
	}
	return true
}

// population is the population that the file describes.
func (p *people) config(seed uint64) population.Config {
	c := population.Config{Seed: seed, Users: p.Users, Sigma: p.Sigma, Cap: p.Cap, Popularity: p.Popularity}
	// Where the file says zero it means none, which Config has a negative for.
	none := func(to *float64, v *float64) {
		if v != nil {
			if *to = *v; *v == 0 {
				*to = -1
			}
		}
	}
	none(&c.HotAccounts, p.HotAccounts)
	none(&c.HotMessages, p.HotMessages)
	if l, ok := p.Contacts.Law.(population.LogNormal); ok {
		c.Contacts = l
	}
	return c
}
