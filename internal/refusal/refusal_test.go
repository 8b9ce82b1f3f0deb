package refusal

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestDomain(t *testing.T) {
	full, taken := errors.New("full"), errors.New("taken")
	d := Domain{"test.v1", []Refusal{{full, codes.ResourceExhausted, "FULL"}, {taken, codes.AlreadyExists, "TAKEN"}}}
	sent := d.Status(fmt.Errorf("put of ann: %w", taken))
	if status.Code(sent) != codes.AlreadyExists || status.Convert(sent).Message() != "put of ann: taken" {
		t.Errorf("got %v, want its code and its text", sent)
	}
	if got := d.Of(sent); got != taken {
		t.Errorf("got %v, want the error itself", got)
	}
	other := Domain{"other.v1", d.Refusals}
	swapped := Domain{"test.v1", []Refusal{{full, codes.AlreadyExists, "FULL"}, {taken, codes.ResourceExhausted, "TAKEN"}}}
	for name, got := range map[string]error{
		"an error of nobody's":    d.Status(errors.New("lost")),
		"no error":                d.Status(nil),
		"another domain's":        other.Of(sent),
		"another code":            swapped.Of(sent),
		"a code alone":            d.Of(status.Error(codes.AlreadyExists, "taken")),
		"an error without status": d.Of(errors.New("lost")),
		"none":                    d.Of(nil),
	} {
		if got != nil {
			t.Errorf("%s: got %v, want nil", name, got)
		}
	}
}
