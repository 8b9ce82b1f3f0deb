package index

import (
	"bytes"
	"iter"

	"github.com/RaduBerinde/btreemap"
)

// Cell is one cell of a family. An empty value stands for no cell: it is how a cell
// is taken away, since a store cannot write and delete in one step, and a deleted
// cell that comes back may be hidden by its own deletion. No cell that is there has
// an empty value.
type Cell struct{ Qualifier, Value []byte }

// Delta is what a batch changes: cells put, and with an empty value cells taken away,
// by qualifier, each once. A cell that the batch itself made and took away again is
// not in it.
type Delta []Cell

// Reader is the cells of a family as a batch or a query sees them. Nobody changes
// what it returns. A Reader that has to fetch cells keeps its first error to itself
// until it is asked, and returns nothing from then on.
type Reader interface {
	// Get returns the value of a cell, or nil.
	Get(qualifier []byte) []byte
	// Scan yields the cells with from <= qualifier < to, in order; a nil to means to the
	// end. The cells must not change meanwhile.
	Scan(from, to []byte) iter.Seq2[[]byte, []byte]
	// ScanBack yields the same cells, last first.
	ScanBack(from, to []byte) iter.Seq2[[]byte, []byte]
}

// Cells are the cells of a family in memory, sorted. Several goroutines may read
// them while none applies a delta.
type Cells struct {
	tree  *btreemap.BTreeMap[[]byte, []byte]
	bytes int
}

// NewCells returns Cells that hold cells; those with empty values are left out.
func NewCells(cells ...Cell) *Cells {
	c := &Cells{tree: btreemap.New[[]byte, []byte](32, bytes.Compare)}
	c.Apply(cells)
	return c
}

// Apply puts d's cells, and takes away those with empty values. It keeps d's slices.
func (c *Cells) Apply(d Delta) {
	for _, cell := range d {
		var old []byte
		var was bool
		if len(cell.Value) == 0 {
			_, old, was = c.tree.Delete(cell.Qualifier)
		} else {
			_, old, was = c.tree.ReplaceOrInsert(cell.Qualifier, cell.Value)
			c.bytes += size(cell.Qualifier, cell.Value)
		}
		if was {
			c.bytes -= size(cell.Qualifier, old)
		}
	}
}

// overhead is about what a cell costs in memory besides its bytes: two slice headers
// and the slack of its tree node.
const overhead = 72

func size(qualifier, value []byte) int { return len(qualifier) + len(value) + overhead }

// Len returns the number of cells.
func (c *Cells) Len() int { return c.tree.Len() }

// Bytes returns about how much memory the cells take.
func (c *Cells) Bytes() int { return c.bytes }

// Get implements Reader.
func (c *Cells) Get(qualifier []byte) []byte {
	_, value, _ := c.tree.Get(qualifier)
	return value
}

// Scan implements Reader.
func (c *Cells) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return c.tree.Ascend(btreemap.GE(from), below(to))
}

// ScanBack implements Reader.
func (c *Cells) ScanBack(from, to []byte) iter.Seq2[[]byte, []byte] {
	return c.tree.Descend(below(to), btreemap.GE(from))
}

func below(to []byte) btreemap.UpperBound[[]byte] {
	if to == nil {
		return btreemap.Max[[]byte]()
	}
	return btreemap.LT(to)
}

// Overlay is cells in front of a base that is left alone: with an empty value one
// hides the base's. It is a Reader of both. Changing it needs exclusive use, and that
// no scan of it is under way; reading does not. The base must not change while it is
// in use.
type Overlay struct {
	base  Reader
	tree  *btreemap.BTreeMap[[]byte, over]
	bytes int
}

// over is a cell of an overlay.
type over struct {
	value []byte // empty: it hides the base's
	fresh bool   // the base has none
}

// NewOverlay returns an overlay that has no cells of its own.
func NewOverlay(base Reader) *Overlay {
	return &Overlay{base: base, tree: btreemap.New[[]byte, over](32, bytes.Compare)}
}

// Add puts a cell that is not there.
func (o *Overlay) Add(qualifier, value []byte) { o.replace(qualifier, over{value, true}) }

