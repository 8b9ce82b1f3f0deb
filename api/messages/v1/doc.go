// Package messagesv1 is the generated code of messages.v1, the API of the Messages
// application server. messages.proto states what each method promises, errors.proto
// the details of refusals, delivery.proto how mailboxes reach each other.
package messagesv1
