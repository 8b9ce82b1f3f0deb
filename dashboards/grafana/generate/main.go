// Generate writes the dashboards that Grafana imports.
//
//	go run ./dashboards/grafana/generate -dir dashboards/grafana/json
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"darklaunch/dashboards"
	"darklaunch/dashboards/grafana"
)

func main() {
	dir := flag.String("dir", "dashboards/grafana/json", "`directory` that holds the dashboards")
	flag.Parse()
	if err := write(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	for _, d := range dashboards.All() {
		b, err := grafana.Render(&d)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, grafana.File(&d)), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}
