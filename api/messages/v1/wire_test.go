package messagesv1_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	messagesv1 "darklaunch/api/messages/v1"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

var update = flag.Bool("update", false, "write testdata/wire.golden: only for samples that are new, as old bytes must stay")

const (
	samplesFile = "testdata/wire.txtpb"
	goldenFile  = "testdata/wire.golden"
)

// sample is a message as people write it.
type sample struct {
	name protoreflect.FullName
	text string
}

// readSamples reads samplesFile: each sample stands under a line "## Name".
func readSamples(t *testing.T) []sample {
	t.Helper()
	data, err := os.ReadFile(samplesFile)
	if err != nil {
		t.Fatal(err)
	}
	var samples []sample
	for _, part := range strings.Split("\n"+string(data), "\n## ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		samples = append(samples, sample{protoreflect.FullName("messages.v1." + name), text})
	}
	return samples
}

// readGolden returns the bytes of each sample, one line of hex for each.
func readGolden(t *testing.T) [][]byte {
	t.Helper()
	data, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	var golden [][]byte
	for line := range strings.Lines(string(data)) {
		b, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatalf("%s: %v", goldenFile, err)
		}
		golden = append(golden, b)
	}
	return golden
}

// parse reads s by the descriptors in files.
func parse(files protodesc.Resolver, s sample) (*dynamicpb.Message, error) {
	d, err := files.FindDescriptorByName(s.name)
	if err != nil {
		return nil, err
	}
	m := dynamicpb.NewMessage(d.(protoreflect.MessageDescriptor))
	return m, prototext.Unmarshal([]byte(s.text), m)
}

func encode(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// differs says how the encoding of s is not golden: what old bytes mean to a new
// reader, or what a new writer sends to an old one.
func differs(files protodesc.Resolver, s sample, golden []byte) error {
	want, err := parse(files, s)
	if err != nil {
		return err
	}
	got := want.New().Interface()
	if err := proto.Unmarshal(golden, got); err != nil {
		return err
	}
	if !proto.Equal(got, want) {
		return fmt.Errorf("golden bytes mean\n%s\nwant\n%s", prototext.Format(got), s.text)
	}
	b, err := encode(want)
	if err != nil {
		return err
	}
	if !bytes.Equal(b, golden) {
		return fmt.Errorf("encodes to %x, want %x", b, golden)
	}
	return nil
}

// TestWire holds every field and enum value of the contract to its number and type:
// stored logs and running peers speak them.
func TestWire(t *testing.T) {
	samples := readSamples(t)
	if *update {
		writeGolden(t, samples)
	}
	golden := readGolden(t)
	if len(samples) != len(golden) {
		t.Fatalf("got %d samples, want the golden's %d", len(samples), len(golden))
	}
	for i, s := range samples {
		if err := differs(protoregistry.GlobalFiles, s, golden[i]); err != nil {
			t.Errorf("sample %d, %s: %v", i+1, s.name, err)
		}
	}
	for _, name := range unsampled(t, samples) {
		t.Errorf("no sample has %s", name)
	}
}

func writeGolden(t *testing.T, samples []sample) {
	t.Helper()
	var out strings.Builder
	for _, s := range samples {
		m, err := parse(protoregistry.GlobalFiles, s)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		b, err := encode(m)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%x\n", b)
	}
	if err := os.WriteFile(goldenFile, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// unsampled returns the fields and enum values of the contract, zero values aside,
// that no sample holds.
func unsampled(t *testing.T, samples []sample) []protoreflect.FullName {
	t.Helper()
	seen := make(map[protoreflect.FullName]bool)
	for _, s := range samples {
		m, err := parse(protoregistry.GlobalFiles, s)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		markSeen(m, seen)
	}
	var missing []protoreflect.FullName
	want := func(d protoreflect.Descriptor) {
		if !seen[d.FullName()] {
			missing = append(missing, d.FullName())
		}
	}
	wantEnum := func(e protoreflect.EnumDescriptor) {
		for i := range e.Values().Len() {
			if v := e.Values().Get(i); v.Number() != 0 {
				want(v)
			}
		}
	}
	var wantMessages func(protoreflect.MessageDescriptors)
	wantMessages = func(list protoreflect.MessageDescriptors) {
		for i := range list.Len() {
			m := list.Get(i)
			for i := range m.Fields().Len() {
				want(m.Fields().Get(i))
			}
			for i := range m.Enums().Len() {
				wantEnum(m.Enums().Get(i))
			}
			wantMessages(m.Messages())
		}
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("messages.v1", func(f protoreflect.FileDescriptor) bool {
		wantMessages(f.Messages())
		for i := range f.Enums().Len() {
			wantEnum(f.Enums().Get(i))
		}
		return true
	})
	return missing
}

// markSeen marks the fields that m holds, at any depth, and their enum values.
func markSeen(m protoreflect.Message, seen map[protoreflect.FullName]bool) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		seen[f.FullName()] = true
		switch {
		case f.Enum() != nil:
			if value := f.Enum().Values().ByNumber(v.Enum()); value != nil {
				seen[value.FullName()] = true
			}
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				markSeen(v.List().Get(i).Message(), seen)
			}
		default:
			markSeen(v.Message(), seen)
		}
		return true
	})
}

func TestWireCatchesBreaches(t *testing.T) {
	samples, golden := readSamples(t), readGolden(t)
	for _, test := range []struct {
		name  string
		plant func(contract)
	}{
		{"renumbered field", func(c contract) { c.field("SendRequest", "subject").Number = proto.Int32(15) }},
		{"swapped numbers", func(c contract) {
			subject, body := c.field("SendRequest", "subject"), c.field("SendRequest", "body")
			subject.Number, body.Number = body.Number, subject.Number
		}},
		{"renumbered enum value", func(c contract) { c.enum("Channel").Value[2].Number = proto.Int32(7) }},
		{"other type", func(c contract) {
			f := c.field("DeleteResponse", "version")
			f.Type = c.field("Attachment", "sha256").Type
		}},
		{"field gone", func(c contract) {
			m := c.message("MailboxStatsResponse")
			m.Field = m.Field[1:]
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := contract{protodesc.ToFileDescriptorProto(messagesv1.File_messages_v1_messages_proto)}
			test.plant(c)
			f, err := protodesc.NewFile(c.file, protoregistry.GlobalFiles)
			if err != nil {
				t.Fatal(err)
			}
			var files protoregistry.Files
			if err := files.RegisterFile(f); err != nil {
				t.Fatal(err)
			}
			caught := 0
			for i, s := range samples {
				if _, err := files.FindDescriptorByName(s.name); err != nil {
					continue // of another file
				}
				if differs(&files, s, golden[i]) != nil {
					caught++
				}
			}
			if caught == 0 {
				t.Error("no sample caught it")
			}
		})
	}
	t.Run("sample gone", func(t *testing.T) {
		rest := slices.DeleteFunc(samples, func(s sample) bool { return s.name == "messages.v1.SendRequest" })
		missing := unsampled(t, rest)
		for _, want := range []protoreflect.FullName{"messages.v1.Assigned.time", "messages.v1.CHANNEL_SMS"} {
			if !slices.Contains(missing, want) {
				t.Errorf("got %v, want %s among them", missing, want)
			}
		}
	})
}
