package action_test

import (
	"fmt"

	"darklaunch/appserver/action"
)

// A mailbox decides what a request means, appends it, and puts the record together
// with the deliveries that it owes.
func Example() {
	const ann = action.User("ann")
	request := []byte("the request as it came")
	sent := action.Action{
		Sequence: 7,
		Time:     1290000000000000000,
		Channel:  action.ChannelChat,
		Origin:   action.OriginUser,
		Key:      "key-1",
		Request:  action.DigestOf(request),
		Do: &action.MessageCreated{
			Message: action.Message{
				Thread: action.ThreadID(ann, "key-0"), ID: action.MessageID(ann, "key-1"),
				Author: action.Participant{User: ann}, Channel: action.ChannelChat, Time: 1290000000000000000, Body: "lunch?",
			},
			Recipients: []action.Participant{{User: "bob"}, {Email: "cy@example.org"}},
		},
	}
	record, err := action.Append(nil, sent, action.DefaultMaxBody)
	if err != nil {
		panic(err)
	}
	fmt.Printf("actions %x: %d bytes\n", action.Qualifier(sent.Sequence), len(record))
	for _, e := range action.Entries(ann, sent) {
		fmt.Printf("outbox  %q: %v as %s\n", e.Qualifier(), e.To, e.Key)
	}

	replayed, err := action.Decode(record)
	if err != nil {
		panic(err)
	}
	fmt.Println(replayed.Do.Kind(), "by", action.MessageOf(replayed.Do).Author)
	// Output:
	// actions 0000000000000007: 142 bytes
	// outbox  "\x00\x00\x00\x00\x00\x00\x00\aubob": bob as m-iy56efuohdm6lhbznbpxq732gz
	// outbox  "\x00\x00\x00\x00\x00\x00\x00\aecy@example.org": cy@example.org as m-iy56efuohdm6lhbznbpxq732gz
	// message created by ann
}
