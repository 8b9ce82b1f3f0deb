package relay

import (
	"bytes"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHangUpUnderBackPressure has a client that ends its side and reads late, and
// a live that answers and closes: both directions of live's connection have then
// ended while the answer is still on its way.
func TestHangUpUnderBackPressure(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		if v.tls {
			return // a close_notify is no hang-up of the socket
		}
		g := newRig(t, v, nil)
		waited, fits := 0, true
		for mib := 1; mib <= 8 && fits; mib++ { // how much the kernel's buffers hold depends on the machine
			client, live, o := g.connect()
			_ = client.raw.SetReadBuffer(16 << 10)
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			wantEOF(t, live)
			answer := bytes.Repeat([]byte("answer. "), mib<<17)
			written := make(chan error, 1)
			go func() {
				_, err := live.Write(answer)
				if err == nil {
					err = live.CloseWrite()
				}
				written <- err
			}()
			select {
			case err := <-written:
				if err != nil {
					t.Fatal(err)
				}
				written <- nil
				if fits = acknowledged(t, live); fits {
					waited++
				}
			case <-time.After(fitting): // it is written as the client reads
				fits = false
			}
			got, err := io.ReadAll(client)
			if err != nil || !bytes.Equal(got, answer) {
				t.Errorf("%d MiB: got %d bytes, %v, want %d", mib, len(got), err, len(answer))
			}
			if err := <-written; err != nil {
				t.Error(err)
			}
			o.wantEnd(t, Ended)
		}
		if waited == 0 {
			t.Error("no answer's end waited in the relay's socket")
		}
		t.Logf("the end of %d answers waited in the relay's socket", waited)
	})
}

// fitting is how long an answer may take to get into the kernel's buffers.
const fitting = 3 * time.Second

// acknowledged waits for the kernel at the other end to have taken all
// that h has sent, its end included, and reports whether it has.
func acknowledged(t *testing.T, h half) bool {
	t.Helper()
	raw, err := h.raw.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	const finWait1, closing, lastAck = 4, 11, 9
	for end := time.Now().Add(fitting); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var info *unix.TCPInfo
		_ = raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err != nil {
			t.Fatal(err)
		}
		if info.State != finWait1 && info.State != closing && info.State != lastAck {
			return true
		}
	}
	return false
}
