// Package chatv1 is the API of the old Chat, generated from chat.proto, which
// documents it. A dark launch mirrors it; new code uses messages.v1.
package chatv1
