// Package cellv1 is the generated code of cell.v1, the membership of a small cell over
// a connection. cell.proto states what each field means; appserver/cell/rows speaks it
// on both sides.
package cellv1
