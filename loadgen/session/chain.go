package session

import (
	"fmt"
	"math"
	"time"

	"darklaunch/loadgen/population"
)

// End is the name, in a Spec, of what comes after the last operation.
const End = "end"

// Spec is a chain as data.
type Spec struct {
	// Start is the operation that all sessions begin with.
	Start string `yaml:"start"`
	// Ops are the operations, 1 to 255, by distinct names.
	Ops []OpSpec `yaml:"ops"`
	// Weights multiplies the probabilities of all steps to an operation, or to End; what is
	// absent counts 1. A weight of zero takes the operation out, one below 1 on End makes
	// sessions longer. What is left of each row is scaled to add up to 1.
	Weights map[string]float64 `yaml:"weights"`
	// Think is the pause before an operation in seconds, where the operation has none of
	// its own. Nil means no pause.
	Think population.Law `yaml:"think"`
}

// OpSpec is one operation and what may follow it.
type OpSpec struct {
	Name string `yaml:"name"`
	// Next holds the probabilities of what follows, by name or End. They add up to 1,
	// within 0.005.
	Next map[string]float64 `yaml:"next"`
	// Think is the pause before this operation in seconds. Nil means that of the Spec.
	Think population.Law `yaml:"think"`
}

// Chain is a Spec made ready. It never changes and is safe for concurrent use.
type Chain struct {
	ops   []OpSpec // with Think resolved
	start Op
	rows  [][]float64 // probability of what follows, by Op, and last that of the end; zero for what is out of reach
	sums  [][]float64 // running sums of the rows
}

// OpError says what is wrong with an operation and what may follow it.
type OpError struct {
	Op  string
	Err error
}

func (e *OpError) Error() string { return fmt.Sprintf("operation %q: %v", e.Op, e.Err) }
func (e *OpError) Unwrap() error { return e.Err }

// NewChain makes a chain of a spec. What is wrong with one operation's row is an *OpError. It is an error if a name is missing, taken twice or
// unknown; a probability or weight negative; a row's sum not 1; an operation out of reach
// of the start; a think time without sense; or if, with the weights applied, there is an
// operation from which no session ends.
func NewChain(s Spec) (*Chain, error) {
	if len(s.Ops) == 0 || len(s.Ops) > 255 {
		return nil, fmt.Errorf("a chain of %d operations: want 1 to 255", len(s.Ops))
	}
	index := make(map[string]Op)
	for i, op := range s.Ops {
		if _, taken := index[op.Name]; taken || op.Name == "" || op.Name == End {
			return nil, fmt.Errorf("operation %d is named %q: want a name of its own, not %q", i, op.Name, End)
		}
		index[op.Name] = Op(i)
	}
	start, ok := index[s.Start]
	if !ok {
		return nil, fmt.Errorf("the chain starts with %q: no such operation", s.Start)
	}
	weights, err := s.weights(index)
	if err != nil {
		return nil, err
	}
	if weights[start] == 0 {
		return nil, fmt.Errorf("the chain starts with %q, which has weight 0", s.Start)
	}
	c := &Chain{start: start}
	for _, op := range s.Ops {
		row, err := op.row(index)
		if err != nil {
			return nil, &OpError{op.Name, err}
		}
		if op.Think == nil {
			op.Think = s.Think
		}
		if op.Think == nil {
			op.Think = population.Constant{}
		}
		if err := op.Think.Check(); err != nil {
			return nil, fmt.Errorf("operation %q: think time: %w", op.Name, err)
		}
		c.ops = append(c.ops, op)
		c.rows = append(c.rows, row)
	}
	for op, reached := range c.reach(start)[:len(c.rows)] {
		if !reached {
			return nil, fmt.Errorf("operation %q: no way leads there from %q", s.Ops[op].Name, s.Start)
		}
	}
	for _, row := range c.rows {
		reweigh(row, weights)
	}
	if err := c.checkEnds(); err != nil {
		return nil, err
	}
	for _, row := range c.rows {
		sums, sum := make([]float64, len(row)), 0.0
		for to, p := range row {
			sum += p
			sums[to] = sum
		}
		c.sums = append(c.sums, sums)
	}
	return c, nil
}

// weights returns those of the operations, and last that of the end.
func (s Spec) weights(index map[string]Op) ([]float64, error) {
	weights := make([]float64, len(s.Ops)+1)
	for i := range weights {
		weights[i] = 1
	}
	for name, w := range s.Weights {
		op, ok := index[name]
		if !ok && name != End {
			return nil, fmt.Errorf("weight of %q: no such operation", name)
		}
		if !(w >= 0 && w < 1e6) {
			return nil, fmt.Errorf("weight of %q: %v: want 0 or more, below 1e6", name, w)
		}
		if name == End {
			weights[len(s.Ops)] = w
		} else {
			weights[op] = w
		}
	}
	return weights, nil
}

