package dashboards

// Unit is what a number is of. The set is closed, so that each page that shows
// one knows how.
type Unit string

// The units.
const (
	None            Unit = "none"             // a number as it is
	Count           Unit = "count"            // things; large ones shortened
	Seconds         Unit = "seconds"          // a duration
	Bytes           Unit = "bytes"            // in powers of 1024
	Share           Unit = "share"            // 0.01 is 1 %
	PPM             Unit = "ppm"              // parts in a million
	PerSecond       Unit = "per_second"       // things a second
	RequestsPerSec  Unit = "requests_per_sec" // requests a second
	BytesPerSecond  Unit = "bytes_per_second" // in powers of 1024
	Cores           Unit = "cores"            // seconds of CPU a second
	SecondsPerCall  Unit = "seconds_per_call" // seconds of CPU for a request
	CountPerRequest Unit = "per_request"      // things for a request
)

// Units are all of them.
func Units() []Unit {
	return []Unit{None, Count, Seconds, Bytes, Share, PPM, PerSecond, RequestsPerSec, BytesPerSecond, Cores, SecondsPerCall, CountPerRequest}
}

// A Look is how a role's lines are drawn. No two roles differ by colour alone.
type Look struct {
	Color string `json:"color"` // #rrggbb, at least 3:1 on white and on #181b1f
	// Dash is lengths of strokes and gaps in pixels; none is a solid line.
	Dash  []float64 `json:"dash,omitempty"`
	Width int       `json:"width"` // pixels
}

// Look is how r's lines are drawn; of a series without a role, a palette's.
// Blue, orange and grey are told apart by those who see no red or no green, and
// the strokes by those who see no colour.
func (r Role) Look() (look Look, known bool) {
	switch r {
	case Live:
		return Look{"#2f7ed8", nil, 2}, true
	case Shadow:
		return Look{"#d9730d", []float64{10, 4}, 2}, true
	case Control:
		return Look{"#858b93", []float64{2, 4}, 2}, true
	case Effect:
		return Look{"#d9730d", nil, 2}, true
	case Lower, Upper:
		return Look{"#d9730d", []float64{3, 3}, 1}, true
	case Margin:
		return Look{"#c2457f", []float64{16, 4, 2, 4}, 2}, true
	case Target:
		return Look{"#858b93", []float64{16, 4}, 1}, true
	case Error:
		return Look{"#d64541", []float64{6, 2}, 2}, true
	}
	return Look{}, false
}

// Color is what stands for a level, beside its text: #rrggbb.
func (l Level) Color() string {
	switch l {
	case Good:
		return "#2a9d63"
	case Warn:
		return "#c08a00"
	case Bad:
		return "#d64541"
	}
	return "#858b93"
}
