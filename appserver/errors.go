package appserver

import (
	"context"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/mailbox"
)

func withDetails(c codes.Code, message string, details ...protoadapt.MessageV1) error {
	s, err := status.New(c, message).WithDetails(details...)
	if err != nil { // a detail that cannot be packed is a bug of this package
		panic(err)
	}
	return s.Err()
}

func notFound(kind, name string) error {
	return withDetails(codes.NotFound, "no such "+kind, &errdetails.ResourceInfo{ResourceType: kind, ResourceName: name})
}

func notMember(thread string) error {
	return withDetails(codes.FailedPrecondition, "not a member of the thread", &errdetails.PreconditionFailure{
		Violations: []*errdetails.PreconditionFailure_Violation{{Type: "MEMBER", Subject: thread, Description: "the user is not, or no longer, a member"}}})
}

// shed is RESOURCE_EXHAUSTED: nothing was done.
func shed(message string, after time.Duration) error {
	return withDetails(codes.ResourceExhausted, message, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
}

// grpcError maps what the mailboxes return to what callers see; key is that of the
// mutation, if it is one. What is a status already stays as it is.
func grpcError(err error, key string) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return err
	}
	unknown := func(c codes.Code, message string) error {
		if key == "" {
			return status.Error(c, message)
		}
		return withDetails(c, message, &messagesv1.OutcomeUnknown{IdempotencyKey: key})
	}
	moved, isMoved := errors.AsType[*mailbox.Moved](err)
	switch {
	case isMoved && !errors.Is(err, mailbox.ErrUnknown):
		return withDetails(codes.FailedPrecondition, "the mailbox is in another cell",
			&messagesv1.WrongCell{Cell: moved.Cell, DirectoryVersion: moved.Generation})
	case errors.Is(err, mailbox.ErrUnknown) && errors.Is(err, context.DeadlineExceeded):
		return unknown(codes.DeadlineExceeded, "the outcome is unknown: retry with the same key")
	case errors.Is(err, mailbox.ErrUnknown):
		return unknown(codes.Unavailable, "the outcome is unknown: retry with the same key")
	case errors.Is(err, mailbox.ErrKeyReused):
		return invalid("idempotency_key", "it was used for another request")
	case errors.Is(err, mailbox.ErrOverloaded):
		return shed("overloaded, nothing was done", time.Second)
	case errors.Is(err, mailbox.ErrLost), errors.Is(err, mailbox.ErrClosed), errors.Is(err, mailbox.ErrLate):
		// Another server, asked now, may know where. A caller outside asks again.
		return withDetails(codes.Unavailable, "the mailbox is elsewhere: try again", &messagesv1.NotOwner{})
	case errors.Is(err, mailbox.ErrBeyond):
		return invalid("after", "beyond the log's end")
	case errors.Is(err, action.ErrBodyTooLarge):
		return invalid("body", "too large for the log; it belongs in the blob store")
	case errors.Is(err, action.ErrInvalid):
		return invalid("request", "the log does not take what it means")
	case errors.Is(err, mailbox.ErrCorrupt):
		return status.Error(codes.DataLoss, "the mailbox cannot be read by this server")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "canceled")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the deadline has passed")
	}
	return status.Error(codes.Unavailable, "the store could not be asked: try again")
}
