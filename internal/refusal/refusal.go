// Package refusal carries errors of a contract over gRPC as themselves: a code tells
// any caller what kind of error it is, and an ErrorInfo beside it ours which one.
package refusal

import (
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Refusal is one error that crosses a connection.
type Refusal struct {
	Err    error
	Code   codes.Code
	Reason string // of its ErrorInfo
}

// A Domain is the errors of one contract, with its name, as rows.v1.
type Domain struct {
	Name     string
	Refusals []Refusal
}

// Status is what err is answered as, nil if err is none of the domain's.
func (d Domain) Status(err error) error {
	for _, r := range d.Refusals {
		if !errors.Is(err, r.Err) {
			continue
		}
		st, detailErr := status.New(r.Code, err.Error()).WithDetails(&errdetails.ErrorInfo{Domain: d.Name, Reason: r.Reason})
		if detailErr != nil { // then it is an error like any other, which is true too
			return nil
		}
		return st.Err()
	}
	return nil
}

// Of is the error of the domain that a call's error carries, nil if it carries none.
func (d Domain) Of(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, detail := range st.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != d.Name {
			continue
		}
		for _, r := range d.Refusals {
			if st.Code() == r.Code && info.GetReason() == r.Reason {
				return r.Err
			}
		}
	}
	return nil
}
