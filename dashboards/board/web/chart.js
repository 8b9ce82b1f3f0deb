// Charts: lines, heat maps and states over time. uPlot draws the axes and the lines.

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const printing = {now: false};

// dashes tell series of a palette apart without colour.
const dashes = [[], [], [7, 4], [2, 3], [10, 3, 2, 3], [5, 2], [12, 5], [2, 5]];

// lookOf is how a series is drawn: as its role is everywhere, else the next of the palette.
const lookOf = (series, index, looks) => {
  const look = looks[series.role];
  if (look && series.nth) return {stroke: look.color, dash: dashes[(series.nth + 3) % dashes.length], width: look.width};
  if (look) return {stroke: look.color, dash: look.dash ?? [], width: look.width};
  return {stroke: css(`--p${index % 8}`), dash: dashes[Math.floor(index / 2) % dashes.length], width: 2};
};

const minutes = new Intl.DateTimeFormat("en-GB", {hour: "2-digit", minute: "2-digit"});
const seconds = new Intl.DateTimeFormat("en-GB", {hour: "2-digit", minute: "2-digit", second: "2-digit"});
const ticks = [1, 2, 5, 10, 15, 30, 60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600];

const axes = unit => {
  const ink = css("--soft"), line = css("--line"), font = "11px system-ui, sans-serif";
  const axis = {stroke: ink, font, ticks: {show: false}, grid: {stroke: line, width: 1}};
  return [
    {...axis, grid: {show: false}, size: 26, space: 56, incrs: ticks, values: (u, ts, axis, space, step) => ts.map(t => (step < 60 ? seconds : minutes).format(t * 1000))},
    {...axis, size: 58, space: 34, gap: 6, values: (u, vs) => onAxis(vs, unit)},
  ];
};

// range begins at 0 unless the lines would be squeezed to the top.
const range = (u, low, high) => {
  if (low == null || !Number.isFinite(low)) return [0, 1];
  if (low >= 0 && low < 0.7 * high || low === high && low === 0) return [0, high > 0 ? high * 1.08 : 1];
  const pad = (high - low) * 0.1 || Math.abs(high) * 0.1;
  return [low - pad, high + pad];
};

const frameOf = (box, frame, unit, more, ...paint) => ({
  width: Math.max(220, box.clientWidth), height: printing.now ? 150 : 170, ms: 1e-3, padding: [8, 16, 0, 0],
  legend: {show: false}, axes: axes(unit),
  cursor: {sync: {key: "board"}, points: {size: 6}, drag: {x: false, y: false}},
  ...more,
  scales: {x: {time: true, range: () => [frame.start, frame.end]}, ...more.scales},
  hooks: {...more.hooks, draw: paint},
});

const gridOf = frame => {
  const xs = [];
  for (let t = frame.start; t <= frame.end; t += frame.step) xs.push(t);
  return xs;
};

const place = (frame, t) => Math.round((t - frame.start) / frame.step);

// lines draws series of {values: Map by place}; hover gets the place under the pointer,
// and each of paint the chart once it is drawn.
const lines = (box, frame, unit, series, looks, hover, ...paint) => {
  const xs = gridOf(frame);
  return new uPlot(frameOf(box, frame, unit, {
    scales: {y: {range}},
    series: [{}, ...series.map((s, i) => {
      const look = lookOf(s, i, looks);
      // A value with nothing beside it is no line, and would not be seen.
      return {...look, spanGaps: false, points: {show: (u, si, from, to) => { const d = u.data[si]; return d.some((v, j) => v != null && d[j - 1] == null && d[j + 1] == null); }, size: 5, fill: look.stroke}};
    })],
    hooks: {setCursor: [u => hover(u.cursor.idx)]},
  }, ...paint), [xs, ...series.map(s => xs.map((_, i) => s.values.get(i) ?? null))], box);
};

