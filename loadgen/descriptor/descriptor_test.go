package descriptor

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
)

const checkMethod = "grpc.health.v1.Health/Check"

func serve(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	register(s)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

const healthProto = `syntax = "proto3";
package grpc.health.v1;
import "google/protobuf/empty.proto";
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse { int32 status = 1; }
service Health {
  rpc Check(HealthCheckRequest) returns (HealthCheckResponse);
  rpc Watch(HealthCheckRequest) returns (stream HealthCheckResponse);
  rpc Push(stream HealthCheckRequest) returns (google.protobuf.Empty);
}
`

// TestAllSourcesSayTheSame finds one method in the three ways there are, and in
// the older version of reflection.
func TestAllSourcesSayTheSame(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	file := filepath.Join(t.TempDir(), "health.proto")
	if err := os.WriteFile(file, []byte(healthProto), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(healthpb.File_grpc_health_v1_health_proto)}})
	if err != nil {
		t.Fatal(err)
	}
	for name, find := range map[string]func() (Finder, error){
		"set":   func() (Finder, error) { return FromSet(set) },
		"proto": func() (Finder, error) { return FromProto(ctx, file) },
		"server": func() (Finder, error) {
			return FromServer(ctx, serve(t, func(s *grpc.Server) { reflection.RegisterV1(s) }), nil, "grpc.health.v1.Health")
		},
		"older server": func() (Finder, error) {
			return FromServer(ctx, serve(t, func(s *grpc.Server) { reflection.Register(alphaOnly{s}) }), nil, "grpc.health.v1.Health")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := find()
			if err != nil {
				t.Fatal(err)
			}
			m, err := Method(f, checkMethod)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Message(m.Input(), []byte(`{"service": "x"}`))
			if diff := cmp.Diff([]byte("\x0a\x01x"), got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// alphaOnly leaves the present version of reflection out.
type alphaOnly struct{ *grpc.Server }

func (a alphaOnly) RegisterService(d *grpc.ServiceDesc, impl any) {
	if d.ServiceName == "grpc.reflection.v1alpha.ServerReflection" {
		a.Server.RegisterService(d, impl)
	}
}

func TestErrorsSayWhatIsWanted(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	file := filepath.Join(t.TempDir(), "health.proto")
	if err := os.WriteFile(file, []byte(healthProto), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := FromProto(ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	method := func(name string) error { _, err := Method(f, name); return err }
	check, err := Method(f, checkMethod)
	if err != nil {
		t.Fatal(err)
	}
	_, noSet := FromSet([]byte("not protobuf"))
	_, noFile := FromProto(ctx, "/nowhere/x.proto")
	_, noReflection := FromServer(ctx, serve(t, func(*grpc.Server) {}), nil, "grpc.health.v1.Health")
	_, noSymbol := FromServer(ctx, serve(t, func(s *grpc.Server) { reflection.Register(s) }), nil, "no.Such")
	_, noField := Message(check.Input(), []byte(`{"servise": "x"}`))
	for want, err := range map[string]error{
		"want package.Service/Method": method("Check"),
		"no service grpc.Health":      method("grpc.Health/Check"),
		"has Check, Watch, Push":      method("grpc.health.v1.Health/Chekc"),
		"its caller sends a stream":   method("grpc.health.v1.Health/Push"),
		"want what protoc":            noSet,
		"x.proto":                     noFile,
		"has no server reflection":    noReflection,
		"no.Such":                     noSymbol,
		`unknown field "servise"`:     noField,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
