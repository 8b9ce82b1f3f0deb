package mail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"darklaunch/appserver/legacy"
	"darklaunch/appserver/legacy/inbox"
	"darklaunch/internal/testenv"
	"darklaunch/internal/testenv/install"
)

const head = "From: Ann <Ann@Example.org>\r\nTo: bob@example.org\r\nDate: Mon, 15 Nov 2010 12:00:00 +0000\r\nSubject: Hi\r\n"

func nested(depth int) string {
	var b strings.Builder
	for i := range depth {
		fmt.Fprintf(&b, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	b.WriteString("Content-Type: text/plain\r\n\r\ndeep\r\n")
	return b.String()
}

func TestRead(t *testing.T) {
	date := time.Date(2010, 11, 15, 12, 0, 0, 0, time.UTC)
	plainMail := Mail{Date: date, From: "ann@example.org", To: []string{"bob@example.org"}, Subject: "Hi"}
	with := func(change func(*Mail)) Mail {
		m := plainMail
		change(&m)
		return m
	}
	for _, tt := range []struct {
		name, raw string
		want      Mail
		wrong     string
	}{
		{name: "plain", raw: head + "\r\nHello.\r\n", want: with(func(m *Mail) { m.Body = "Hello." })},
		{name: "ids", raw: head + "Message-ID: <c@x>\nIn-Reply-To: <b@x>\nReferences: <a@x> <b@x>\n\nHello.\n", want: with(func(m *Mail) {
			m.ID, m.References, m.Body = "c@x", []string{"b@x", "a@x"}, "Hello."
		})},
		{name: "ids in prose", raw: head + "In-Reply-To: Your message of today <b@x>\n\nHello.\n", want: with(func(m *Mail) { m.References, m.Body = []string{"b@x"}, "Hello." })},
		{name: "recipients", raw: head + "Cc: Cid <cid@example.org>, bob@example.org, broken <, \"d\" <dan@example.org\n\nx", want: with(func(m *Mail) {
			m.To, m.Body = []string{"bob@example.org", "cid@example.org", "dan@example.org"}, "x"
		})},
		{name: "8-bit header", raw: "From: M\xfcller <ann@example.org>\nDate: Mon, 15 Nov 2010 12:00:00 +0000\nTo: bob@example.org\nSubject: Gr\xfc\xdfe\n\nx", want: with(func(m *Mail) { m.Subject, m.Body = "Grüße", "x" })},
		{name: "encoded header", raw: strings.Replace(head, "Hi", "=?iso-8859-1?q?Gr=FC=DFe?=", 1) + "\nx", want: with(func(m *Mail) { m.Subject, m.Body = "Grüße", "x" })},
		{name: "control characters in the subject", raw: strings.Replace(head, "Hi", "a\x00b\tc", 1) + "\nx", want: with(func(m *Mail) { m.Subject, m.Body = "a b c", "x" })},
		{name: "charset", raw: head + "Content-Type: text/plain; charset=koi8-r\n\n\xf0\xd2\xc9\xd7\xc5\xd4", want: with(func(m *Mail) { m.Body = "Привет" })},
		{name: "unknown charset", raw: head + "Content-Type: text/plain; charset=x-none\n\ngr\xfcn", want: with(func(m *Mail) { m.Body = "grün" })},
		{name: "unknown encoding", raw: head + "Content-Transfer-Encoding: x-none\n\nHello.", want: with(func(m *Mail) { m.Body = "Hello." })},
		{name: "quoted", raw: head + "Content-Transfer-Encoding: quoted-printable\n\na=3Db", want: with(func(m *Mail) { m.Body = "a=b" })},
		{name: "HTML", raw: head + "Content-Type: text/html\n\n<html><style>x{}</style><p>One &amp; <b>two</b></html>", want: with(func(m *Mail) { m.Body = "One & two" })},
		{name: "alternatives and an attachment", raw: head + "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/alternative; boundary=i\n\n--i\n\nplain\n--i\nContent-Type: text/html\n\n<p>html\n--i--\n--o\nContent-Type: image/png; name=\"a.png\"\n\nxx\n--o--\n",
			want: with(func(m *Mail) { m.Body = "plain\n\n[image/png a.png]" })},
		{name: "a part without its end", raw: head + "Content-Type: multipart/mixed; boundary=o\n\n--o\n\ncut o", want: with(func(m *Mail) { m.Body = "cut o" })},
		{name: "empty", raw: head + "\n", want: with(func(m *Mail) { m.Body = "(no text)" })},
		{name: "30 deep", raw: head + nested(30), want: with(func(m *Mail) { m.Body = "[parts within parts, deeper than 20]" })},
		{name: "10 deep", raw: head + nested(10), want: with(func(m *Mail) { m.Body = "deep" })},
		{name: "20 MB", raw: head + "\n" + strings.Repeat("x", 20<<20), want: with(func(m *Mail) { m.Body = strings.Repeat("x", inbox.MaxBody) })},
		{name: "no date but that of a relay", raw: "Received: by x; Mon, 15 Nov 2010 12:00:00 +0000\nFrom: ann@example.org\nTo: bob@example.org\nSubject: Hi\nDate: today\n\nx", want: with(func(m *Mail) { m.Body = "x" })},
		{name: "an envelope alone", raw: "From ann@example.org  Mon Nov 15 12:00:00 2010\nTo: bob@example.org\nSubject: Hi\n\nx", want: with(func(m *Mail) { m.Body = "x" })},
		{name: "no date", raw: "From: ann@example.org\n\nx", wrong: "no date"},
		{name: "no author", raw: "To: ann@example.org\n\nx", wrong: "no author"},
		{name: "no mail", raw: "mv 1 00001\nmv 2 00002\n", wrong: "header"},
		{name: "nothing", raw: "", wrong: "header"},
		{name: "an endless header", raw: "From: ann@example.org\nX: " + strings.Repeat("x", 2<<20) + "\n\nx", wrong: "header"},
	} {
		got, err := Read([]byte(tt.raw))
		if tt.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%s: got %+v, %v, want an error with %q", tt.name, got, err, tt.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff != "" {
			t.Errorf("%s (-want +got):\n%.2000s", tt.name, diff)
		}
	}
}

func TestSplit(t *testing.T) {
	long := strings.Repeat("y", 1<<17)
	for _, tt := range []struct {
		file string
		want []string
	}{
		{"From: a\n\nFrom b Mon Nov 15\n", []string{"From: a\n\nFrom b Mon Nov 15\n"}},
		{"From a@x Mon Nov 15 12:00:00 2010\nTo: b\n\nx\nFrom c@x Mon Nov 15\n>From here\n\nFrom here on\n\nFrom b@x  Tue Nov 16 12:00:00 2010\nTo: a\n\n" + long,
			[]string{"From a@x Mon Nov 15 12:00:00 2010\nTo: b\n\nx\nFrom c@x Mon Nov 15\nFrom here\n\nFrom here on\n\n", "From b@x  Tue Nov 16 12:00:00 2010\nTo: a\n\n" + long}},
	} {
		var got []string
		if err := Split(strings.NewReader(tt.file), func(raw []byte) error { got = append(got, string(raw)); return nil }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("(-want +got):\n%.1000s", diff)
		}
	}
}

func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"box":              "From ann@example.org Mon Nov 15 12:00:00 2010\n" + head + "Message-ID: <1@x>\n\nfirst\n\nFrom bob@example.org Mon Nov 15 13:00:00 2010\nFrom: bob@example.org\nTo: cid@example.org\nSubject: Re: Hi\nIn-Reply-To: <1@x>\n\nsecond\n",
		"dir/cur/1:2,S":    "From: cid@example.org\nTo: ann@example.org\nDate: Mon, 15 Nov 2010 14:00:00 +0000\nReferences: <1@x>\n\nthird\n",
		"dir/tmp/2":        head + "\non its way\n",
		"Junk/new/3":       "From: spam@example.org\nTo: ann@example.org\nSubject: Buy\nDate: Mon, 15 Nov 2010 15:00:00 +0000\n\nnow\n",
		"Junk/cur/.hidden": head,
		"broken":           "\x00\x01\x02",
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	mails, skipped, err := ReadDir(t.Context(), dir)
	if err != nil || len(mails) != 4 || len(skipped) != 1 || !strings.HasSuffix(skipped[0].File, "broken") {
		t.Fatalf("got %d mails, skipped %v, %v, want 4, and broken skipped", len(mails), skipped, err)
	}
	x, err := inbox.Open("data", legacy.Config{FS: vfs.NewMem(), AcceptAssigned: true, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if n, err := Fill(t.Context(), x, mails, &skipped); n != 4 || err != nil {
		t.Fatalf("got %d imported, %v, want 4", n, err)
	}
	got, err := x.Threads("ann@example.org", inbox.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2010, 11, 15, 14, 0, 0, 0, time.UTC).UnixMilli()
	want := []inbox.Thread{
		{ID: "4", Subject: "Buy", Folder: "OTHER", Messages: 1, Unread: 1, With: []string{"ann@example.org", "spam@example.org"}, Time: at + 3600_000, Preview: "now"},
		{ID: "1", Subject: "Hi", Folder: "INBOX", Messages: 3, Unread: 2, With: []string{"ann@example.org", "bob@example.org", "cid@example.org"}, Time: at, Preview: "third"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMain(m *testing.M) { testenv.Main(m) }

// 6,000 real mails of mailing lists and of spam.
func TestCorpus(t *testing.T) {
	dir := testenv.Need(t, install.Mails)[0]
	mails, skipped, err := ReadDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	x, err := inbox.Open("data", legacy.Config{FS: vfs.NewMem(), AcceptAssigned: true, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	imported, err := Fill(t.Context(), x, mails, &skipped)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d imported, skipped: %v", imported, skipped)
	if imported < 5900 || imported+len(skipped) < 6040 {
		t.Errorf("got %d imported and %d skipped, want 5900 and 6040 in all", imported, len(skipped))
	}
	for _, s := range skipped {
		if s.Reason == "" || s.File == "" {
			t.Errorf("got %+v, want a file and a reason", s)
		}
	}
	threads, err := x.Threads("fork@spamassassin.taint.org", inbox.Filter{Limit: 100})
	if err != nil || len(threads) != 100 {
		t.Fatalf("got %d threads of a mailing list, %v, want 100", len(threads), err)
	}
	replies := 0
	for _, thread := range threads {
		if thread.Messages > 1 {
			replies++
		}
	}
	if replies < 10 {
		t.Errorf("got %d threads of 100 with replies, want 10 at least", replies)
	}
}

func TestFillEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x, err := inbox.Open("data", legacy.Config{FS: vfs.NewMem(), AcceptAssigned: true})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var skipped []Skipped
	if n, err := Fill(ctx, x, []Mail{{From: "a@x", Body: "x"}}, &skipped); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("got %d, %v, want none and canceled", n, err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(head + "\r\nHello."))
	f.Add([]byte(head + nested(3)))
	f.Add([]byte("From a@x Mon Nov 15 12:00:00 2010\nContent-Type: text/html; charset=koi8-r\n\n<p>\xf0<script>"))
	f.Add([]byte(head + "Content-Type: message/rfc822\n\n" + head + "Content-Transfer-Encoding: base64\n\n!!"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		err := Split(bytes.NewReader(raw), func(raw []byte) error {
			m, err := Read(raw)
			if err != nil {
				return nil
			}
			switch {
			case !utf8.ValidString(m.Body) || m.Body == "" || len(m.Body) > inbox.MaxBody || strings.ContainsRune(m.Body, 0):
				t.Errorf("body %q", m.Body)
			case !utf8.ValidString(m.Subject) || len(m.Subject) > inbox.MaxSubject:
				t.Errorf("subject %q", m.Subject)
			case !inbox.ValidUser(m.From) || m.Date.IsZero():
				t.Errorf("author %q, date %v", m.From, m.Date)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
