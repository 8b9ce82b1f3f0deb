// Package sample decides whose exchanges are mirrored. It samples users, not
// requests: a user's key is hashed with the experiment's salt into a million
// buckets, and the user is in while the bucket lies under the share. So every
// mirror with the same salt agrees without talking, a user is in with all they
// do or with nothing, and raising the share only ever adds users.
//
// An exchange has one author, named by the first extractor that yields a key,
// and may touch other users, named by its route. It is mirrored when any of
// them is in: a sampled user whose inbound messages were left out would soon
// have a mailbox unlike the live one.
//
// The package also names what an exchange is: its route, configured or learned,
// and whether it may change state. Everything here is a function of its
// arguments. It starts no goroutine, does no I/O and asks no clock.
package sample

import (
	"cmp"
	"net/netip"
	"slices"
)

// Buckets is how many buckets users are hashed into: one is one ppm.
const Buckets = 1_000_000

// MaxTouched bounds the keys that one exchange may touch. An exchange that
// names more keeps the first MaxTouched and is TooMany.
const MaxTouched = 1000

// Header is the fields of one message. Names are given in lower case and found
// whatever case the message wrote them in.
type Header interface {
	// Field returns the value of the nth field of that name, counting from 0
	// in the order they arrived; false when there are not so many.
	Field(name string, n int) (value string, ok bool)
}

// Message is what is known of a request or an answer.
type Message struct {
	Header    Header // nil is none
	Body      []byte // as on the wire, without chunk or frame headers; gRPC's 5-byte prefixes are still there
	Truncated bool   // Body is only the beginning
}

// Exchange is one request with live's answer, as far as sampling looks at it.
// Nothing in it is changed or, strings apart, kept.
type Exchange struct {
	// ID is a number that differs from exchange to exchange. MissingRandom
	// draws from it and nothing else does.
	ID uint64

	Method string     // "GET"; always "POST" in gRPC
	Path   string     // as sent: percent-encoded, without the query
	Query  string     // as sent, without the "?"
	Client netip.Addr // the zero Addr when unknown

	Request Message
	Answer  Message

	Unsafe  bool // it may change state: see Unsafe
	Refused bool // live's answer says that it changed nothing: see Refused
}

// Reason says why an exchange is not in, or why a key could not be read.
// The set is closed: a Reason may be a metric's label.
type Reason string

const (
	// Why an exchange with an author is not in.
	NotIn  Reason = "not_in" // every user's bucket is above the share
	Denied Reason = "denied" // the author is on the deny list and nobody else is in

	// Why a key could not be read.
	Absent    Reason = "absent"     // the message does not name one
	Malformed Reason = "malformed"  // it is not what the extractor reads: bad JSON, escapes, base64 or protobuf
	Truncated Reason = "truncated"  // the body ends, by its budget, before the key did
	Encoded   Reason = "encoded"    // the body is compressed
	NotText   Reason = "not_text"   // the value is not UTF-8
	WrongType Reason = "wrong_type" // the value is neither text nor number
	TooLong   Reason = "too_long"   // the value is longer than MaxKey, or a token than its limit
	TooDeep   Reason = "too_deep"   // the JSON is nested more than MaxDepth levels
	TooMany   Reason = "too_many"   // the exchange touches more than MaxTouched users
)

// UnattributedReasons lists the values that Decision.Unattributed can take.
func UnattributedReasons() []Reason {
	return []Reason{Absent, Malformed, Truncated, Encoded, NotText, WrongType, TooLong, TooDeep, TooMany}
}

// Missing says what becomes of an exchange that names no author.
type Missing int

const (
	MissingSkip   Missing = iota // it has no author, and is in only if it touches someone who is
	MissingRandom                // it is drawn by its own ID: a share of requests, of nobody's
	MissingClient                // its author is the client's address
)

// Config is the part of an experiment that never changes while it runs.
type Config struct {
	// Salt names the experiment. Another salt is another draw of users.
	Salt string
	// Missing is the rule for exchanges without a key.
	Missing Missing
	// Allow lists keys that are in at every share, and Deny keys that are in
	// at none. Deny wins.
	Allow, Deny []string
}

// Share is how many users are in, in ppm of all.
type Share struct {
	Sample int32 // mirrored and compared
	Admit  int32 // mirrored; less than Sample means as Sample
}

// User is one key of an exchange, and what follows from it.
type User struct {
	// Key is the decoded text. It may alias the exchange's strings; who keeps
	// it clones it.
	Key string
	// ID is the keyed hash of Key: what logs, copies and lanes know a user by.
	ID uint64
	// Rank is the user's place in the order in which users are let in: the
	// bucket, or -1 on the allow list, or Buckets on the deny list. A user is
	// in at a share of n ppm when Rank < n.
	Rank     int32
	Sampled  bool // Rank is under Share.Sample
	Admitted bool // Rank is under Share.Admit
}

