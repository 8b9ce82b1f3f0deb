package observe

// Reason says why the observer gave up on a connection. It is a label value:
// the set is closed.
type Reason uint8

const (
	// Opaque: the client's first bytes are neither HTTP/1.x nor HTTP/2.
	// Nothing was observed, nothing will be.
	Opaque Reason = iota + 1
	// Ambiguous: two HTTP/1 parsers may read these bytes differently, so that
	// what live did is not known. HTTP/2: live served a request that the
	// standard tells it to reject.
	Ambiguous
	// Upgrade: the connection changed, or may have changed, to another
	// protocol.
	Upgrade
	// Connect: HTTP/1 CONNECT, the connection is or may become a tunnel.
	Connect
	// Limit: following the connection would take more memory than is allowed.
	Limit
	// HPACK: a field block could not be decoded; with it goes the table that
	// all later ones need.
	HPACK
	// ProtocolError: HTTP/2 framing was broken.
	ProtocolError
	// Stopped: the caller called Conn.Abandon.
	Stopped
)

var reasonNames = [...]string{
	Opaque: "opaque", Ambiguous: "ambiguous", Upgrade: "upgrade", Connect: "connect",
	Limit: "limit", HPACK: "hpack", ProtocolError: "protocol_error", Stopped: "stopped",
}

// Reasons returns all reasons, to write a counter of each at 0.
func Reasons() []Reason {
	all := make([]Reason, 0, len(reasonNames)-1)
	for r := Opaque; int(r) < len(reasonNames); r++ {
		all = append(all, r)
	}
	return all
}

// String returns the label value.
func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return ""
}

// Rule is one thing that the observer does not read past. Each belongs to one
// Reason; the rules of Ambiguous list what two parsers could read differently.
type Rule uint8

const (
	_ Rule = iota

	// HTTP/1.

	NotHTTP          // the first line is no HTTP/1.x request line, or live spoke first
	BareLF           // a line ends with LF alone
	BareCR           // CR within a line
	StartLine        // request line or status line not of the one exact shape
	Version          // neither HTTP/1.0 nor HTTP/1.1
	Target           // target in no allowed form, or with '#', a control, a space or a bad escape in its path
	TargetHost       // absolute form whose authority is not that of Host
	Host             // no Host, several, or not host[:port]
	FieldName        // field name that is no token
	FieldSpace       // whitespace between field name and colon, or no colon
	ObsFold          // a field line that begins with whitespace
	FieldValue       // NUL or another control in a value
	ContentLength    // Content-Length repeated or not plain decimal digits
	TransferEncoding // Transfer-Encoding repeated or other than exactly "chunked"
	BothLengths      // Transfer-Encoding with Content-Length
	EncodingIn10     // Transfer-Encoding in HTTP/1.0
	Lookalike        // Content_Length and the like, which gateways fold into the real name
	NoBodyAllowed    // a 1xx or 204 answer that announces a body
	ConnectionOption // Connection names a field that frames or routes the message
	Expect           // an expectation other than 100-continue
	ExpectSkipped    // answered before the body that waits for 100: what follows may be body or request
	ChunkSize        // chunk size that is not 1 to 15 hex digits
	ChunkExtension   // chunk extension with quotes, whitespace or controls, or longer than 256 bytes
	ChunkEnd         // chunk data not followed by CRLF
	TrailerField     // a trailer that would frame or route the message
	AfterClose       // a message after one that closes the connection
	Unasked          // an answer that no request asked for
	Switched         // 101 (Switching Protocols)
	AfterUpgrade     // bytes sent while an offer to switch protocols is open
	Tunnel           // CONNECT

	// HTTP/2, of one request or answer.

	H2FieldName       // field name not a lower-case token
	H2FieldValue      // control in a value, or whitespace around it
	H2ConnectionField // a field that belongs to an HTTP/1 connection
	H2Pseudo          // pseudo-header field missing, repeated, unknown or late
	H2Target          // :path, :method, :scheme or :status not well formed
	H2Authority       // :authority malformed, absent, or contradicted by Host
	H2Length          // content-length invalid or not the length of the content
	H2Message         // field sections or END_STREAM where none may be

	// HTTP/2, of the connection.

	H2Preface   // the first frame is not SETTINGS
	H2FrameSize // frame larger than the receiver allows, or of a wrong size for its type
	H2Order     // a field block interrupted, or CONTINUATION without one
	H2StreamID  // a frame on a stream where it cannot be
	H2Padding   // padding larger than the frame
	H2Settings  // a setting out of its range, or an acknowledgement of none
	H2Block     // field block that does not decode
	H2TableSize // table size update too large or missing

	// Limits of the observer itself.

	LimitHead     // header or trailer section larger than Config.MaxHead
	LimitMemory   // open exchanges take too much memory
	LimitTable    // HPACK dynamic table larger than 64 KiB
	LimitSettings // too many SETTINGS without acknowledgement
	LimitIdle     // too many frames that move nothing
	LimitEarly    // live sent too much before the client's first byte

	CallerStopped // Conn.Abandon
)