// row returns the probabilities by Op, and last that of the end.
func (o OpSpec) row(index map[string]Op) ([]float64, error) {
	row := make([]float64, len(index)+1)
	for to, p := range o.Next {
		op, ok := index[to]
		if !ok && to != End {
			return nil, fmt.Errorf("next is %q: no such operation", to)
		}
		if !(p >= 0) {
			return nil, fmt.Errorf("probability %v of %q: want 0 or more", p, to)
		}
		if to == End {
			row[len(index)] = p
		} else {
			row[op] = p
		}
	}
	sum := 0.0
	for _, p := range row {
		sum += p
	}
	if !(math.Abs(sum-1) <= 0.005) {
		return nil, fmt.Errorf("the probabilities of what follows add up to %v: want 1", sum)
	}
	return row, nil
}

// reweigh multiplies a row by weights, and scales what is left to add up to 1; it may be
// nothing.
func reweigh(row, weights []float64) {
	sum := 0.0
	for to := range row {
		row[to] *= weights[to]
		sum += row[to]
	}
	for to := range row {
		if sum > 0 {
			row[to] /= sum
		}
	}
}

// reach says which operations, and last whether the end, a session may get to from one.
func (c *Chain) reach(from Op) []bool {
	reached := make([]bool, len(c.rows)+1)
	reached[from] = true
	for todo := []Op{from}; len(todo) > 0; {
		from = todo[0]
		todo = todo[1:]
		for to, p := range c.rows[from] {
			if p == 0 || reached[to] {
				continue
			}
			reached[to] = true
			if to < len(c.rows) {
				todo = append(todo, Op(to))
			}
		}
	}
	return reached
}

// checkEnds says which operation in reach has no way to the end, and clears the rows of
// those out of reach.
func (c *Chain) checkEnds() error {
	reached := c.reach(c.start)
	for op, row := range c.rows {
		if !reached[op] {
			clear(row)
		} else if !c.reach(Op(op))[len(c.rows)] {
			return fmt.Errorf("operation %q: no way leads from there to the %s", c.ops[op].Name, End)
		}
	}
	return nil
}

// next returns what follows op at u, uniform in [0, 1), or false for the end.
func (c *Chain) next(op Op, u float64) (Op, bool) {
	for to, sum := range c.sums[op][:len(c.rows)] {
		if u < sum {
			return Op(to), true
		}
	}
	return 0, false
}

// Ops is how many operations the chain has, those of weight 0 included.
func (c *Chain) Ops() int { return len(c.ops) }

// Name returns an operation's name.
func (c *Chain) Name(op Op) string { return c.ops[op].Name }

// Stats is what sessions of a chain come to on average. With arrivals at rate λ, and calls
// that take s on average, there are λ · (Think + Calls · s) sessions at a time (Little's
// law).
type Stats struct {
	Calls float64       // operations a session
	Mix   []float64     // share of each Op in them
	Think time.Duration // sum of a session's pauses
}

// Stats solves the chain: the visits v to each operation are v = start + v·P, so v =
// start·(I − P)⁻¹.
func (c *Chain) Stats() Stats {
	n := len(c.rows)
	// a is the augmented matrix of (I − Pᵀ)·v = start.
	a := make([][]float64, n)
	for i := range a {
		a[i] = make([]float64, n+1)
		for j := range n {
			a[i][j] = -c.rows[j][i]
		}
		a[i][i]++
	}
	a[c.start][n] = 1
	// Elimination needs no pivoting: I − Pᵀ is diagonally dominant by columns, and all
	// sessions end.
	for k := range n {
		for i := range n {
			if i == k {
				continue
			}
			f := a[i][k] / a[k][k]
			for j := k; j <= n; j++ {
				a[i][j] -= f * a[k][j]
			}
		}
	}
	s := Stats{Mix: make([]float64, n)}
	think := 0.0
	for op := range s.Mix {
		visits := a[op][n] / a[op][op]
		s.Mix[op] = visits
		s.Calls += visits
		if Op(op) == c.start {
			visits-- // the first has no pause
		}
		if visits > 0 {
			think += visits * c.ops[op].Think.Expect()
		}
	}
	for op := range s.Mix {
		s.Mix[op] /= s.Calls
	}
	s.Think = seconds(think)
	return s
}
