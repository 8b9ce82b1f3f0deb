package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	pairv1 "darklaunch/api/pair/v1"
)

// Command is a line for a shell that repeats a request of the record at target: a
// curl line, or for a gRPC call a grpcurl line. target is a URL's scheme and
// host ("http://127.0.0.1:9000"); empty leaves $TARGET for the reader to set.
//
// It holds what the record may show and nothing else: values that are digests
// there are digests here, and a body that the record does not have is missing,
// which the comment at the line's end says. Each word of the line is one literal to a
// shell, whatever the record holds.
func Command(r *pairv1.Request, target string) string {
	if isGRPC(r) {
		return grpcurl(r, target)
	}
	words := []string{"curl", "-g"}
	if m := r.GetMethod(); m != "GET" {
		words = append(words, "-X", quote(m))
	}
	words = append(words, headers(r, []string{"host", "content-length", "connection", "transfer-encoding"})...)
	missing := ""
	if body := r.GetBody(); body.GetSize() > 0 {
		text, ok := bodyText(body)
		switch {
		case !ok:
			missing = fmt.Sprintf(" # without its body of %d bytes", body.GetSize())
		case body.GetFormat() == pairv1.Format_FORMAT_FORM:
			words = append(words, form(text)...)
		default:
			words = append(words, "--data-raw", quote(text))
		}
	}
	return strings.Join(append(words, address(target, r.GetPath())), " ") + missing
}

func grpcurl(r *pairv1.Request, target string) string {
	words := append([]string{"grpcurl"}, headers(r, []string{"host", "content-type", "te", "content-length", "user-agent", "grpc-accept-encoding", "grpc-encoding", "accept-encoding"})...)
	host, secure := strings.CutPrefix(target, "https://")
	if !secure {
		words = slices.Insert(words, 1, "-plaintext")
		host = strings.TrimPrefix(target, "http://")
	}
	missing := ""
	if body := r.GetBody(); body.GetSize() > 5 { // the frame's head alone is an empty message
		text, ok := bodyText(body)
		switch {
		case !ok:
			missing = fmt.Sprintf(" # without its body of %d bytes", body.GetSize())
		case body.GetFormat() == pairv1.Format_FORMAT_PROTO:
			// Names of fields are not in the record, and grpcurl takes no numbers.
			missing = " # without its body, by field numbers: " + quote(text)
		default:
			words = append(words, "-d", quote(text))
		}
	}
	to := `"$TARGET"`
	if host != "" {
		to = quote(host)
	}
	return strings.Join(append(words, to, quote(strings.TrimPrefix(r.GetPath(), "/"))), " ") + missing
}

func isGRPC(r *pairv1.Request) bool {
	return r.GetBody().GetFormat() == pairv1.Format_FORMAT_PROTO || slices.ContainsFunc(r.GetHeader(), func(f *pairv1.Field) bool {
		return f.GetName() == "content-type" && strings.HasPrefix(f.GetValue(), "application/grpc")
	})
}

// headers are the fields of r but for those that the tool makes itself.
func headers(r *pairv1.Request, not []string) (words []string) {
	for _, f := range r.GetHeader() {
		name := f.GetName()
		// The tools read a file for a name that begins with @.
		if name == "" || slices.Contains(not, name) || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") != "" {
			continue
		}
		line := name + ": " + f.GetValue()
		if f.GetValue() == "" {
			line = name + ";" // with a colon curl leaves the field out
		}
		words = append(words, "-H", quote(line))
	}
	return words
}

// bodyText is what the record has of a body, false if that is not all of it.
func bodyText(b *pairv1.Body) (text string, ok bool) {
	if b.GetTruncated() || b.GetFormat() == pairv1.Format_FORMAT_OPAQUE || len(b.GetContent()) == 0 {
		return "", false
	}
	var line bytes.Buffer
	if json.Compact(&line, b.GetContent()) != nil {
		return "", false
	}
	return line.String(), true
}

// form is the words that make curl send a form: text is an object of lists.
func form(text string) (words []string) {
	var fields map[string][]string
	if json.Unmarshal([]byte(text), &fields) != nil {
		return nil
	}
	var names []string
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, v := range fields[name] {
			if strings.ContainsAny(name, "=@") || name == "" {
				continue // curl has no way to say such a name
			}
			words = append(words, "--data-urlencode", quote(name+"="+v))
		}
	}
	return words
}

// address is the URL, as one word.
func address(target, path string) string {
	var b strings.Builder
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c >= 0x7f || c == '#' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	if target == "" {
		return `"$TARGET"` + quote(b.String())
	}
	return quote(strings.TrimSuffix(target, "/") + b.String())
}

// quote is s as one word of a shell (POSIX, 2.2.2): in single quotes nothing but
// a single quote means anything. What a terminal or an argument can't hold is
// replaced.
func quote(s string) string {
	return "'" + strings.ReplaceAll(plain(s), "'", `'\''`) + "'"
}