// Set puts a cell that is there already.
func (o *Overlay) Set(qualifier, value []byte) { o.replace(qualifier, over{value, false}) }

// replace puts a cell; whether it is fresh is for one that was there before to say.
func (o *Overlay) replace(qualifier []byte, cell over) {
	_, old, was := o.tree.ReplaceOrInsert(qualifier, cell)
	o.bytes += size(qualifier, cell.value)
	if !was {
		return
	}
	o.bytes -= size(qualifier, old.value)
	if old.fresh != cell.fresh {
		cell.fresh = old.fresh
		o.tree.ReplaceOrInsert(qualifier, cell)
	}
}

// put puts a cell that was there if was is not nil.
func (o *Overlay) put(qualifier, was, value []byte) {
	if was == nil {
		o.Add(qualifier, value)
	} else if !bytes.Equal(was, value) {
		o.Set(qualifier, value)
	}
}

// Remove takes away a cell that is there.
func (o *Overlay) Remove(qualifier []byte) {
	if _, old, _ := o.tree.Get(qualifier); !old.fresh {
		o.Set(qualifier, nil)
		return
	}
	_, old, _ := o.tree.Delete(qualifier)
	o.bytes -= size(qualifier, old.value)
}

// absorb takes over the cells of an overlay whose base this one is.
func (o *Overlay) absorb(front *Overlay) {
	for q, cell := range front.tree.Ascend(btreemap.Min[[]byte](), btreemap.Max[[]byte]()) {
		if len(cell.value) == 0 {
			o.Remove(q)
		} else {
			o.replace(q, cell)
		}
	}
}

// Delta returns what the overlay changes; the base's cells and these, applied, are
// what the overlay shows. Its slices are the overlay's.
func (o *Overlay) Delta() Delta {
	d := make(Delta, 0, o.tree.Len())
	for q, cell := range o.tree.Ascend(btreemap.Min[[]byte](), btreemap.Max[[]byte]()) {
		d = append(d, Cell{q, cell.value})
	}
	return d
}

// Bytes returns about how much memory the overlay takes, its base aside.
func (o *Overlay) Bytes() int { return o.bytes }

// Len returns the number of the overlay's own cells, those that hide others among them.
func (o *Overlay) Len() int { return o.tree.Len() }

// Get implements Reader.
func (o *Overlay) Get(qualifier []byte) []byte {
	if _, cell, ok := o.tree.Get(qualifier); ok {
		if len(cell.value) == 0 {
			return nil
		}
		return cell.value
	}
	return o.base.Get(qualifier)
}

// Scan implements Reader.
func (o *Overlay) Scan(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(q, v []byte) bool) {
		at := btreemap.GE(from)
		for q, v := range o.base.Scan(from, to) {
			if !pass(o.tree.Ascend(at, btreemap.LT(q)), yield) || !o.front(q, v, yield) {
				return
			}
			at = btreemap.GT(q)
		}
		pass(o.tree.Ascend(at, below(to)), yield)
	}
}

// ScanBack implements Reader.
func (o *Overlay) ScanBack(from, to []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(q, v []byte) bool) {
		at := below(to)
		for q, v := range o.base.ScanBack(from, to) {
			if !pass(o.tree.Descend(at, btreemap.GT(q)), yield) || !o.front(q, v, yield) {
				return
			}
			at = btreemap.LT(q)
		}
		pass(o.tree.Descend(at, btreemap.GE(from)), yield)
	}
}

// front yields a cell of the base, or what stands in front of it.
func (o *Overlay) front(q, v []byte, yield func(q, v []byte) bool) bool {
	if _, cell, ok := o.tree.Get(q); ok {
		v = cell.value
	}
	return len(v) == 0 || yield(q, v)
}

// pass yields those of cells that are not empty.
func pass(cells iter.Seq2[[]byte, over], yield func(q, v []byte) bool) bool {
	for q, cell := range cells {
		if len(cell.value) > 0 && !yield(q, cell.value) {
			return false
		}
	}
	return true
}
