// Package rowsv1 is the generated code of rows.v1, the contract of rows over a
// connection. rows.proto states what each field means; appserver/store/rows
// speaks it on both sides.
package rowsv1
