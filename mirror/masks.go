package mirror

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/mirror/pairs"
	"darklaunch/mirror/record"
	"darklaunch/mirror/sample"
)

// comparing is how the pairs of a route are to be compared, or what of its
// configuration can't be meant.
func comparing(r *Route, translated bool, policy *record.Policy) (cfg pairs.RouteConfig, err error) {
	cfg = pairs.RouteConfig{Name: r.Pattern, Share: r.Share, Elsewhere: len(r.Masks) > 0}
	for _, name := range r.Compare {
		if !fieldName.MatchString(name) {
			return cfg, fmt.Errorf("route %q: compare %q: want the name of a header", r.Pattern, name)
		}
		cfg.Headers = append(cfg.Headers, strings.ToLower(name))
	}
	if r.Compare != nil && cfg.Headers == nil {
		cfg.Headers = []string{} // none, which is not the default
	}
	if r.Share < 0 || r.Share > sample.Buckets || r.Share > 0 && !cfg.Elsewhere && !translated {
		return cfg, fmt.Errorf("route %q: share %d: want up to %d ppm, on a route with masks or a translation", r.Pattern, r.Share, sample.Buckets)
	}
	for _, mask := range r.Masks {
		if err := mask.check(r.Pattern, policy); err != nil {
			return cfg, err
		}
		cfg.Masks = append(cfg.Masks, &pairv1.Mask{Field: mask.Field, Within: mask.Within})
	}
	if cfg.Elsewhere {
		rules, err := proto.MarshalOptions{Deterministic: true}.Marshal(&pairv1.Route{Headers: cfg.Headers, Masks: cfg.Masks})
		if err != nil {
			return cfg, err
		}
		sum := sha256.Sum256(rules)
		cfg.RulesHash = sum[:16]
	}
	return cfg, nil
}

var fieldName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$") // RFC 9110 §5.6.2

func (mask *Mask) check(route string, policy *record.Policy) error {
	if err := record.Place(mask.Field); err != nil {
		return fmt.Errorf("route %q: mask %q: %w", route, mask.Field, err)
	}
	if mask.Within == "" {
		return nil // it is left out, not read
	}
	if n, err := strconv.ParseFloat(mask.Within, 64); err != nil || !(n >= 0) {
		if d, err := time.ParseDuration(mask.Within); err != nil || d < 0 {
			return fmt.Errorf("route %q: mask %q within %q: want a number, or a duration such as 5s", route, mask.Field, mask.Within)
		}
	}
	return policy.Check(fmt.Sprintf("%s: %s within %s", route, mask.Field, mask.Within), mask.Field)
}
