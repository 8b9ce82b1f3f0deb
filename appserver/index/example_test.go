package index_test

import (
	"fmt"
	"slices"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
)

// A mailbox loads the cells of its row, folds what they lag behind the log, answers
// from them, and flushes what has changed when it likes.
func Example() {
	var log []action.Action
	add := func(do action.Do) {
		log = append(log, action.Action{Sequence: uint64(len(log) + 1), Origin: action.OriginDelivery, Do: do})
	}
	for i, subject := range []string{"lunch", "invoice", "holidays"} {
		thread := fmt.Sprint("t-", i)
		add(&action.ThreadCreated{Thread: thread, Subject: subject, Folder: action.FolderInbox})
		add(&action.MessageDelivered{Message: action.Message{Thread: thread, ID: fmt.Sprint("m-", i), Author: action.Participant{User: "ann"},
			Channel: action.ChannelChat, Time: action.Time(i), Body: "about " + subject}})
	}

	// The row's metadata were flushed after the fourth action.
	row, err := index.Rebuild(index.V2, slices.Values(log[:4]))
	if err != nil {
		panic(err)
	}
	version, err := index.VersionOf(row)
	if err != nil {
		panic(err)
	}
	fmt.Println("loaded at version", version.Sequence)

	batch, err := index.NewBatch(row, index.Latest)
	if err != nil {
		panic(err)
	}
	for _, a := range log[version.Sequence:] {
		if err := batch.Apply(a); err != nil {
			panic(err)
		}
	}
	view, err := index.Open(batch)
	if err != nil {
		panic(err)
	}
	unread := true
	threads, next, err := view.Threads(index.Filter{Folder: action.FolderInbox, Unread: &unread, Limit: 2})
	if err != nil {
		panic(err)
	}
	for _, t := range threads {
		newest, err := view.MessageAt(t.NewestSequence)
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s: %s\n", t.Subject, newest.Snippet)
	}
	request := action.DigestOf([]byte("the request without its page"))
	fmt.Println("more:", next != nil && next.Token(request) != "")

	// Flush: put the delta under the fence; when it is known to be kept, apply it.
	delta := batch.Delta()
	row.Apply(delta)
	fmt.Println("checked:", index.Check(slices.Values(log), row) == nil)
	// Output:
	// loaded at version 4
	// holidays: about holidays
	// invoice: about invoice
	// more: true
	// checked: true
}

// Cells of an old schema are replaced by those that the log folds into under a new one.
func ExampleUpgrade() {
	log := []action.Action{
		{Sequence: 1, Origin: action.OriginDelivery, Do: &action.ThreadCreated{Thread: "t-1", Folder: action.FolderOther}},
	}
	row, err := index.Rebuild(index.V1, slices.Values(log))
	if err != nil {
		panic(err)
	}
	if version, _ := index.VersionOf(row); version.Schema < index.Latest {
		delta, err := index.Upgrade(row, index.Latest, slices.Values(log))
		if err != nil {
			panic(err)
		}
		row.Apply(delta)
	}
	version, err := index.VersionOf(row)
	fmt.Println(version.Schema, err)
	// Output: 2 <nil>
}
