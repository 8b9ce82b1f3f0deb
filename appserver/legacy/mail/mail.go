// Package mail reads mails (RFC 5322, MIME) as the messages of an old Inbox. Mail comes
// as it is: what is broken is read as far as it goes, and what cannot be is listed with a
// reason. Nothing in a mail makes it fail otherwise.
package mail

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	netmail "net/mail"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message"
	"github.com/emersion/go-message/charset"
	gomail "github.com/emersion/go-message/mail"
	"golang.org/x/net/html"

	"darklaunch/appserver/legacy/inbox"
)

// Mail is what an Inbox keeps of a mail.
type Mail struct {
	File       string
	ID         string   // Message-ID without its brackets; may be empty
	References []string // ids of what it answers, the nearest first
	Date       time.Time
	From       string
	To         []string // recipients without doubles, in the order of the mail; none may be there
	Subject    string
	Body       string
	Junk       bool
}

// Skipped is a mail that was not imported, and why.
type Skipped struct {
	File   string `json:"file"`
	Reason string `json:"reason"`
}

// Limits of what is read of a mail.
const (
	maxDepth  = 20   // of parts within parts
	maxParts  = 1000 // all in all
	maxHeader = 1 << 20
)

// Read reads one mail. If its first line is that of an mbox's entry, date and author are
// taken from there where the mail has none. An error says why it is no message.
func Read(raw []byte) (m Mail, err error) {
	defer func() {
		// The library's fault with one mail is not to end the import of the others.
		if v := recover(); v != nil {
			m, err = Mail{}, fmt.Errorf("cannot be parsed: %v", v)
		}
	}()
	var envelope envelope
	if line, rest, _ := bytes.Cut(raw, []byte("\n")); bytes.HasPrefix(line, []byte("From ")) {
		envelope, raw = parseEnvelope(string(line)), rest
	}
	e, err := message.ReadWithOptions(bytes.NewReader(raw), &message.ReadOptions{MaxHeaderBytes: maxHeader})
	if err != nil && !message.IsUnknownCharset(err) && !message.IsUnknownEncoding(err) || e == nil {
		return m, fmt.Errorf("no header that can be read: %w", orUnknown(err))
	}
	h := gomail.Header{Header: e.Header}
	if h.Len() == 0 {
		return m, errors.New("no header")
	}
	m.ID, _ = h.MessageID()
	m.References = references(h)
	if m.From = first(addresses(h, "From", "Reply-To", "Sender", "Return-Path")); m.From == "" {
		m.From = user(envelope.from)
	}
	if m.From == "" {
		return m, errors.New("no author's address")
	}
	for _, field := range []string{"To", "Cc", "Bcc"} {
		m.To = append(m.To, addresses(h, field)...)
	}
	m.To = unique(m.To)
	if m.Date = dateOf(h, envelope); m.Date.IsZero() {
		return m, errors.New("no date")
	}
	m.Subject = inbox.Cut(line(text(h, "Subject")), inbox.MaxSubject)
	b := &body{}
	b.part(e, 0)
	m.Body = b.String()
	return m, nil
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("nothing there")
	}
	return err
}

// envelope is the first line of an mbox's entry.
type envelope struct {
	from string
	date time.Time
}

func parseEnvelope(line string) (e envelope) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return e
	}
	e.from = fields[1]
	if len(fields) >= 7 {
		e.date, _ = time.Parse("Jan 2 15:04:05 2006", strings.Join(fields[3:7], " "))
	}
	return e
}

func references(h gomail.Header) (ids []string) {
	for _, field := range []string{"In-Reply-To", "References"} {
		found, err := h.MsgIDList(field)
		if err != nil || len(found) == 0 {
			found = nil
			for _, m := range bracketed.FindAllStringSubmatch(h.Get(field), 100) {
				found = append(found, m[1])
			}
		}
		slices.Reverse(found)
		ids = append(ids, found...)
	}
	return unique(ids)
}

var (
	bracketed = regexp.MustCompile(`<([^<>\s]+@[^<>\s]+)>`)
	anAddress = regexp.MustCompile(`[^\s<>"(),:;\[\]]+@[^\s<>"(),:;\[\]]+`)
)

// addresses returns the users of the first of the fields that has some.
func addresses(h gomail.Header, fields ...string) (users []string) {
	for _, field := range fields {
		for _, value := range h.Values(field) {
			list, err := netmail.ParseAddressList(value)
			if err != nil { // what looks like one is taken
				for _, a := range anAddress.FindAllString(value, 1000) {
					list = append(list, &netmail.Address{Address: a})
				}
			}
			for _, a := range list {
				if u := user(a.Address); u != "" {
					users = append(users, u)
				}
			}
		}
		if len(users) > 0 {
			break
		}
	}
	return unique(users)
}

// user is an address as the name of a user, empty if it cannot be.
func user(address string) string {
	u := strings.ToLower(strings.Trim(address, "<>"))
	if !strings.Contains(u, "@") || !inbox.ValidUser(u) {
		return ""
	}
	return u
}

func first(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

func unique(all []string) (once []string) {
	seen := map[string]bool{}
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			once = append(once, s)
		}
	}
	return once
}

