// Marks: what happened in a run that explains how its lines go on. Each has a letter,
// which stands beside a line in all charts, and a sentence in the list above them.

const mostMarks = 12;

class Marks {
  constructor(board) {
    this.annotations = board.annotations ?? [];
    this.node = byId("marks");
    this.all = [];
    this.changed = () => {};
  }

  // refresh asks again, but no more often than something new can have been seen.
  async refresh(frame) {
    const key = `${frame.start} ${frame.end} ${frame.step}`, finest = Math.min(...this.annotations.map(a => a.step_s)) * 1000;
    if (key === this.key || this.span === chosen.span && Date.now() - this.at < finest) return;
    this.key = key;
    this.span = chosen.span;
    this.at = Date.now();
    try {
      const found = await Promise.all(this.annotations.map(async a => {
        const fine = {...frame, step: Math.min(frame.step, a.step_s)};
        return (await fetchRange(a, fine)).flatMap(r => stretches(a, r, fine));
      }));
      // Where a span has more than there are letters for, the newest count.
      this.all = found.flat().sort((a, b) => a.from - b.from).slice(-mostMarks).map((m, i) => ({...m, letter: String.fromCharCode(97 + i)}));
    } catch {
      this.all = []; // the panels tell what is wrong with Prometheus
    }
    this.draw();
    this.changed();
  }

  draw() {
    this.node.hidden = !this.all.length;
    render(this.node, this.all, () => this.all.map(m => {
      const letter = el("b", {}, m.letter);
      letter.style.color = m.color;
      return el("li", {}, letter, " ", el("time", {}, clock(m.from * 1000)), " ", m.text);
    }));
  }

  // paint draws them into a chart.
  paint(u) {
    const ctx = u.ctx, {left, top, width, height} = u.bbox, px = devicePixelRatio || 1;
    ctx.save();
    ctx.font = `600 ${10 * px}px system-ui, sans-serif`;
    ctx.lineWidth = px;
    ctx.setLineDash([2 * px, 3 * px]);
    for (const m of this.all) {
      const x = Math.round(u.valToPos(m.from, "x", true));
      if (x < left || x > left + width) continue;
      ctx.strokeStyle = ctx.fillStyle = m.color;
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
      ctx.fillText(m.letter, x + 3 * px, top + 9 * px);
    }
    ctx.restore();
  }
}

// stretches are the times in which a series has values of 1 or more, without the one that
// had begun before.
const stretches = (annotation, result, frame) => {
  const found = [];
  let last = -Infinity;
  for (const [t, text] of result.values ?? []) {
    if (number(text) < 1) continue;
    if (t - last > frame.step * 1.5 && t > frame.start) found.push({from: t, color: annotation.color, text: nameOf({legend: annotation.text}, result.metric)});
    last = t;
  }
  return found;
};
