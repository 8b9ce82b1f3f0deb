package main

import (
	"fmt"
	"os"
	"regexp"

	"darklaunch/mirror"
	"darklaunch/mirror/openapi"
	"darklaunch/mirror/sample"
)

// described returns a front's routes with one more for each operation of an
// OpenAPI description. What the configuration says of the requests of an
// operation holds for it; a route of which no operation is one is a mistake.
func described(routes []mirror.Route, file string, d *sample.Descriptors) ([]mirror.Route, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read --openapi: %w", err)
	}
	operations, err := openapi.Read(text)
	if err != nil {
		return nil, usageErrorf("%s:%w", file, err)
	}
	list := make([]sample.Route, len(routes))
	of := map[*sample.Route]*mirror.Route{}
	shapes := map[string]bool{}
	for i := range routes {
		list[i].Pattern = routes[i].Pattern
		of[&list[i]] = &routes[i]
		shapes[shape(routes[i].Pattern)] = true
	}
	configured, err := sample.NewRoutes(list)
	if err != nil {
		return nil, usageErrorf("%w", err)
	}
	all := routes[:len(routes):len(routes)]
	for _, o := range operations {
		route := mirror.Route{}
		if found := configured.Find(o.Method, o.Path); found != nil { // {NAME} is no other segment's text
			route = *of[found]
		}
		route.Pattern = o.Method + " " + o.Path
		if shapes[shape(route.Pattern)] {
			continue // the configuration has it, or the description twice
		}
		shapes[shape(route.Pattern)] = true
		all = append(all, route)
	}
	for _, pattern := range configured.Unmatched() {
		if !d.Has(pattern) {
			return nil, usageErrorf("%s: route %q matches nothing: it is none of the %d operations", file, pattern, len(operations))
		}
	}
	return all, nil
}

var parameter = regexp.MustCompile(`\{[^}/]*\}`)

// shape is a pattern without the names of its parameters.
func shape(pattern string) string { return parameter.ReplaceAllString(pattern, "{}") }
