package relay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

const (
	// maxHeaderV1 is the longest header of version 1, by the specification.
	maxHeaderV1 = 107
	// maxHeaderV2 bounds one of version 2; what is not addresses is TLVs.
	maxHeaderV2 = 4 << 10

	signatureV1 = "PROXY "
	signatureV2 = "\r\n\r\n\x00\r\nQUIT\n"
)

var errProxyHeader = errors.New("malformed PROXY header")

// proxyHeader collects a PROXY protocol header (haproxy.org, proxy-protocol.txt)
// without reading a byte past it.
type proxyHeader []byte

// missing returns how many bytes the header certainly still has, 0 when it is
// complete.
func (h proxyHeader) missing() (int, error) {
	const fixed = len(signatureV2) + 4 // version 2 up to its length
	n := len(h)
	if n < len(signatureV2) {
		return len(signatureV2) - n, nil
	}
	if string(h[:len(signatureV2)]) != signatureV2 {
		return h.missingV1()
	}
	if n < fixed {
		return fixed - n, nil
	}
	whole := fixed + int(binary.BigEndian.Uint16(h[fixed-2:]))
	if whole > maxHeaderV2 {
		return 0, errProxyHeader
	}
	return whole - n, nil
}

// missingV1 asks for one byte after the other, as only the end of the line
// says how long the header is.
func (h proxyHeader) missingV1() (int, error) {
	switch {
	case string(h[:len(signatureV1)]) != signatureV1:
		return 0, errProxyHeader
	case h[len(h)-1] == '\n':
		return 0, nil
	case len(h) >= maxHeaderV1:
		return 0, errProxyHeader
	}
	return 1, nil
}

// addresses decodes a complete header. Both are invalid where the sender speaks
// for itself (LOCAL, UNKNOWN).
func (h proxyHeader) addresses() (client, dest netip.AddrPort, err error) {
	in := bytes.NewReader(h)
	decoded, err := proxyproto.Read(bufio.NewReaderSize(in, max(len(h), 16)))
	if err != nil {
		return client, dest, fmt.Errorf("%w: %v", errProxyHeader, err)
	}
	if decoded.Command.IsLocal() {
		return client, dest, nil
	}
	source, destination, ok := decoded.TCPAddrs()
	if !ok {
		return client, dest, fmt.Errorf("%w: no TCP addresses", errProxyHeader)
	}
	return unmapped(source), unmapped(destination), nil
}

func unmapped(a *net.TCPAddr) netip.AddrPort {
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// accept decodes the complete header and makes it c's word on who the client is.
func (h proxyHeader) accept(c *conn) error {
	client, dest, err := h.addresses()
	if err == nil && client.IsValid() {
		c.client, c.local = client, dest
	}
	return err
}

// proxyOut is the version 2 header that tells live who c's client is.
func (c *conn) proxyOut() ([]byte, error) {
	src, dst := c.client, c.local
	transport := proxyproto.TCPv4
	if !src.Addr().Is4() || !dst.Addr().Is4() {
		transport = proxyproto.TCPv6
	}
	h := proxyproto.Header{
		Version: 2, Command: proxyproto.PROXY, TransportProtocol: transport,
		SourceAddr: net.TCPAddrFromAddrPort(src), DestinationAddr: net.TCPAddrFromAddrPort(dst),
	}
	return h.Format()
}
