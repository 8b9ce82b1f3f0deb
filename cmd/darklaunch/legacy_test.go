package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	chatv1 "darklaunch/api/legacy/chat/v1"
	"darklaunch/appserver/store"
	"darklaunch/mirror/sample"
)

// inboxCall makes a call of the old Inbox.
func inboxCall(t *testing.T, addr, user, method, path, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-User", user)
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", a.StatusCode, strings.TrimSpace(string(text)))
}

// The servers keep what they answered when they are killed, and end in order.
func TestLegacyServers(t *testing.T) {
	dir := t.TempDir()
	inboxArgs := []string{"legacy", "inbox", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "inbox"), "--admin", "127.0.0.1:0"}
	chatArgs := []string{"legacy", "chat", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "chat")}
	in := start(t, inboxArgs...)
	admin, addr := in.ready("admin"), in.ready("inbox")
	sent := inboxCall(t, addr, "ann", "POST", "/messages", `{"to":["bob"],"subject":"Hi","body":"there"}`)
	if !strings.HasPrefix(sent, `200 {"id":"1","thread":"1",`) {
		t.Fatalf("got %s, want message 1", sent)
	}
	list := inboxCall(t, addr, "bob", "GET", "/threads", "")
	if got := scrape(t, "http://"+admin+"/metrics")[`legacy_requests_total{code="200",method="send",service="inbox"}`]; got != 1 {
		t.Errorf("got %v sends in the metrics, want 1", got)
	}
	again := start(t, inboxArgs...)
	if code, _, stderr := again.end(); code != exitCouldNotRun || !strings.Contains(stderr, "in use by another process") {
		t.Errorf("a second server: got %d, %s, want that the data are in use", code, stderr)
	}
	in.signal(syscall.SIGKILL)
	in.end()
	in = start(t, inboxArgs...)
	in.ready("admin")
	if got := inboxCall(t, in.ready("inbox"), "bob", "GET", "/threads", ""); got != list {
		t.Errorf("after a kill: got %s, want %s", got, list)
	}
	talk := start(t, chatArgs...)
	conn, err := grpc.NewClient(talk.ready("chat"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-user", "ann"), time.Minute)
	defer cancel()
	if a, err := chatv1.NewChatClient(conn).Send(ctx, &chatv1.SendRequest{To: "bob", Body: "hi"}); err != nil || a.Conversation != "ann:bob" {
		t.Errorf("got %v, %v, want a message of ann:bob", a, err)
	}
	wantReflected(ctx, t, conn, "legacy.chat.v1.Chat")
	for _, r := range []*running{in, talk} {
		r.signal(syscall.SIGTERM)
		if code, _, stderr := r.end(); code != exitDone {
			t.Errorf("got %d at the end, want %d; stderr: %s", code, exitDone, stderr)
		}
	}
	wrong := start(t, "legacy", "inbox", "--listen", "127.0.0.1:0", "--data", filepath.Join(dir, "chat"))
	if code, _, stderr := wrong.end(); code != exitCouldNotRun || !strings.Contains(stderr, "something else") {
		t.Errorf("the other's data: got %d, %s, want that they are something else", code, stderr)
	}
}

func wantReflected(ctx context.Context, t *testing.T, conn *grpc.ClientConn, service string) {
	t.Helper()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err == nil {
		err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	}
	if err != nil {
		t.Fatal(err)
	}
	a, err := stream.Recv()
	if err != nil || !strings.Contains(a.String(), service) {
		t.Errorf("got services %v, %v, want %s", a, err, service)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("got %v at the end of the stream, want EOF", err)
	}
}

// jsonOf runs a command to its end, which must be good, and returns its JSON.
func jsonOf(t *testing.T, into any, args ...string) {
	t.Helper()
	code, stdout, stderr := start(t, append(args, "--json", "-")...).end()
	if code != exitDone {
		t.Fatalf("%s: got %d, want %d; stderr: %s", strings.Join(args, " "), code, exitDone, stderr)
	}
	if err := json.Unmarshal([]byte(stdout), into); err != nil {
		t.Fatalf("%s: %v", stdout, err)
	}
}

// An import that is killed goes on; the sample alone is imported, and clean at a mirror.
func TestImport(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: several processes, one of them killed")
	}
	dir := t.TempDir()
	in, talk := filepath.Join(dir, "inbox"), filepath.Join(dir, "chat")
	var filled legacyImportResult
	jsonOf(t, &filled, "legacy", "import", "--data", in, "--chat", talk, "--generate", "200", "--seed", "3", "--end", "2010-11-15T12:00:00Z")
	if filled.Imported < 1000 || filled.Chat < 1000 {
		t.Errorf("got %+v, want some thousand messages", filled)
	}
	if code, _, stderr := start(t, "legacy", "import", "--data", in, "--generate", "2").end(); code != exitCouldNotRun || !strings.Contains(stderr, "already") {
		t.Errorf("filled again: got %d, %s, want it refused", code, stderr)
	}
	_, addr, rows := startStore(t, "127.0.0.1:0", filepath.Join(dir, "rows"))
	cell := "rows:" + addr
	args := []string{"appserver", "import", "--from", in, "--from", talk, "--store", cell, "--salt", "s1", "--sample", "50%"}

	killed := start(t, args...)
	waitFor(t, "the first user in the cell", func() bool {
		for row, err := range rows.Scan(t.Context(), store.Range{}) {
			return err == nil && row.Fence.Seq > 0
		}
		return false
	})
	killed.signal(syscall.SIGKILL)
	if code, _, _ := killed.end(); code != -1 {
		t.Fatalf("the import ended with %d before it was killed", code)
	}

	mirror := start(t, "mirror", "--listen", "127.0.0.1:0", "--live", "127.0.0.1:9", "--shadow", "127.0.0.1:10", "--sample", "50%", "--salt", "s1",
		"--key", "header:X-User", "--mirror-unsafe", "--state", filepath.Join(dir, "mirror"), "--admin", "127.0.0.1:0")
	var got, again importResult
	jsonOf(t, &got, append(args, "--mirror", mirror.ready("admin"))...)
	if got.Users == 0 || got.Passed == 0 || got.Written == 0 || got.Written >= got.Actions || got.Seeded != got.Users || got.Inbox.ID == 0 || !got.Inbox.Closed || !got.Chat.Closed {
		t.Errorf("got %+v, want a rest written, others passed over, all seeded", got)
	}
	jsonOf(t, &again, args...)
	if again.Written != 0 || again.Hash != got.Hash || !again.At.Equal(got.At) {
		t.Errorf("once more: got %+v, want nothing written and hash %s", again, got.Hash)
	}
	for row, err := range rows.Scan(t.Context(), store.Range{}) {
		if err != nil {
			t.Fatal(err)
		}
		if sample.Bucket("s1", row.User) >= sample.Buckets/2 {
			t.Errorf("got %s in the cell, who is not in the sample", row.User)
		}
	}
	wantChecked(t, cell, got.Users)
	var same compareOldResult
	compare := []string{"appserver", "compare", "--from", in, "--from", talk, "--store", cell}
	jsonOf(t, &same, append(compare, "--salt", "s1", "--sample", "50%")...)
	if same.Users != got.Users || same.Differing != 0 {
		t.Errorf("compared: got %+v, want %d users the same", same, got.Users)
	}
	if code, stdout, _ := start(t, compare...).end(); code != exitCouldNotRun || !strings.Contains(stdout, "missing in the cell") {
		t.Errorf("compared with those who are not in the sample: got %d, %.300s, want what is missing", code, stdout)
	}

	parts := 0
	for i := range 2 {
		var part importResult
		jsonOf(t, &part, "appserver", "import", "--from", in, "--from", talk, "--store", "pebble:"+filepath.Join(dir, "parts"), "--index", fmt.Sprint(i), "--total", "2")
		parts += part.Users
	}
	if parts != got.Users+got.Passed {
		t.Errorf("two jobs: got %d users, want %d", parts, got.Users+got.Passed)
	}
	for _, bad := range [][]string{
		{"--index", "2", "--total", "2"},
		{"--salt", "x"},
	} {
		if code, _, stderr := start(t, append([]string{"appserver", "import", "--from", in, "--store", cell}, bad...)...).end(); code != exitUsage {
			t.Errorf("%v: got %d, %s, want %d", bad, code, stderr, exitUsage)
		}
	}
	if code, _, stderr := start(t, "appserver", "import", "--from", dir, "--store", cell).end(); code != exitCouldNotRun || !strings.Contains(stderr, "something else") {
		t.Errorf("a directory of something else: got %d, %s", code, stderr)
	}
}
