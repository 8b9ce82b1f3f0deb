package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	chatv1 "darklaunch/api/legacy/chat/v1"
	messagesv1 "darklaunch/api/messages/v1"
)

var update = flag.Bool("update", false, "write the descriptors of the built-in scenarios, and the reference of metrics")

// TestScenarioDescriptorsAreFresh holds that the built-in scenarios know the
// contracts as they are: the generator may not import them, so it has them as data.
func TestScenarioDescriptorsAreFresh(t *testing.T) {
	for name, files := range map[string][]protoreflect.FileDescriptor{
		"messages.binpb":         {messagesv1.File_messages_v1_messages_proto},
		"health.binpb":           {healthpb.File_grpc_health_v1_health_proto},
		"translate/legacy.binpb": {messagesv1.File_messages_v1_messages_proto, chatv1.File_legacy_chat_v1_chat_proto},
	} {
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(descriptorSet(files...))
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join("../../scenarios", name)
		if *update {
			if err := os.WriteFile(to, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is stale (%v): go test ./cmd/darklaunch -run TestScenarioDescriptorsAreFresh -update", name, err)
		}
	}
}

// descriptorSet has each file after all that it imports.
func descriptorSet(files ...protoreflect.FileDescriptor) *descriptorpb.FileDescriptorSet {
	set := new(descriptorpb.FileDescriptorSet)
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	for _, file := range files {
		add(file)
	}
	return set
}
