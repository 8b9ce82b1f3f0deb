package messagesv1_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	messagesv1 "darklaunch/api/messages/v1"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// mutates says of every method whether it changes a mailbox. A new method is added
// here by someone who has thought about it.
var mutates = map[protoreflect.FullName]bool{
	"messages.v1.Messages.Send":         true,
	"messages.v1.Messages.ListThreads":  false,
	"messages.v1.Messages.GetThread":    false,
	"messages.v1.Messages.Search":       false,
	"messages.v1.Messages.Update":       true,
	"messages.v1.Messages.Delete":       true,
	"messages.v1.Messages.MailboxStats": false,
	"messages.v1.Messages.FolderStats":  false,
	"messages.v1.Messages.Subscribe":    true,
	"messages.v1.Messages.Unsubscribe":  true,
	"messages.v1.Messages.UnreadCounts": false,
	"messages.v1.Messages.Watch":        false,
	"messages.v1.Delivery.Deliver":      true,
}

func TestContract(t *testing.T) {
	methods := 0
	for _, f := range []protoreflect.FileDescriptor{
		messagesv1.File_messages_v1_messages_proto,
		messagesv1.File_messages_v1_errors_proto,
		messagesv1.File_messages_v1_delivery_proto,
	} {
		for _, breach := range breaches(f) {
			t.Error(breach)
		}
		for i := range f.Services().Len() {
			methods += f.Services().Get(i).Methods().Len()
		}
	}
	if methods != len(mutates) {
		t.Errorf("got %d methods, want the %d known ones", methods, len(mutates))
	}
}

// breaches returns how f departs from the promises that hold for all methods.
func breaches(f protoreflect.FileDescriptor) []string {
	var found []string
	for i := range f.Services().Len() {
		methods := f.Services().Get(i).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			for _, breach := range methodBreaches(m) {
				found = append(found, fmt.Sprintf("%s %s", m.FullName(), breach))
			}
		}
	}
	return append(found, enumBreaches(f)...)
}

func methodBreaches(m protoreflect.MethodDescriptor) []string {
	var found []string
	rule := func(holds bool, breach string) {
		if !holds {
			found = append(found, breach)
		}
	}
	in, out := m.Input(), m.Output()
	rule(in.Name() == m.Name()+"Request" && out.Name() == m.Name()+"Response", "does not have its own request and response")
	rule(m.IsStreamingServer() || has(out, "version", protoreflect.Uint64Kind), "answers without the version it holds for")

	level := m.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel()
	mutation, known := mutates[m.FullName()]
	switch {
	case !known:
		rule(false, "is not known as a mutation or a read")
	case mutation:
		rule(has(in, "idempotency_key", protoreflect.StringKind), "is a mutation without idempotency_key")
		rule(level == descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN, "is a mutation that says it is none")
	default:
		rule(in.Fields().ByName("idempotency_key") == nil, "is a read with idempotency_key")
		rule(level == descriptorpb.MethodOptions_NO_SIDE_EFFECTS, "is a read that does not say so")
	}

	size := has(in, "page_size", protoreflect.Int32Kind)
	rule(size == has(in, "page_token", protoreflect.StringKind), "has one of page_size and page_token")
	rule(size == has(out, "next_page_token", protoreflect.StringKind), "pages only its request or only its response")
	return found
}

// has reports whether m has a single field of this name and kind.
func has(m protoreflect.MessageDescriptor, name protoreflect.Name, kind protoreflect.Kind) bool {
	f := m.Fields().ByName(name)
	return f != nil && f.Kind() == kind && !f.IsList()
}

// enumBreaches returns the enums in c, nested ones too, whose zero value could be
// taken for something said.
func enumBreaches(c interface {
	Enums() protoreflect.EnumDescriptors
	Messages() protoreflect.MessageDescriptors
}) []string {
	var found []string
	for i := range c.Enums().Len() {
		e := c.Enums().Get(i)
		prefix := strings.ToUpper(string(e.Name())) + "_"
		for i := range e.Values().Len() {
			v := e.Values().Get(i)
			if !strings.HasPrefix(string(v.Name()), prefix) {
				found = append(found, fmt.Sprintf("%s does not start with %s", v.FullName(), prefix))
			}
			if unspecified := string(v.Name()) == prefix+"UNSPECIFIED"; unspecified != (v.Number() == 0) {
				found = append(found, fmt.Sprintf("%s is %d", v.FullName(), v.Number()))
			}
		}
	}
	for i := range c.Messages().Len() {
		found = append(found, enumBreaches(c.Messages().Get(i))...)
	}
	return found
}

