// Protogen compiles every .proto file below a directory and writes the Go code
// of its messages and services beside it. It needs no protoc: the compiler is a
// library, and the plugins are the tool lines of this module, so one go.mod
// pins the whole chain and it works offline once the modules are there.
//
//	go -C tools run ./protogen          # write
//	go -C tools run ./protogen -check   # write nothing; exit 1 if a file would change
//
// Both refuse a contract with an undocumented part: protobuf-go strips comments
// from the descriptors that it embeds, so only the compiler can still see them.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// plugins are names of tools that go.mod pins.
var plugins = []string{"protoc-gen-go", "protoc-gen-go-grpc"}

func main() {
	dir := flag.String("dir", "../api", "`directory` that holds the .proto files; imports are relative to it")
	check := flag.Bool("check", false, "compare instead of writing, and name what is stale")
	flag.Parse()
	if err := run(context.Background(), *dir, *check); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, check bool) error {
	files, err := compile(ctx, dir)
	if err != nil {
		return err
	}
	if bare := undocumented(files); len(bare) > 0 {
		return fmt.Errorf("no comment above:\n\t%s", strings.Join(bare, "\n\t"))
	}
	want, err := generate(ctx, files)
	if err != nil {
		return err
	}
	if !check {
		return write(dir, want)
	}
	stale, err := compare(dir, want)
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		return fmt.Errorf("stale, run make generate:\n\t%s", strings.Join(stale, "\n\t"))
	}
	return nil
}

// find returns the files below dir whose names end in suffix, as slash-separated
// paths relative to dir, sorted.
func find(dir, suffix string) ([]string, error) {
	var names []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(name, suffix) {
			names = append(names, name)
		}
		return err
	})
	return names, err
}

// compile parses and links every .proto file below dir, comments included.
func compile(ctx context.Context, dir string) (linker.Files, error) {
	names, err := find(dir, ".proto")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no .proto file below %s", dir)
	}
	c := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	return c.Compile(ctx, names...)
}

// generate runs the plugins on files and returns what they made, by name.
func generate(ctx context.Context, files linker.Files) (map[string]string, error) {
	req := &pluginpb.CodeGeneratorRequest{Parameter: proto.String("paths=source_relative")}
	seen := make(map[string]bool)
	for _, f := range files {
		req.FileToGenerate = append(req.FileToGenerate, f.Path())
		req.ProtoFile = appendWithImports(req.ProtoFile, f, seen)
	}
	in, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	made := make(map[string]string)
	for _, plugin := range plugins {
		cmd := exec.CommandContext(ctx, "go", "tool", plugin)
		cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", plugin, err)
		}
		var resp pluginpb.CodeGeneratorResponse
		if err := proto.Unmarshal(out, &resp); err != nil {
			return nil, fmt.Errorf("answer of %s: %w", plugin, err)
		}
		if resp.Error != nil {
			return nil, fmt.Errorf("%s: %s", plugin, resp.GetError())
		}
		for _, f := range resp.File {
			made[f.GetName()] = f.GetContent()
		}
	}
	return made, nil
}

// appendWithImports appends f after all that it imports, as plugins want it.
func appendWithImports(to []*descriptorpb.FileDescriptorProto, f protoreflect.FileDescriptor, seen map[string]bool) []*descriptorpb.FileDescriptorProto {
	if seen[f.Path()] {
		return to
	}
	seen[f.Path()] = true
	for i := range f.Imports().Len() {
		to = appendWithImports(to, f.Imports().Get(i).FileDescriptor, seen)
	}
	return append(to, protoutil.ProtoFromFileDescriptor(f))
}

func write(dir string, files map[string]string) error {
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// compare returns the names of files below dir that are not as want says:
// changed, missing, or generated from a .proto file that is gone.
func compare(dir string, want map[string]string) ([]string, error) {
	have, err := find(dir, ".pb.go")
	if err != nil {
		return nil, err
	}
	var stale []string
	for _, name := range have {
		if _, ok := want[name]; !ok {
			stale = append(stale, name)
		}
	}
	for name, content := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if string(got) != content {
			stale = append(stale, name)
		}
	}
	slices.Sort(stale)
	return stale, nil
}

// undocumented returns the full names of the messages, fields, oneofs, enums, their
// values, services and methods in files that no comment stands above.
func undocumented(files linker.Files) []string {
	var bare []string
	for _, f := range files {
		visit(f, func(d protoreflect.Descriptor) {
			if f.SourceLocations().ByDescriptor(d).LeadingComments == "" {
				bare = append(bare, string(d.FullName()))
			}
		})
	}
	return bare
}

// container is what a file and a message have in common.
type container interface {
	Messages() protoreflect.MessageDescriptors
	Enums() protoreflect.EnumDescriptors
}

// visit calls do on every named part of c that somebody wrote.
func visit(c container, do func(protoreflect.Descriptor)) {
	if f, ok := c.(protoreflect.FileDescriptor); ok {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			do(s)
			each(s.Methods(), do)
		}
	}
	for i := range c.Enums().Len() {
		e := c.Enums().Get(i)
		do(e)
		each(e.Values(), do)
	}
	for i := range c.Messages().Len() {
		m := c.Messages().Get(i)
		if m.IsMapEntry() {
			continue
		}
		do(m)
		each(m.Fields(), do)
		for i := range m.Oneofs().Len() {
			if o := m.Oneofs().Get(i); !o.IsSynthetic() {
				do(o)
			}
		}
		visit(m, do)
	}
}

// each calls do on every element of a descriptor list.
func each[D protoreflect.Descriptor](list interface {
	Len() int
	Get(int) D
}, do func(protoreflect.Descriptor)) {
	for i := range list.Len() {
		do(list.Get(i))
	}
}
