// Package population says who uses a system and what they send.
//
// A Population is a number of users who differ in how active they are, each with a list of
// contacts. It picks the user of an arrival by activity, and the recipients of a message by
// popularity. Laws (LogNormal, Pareto, Mixture, …) give sizes, counts and times; a Mix
// joins them by channel; AppendText writes bodies.
//
// Who arrives depends on the seed and the arrival's number alone. Everything else is drawn
// from a generator that the caller has moved to a place of its own (see package draw), or
// follows from the seed and the user. A population keeps 8 bytes a user; contact lists are
// derived, not stored.
//
// The package is pure: no clock, no goroutine, no input.
package population

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"darklaunch/loadgen/draw"
)

// User is the number of a user, from 0.
type User uint32

// Config describes a population. Where a field's zero is a default, a negative value means
// none.
type Config struct {
	Seed uint64 `yaml:"seed"`
	// Users is how many there are: 2 to 2^31.
	Users int `yaml:"users"`
	// Sigma is the deviation of the logarithm of a user's activity: with 1.4, the most
	// active hundredth makes 18 % of the calls, the tenth 55 %. Zero means 1.4; none: all
	// are alike.
	Sigma float64 `yaml:"sigma"`
	// Cap is the most that one user does, as a multiple of the average user: for at most 2
	// calls a second each, where users make rate together, 2 · Users / rate. Zero means no
	// cap, else it is above 1.
	Cap float64 `yaml:"cap"`
	// Contacts is the law of the size of a contact list, fractions cut off. Zero means a
	// median of 60, sigma 1, from 1 to 5000.
	Contacts LogNormal `yaml:"contacts"`
	// Popularity is the exponent of the Zipf law by which a user writes to the first,
	// second, … of the contacts. Zero means 0.8; none: all alike.
	Popularity float64 `yaml:"popularity"`
	// HotAccounts is the share of accounts, at least one, that HotMessages, a share of all
	// messages, goes to: pages and robots that many write to. Zero means 0.05 % and 5 %;
	// none: no such accounts.
	HotAccounts float64 `yaml:"hot_accounts"`
	HotMessages float64 `yaml:"hot_messages"`
}

// withDefaults returns c with defaults and nones resolved, or says what makes no sense.
func (c Config) withDefaults() (Config, error) {
	or := func(x *float64, byDefault float64) {
		switch {
		case *x == 0:
			*x = byDefault
		case *x < 0:
			*x = 0
		}
	}
	or(&c.Sigma, 1.4)
	or(&c.Popularity, 0.8)
	or(&c.HotAccounts, 0.0005)
	or(&c.HotMessages, 0.05)
	if c.Contacts == (LogNormal{}) {
		c.Contacts = LogNormal{Median: 60, Sigma: 1, Min: 1, Max: 5000}
	}
	if c.Users < 2 || c.Users > 1<<31 {
		return c, fmt.Errorf("population of %d users: want 2 to 2^31", c.Users)
	}
	if !(c.Sigma <= 5 && c.Popularity <= 5 && c.HotAccounts <= 1 && c.HotMessages <= 1) || c.Cap != 0 && !(c.Cap > 1) {
		return c, fmt.Errorf("population of sigma %v, popularity %v, hot accounts %v with %v of messages, cap %v: want at most 5, 5, 1 and 1; a cap above 1",
			c.Sigma, c.Popularity, c.HotAccounts, c.HotMessages, c.Cap)
	}
	if err := c.Contacts.Check(); err != nil {
		return c, fmt.Errorf("population: contacts: %w", err)
	}
	return c, nil
}

// Population is a set of users. It never changes and is safe for concurrent use.
type Population struct {
	config  Config
	average float64 // activity of the average user, in units of the median's
	cap     float64 // most activity, in the same unit
	columns []column
	zipf    zipf
	hot     uint64 // accounts 0 … hot−1; any would do, as activity and contacts are scattered
	prime   uint64 // the smallest that is not below Users−1
}

// column is a column of an alias table (Walker 1977): of 2^32 parts, keep belong to the
// column's own user, the rest to other.
type column struct {
	keep  uint32
	other User
}

// New makes a population, in time and memory in proportion to its users. It is an error if
// the configuration makes no sense.
func New(c Config) (*Population, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Population{
		config: c,
		cap:    math.Inf(1),
		zipf:   newZipf(c.Popularity),
		prime:  uint64(c.Users - 1),
	}
	if c.HotMessages > 0 && c.HotAccounts > 0 {
		p.hot = max(1, uint64(math.Round(c.HotAccounts*float64(c.Users))))
	}
	for !isPrime(p.prime) {
		p.prime++
	}
	weights := make([]float64, c.Users)
	for u := range weights {
		weights[u] = p.weight(User(u))
	}
	p.average = mean(weights, p.cap)
	if c.Cap != 0 {
		// The cap lowers the average, on which it depends: the two fall together to a fixed
		// point.
		for last := 0.0; math.Abs(p.average-last) > 1e-12*p.average; {
			last = p.average
			p.cap = c.Cap * last
			p.average = mean(weights, p.cap)
		}
	}
	for u := range weights {
		weights[u] = min(weights[u], p.cap) / p.average
	}
	p.columns = aliases(weights)
	return p, nil
}