// Decision is what sampling makes of one exchange.
type Decision struct {
	// Author is who acted. Its Key is "" when no extractor yielded one; then
	// Sampled and Admitted are those of the exchange itself, under MissingRandom.
	Author User
	// Touched are the other users, each once, ordered by ID. Those that are
	// not admitted are listed too.
	Touched []User
	// Admitted says that the author or a touched user is admitted: copy it.
	Admitted bool
	// Why says why not. "" when Admitted.
	Why Reason
	// Unattributed says why an exchange that may have changed state may have
	// changed that of users who are not listed here: its author or one of its
	// touched keys could not be read. It is to be counted, and taints the
	// author. "" when all are known.
	Unattributed Reason
}

// Sampler holds one experiment's draw. It is immutable, and safe for any
// number of goroutines.
type Sampler struct {
	hash    hasher
	missing Missing
	listed  map[string]int32 // rank by key
}

// New returns the sampler of an experiment.
func New(cfg Config) *Sampler {
	s := &Sampler{hash: newHasher(cfg.Salt), missing: cfg.Missing, listed: map[string]int32{}}
	for _, k := range cfg.Allow {
		s.listed[k] = -1
	}
	for _, k := range cfg.Deny {
		s.listed[k] = Buckets
	}
	return s
}

// User returns what a key is at a share.
func (s *Sampler) User(key string, share Share) User {
	u := User{Key: key, ID: s.hash.text(key)}
	u.Rank = bucket(u.ID)
	if r, ok := s.listed[key]; ok {
		u.Rank = r
	}
	u.Sampled, u.Admitted = share.has(u.Rank)
	return u
}

func (sh Share) has(rank int32) (sampled, admitted bool) {
	return rank < sh.Sample, rank < max(sh.Sample, sh.Admit)
}

// Decide says whether x is in. The first of keys that yields a value names its
// author; touch, which is the route's, adds the other users. Neither is read
// further than needed.
func (s *Sampler) Decide(x *Exchange, keys, touch []Extractor, share Share) Decision {
	var d Decision
	key, missing := author(x, keys)
	if key == "" && s.missing == MissingClient && x.Client.IsValid() {
		key, missing = clientKey(x.Client), ""
	}
	if key != "" {
		d.Author = s.User(key, share)
	} else if s.missing == MissingRandom {
		d.Author.ID = s.hash.number(x.ID)
		d.Author.Rank = bucket(d.Author.ID)
		d.Author.Sampled, d.Author.Admitted = share.has(d.Author.Rank)
	}
	d.Admitted = d.Author.Admitted

	touched, unread := touchedKeys(x, touch)
	d.Touched = s.users(touched, d.Author, share)
	for i := range d.Touched {
		d.Admitted = d.Admitted || d.Touched[i].Admitted
	}

	if x.Unsafe && !x.Refused {
		d.Unattributed = cmp.Or(unread, missing)
	}
	if !d.Admitted {
		d.Why = s.why(d.Author, missing)
	}
	return d
}

func (s *Sampler) why(author User, missing Reason) Reason {
	switch {
	case author.Rank == Buckets:
		return Denied
	case author.Key == "" && s.missing != MissingRandom:
		return missing
	default:
		return NotIn
	}
}

// users returns the users of keys, each once and without the author.
func (s *Sampler) users(keys []string, author User, share Share) []User {
	if len(keys) == 0 {
		return nil
	}
	us := make([]User, 0, len(keys))
	for _, k := range keys {
		if k != author.Key {
			us = append(us, s.User(k, share))
		}
	}
	slices.SortFunc(us, func(a, b User) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Key, b.Key)) })
	return slices.CompactFunc(us, func(a, b User) bool { return a.Key == b.Key })
}

// author returns the first key that keys yield, or why there is none: that
// there was one and it could not be read tells more than that another is absent.
func author(x *Exchange, keys []Extractor) (string, Reason) {
	missing := Absent
	for i := range keys {
		f := found{max: 1}
		keys[i].read(x, &f)
		if f.n > 0 {
			return f.first, ""
		}
		if missing == Absent && f.missing != "" {
			missing = f.missing
		}
	}
	return "", missing
}

// touchedKeys returns the keys of all touch extractors, and why some may be
// lacking. One extractor that finds nothing is no loss as long as another does:
// a new thread names its recipients in the request and a reply in the answer.
func touchedKeys(x *Exchange, touch []Extractor) ([]string, Reason) {
	if len(touch) == 0 {
		return nil, ""
	}
	f := found{max: MaxTouched + 1}
	var unread Reason
	read := false
	for i := range touch {
		f.missing = ""
		touch[i].read(x, &f)
		switch f.missing {
		case "":
			read = true
		case Absent:
		default:
			unread = cmp.Or(unread, f.missing)
		}
	}
	keys := f.appendTo(nil)
	if len(keys) > MaxTouched {
		return keys[:MaxTouched], TooMany
	}
	if unread == "" && !read && len(keys) == 0 {
		unread = Absent
	}
	return keys, unread
}
