package observe

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// endless repeats a piece of input for as long as it is asked to.
type endless struct {
	name  string
	start []event                // fed once
	next  func(i int) []event    // fed again and again
	most  int                    // calls of next, 0 for as many as make 16 MiB
	rule  Rule                   // that ends it, 0 for none
	check func(r *counter) error // of what was observed, may be nil
}

// counter is a Sink that only counts, so that it holds no memory itself.
type counter struct {
	mode           Mode
	requests, done int
	outcomes       [Unobserved + 1]int
	rule           Rule
	messages       int64
}

func (r *counter) Request(*Exchange) Mode { r.requests++; return r.mode }
func (r *counter) Answer(*Exchange) Mode  { return r.mode }
func (r *counter) Done(x *Exchange) {
	r.done++
	r.outcomes[x.Outcome]++
	r.messages += x.Answer.Body.Messages
}
func (r *counter) Abandoned(a Abandonment) { r.rule = a.Rule }

func frame(typ, flags byte, stream uint32, payload string) string {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), typ, flags}
	return string(binary.BigEndian.AppendUint32(b, stream)) + payload
}

// started is an HTTP/2 connection after both prefaces.
func started() []event { return newTalk().events }

// hostileHTTP1 and hostileHTTP2 are peers that mean harm.
func hostileHTTP1() []endless {
	fill := strings.Repeat("x", 1000)
	return []endless{
		{name: "header that never ends, byte by byte", start: []event{client("GET / HTTP/1.1\r\nHost: h\r\nA: ")},
			next: func(int) []event { return []event{client("x")} }, rule: LimitHead},
		{name: "fields without end", start: []event{client("GET / HTTP/1.1\r\nHost: h\r\n")},
			next: func(int) []event { return []event{client("a:\r\n")} }, rule: LimitHead},
		{name: "request line without end", next: func(int) []event { return []event{client("GET " + fill)} }, rule: NotHTTP},
		{name: "pipelined without an answer", next: func(int) []event { return []event{client(get)} }, rule: LimitMemory},
		{name: "large headers pipelined", next: func(int) []event {
			return []event{client("GET / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("x", 60_000) + "\r\n\r\n")}
		}, rule: LimitMemory},
		{name: "headers that just outgrew their memory", next: func(int) []event {
			events := []event{client("GET / HTTP/1.1\r\nHost: h\r\nA: ")}
			for range 46 {
				events = append(events, client(strings.Repeat("x", 50)))
			}
			return append(events, client("\r\n\r\n"))
		}, rule: LimitMemory},
		{name: "many small fields pipelined", next: func(int) []event {
			return []event{client("GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("a:\r\n", 1700) + "\r\n")}
		}, rule: LimitMemory},
		{name: "pipelined and answered", next: func(int) []event { return []event{client(get + get), live(ok204 + ok204)} }},
		{name: "large headers answered", next: func(int) []event {
			return []event{client("GET / HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("x", 60_000) + "\r\n\r\n"), live(ok204)}
		}},
		{name: "interim answers without end", start: []event{client(get)},
			next: func(int) []event { return []event{live("HTTP/1.1 100 Continue\r\n\r\n")} }},
		{name: "body without end", start: []event{client(post("Content-Length: 999999999999\r\n\r\n"))},
			next: func(int) []event { return []event{client(fill)} }},
		{name: "chunks of one byte", start: []event{client(post(chunked))},
			next: func(int) []event { return []event{client("1;a=b\r\nx\r\n")} }},
		{name: "extension without end", start: []event{client(post(chunked + "1;"))},
			next: func(int) []event { return []event{client("a")} }, rule: ChunkExtension},
		{name: "chunk size of zeros", start: []event{client(post(chunked))},
			next: func(int) []event { return []event{client("0")} }, rule: ChunkSize},
		{name: "trailer without end", start: []event{client(post(chunked + "0\r\n"))},
			next: func(int) []event { return []event{client("a: b\r\n")} }, rule: LimitHead},
		{name: "answer without end", start: []event{client(get), live("HTTP/1.1 200 OK\r\n\r\n")},
			next: func(int) []event { return []event{live(fill)} }},
		{name: "live speaks alone", next: func(int) []event { return []event{live("x")} }, rule: LimitEarly},
	}
}

func hostileHTTP2() []endless {
	get, post := newFrames(), newFrames() // static and literal fields only: blocks can be repeated
	getBlock := string(get.block(":method", "GET", ":scheme", "http", ":path", "/"))
	post.enc.SetMaxDynamicTableSize(0)
	postBlock := string(post.block(and(grpcRequest, ":unused", "")[:len(grpcRequest)]...))
	host := "\x01\x01h" // literal :authority without indexing
	okBlock := "\x88"
	id := func(i int) uint32 { return uint32(2*i + 1) }
	big := newFrames()
	big.enc.SetMaxDynamicTableSizeLimit(0)
	bigBlock := string(big.block(and(get2, "a", strings.Repeat("\x7e", 7000))...)) // '~' is 13 bits in Huffman code, so it goes plain
	return []endless{
		{name: "rapid reset", start: started(), next: func(i int) []event {
			return []event{client(frame(1, 5, id(i), getBlock+host) + frame(3, 0, id(i), "\x00\x00\x00\x08"))}
		}, check: func(r *counter) error {
			if r.outcomes[ClientCut] != r.requests || r.requests == 0 {
				return fmt.Errorf("got %d cut of %d", r.outcomes[ClientCut], r.requests)
			}
			return nil
		}},
		{name: "reset by live, made by the client", start: started(), next: func(i int) []event {
			return []event{client(frame(1, 4, id(i), getBlock+host) + frame(8, 0, id(i), "\x00\x00\x00\x00")), live(frame(3, 0, id(i), "\x00\x00\x00\x01"))}
		}},
		{name: "malformed and reset", start: started(), next: func(i int) []event {
			return []event{client(frame(1, 5, id(i), "")), live(frame(3, 0, id(i), "\x00\x00\x00\x01"))}
		}},
		{name: "streams opened and left", start: started(), next: func(i int) []event {
			return []event{client(frame(1, 5, id(i), getBlock+host))}
		}, rule: LimitMemory},
		{name: "streams with large headers", start: started(), next: func(i int) []event {
			return []event{client(frame(1, 5, id(i), bigBlock))}
		}, rule: LimitMemory},
		{name: "streams with half a body each", start: started(), next: func(i int) []event {
			return []event{client(frame(1, 4, id(i), postBlock) + frame(0, 0, id(i), grpcMessage(3)[:7])),
				live(frame(1, 4, id(i), okBlock) + frame(0, 0, id(i), grpcMessage(3)[:7]))}
		}, rule: LimitMemory},
		{name: "streams with many messages each", start: started(), next: func(i int) []event {
			messages := strings.Repeat("\x00\x00\x00\x00\x00", maxLengths)
			return []event{client(frame(1, 4, id(i), postBlock) + frame(0, 0, id(i), messages)), live(frame(1, 4, id(i), okBlock) + frame(0, 0, id(i), messages))}
		}, rule: LimitMemory},
		{name: "window 0 and many requests", start: append(started(), client(frame(4, 0, 0, "\x00\x04\x00\x00\x00\x00"))), next: func(i int) []event {
			return []event{client(frame(1, 5, id(i), getBlock+host)), live(frame(1, 4, id(i), okBlock))}
		}, rule: LimitMemory},
		{name: "continuation", start: append(started(), client(frame(1, 0, 1, getBlock))), next: func(int) []event {
			return []event{client(frame(9, 0, 1, strings.Repeat("\x00\x01a\x01b", 100)))}
		}, rule: LimitHead},
		{name: "empty continuation", start: append(started(), client(frame(1, 0, 1, getBlock))), next: func(int) []event {
			return []event{client(frame(9, 0, 1, ""))}
		}, rule: LimitIdle},
		{name: "ping", start: started(), next: func(int) []event { return []event{client(frame(6, 0, 0, "12345678"))} }, rule: LimitIdle},
		{name: "settings without ack", start: started(), next: func(int) []event { return []event{client(frame(4, 0, 0, ""))} }, rule: LimitSettings},
		{name: "settings and ack", start: started(), next: func(int) []event {
			return []event{client(frame(4, 0, 0, "\x00\x01\x00\x00\x10\x00")), live(frame(4, 1, 0, ""))}
		}, rule: LimitIdle},
		{name: "empty data", start: append(started(), client(frame(1, 4, 1, getBlock+host))), next: func(int) []event {
			return []event{client(frame(0, 0, 1, ""))}
		}, rule: LimitIdle},
		{name: "padding alone", start: append(started(), client(frame(1, 4, 1, getBlock+host))), next: func(int) []event {
			return []event{client(frame(0, 8, 1, "\x00"))}
		}, rule: LimitIdle},
		{name: "window updates", start: started(), next: func(int) []event { return []event{client(frame(8, 0, 0, "\x00\x00\x00\x01"))} }, rule: LimitIdle},
		{name: "priority", start: started(), next: func(i int) []event { return []event{client(frame(2, 0, id(i), "\x00\x00\x00\x00\x01"))} }, rule: LimitIdle},
		{name: "unknown frames", start: started(), next: func(i int) []event { return []event{client(frame(byte(0x0a+i%6), 0, 0, ""))} }, rule: LimitIdle},
		{name: "goaway, ever lower", start: started(), next: func(i int) []event {
			return []event{live(frame(7, 0, 0, string(binary.BigEndian.AppendUint32(nil, 1<<30-uint32(i)))+"\x00\x00\x00\x00"))}
		}, rule: LimitIdle},
		{name: "data of one byte", start: append(started(), client(frame(1, 4, 1, postBlock))), next: func(int) []event {
			return []event{client(frame(0, 0, 1, "\x00"))}
		}},
		{name: "trailers again and again", start: append(started(), client(frame(1, 4, 1, getBlock+host))), next: func(int) []event {
			return []event{client(frame(1, 4, 1, "\x00\x01a\x01b"))}
		}},
		{name: "interim answers", start: append(started(), client(frame(1, 5, 1, getBlock+host))), next: func(int) []event {
			return []event{live(frame(1, 4, 1, "\x08\x03103"))}
		}},
		{name: "promises", start: append(started(), client(frame(1, 5, 1, getBlock+host))), next: func(i int) []event {
			return []event{live(frame(5, 4, 1, string(binary.BigEndian.AppendUint32(nil, uint32(2*i+2)))+getBlock))}
		}},
		{name: "table churn", start: append(started(), live(frame(4, 0, 0, "\x00\x01\x00\x01\x00\x00")), client(frame(4, 1, 0, "")+frame(1, 5, 1, "\x3f\xe1\xff\x03"+getBlock+host)+frame(3, 0, 1, "\x00\x00\x00\x08"))),
			next: func(i int) []event {
				return []event{client(frame(1, 5, id(i+1), getBlock+host+strings.Repeat("\x40\x01a\x01b", 500)) + frame(3, 0, id(i+1), "\x00\x00\x00\x08"))}
			}, most: 400},
		{name: "both tables full of small entries", start: append(started(), live(frame(4, 0, 0, "\x00\x01\x00\x01\x00\x00")), client(frame(4, 1, 0, "")+frame(4, 0, 0, "\x00\x01\x00\x01\x00\x00")), live(frame(4, 1, 0, "")),
			client(frame(1, 5, 1, "\x3f\xe1\xff\x03"+getBlock+host+strings.Repeat("\x40\x01a\x01b", 1800))),
			live(frame(1, 4, 1, "\x3f\xe1\xff\x03"+okBlock+strings.Repeat("\x40\x01a\x01b", 1800)))),
			next: func(i int) []event { return []event{client(frame(1, 5, id(i+1), getBlock+host))} }, rule: LimitMemory},
	}
}

// TestHostile feeds up to 16 MiB of each, and holds a connection to 4 MiB of
// memory and to cost in proportion to its bytes.
func TestHostile(t *testing.T) {
	for _, tt := range append(hostileHTTP1(), hostileHTTP2()...) {
		t.Run(tt.name, func(t *testing.T) { tt.run(t) })
	}
}

func (e endless) run(t *testing.T) {
	total := 16 << 20
	if testing.Short() && e.rule == 0 {
		total = 256 << 10
	}
	if testing.Short() {
		e.most /= 8
	}
	o := New(Config{})
	sink := &counter{mode: Hash}
	c := o.Conn(sink)
	base, most := heap(), 0
	start, fed, now := cpuTime(t), 0, at(1)
	play := func(events []event) {
		for _, ev := range events {
			b := []byte(ev.data)
			fed += len(b)
			if ev.side == Client {
				c.FromClient(now, b)
			} else {
				c.FromLive(now, b)
			}
		}
	}
	play(e.start)
	const enough = 1 << 40 // no more samples
	sample := 0
	for i := 0; fed < total && (e.most == 0 || i < e.most) && c.state != over; i++ {
		play(e.next(i))
		// Look when much was fed, and where many small steps end.
		if fed >= sample || c.memory > maxMemory*9/10 && sample < enough {
			if c.memory > maxMemory*9/10 {
				sample = enough
			} else {
				sample = fed + total/4
			}
			most = max(most, heap()-base)
		}
	}
	spent := cpuTime(t) - start
	most = max(most, heap()-base)
	if sink.rule != e.rule {
		t.Errorf("got rule %v, want %v", sink.rule, e.rule)
	}
	if most > 4<<20 {
		t.Errorf("the connection takes %d KiB", most>>10)
	}
	if perByte := spent / time.Duration(fed); perByte > 2*time.Microsecond && spent > 5*time.Second {
		t.Errorf("%d bytes cost %v", fed, spent)
	}
	c.Close(Client)
	checkEmpty(c)
	if e.check != nil {
		if err := e.check(sink); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d bytes fed, at most %d KiB held, %d requests, %d done", fed, most>>10, sink.requests, sink.done)
	runtime.KeepAlive(o)
}

// heap is what is reachable now, without what pools could give back.
func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestIdle: between messages a connection holds no buffers.
func TestIdle(t *testing.T) {
	o := New(Config{})
	const n = 50
	conns := make([]*Conn, n)
	each := func(start []event) int {
		base := heap()
		for i := range conns {
			conns[i] = o.Conn(&counter{mode: Keep})
			for _, ev := range start {
				if ev.side == Client {
					conns[i].FromClient(at(1), []byte(ev.data))
				} else {
					conns[i].FromLive(at(1), []byte(ev.data))
				}
			}
			if conns[i].memory != 0 || conns[i].state == over {
				t.Fatalf("connection is not idle: %+v", *conns[i])
			}
		}
		used := (heap() - base) / n
		runtime.KeepAlive(conns)
		return used
	}
	body := strings.Repeat("x", 100<<10)
	talk := newTalk()
	for stream := uint32(1); stream < 9; stream += 2 {
		talk.client.headers(stream, false, post2...).data(stream, true, body)
		talk.live.headers(stream, false, ok2...).data(stream, true, body)
		talk.flush()
	}
	for _, tt := range []struct {
		name   string
		events []event
		most   int
	}{
		{"HTTP/1", []event{client(post(fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body))), live(ok3), client(get), live(ok204)}, 1 << 10},
		{"HTTP/2", talk.events, 4 << 10},
	} {
		got := each(tt.events)
		t.Logf("%s: %d bytes an idle connection", tt.name, got)
		if got > tt.most {
			t.Errorf("%s: an idle connection holds %d bytes, want at most %d", tt.name, got, tt.most)
		}
	}
}

// TestHostileCatches plants a fault: an observer without its limit must be seen
// to take more than it may.
func TestHostileCatches(t *testing.T) {
	o := New(Config{})
	o.waived = LimitMemory
	c := o.Conn(&counter{})
	base := heap()
	for range 20_000 {
		c.FromClient(at(1), []byte(get))
	}
	if held := heap() - base; held <= 4<<20 {
		t.Errorf("20,000 open requests take %d KiB: the measure is blind", held>>10)
	}
	c.Close(Client)
}

// A keep-alive PING now and then is no flood, however long it goes on.
func TestSlowPings(t *testing.T) {
	r := &recorder{}
	c := feed(New(Config{}), r, started(), nil)
	for i := range 3 * maxIdle {
		c.FromClient(at(10+i*2), []byte(frame(byte(http2.FramePing), 0, 0, "12345678")))
	}
	if r.rule() != 0 {
		t.Errorf("got rule %v", r.rule())
	}
}

// Kept bodies stay within the account, and the account gets all of it back.
func TestAccountHolds(t *testing.T) {
	a := &account{limit: 1 << 20}
	r := &counter{mode: Keep}
	c := New(Config{Account: a}).Conn(r)
	for _, ev := range started() {
		if ev.side == Client {
			c.FromClient(at(1), []byte(ev.data))
		} else {
			c.FromLive(at(1), []byte(ev.data))
		}
	}
	f := newFrames()
	for stream := uint32(1); stream < 200; stream += 2 {
		f.headers(stream, false, post2...).data(stream, false, strings.Repeat("x", 50_000))
		c.FromClient(at(1), []byte(f.take()))
	}
	if a.most > a.limit || a.most < a.limit/2 {
		t.Errorf("at most %d bytes of %d were held", a.most, a.limit)
	}
	c.Close(Client)
	if a.held != 0 || r.outcomes[ClientCut] != 100 {
		t.Errorf("%d bytes of the account are lost, %d exchanges cut", a.held, r.outcomes[ClientCut])
	}
}

func (*counter) Ongoing(*Exchange, bool) bool { return false }
