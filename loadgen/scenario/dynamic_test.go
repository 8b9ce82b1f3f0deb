package scenario

import (
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// newDynamic is a message M of a file.
func newDynamic(file protoreflect.FileDescriptor) *dynamicpb.Message {
	return dynamicpb.NewMessage(file.Messages().ByName("M"))
}
