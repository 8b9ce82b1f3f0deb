package appserver

import (
	"context"
	"errors"
	"net/http"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/client"
	"darklaunch/appserver/mailbox"
)

// answers returns what the methods answer with that are about one user's mailbox: all of
// Messages and Delivery.
func answers() map[string]protoreflect.MessageType {
	types := map[string]protoreflect.MessageType{}
	for _, file := range []protoreflect.FileDescriptor{messagesv1.File_messages_v1_messages_proto, messagesv1.File_messages_v1_delivery_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				t, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
				if err != nil {
					panic(err) // generated code is there as a whole
				}
				types["/"+string(service.FullName())+"/"+string(m.Name())] = t
			}
		}
	}
	return types
}

// routed brings a call to the server that serves its user: mostly this one, by local. One
// that was forwarded to it is served here or refused.
func (s *Server) routed(ctx context.Context, method string, request any, local func(context.Context) (any, error)) (any, error) {
	here := func(ctx context.Context) (any, error) {
		response, err := local(ctx)
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-served-by", s.cfg.Name)) // fails where there is no connection
		return response, err
	}
	answer, known := s.answers[method]
	u, err := caller(ctx)
	if s.cfg.Router == nil || !known || err != nil {
		return here(ctx)
	}
	if forwarded(ctx) {
		if err := s.cfg.Router.NotMine(string(u)); err != nil {
			return nil, err
		}
		response, err := here(ctx)
		return response, s.cfg.Router.Refused(string(u), err)
	}
	var response any
	served := false // here
	elsewhere := answer.New().Interface()
	var header metadata.MD
	err = s.cfg.Router.Forward(onward(ctx), method, request, elsewhere, func(context.Context) (err error) {
		served, header = true, nil
		response, err = local(ctx)
		return err
	}, grpc.Header(&header))
	by := header.Get("x-served-by")
	if served && len(by) == 0 {
		by = []string{s.cfg.Name}
	} else {
		response = elsewhere
	}
	_ = grpc.SetHeader(ctx, metadata.MD{"x-served-by": by}) // as above
	return response, err
}

func forwarded(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, "x-forwarded-by")) > 0
}

// onward is ctx of a call that goes on: with its user, its trace and its marks.
func onward(ctx context.Context) context.Context {
	in, _ := metadata.FromIncomingContext(ctx)
	out := metadata.MD{}
	for _, key := range []string{"x-user", "darklaunch-role", "darklaunch-id", "darklaunch-key"} {
		if v := in.Get(key); len(v) > 0 {
			out[key] = v
		}
	}
	h := http.Header{}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
	for _, key := range []string{"traceparent", "tracestate"} {
		if v := h.Get(key); v != "" {
			out.Set(key, v)
		}
	}
	return metadata.NewOutgoingContext(ctx, out)
}

// routedWatch is routed for the one method that is a stream.
func (s *Server) routedWatch(ss grpc.ServerStream) error {
	r := new(messagesv1.WatchRequest)
	if err := ss.RecvMsg(r); err != nil {
		return err
	}
	begun := &begunStream{ServerStream: ss}
	local := func() error {
		_ = ss.SetHeader(metadata.Pairs("x-served-by", s.cfg.Name)) // fails where there is no connection
		return s.Watch(r, &grpc.GenericServerStream[messagesv1.WatchRequest, messagesv1.WatchResponse]{ServerStream: begun})
	}
	u, err := caller(ss.Context())
	if s.cfg.Router == nil || err != nil {
		return local()
	}
	if forwarded(ss.Context()) {
		if err := s.cfg.Router.NotMine(string(u)); err != nil {
			return err
		}
		return s.cfg.Router.Refused(string(u), local())
	}
	if s.cfg.Router.Mine(ss.Context(), string(u)) {
		if err := local(); begun.yes || !s.cfg.Router.Elsewhere(string(u), err) {
			return err
		}
	}
	ctx, cancel := context.WithCancel(onward(ss.Context()))
	defer cancel()
	go func() { // it ends with the call
		select {
		case <-s.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	stream, err := messagesv1.NewMessagesClient(s.cfg.Router).Watch(ctx, r)
	if err != nil {
		return err
	}
	for {
		w, err := stream.Recv()
		if err != nil {
			if ss.Context().Err() == nil && status.Code(err) == codes.Canceled {
				return status.Error(codes.Unavailable, "the stream ends here: take it up elsewhere")
			}
			return err
		}
		if !begun.yes {
			if header, err := stream.Header(); err == nil {
				_ = ss.SetHeader(metadata.MD{"x-served-by": header.Get("x-served-by")}) // as above
			}
		}
		if err := begun.SendMsg(w); err != nil {
			return err
		}
	}
}

// begunStream notes that something has been sent. It is used by one goroutine.
type begunStream struct {
	grpc.ServerStream
	yes bool
}

func (b *begunStream) SendMsg(m any) error {
	b.yes = true
	return b.ServerStream.SendMsg(m)
}

// begin is asked before a mailbox begins here.
func (s *Server) begin(ctx context.Context, u action.User) error {
	err := s.cfg.Router.Begins(ctx, string(u))
	if e, ok := errors.AsType[*client.ElsewhereError](err); ok {
		return &mailbox.Moved{Cell: e.Place.Cell, Generation: e.Place.Generation}
	}
	return err
}

// follow has calls to servers that have lost their users made again, elsewhere.
func (s *Server) follow(ctx context.Context) {
	if s.cfg.Changed == nil {
		return
	}
	for {
		changed := s.cfg.Changed()
		s.cfg.Router.Rerouted()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// bring takes a delivery to its recipient, wherever the mailbox is.
func (s *Server) bring(ctx context.Context, to action.User, r *messagesv1.DeliverRequest) error {
	if s.cfg.Router == nil {
		_, err := s.deliver(ctx, to, r)
		return err
	}
	ctx = client.As(ctx, string(to))
	return s.cfg.Router.Forward(ctx, messagesv1.Delivery_Deliver_FullMethodName, r, new(messagesv1.DeliverResponse), func(ctx context.Context) error {
		_, err := s.deliver(ctx, to, r)
		return err
	})
}
