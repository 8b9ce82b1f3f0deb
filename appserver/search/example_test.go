package search_test

import (
	"fmt"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/appserver/search"
)

// A mailbox applies each action to its index, then to its keywords; what is found does
// not depend on what is flushed.
func Example() {
	analyzer, err := search.NewAnalyzer(search.None)
	if err != nil {
		panic(err)
	}
	keywords := index.NewCells() // as the row has them
	meta, err := index.NewBatch(index.NewCells(), index.Latest)
	if err != nil {
		panic(err)
	}
	words, err := search.NewBatch(keywords, analyzer)
	if err != nil {
		panic(err)
	}
	for i, do := range []action.Do{
		&action.ThreadCreated{Thread: "t-1", Subject: "Lunch", Folder: action.FolderInbox},
		&action.MessageDelivered{Message: action.Message{Thread: "t-1", ID: "m-1", Author: action.Participant{User: "ann"},
			Channel: action.ChannelSMS, Body: "At the café, half past twelve?"}},
	} {
		a := action.Action{Sequence: uint64(i + 1), Origin: action.OriginDelivery, Do: do}
		if err := meta.Apply(a); err != nil {
			panic(err)
		}
		view, err := index.Open(meta)
		if err != nil {
			panic(err)
		}
		if err := words.Apply(a, view); err != nil {
			panic(err)
		}
	}

	query, err := search.Parse(`cafe "half past" from:ann -channel:email`, analyzer)
	if err != nil {
		panic(err)
	}
	view, err := index.Open(meta)
	if err != nil {
		panic(err)
	}
	hits, next, err := query.Run(view, words, 20, nil)
	if err != nil {
		panic(err)
	}
	for _, m := range hits {
		fmt.Println(m.Thread, m.ID, m.Author)
	}
	fmt.Println("last page:", next == nil)

	delta, err := words.Delta() // to be put together with meta.Delta()
	if err != nil {
		panic(err)
	}
	keywords.Apply(delta)
	for q := range keywords.Scan([]byte("bca"), []byte("bcb")) {
		fmt.Printf("%q\n", q)
	}
	// Output:
	// t-1 m-1 ann
	// last page: true
	// "bcafe\x00\x00\x00\x00\x00\x00\x00\x00\x01"
}