// dots marks single values, as {t, value, color}, on a chart of lines.
const dots = points => u => {
  const ctx = u.ctx, {left, top, width, height} = u.bbox, px = devicePixelRatio || 1;
  ctx.save();
  ctx.lineWidth = px;
  for (const p of points) {
    const x = u.valToPos(p.t, "x", true), y = u.valToPos(p.value, "y", true);
    if (!(x >= left && x <= left + width && y >= top && y <= top + height)) continue;
    ctx.strokeStyle = p.color;
    ctx.beginPath();
    ctx.moveTo(x, y - 4 * px);
    ctx.lineTo(x + 4 * px, y);
    ctx.lineTo(x, y + 4 * px);
    ctx.lineTo(x - 4 * px, y);
    ctx.closePath();
    ctx.stroke();
  }
  ctx.restore();
};

// nice is the next of 1, 2 and 5 times a power of ten.
const nice = (v, way) => {
  const ten = 10 ** Math.floor(Math.log10(v)), at = v / ten;
  return ten * (way === Math.floor ? [5, 2, 1].find(n => n <= at * 1.0001) : [1, 2, 5, 10].find(n => n >= at * 0.9999));
};

// heat draws columns of {buckets: [[low, high, count]]}: the darker, the more.
const heat = (box, frame, unit, columns, colour, ...paint) => {
  let low = Infinity, high = 0, most = 0;
  for (const c of columns.values()) for (const [a, b, n] of c) {
    if (n <= 0 || b <= 0) continue;
    if (a > 0) low = Math.min(low, a);
    high = Math.max(high, b);
    most = Math.max(most, n);
  }
  if (!(low < high)) low = high / 10 || 1e-3;
  low = nice(low, Math.floor);
  high = nice(high || 1, Math.ceil);
  const xs = gridOf(frame);
  const fill = u => {
    const ctx = u.ctx, half = frame.step / 2;
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ctx.clip();
    ctx.fillStyle = colour;
    for (const [i, c] of columns) {
      const left = Math.round(u.valToPos(xs[i] - half, "x", true)), right = Math.round(u.valToPos(xs[i] + half, "x", true)); // whole pixels: none is painted twice
      for (const [a, b, n] of c) {
        if (n <= 0 || b <= 0) continue;
        const top = Math.round(u.valToPos(b, "y", true)), bottom = Math.round(u.valToPos(Math.max(a, low), "y", true));
        ctx.globalAlpha = 0.08 + 0.92 * Math.sqrt(n / most);
        ctx.fillRect(left, top, right - left, bottom - top);
      }
    }
    ctx.restore();
  };
  const plot = new uPlot(frameOf(box, frame, unit, {
    scales: {y: {distr: 3, log: 10, range: () => [low, high]}},
    series: [{}, {show: true, stroke: "transparent", points: {show: false}}],
    cursor: {sync: {key: "board"}, points: {show: false}, drag: {x: false, y: false}},
  }, fill, ...paint), [xs, xs.map(() => null)], box);
  return {plot, most};
};

// states draws a bar for each series, in pieces that last as long as its values.
const states = (frame, series, known) => series.map(s => {
  const bar = el("div", {class: "bar"});
  const n = place(frame, frame.end) + 1, pieces = [];
  for (let i = 0; i < n; i++) {
    const v = s.values.get(i), last = pieces[pieces.length - 1];
    if (last && last.value === v) last.length++;
    else pieces.push({value: v, length: 1});
  }
  for (const p of pieces) {
    const state = known.find(k => k.value === p.value);
    const piece = el("span", {class: "piece " + (state ? state.level : "none"), title: state ? `${state.text}, ${length(p.length * frame.step)}` : "not known"},
      state && p.length > n / 12 ? clip(state.text, 24) : "");
    piece.style.flexGrow = p.length;
    bar.append(piece);
  }
  return el("div", {class: "states"}, el("span", {class: "name"}, clip(s.name, 60)), bar);
});
