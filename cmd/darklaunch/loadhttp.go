package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"darklaunch/loadgen"
	"darklaunch/loadgen/transport"
)

func (p *program) loadHTTP() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "http URL",
		Short: "Send one HTTP request again and again",
		Long: `Send one HTTP request again and again, at the times of a plan. An answer of
status 400 and up counts as an error; redirects are not followed.`,
		Example: `  darklaunch load http http://127.0.0.1:8080/ --rate 2000/s --for 10s
  darklaunch load http https://shop.example/cart --method POST --body @cart.json --objective 'p99<250ms' --objective 'errors<0.1%'`,
		Args: cobra.ExactArgs(1),
	}
	var f adhocFlags
	f.define(p, cmd.Flags())
	var conns int
	var method, body string
	var http2 bool
	cmd.Flags().IntVar(&conns, "conns", 64, "how many connections at most")
	cmd.Flags().StringVar(&method, "method", "", "method (default GET, with --body POST)")
	cmd.Flags().StringVar(&body, "body", "", "body of the request; @FILE: what is in the file")
	cmd.Flags().BoolVar(&http2, "http2", false, "speak HTTP/2, without TLS from the first byte on")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		op := transport.Op{Method: method, Header: f.headers}
		if body != "" {
			content, err := textOrFile(body, "--body")
			if err != nil {
				return err
			}
			op.Body = content
			if method == "" {
				op.Method = "POST"
			}
		}
		target, err := loadgen.HTTPTarget(args[0], http2, op)
		if err != nil {
			return usageErrorf("URL: %w", err)
		}
		if conns < 1 {
			return usageErrorf("--conns: want 1 or more")
		}
		target.Conns = conns
		cfg, err := f.config(cmd.Flags(), target)
		if err != nil {
			return err
		}
		return p.runLoad(cmd.Context(), "load http "+args[0], cfg, &f.judgeFlags, nil)
	}
	return cmd
}

// textOrFile is the value of a flag that takes a text, or the content of a file as @FILE.
func textOrFile(s, flag string) ([]byte, error) {
	name, isFile := strings.CutPrefix(s, "@")
	if !isFile {
		return []byte(s), nil
	}
	return readInput(name, flag)
}

// readInput reads a file that a flag or argument names.
func readInput(name, flag string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, usageErrorf("read %s (%s): %w", name, flag, withoutPath(err))
	}
	return b, nil
}
