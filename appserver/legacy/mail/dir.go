package mail

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"darklaunch/appserver/legacy"
	"darklaunch/appserver/legacy/inbox"
)

// maxMail is the most that is read of one mail, in bytes. The rest of a larger one,
// attachments, goes.
const maxMail = 64 << 20

// entryLine begins an entry of an mbox: the author, and a date as of C's asctime.
var entryLine = regexp.MustCompile(`^From \S+ +(Mon|Tue|Wed|Thu|Fri|Sat|Sun) `)

var junk = regexp.MustCompile(`(?i)(^|[/.])(spam|junk)`)

// ReadDir reads all mails below a directory: mboxes, maildirs, files of one mail each. Of
// a maildir what is on its way in (tmp) is left out, and so are files whose names begin
// with a dot or that are JSON. Mails come in the order of files; what could not be read
// is in skipped. The error is that of a file or directory that could not be read.
func ReadDir(ctx context.Context, dir string) (mails []Mail, skipped []Skipped, err error) {
	skipped = []Skipped{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		if d.IsDir() {
			if d.Name() == "tmp" && isMaildir(filepath.Dir(path)) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") || filepath.Ext(path) == ".json" || filepath.Ext(path) == ".js" {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		n := 0
		return Split(f, func(raw []byte) error {
			if n++; n > 1 {
				path = fmt.Sprintf("%s (entry %d)", f.Name(), n)
			}
			m, err := Read(raw)
			if err != nil {
				skipped = append(skipped, Skipped{path, err.Error()})
				return nil
			}
			m.File, m.Junk = path, junk.MatchString(filepath.ToSlash(rel))
			mails = append(mails, m)
			return nil
		})
	})
	return mails, skipped, err
}

func isMaildir(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cur"))
	return err == nil
}

// Split calls each with the mails of a file: the entries of an mbox, their first lines
// before them, or the one mail that it is. An entry begins with a line "From author date"
// at the start or after an empty line.
func Split(r io.Reader, each func([]byte) error) error {
	lines := bufio.NewReaderSize(r, 1<<16)
	var mail []byte
	mbox, blank, first := false, true, true
	for {
		line, err := lines.ReadSlice('\n')
		whole := !errors.Is(err, bufio.ErrBufferFull) // else more of the line comes
		if first {
			mbox = bytes.HasPrefix(line, []byte("From "))
		} else if mbox && blank && entryLine.Match(line) {
			if err := each(mail); err != nil {
				return err
			}
			mail = nil
		}
		first = false
		if mbox && bytes.HasPrefix(line, []byte(">From ")) {
			line = line[1:]
		}
		if len(mail) < maxMail {
			mail = append(mail, line...)
		}
		blank = whole && len(bytes.TrimRight(line, "\r\n")) == 0
		switch {
		case err == nil || !whole:
		case errors.Is(err, io.EOF):
			return each(mail)
		default:
			return err
		}
	}
}

// month is how old a mail is, in milliseconds, to be taken as read by its recipients.
const month = 30 * 24 * 3600 * 1000

// Fill sends mails into an Inbox in order of their dates, which become times that are
// each later than the one before. A reply goes to the thread of the nearest mail that it
// names, and its author and recipients join that. It returns how many mails were
// imported, and adds to skipped those that were not. The Inbox takes assigned stamps.
func Fill(ctx context.Context, x *inbox.Inbox, mails []Mail, skipped *[]Skipped) (imported int, err error) {
	slices.SortStableFunc(mails, func(a, b Mail) int { return a.Date.Compare(b.Date) })
	if len(mails) == 0 {
		return 0, nil
	}
	newest := mails[len(mails)-1].Date.UnixMilli()
	threads := map[string]string{} // by Message-ID
	stamp := x.Position().Stamp
	for _, m := range mails {
		if ctx.Err() != nil {
			return imported, context.Cause(ctx)
		}
		d := inbox.Draft{Body: m.Body, To: m.To}
		if len(d.To) == 0 {
			d.To = []string{m.From} // to undisclosed recipients
		}
		for _, id := range m.References {
			if d.Thread = threads[id]; d.Thread != "" {
				break
			}
		}
		if d.Thread == "" {
			d.Subject = m.Subject
		}
		folder := inbox.FolderInbox
		if m.Junk {
			folder = inbox.FolderOther
		}
		at := max(m.Date.UnixMilli(), stamp.Time+1)
		sent, err := x.Import(m.From, d, folder, newest-m.Date.UnixMilli() > month, legacy.Stamp{ID: stamp.ID + 1, Time: at})
		if errors.Is(err, legacy.ErrInvalid) {
			*skipped = append(*skipped, Skipped{m.File, err.Error()})
			continue
		} else if err != nil {
			return imported, err
		}
		stamp = legacy.Stamp{ID: stamp.ID + 1, Time: at}
		imported++
		if _, known := threads[m.ID]; m.ID != "" && !known {
			threads[m.ID] = sent.Thread
		}
	}
	return imported, nil
}
