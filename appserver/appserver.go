// Package appserver is the application server of Messages: the gRPC API in front
// of mailboxes.
package appserver