// dateOf is when the mail was sent, or came, from 1970 on; zero if nothing says so.
func dateOf(h gomail.Header, e envelope) time.Time {
	dates := []string{h.Get("Date")}
	for _, received := range h.Values("Received") {
		_, date, _ := strings.Cut(received, ";")
		dates = append(dates, date)
	}
	for _, s := range dates {
		t, err := netmail.ParseDate(strings.TrimSpace(s))
		if err == nil && t.Year() >= 1970 && t.Year() < 2100 {
			return t
		}
	}
	if e.date.Year() >= 1970 {
		return e.date
	}
	return time.Time{}
}

// text is a header field as UTF-8, whatever was in it.
func text(h gomail.Header, field string) string {
	raw := h.Get(field)
	s, err := (&mime.WordDecoder{CharsetReader: charset.Reader}).DecodeHeader(raw)
	if err != nil {
		s = raw
	}
	return valid(s)
}

// valid takes bytes that are no UTF-8 for Latin-1, as old programs mostly meant.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

// line is s with its control characters made spaces.
func line(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s))
}

// body collects the text of a mail's parts.
type body struct {
	text  strings.Builder
	notes []string // of what is no text
	parts int
}

// part adds an entity. Of alternatives the first that is plain text is taken, else the
// first text.
func (b *body) part(e *message.Entity, depth int) {
	if b.parts++; b.parts > maxParts || b.text.Len() > inbox.MaxBody {
		return
	}
	if depth > maxDepth {
		b.note("parts within parts, deeper than %d", maxDepth)
		return
	}
	kind, params, err := e.Header.ContentType()
	if err != nil && kind == "" {
		kind = "text/plain"
	}
	if disposition, _, _ := e.Header.ContentDisposition(); disposition == "attachment" {
		b.attachment(e, kind, params)
		return
	}
	switch {
	case strings.HasPrefix(kind, "multipart/"):
		b.multipart(e, kind == "multipart/alternative", depth)
	case kind == "message/rfc822":
		inner, err := message.ReadWithOptions(e.Body, &message.ReadOptions{MaxHeaderBytes: maxHeader})
		if inner == nil || err != nil && !message.IsUnknownCharset(err) && !message.IsUnknownEncoding(err) {
			b.note("a mail that cannot be read")
			return
		}
		b.add("Subject: " + line(text(gomail.Header{Header: inner.Header}, "Subject")))
		b.part(inner, depth+1)
	case kind == "text/html":
		b.add(plain(io.LimitReader(e.Body, 8*inbox.MaxBody)))
	case strings.HasPrefix(kind, "text/"):
		// What could be read is taken, whatever came after it.
		s, _ := io.ReadAll(io.LimitReader(e.Body, inbox.MaxBody+1))
		b.add(string(s))
	default:
		b.attachment(e, kind, params)
	}
}

func (b *body) multipart(e *message.Entity, alternative bool, depth int) {
	r := e.MultipartReader()
	if r == nil {
		s, _ := io.ReadAll(io.LimitReader(e.Body, inbox.MaxBody+1))
		b.add(string(s))
		return
	}
	for b.parts < maxParts {
		before := b.text.Len()
		part, err := r.NextPart()
		if part == nil || err != nil && !message.IsUnknownCharset(err) && !message.IsUnknownEncoding(err) {
			return // at the end, or broken from here on
		}
		if b.part(part, depth+1); alternative && b.text.Len() > before {
			return
		}
	}
}

func (b *body) attachment(e *message.Entity, kind string, params map[string]string) {
	_, more, _ := e.Header.ContentDisposition()
	name := more["filename"]
	if name == "" {
		name = params["name"]
	}
	b.note("%s %s", kind, line(valid(name)))
}

func (b *body) note(format string, args ...any) {
	if len(b.notes) < 25 {
		b.notes = append(b.notes, "["+strings.TrimSpace(inbox.Cut(fmt.Sprintf(format, args...), 300))+"]")
	}
}

func (b *body) add(s string) {
	s = strings.TrimSpace(s)
	if s == "" {
		return
	}
	if b.text.Len() > 0 {
		b.text.WriteString("\n\n")
	}
	b.text.WriteString(inbox.Cut(s, inbox.MaxBody+1))
}

// String is the body: never empty, and within the Inbox's limits.
func (b *body) String() string {
	s := b.text.String()
	if len(b.notes) > 0 {
		s = strings.TrimSpace(inbox.Cut(s, inbox.MaxBody/2) + "\n\n" + strings.Join(b.notes, "\n"))
	}
	s = strings.ReplaceAll(strings.ReplaceAll(valid(s), "\r\n", "\n"), "\x00", "")
	if s = strings.TrimSpace(inbox.Cut(s, inbox.MaxBody)); s == "" {
		return "(no text)"
	}
	return s
}

// plain is the text of HTML, without what is not shown.
func plain(r io.Reader) string {
	var b strings.Builder
	z := html.NewTokenizer(bufio.NewReader(r))
	z.SetMaxBuf(1 << 20)
	hidden := 0
	for {
		switch z.Next() {
		case html.ErrorToken:
			return b.String()
		case html.TextToken:
			if hidden == 0 {
				b.WriteString(html.UnescapeString(string(z.Raw())))
			}
		case html.StartTagToken:
			switch name, _ := z.TagName(); string(name) {
			case "script", "style", "title":
				hidden++
			case "br", "p", "div", "tr", "li", "h1", "h2", "h3":
				b.WriteByte('\n')
			}
		case html.EndTagToken:
			switch name, _ := z.TagName(); string(name) {
			case "script", "style", "title":
				hidden = max(hidden-1, 0)
			}
		}
	}
}
