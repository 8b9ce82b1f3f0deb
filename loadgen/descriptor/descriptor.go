// Package descriptor finds out what a gRPC method takes and gives: from a set of
// descriptors that protoc wrote, from a .proto file, or from the server itself
// by reflection. A request is then written as JSON and sent as protobuf.
package descriptor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Finder finds descriptors by full name.
type Finder interface {
	FindDescriptorByName(protoreflect.FullName) (protoreflect.Descriptor, error)
}

// FromSet reads a serialised google.protobuf.FileDescriptorSet, as protoc
// --include_imports --descriptor_set_out writes it.
func FromSet(set []byte) (Finder, error) {
	var files descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(set, &files); err != nil {
		return nil, errors.New("not a FileDescriptorSet: want what protoc --include_imports --descriptor_set_out writes")
	}
	return protodesc.NewFiles(&files)
}

// FromProto compiles a .proto file. What it imports is looked for beside it and
// in the directories above; the standard imports need not be there.
func FromProto(ctx context.Context, file string) (Finder, error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for dir := filepath.Dir(abs); ; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	c := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: dirs})}
	files, err := c.Compile(ctx, filepath.Base(abs))
	if err != nil {
		return nil, err
	}
	return files.AsResolver(), nil
}

// FromServer asks the server at addr, by reflection, for the file that declares
// symbol and for all that this file needs. tls is nil for a plain connection.
func FromServer(ctx context.Context, addr string, tls credentials.TransportCredentials, symbol string) (Finder, error) {
	if tls == nil {
		tls = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(tls))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	f, err := ask(ctx, conn, reflection.ServerReflection_ServerReflectionInfo_FullMethodName, symbol)
	if status.Code(err) == codes.Unimplemented {
		// Older servers know the version before, which is the same on the wire.
		f, err = ask(ctx, conn, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", symbol)
	}
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil, fmt.Errorf("%s has no server reflection: name its methods by a .proto file or a descriptor set", addr)
	case err != nil:
		return nil, fmt.Errorf("ask %s for %s by reflection: %w", addr, symbol, err)
	}
	return f, nil
}

func ask(ctx context.Context, conn *grpc.ClientConn, method, symbol string) (Finder, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return nil, err
	}
	files := map[string]*descriptorpb.FileDescriptorProto{}
	take := func(req *reflection.ServerReflectionRequest) error {
		// The error of a send is io.EOF; the receive has the reason.
		if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		var resp reflection.ServerReflectionResponse
		if err := stream.RecvMsg(&resp); err != nil {
			return err
		}
		if refused := resp.GetErrorResponse(); refused != nil {
			return status.Error(codes.Code(refused.ErrorCode), refused.ErrorMessage)
		}
		for _, b := range resp.GetFileDescriptorResponse().GetFileDescriptorProto() {
			var f descriptorpb.FileDescriptorProto
			if err := proto.Unmarshal(b, &f); err != nil {
				return fmt.Errorf("answer: %w", err)
			}
			files[f.GetName()] = &f
		}
		return nil
	}
	err = take(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol}})
	if err != nil {
		return nil, err
	}
	for name := missing(files); name != ""; name = missing(files) {
		err := take(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_FileByFilename{FileByFilename: name}})
		if err != nil {
			return nil, err
		}
		if files[name] == nil {
			return nil, fmt.Errorf("the server does not give %s, which its own files import", name)
		}
	}
	set := new(descriptorpb.FileDescriptorSet)
	for _, f := range files {
		set.File = append(set.File, f)
	}
	return protodesc.NewFiles(set)
}

// missing is the name of a file that another one imports and that is not there.
func missing(files map[string]*descriptorpb.FileDescriptorProto) string {
	for _, f := range files {
		for _, name := range f.Dependency {
			if files[name] == nil {
				return name
			}
		}
	}
	return ""
}

// Method returns the method called name, as package.Service/Method. It refuses
// one whose caller streams.
func Method(f Finder, name string) (protoreflect.MethodDescriptor, error) {
	service, method, ok := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	if !ok || service == "" || method == "" {
		return nil, fmt.Errorf("method %q: want package.Service/Method", name)
	}
	d, err := f.FindDescriptorByName(protoreflect.FullName(service))
	s, isService := d.(protoreflect.ServiceDescriptor)
	if err != nil || !isService {
		return nil, fmt.Errorf("method %s: there is no service %s", name, service)
	}
	m := s.Methods().ByName(protoreflect.Name(method))
	if m == nil {
		var names []string
		for i := range s.Methods().Len() {
			names = append(names, string(s.Methods().Get(i).Name()))
		}
		return nil, fmt.Errorf("method %s: service %s has %s", name, service, strings.Join(names, ", "))
	}
	if m.IsStreamingClient() {
		return nil, fmt.Errorf("method %s: its caller sends a stream: want one that takes a single message", name)
	}
	return m, nil
}

// Message writes a message of type d, given as JSON, as it goes over the wire:
// the same bytes for the same input.
func Message(d protoreflect.MessageDescriptor, json []byte) ([]byte, error) {
	m := dynamicpb.NewMessage(d)
	if len(bytes.TrimSpace(json)) > 0 {
		if err := protojson.Unmarshal(json, m); err != nil {
			return nil, fmt.Errorf("%s from JSON: %s", d.FullName(), strings.ReplaceAll(strings.TrimPrefix(err.Error(), "proto:"), "\u00a0", " "))
		}
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}