func mean(weights []float64, most float64) float64 {
	sum := 0.0
	for _, w := range weights {
		sum += min(w, most)
	}
	return sum / float64(len(weights))
}

// weight is u's activity without the cap.
func (p *Population) weight(u User) float64 {
	return math.Exp(p.config.Sigma * quantile(draw.Unit(draw.Hash(p.config.Seed, draw.Activity, uint64(u), 0))))
}

// aliases builds the table for weights of mean 1 (Vose 1991), and uses weights up.
func aliases(weights []float64) []column {
	columns := make([]column, len(weights))
	small := make([]User, 0, len(weights))
	large := make([]User, 0, len(weights))
	for u, w := range weights {
		columns[u] = column{math.MaxUint32, User(u)}
		if w < 1 {
			small = append(small, User(u))
		} else {
			large = append(large, User(u))
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		columns[s] = column{uint32(weights[s] * (1 << 32)), l}
		if weights[l] -= 1 - weights[s]; weights[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	return columns
}

// Users is how many users there are.
func (p *Population) Users() int { return p.config.Users }

// Pick returns who makes arrival n: a user drawn by activity.
func (p *Population) Pick(n uint64) User {
	i, rest := draw.Below(draw.Hash(p.config.Seed, draw.Users, n, 0), uint64(len(p.columns)))
	if c := p.columns[i]; uint32(rest>>32) >= c.keep {
		return c.other
	}
	return User(i)
}

// Activity is how much u does, as a multiple of the average user.
func (p *Population) Activity(u User) float64 { return min(p.weight(u), p.cap) / p.average }

// Contacts is the size of u's contact list, at most all others.
func (p *Population) Contacts(u User) int {
	z := quantile(draw.Unit(draw.Hash(p.config.Seed, draw.Contacts, uint64(u), 0)))
	return max(1, int(min(p.config.Contacts.at(z), float64(p.config.Users-1))))
}

// Contact returns the k-th contact of u, from 0, the most popular first. Contacts are
// distinct and never u. The list goes on beyond its size, up to Users()−2, with people whom
// u hardly knows.
func (p *Population) Contact(u User, k int) User {
	// A line over the integers modulo a prime is a permutation of them; its few values that
	// are no user's are passed over by walking on along the cycle they are on.
	a, rest := draw.Below(draw.Hash(p.config.Seed, draw.Contacts, uint64(u), 1), p.prime-1)
	b, _ := draw.Below(rest, p.prime)
	v := uint64(k)
	for ok := false; !ok; ok = v < uint64(p.config.Users-1) {
		v = (v*(a+1) + b) % p.prime
	}
	if v >= uint64(u) {
		v++ // all but u
	}
	return User(v)
}

// Recipient returns whom u writes to: now and then a hot account, else a contact by
// popularity.
func (p *Population) Recipient(u User, r *rand.Rand) User {
	if p.hot > 0 && r.Float64() < p.config.HotMessages {
		if to := User(r.Uint64N(p.hot)); to != u {
			return to
		}
	}
	return p.Contact(u, p.zipf.draw(p.Contacts(u), r))
}

// AppendRecipients appends n distinct recipients of a message from u, or all others where n
// is more.
func (p *Population) AppendRecipients(dst []User, u User, n int, r *rand.Rand) []User {
	start := len(dst)
	n = min(n, p.config.Users-1)
	// A group as large as the contact list is not to be had by chance.
	for range 4 * n {
		if len(dst)-start == n {
			return dst
		}
		if to := p.Recipient(u, r); !slices.Contains(dst[start:], to) {
			dst = append(dst, to)
		}
	}
	for k := 0; len(dst)-start < n; k++ {
		if to := p.Contact(u, k); !slices.Contains(dst[start:], to) {
			dst = append(dst, to)
		}
	}
	return dst
}

// Recent returns which of n things, 0 the latest, somebody looks at: the logarithm of the
// rank is uniform, so that about as many go for the latest as for the next two, and for the
// four after these. n is 1 or more.
func Recent(n int, r *rand.Rand) int {
	return min(n, int(math.Exp(r.Float64()*math.Log(float64(n)+1)))) - 1
}

func isPrime(n uint64) bool {
	for d := uint64(2); d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 1
}
