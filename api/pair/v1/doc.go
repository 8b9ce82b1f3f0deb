// Package pairv1 is the generated code of pair.v1, the stream in which pairs leave
// a mirror. pair.proto states what each field means; internal/pairstream frames it.
package pairv1
