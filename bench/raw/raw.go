// Package raw is a gRPC codec that passes messages as they are. With it clients
// and servers need no description of what they send.
package raw

import "slices"

// Codec takes and yields messages as *[]byte. What it marshals is not copied and
// must not change before it was sent.
type Codec struct{}

// Name is that of the codec whose content type is gRPC's usual one.
func (Codec) Name() string { return "proto" }

// Marshal returns the bytes that v, a *[]byte, points to.
func (Codec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

// Unmarshal copies data to where v, a *[]byte, points.
func (Codec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = slices.Clone(data)
	return nil
}
