package sample_test

import (
	"fmt"
	"net/http"

	"darklaunch/mirror/sample"
)

// header lets net/http's headers be read.
type header http.Header

func (h header) Field(name string, n int) (string, bool) {
	vs := http.Header(h).Values(name)
	if n >= len(vs) {
		return "", false
	}
	return vs[n], true
}

func ExampleSampler_Decide() {
	author, err := sample.ParseExtractor("header:x-user", nil)
	if err != nil {
		panic(err)
	}
	recipients, err := sample.ParseExtractor("json:$.to[*]", nil)
	if err != nil {
		panic(err)
	}
	s := sample.New(sample.Config{Salt: "s1"})
	d := s.Decide(&sample.Exchange{
		Method: "POST", Path: "/messages", Unsafe: true,
		Request: sample.Message{
			Header: header{"X-User": {"ann"}},
			Body:   []byte(`{"to": ["u1", "user-42"], "body": "lunch?"}`),
		},
	}, []sample.Extractor{author}, []sample.Extractor{recipients}, sample.Share{Sample: 100_000})

	fmt.Println("copied:", d.Admitted)
	fmt.Println("ann is sampled:", d.Author.Sampled)
	for _, u := range d.Touched {
		fmt.Println(u.Key, "is sampled:", u.Sampled)
	}
	// Output:
	// copied: true
	// ann is sampled: false
	// u1 is sampled: true
	// user-42 is sampled: false
}

func ExampleParseExtractor() {
	_, err := sample.ParseExtractor("path:/users/me", nil)
	fmt.Println(err)
	// Output:
	// extractor "path:/users/me": want a path such as /users/{key}, in which one whole segment is {key}
}