// rules says of each rule its reason, its name and where it comes from.
var rules = [...]struct {
	reason        Reason
	name, section string
}{
	NotHTTP:          {Opaque, "not_http", "RFC 9112 §2.1"},
	BareLF:           {Ambiguous, "bare_lf", "RFC 9112 §2.2"},
	BareCR:           {Ambiguous, "bare_cr", "RFC 9112 §2.2"},
	StartLine:        {Ambiguous, "start_line", "RFC 9112 §3, §4"},
	Version:          {Ambiguous, "version", "RFC 9112 §2.3"},
	Target:           {Ambiguous, "target", "RFC 9112 §3.2"},
	TargetHost:       {Ambiguous, "target_host", "RFC 9112 §3.2.2"},
	Host:             {Ambiguous, "host", "RFC 9112 §3.2"},
	FieldName:        {Ambiguous, "field_name", "RFC 9110 §5.1"},
	FieldSpace:       {Ambiguous, "field_space", "RFC 9112 §5.1"},
	ObsFold:          {Ambiguous, "obs_fold", "RFC 9112 §5.2"},
	FieldValue:       {Ambiguous, "field_value", "RFC 9110 §5.5"},
	ContentLength:    {Ambiguous, "content_length", "RFC 9110 §8.6, RFC 9112 §6.3"},
	TransferEncoding: {Ambiguous, "transfer_encoding", "RFC 9112 §6.1"},
	BothLengths:      {Ambiguous, "both_lengths", "RFC 9112 §6.3"},
	EncodingIn10:     {Ambiguous, "encoding_in_10", "RFC 9112 §6.1"},
	Lookalike:        {Ambiguous, "lookalike", "RFC 3875 §4.1.18"},
	NoBodyAllowed:    {Ambiguous, "no_body_allowed", "RFC 9110 §8.6, RFC 9112 §6.1"},
	ConnectionOption: {Ambiguous, "connection_option", "RFC 9110 §7.6.1"},
	Expect:           {Ambiguous, "expect", "RFC 9110 §10.1.1"},
	ExpectSkipped:    {Ambiguous, "expect_skipped", "RFC 9110 §10.1.1"},
	ChunkSize:        {Ambiguous, "chunk_size", "RFC 9112 §7.1"},
	ChunkExtension:   {Ambiguous, "chunk_extension", "RFC 9112 §7.1.1"},
	ChunkEnd:         {Ambiguous, "chunk_end", "RFC 9112 §7.1"},
	TrailerField:     {Ambiguous, "trailer_field", "RFC 9110 §6.5.1"},
	AfterClose:       {Ambiguous, "after_close", "RFC 9112 §9.6"},
	Unasked:          {Ambiguous, "unasked", "RFC 9112 §9.2"},
	Switched:         {Upgrade, "switched", "RFC 9110 §7.8"},
	AfterUpgrade:     {Upgrade, "after_upgrade", "RFC 9110 §7.8"},
	Tunnel:           {Connect, "tunnel", "RFC 9110 §9.3.6"},

	H2FieldName:       {Ambiguous, "h2_field_name", "RFC 9113 §8.2"},
	H2FieldValue:      {Ambiguous, "h2_field_value", "RFC 9113 §8.2.1"},
	H2ConnectionField: {Ambiguous, "h2_connection_field", "RFC 9113 §8.2.2"},
	H2Pseudo:          {Ambiguous, "h2_pseudo", "RFC 9113 §8.3"},
	H2Target:          {Ambiguous, "h2_target", "RFC 9113 §8.3.1, §8.3.2"},
	H2Authority:       {Ambiguous, "h2_authority", "RFC 9113 §8.3.1"},
	H2Length:          {Ambiguous, "h2_length", "RFC 9113 §8.1.1"},
	H2Message:         {Ambiguous, "h2_message", "RFC 9113 §8.1"},

	H2Preface:   {ProtocolError, "h2_preface", "RFC 9113 §3.4"},
	H2FrameSize: {ProtocolError, "h2_frame_size", "RFC 9113 §4.2"},
	H2Order:     {ProtocolError, "h2_order", "RFC 9113 §4.3, §6.10"},
	H2StreamID:  {ProtocolError, "h2_stream_id", "RFC 9113 §5.1, §5.1.1"},
	H2Padding:   {ProtocolError, "h2_padding", "RFC 9113 §6.1"},
	H2Settings:  {ProtocolError, "h2_settings", "RFC 9113 §6.5"},
	H2Block:     {HPACK, "h2_block", "RFC 9113 §4.3"},
	H2TableSize: {HPACK, "h2_table_size", "RFC 7541 §4.2"},

	LimitHead:     {Limit, "limit_head", ""},
	LimitMemory:   {Limit, "limit_memory", ""},
	LimitTable:    {Limit, "limit_table", ""},
	LimitSettings: {Limit, "limit_settings", ""},
	LimitIdle:     {Limit, "limit_idle", ""},
	LimitEarly:    {Limit, "limit_early", ""},

	CallerStopped: {Stopped, "stopped", ""},
}

// Reason returns the reason that r belongs to.
func (r Rule) Reason() Reason {
	if int(r) < len(rules) {
		return rules[r].reason
	}
	return 0
}

// String returns a short name, constant and fit for a log.
func (r Rule) String() string {
	if int(r) < len(rules) {
		return rules[r].name
	}
	return ""
}

// Section returns where r comes from, or nothing for a limit of our own.
func (r Rule) Section() string {
	if int(r) < len(rules) {
		return rules[r].section
	}
	return ""
}