func TestContractCatchesBreaches(t *testing.T) {
	for _, test := range []struct {
		name  string
		plant func(contract)
		want  string
	}{
		{"nothing", func(contract) {}, ""},
		{"mutation without key", func(c contract) { c.field("DeleteRequest", "idempotency_key").Name = proto.String("key") },
			"messages.v1.Messages.Delete is a mutation without idempotency_key"},
		{"key of another type", func(c contract) {
			c.field("SendRequest", "idempotency_key").Type = descriptorpb.FieldDescriptorProto_TYPE_BYTES.Enum()
		},
			"messages.v1.Messages.Send is a mutation without idempotency_key"},
		{"mutation that claims to be a read", func(c contract) {
			c.method("Update").Options = &descriptorpb.MethodOptions{IdempotencyLevel: descriptorpb.MethodOptions_NO_SIDE_EFFECTS.Enum()}
		}, "messages.v1.Messages.Update is a mutation that says it is none"},
		{"read that hides", func(c contract) { c.method("Search").Options = nil },
			"messages.v1.Messages.Search is a read that does not say so"},
		{"read with key", func(c contract) { c.field("GetThreadRequest", "thread_id").Name = proto.String("idempotency_key") },
			"messages.v1.Messages.GetThread is a read with idempotency_key"},
		{"unknown method", func(c contract) {
			c.method("Watch").Name = proto.String("Spy")
			c.message("WatchRequest").Name = proto.String("SpyRequest")
			c.message("WatchResponse").Name = proto.String("SpyResponse")
			c.method("Spy").InputType = proto.String(".messages.v1.SpyRequest")
			c.method("Spy").OutputType = proto.String(".messages.v1.SpyResponse")
		}, "messages.v1.Messages.Spy is not known as a mutation or a read"},
		{"shared request", func(c contract) { c.method("FolderStats").InputType = proto.String(".messages.v1.MailboxStatsRequest") },
			"messages.v1.Messages.FolderStats does not have its own request and response"},
		{"no version", func(c contract) { c.field("UnreadCountsResponse", "version").Name = proto.String("of") },
			"messages.v1.Messages.UnreadCounts answers without the version it holds for"},
		{"no page_token", func(c contract) { c.field("SearchRequest", "page_token").Name = proto.String("after") },
			"messages.v1.Messages.Search has one of page_size and page_token"},
		{"no next_page_token", func(c contract) { c.field("ListThreadsResponse", "next_page_token").Name = proto.String("next") },
			"messages.v1.Messages.ListThreads pages only its request or only its response"},
		{"zero value that says something", func(c contract) { c.enum("Folder").Value[0].Name = proto.String("FOLDER_ALL") },
			"messages.v1.FOLDER_ALL is 0"},
		{"value without prefix", func(c contract) { c.message("Member").EnumType[0].Value[2].Name = proto.String("OLD_INBOX") },
			"messages.v1.Member.OLD_INBOX does not start with KIND_"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := contract{protodesc.ToFileDescriptorProto(messagesv1.File_messages_v1_messages_proto)}
			test.plant(c)
			f, err := protodesc.NewFile(c.file, protoregistry.GlobalFiles)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(breaches(f), "; ")
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// contract is a file of the contract that a breach can be planted in. A part that it
// does not have panics.
type contract struct {
	file *descriptorpb.FileDescriptorProto
}

func (c contract) message(name string) *descriptorpb.DescriptorProto {
	return named(c.file.MessageType, name)
}

func (c contract) field(message, name string) *descriptorpb.FieldDescriptorProto {
	f := named(c.message(message).Field, name)
	f.JsonName = nil
	return f
}

func (c contract) enum(name string) *descriptorpb.EnumDescriptorProto {
	return named(c.file.EnumType, name)
}

func (c contract) method(name string) *descriptorpb.MethodDescriptorProto {
	return named(c.file.Service[0].Method, name)
}

func named[D interface{ GetName() string }](list []D, name string) D {
	return list[slices.IndexFunc(list, func(d D) bool { return d.GetName() == name })]
}
