package sample

import "strings"

// IsGRPC reports whether a request's content type is one of gRPC's.
func IsGRPC(request *Message) bool {
	ct, _ := request.field("content-type", 0)
	return strings.HasPrefix(ct, "application/grpc")
}

// IsMethod reports whether a path or a route looks like a gRPC method's:
// /pkg.Service/Method.
func IsMethod(path string) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return ok && strings.HasPrefix(path, "/") && strings.Contains(service, ".") && method != "" && !strings.ContainsAny(path, "{} ") && !strings.Contains(method, "/")
}

// Unsafe reports whether x may change state: all methods may but GET, HEAD and
// OPTIONS, and gRPC methods that d declares free of side effects.
func Unsafe(x *Exchange, d *Descriptors) bool {
	if IsGRPC(&x.Request) {
		return !d.NoSideEffects(x.Path)
	}
	switch x.Method {
	case "GET", "HEAD", "OPTIONS":
		return false
	}
	return true
}

// Refused reports whether an answer says that the request changed nothing:
// a status of 4xx that is not about time, or a gRPC status that blames the
// request or its turn. Any other failure may have come after the change.
// grpcStatus is the trailer's text, "" outside gRPC.
func Refused(status int, grpcStatus string) bool {
	switch grpcStatus {
	case "3", "5", "6", "7", "8", "9", "11", "12", "16":
		// INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED,
		// FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED, UNAUTHENTICATED
		return true
	}
	return status/100 == 4 && status != 408 && status != 499
}
