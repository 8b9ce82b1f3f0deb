// A panel asks Prometheus what its queries say, and shows it, or says why not.

const mostSeries = 24, mostRows = 30, inLegend = 6;

// window of time: end is now, or fixed by ?end=.
const parameters = new URLSearchParams(location.search);
const fixed = Date.parse(parameters.get("end") ?? "");
const now = () => Number.isNaN(fixed) ? Date.now() : fixed;

const spans = {"5m": 300, "15m": 900, "1h": 3600, "6h": 21600, "24h": 86400};
const chosen = {span: spans[parameters.get("range")] ? parameters.get("range") : "15m", paused: false};

const stepsOf = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800];
const frameNow = board => {
  const span = spans[chosen.span], step = stepsOf.find(s => s >= Math.max(span / 180, board.scrape_s)) ?? 3600;
  const end = Math.floor(now() / 1000 / step) * step;
  return {start: end - Math.floor(span / step) * step, end, step, rate: Math.max(4 * board.scrape_s, step + board.scrape_s)};
};

const expand = (query, frame) => query.expr.replaceAll("$__rate_interval", Math.ceil(frame.rate) + "s");

const nameOf = (query, labels) => {
  const of = label => labels[label] === "" || labels[label] == null ? "" : labels[label];
  const text = (query.legend ?? "").replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => of(label)).trim();
  if (text) return clip(text, 80);
  const rest = Object.entries(labels).filter(([k]) => k !== "__name__").map(([k, v]) => `${k}=${v}`);
  return clip(rest.join(" ") || labels.__name__ || "value", 80);
};

const number = text => {
  const v = Number(text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : text);
  return Number.isFinite(v) ? v : null;
};

// answer checks the form of what Prometheus says, and returns its series.
const answerOf = (json, type) => {
  if (json?.status !== "success" || json.data?.resultType !== type || !Array.isArray(json.data.result)) {
    throw new Problem("answers with what is no answer to the query");
  }
  return json.data.result.filter(s => s && typeof s.metric === "object" && s.metric);
};

const fetchRange = (query, frame) => turn(async () => answerOf(await ask(
  "api/v1/query_range?" + new URLSearchParams({query: expand(query, frame), start: frame.start, end: frame.end, step: frame.step})), "matrix"));

const fetchNow = (query, frame) => turn(async () => answerOf(await ask(
  "api/v1/query?" + new URLSearchParams({query: expand(query, frame), time: frame.end})), "vector"));

// seriesOf makes lines of a matrix.
const seriesOf = (panel, query, result, frame) => result.map(r => {
  const values = new Map();
  for (const [t, text] of r.values ?? []) {
    const v = number(text);
    if (v != null) values.set(place(frame, t), v);
  }
  return {name: nameOf(query, r.metric), role: query.role, unit: query.unit ?? panel.unit, values};
});

// fetchTraces returns the calls whose traces are kept that a query's series count, the
// slowest first. They are no more than a hint: without an answer there are none.
const mostTraces = 100, inTraces = 5;
const fetchTraces = (query, frame, unit) => turn(async () => {
  const answer = await ask("api/v1/query_exemplars?" + new URLSearchParams({query: expand(query, frame), start: frame.start, end: frame.end}));
  return (Array.isArray(answer?.data) ? answer.data : []).flatMap(s => (s?.exemplars ?? []).map(e => ({
    t: Number(e?.timestamp), value: number(e?.value), id: String(e?.labels?.trace_id ?? ""), name: [query.role, s.seriesLabels?.route ?? s.seriesLabels?.method].filter(Boolean).join(" "), role: query.role, unit,
  }))).filter(e => e.value != null && Number.isFinite(e.t) && e.id).sort((a, b) => b.value - a.value).slice(0, mostTraces);
}).catch(() => []);

const lastOf = s => Math.max(...s.values.keys());

// levelOf is what a value means.
const levelOf = (panel, v) => {
  let level = panel.thresholds?.length ? (panel.from_bad ? "bad" : "good") : "neutral";
  for (const t of panel.thresholds ?? []) if (v >= t.value) level = t.level;
  return level;
};
const meaning = {good: "fine", warn: "near its limit", bad: "beyond its limit", neutral: ""};

class Panel {
  constructor(board, spec, marks) {
    this.board = board;
    this.spec = spec;
    this.marks = u => marks.paint(u);
    this.plot = el("div", {class: "plot " + spec.kind, role: spec.kind === "table" || spec.kind === "stat" || spec.kind === "state" ? null : "img", "aria-label": spec.kind === "table" || spec.kind === "stat" || spec.kind === "state" ? null : spec.title});
    this.note = el("p", {class: "note"}, "Prometheus is being asked.");
    this.legend = el("div", {class: "legend"});
    this.traced = el("div", {class: "legend"});
    const about = el("details", {class: "about"},
      el("summary", {"aria-label": "About " + spec.title, title: "What this shows"}, "i"),
      el("div", {class: "what"}, el("p", {}, spec.description), spec.queries.map(q => el("code", {}, q.expr))));
    this.node = el("figure", {class: "panel " + spec.kind, id: `${spec.dashboard}-${spec.id}`},
      el("figcaption", {}, el("h3", {}, spec.title), about), this.plot, this.note, this.legend, this.traced);
    this.seen = false;
    this.asked = 0;
  }

  say(text, tone = "") {
    this.note.textContent = text;
    this.note.className = "note " + tone;
    this.note.hidden = !text;
  }

  // refresh asks again; the answer to an older question is not shown.
  async refresh() {
    const frame = frameNow(this.board), asked = ++this.asked;
    const instant = this.spec.kind === "stat" || this.spec.kind === "table";
    try {
      const [answers, traces] = await Promise.all([
        Promise.all(this.spec.queries.map(q => instant ? fetchNow(q, frame) : fetchRange(q, frame))),
        Promise.all(this.spec.queries.filter(q => q.exemplars).map(q => fetchTraces(q, frame, q.unit ?? this.spec.unit))),
      ]);
      if (asked !== this.asked) return;
      this.answers = answers;
      this.traces = traces.flat().sort((a, b) => b.value - a.value);
      this.frame = frame;
      this.answered = now();
      this.failed = false;
      this.draw();
    } catch (e) {
      if (asked !== this.asked) return;
      this.failed = true;
      const why = e instanceof Problem ? e.message : "answers with what can’t be drawn";
      this.node.classList.add("failing");
      this.say(`Prometheus ${why}.` + (this.answered ? ` This is of ${clock(this.answered)}.` : ""), "bad");
    }
  }

  draw() {
    if (!this.answers) return;
    this.node.classList.remove("failing", "empty");
    const kind = {stat: this.drawStat, table: this.drawTable, heatmap: this.drawHeat, state: this.drawStates}[this.spec.kind] ?? this.drawLines;
    if (kind.call(this)) return;
    this.node.classList.add("empty");
    this.uplot?.destroy();
    this.uplot = null;
    this.plot.replaceChildren();
    this.legend.replaceChildren();
    this.traced.replaceChildren();
    this.say(this.answers.flat().length ? "There are no values in this time." : "There is no data: no program that is scraped says anything of it in this time.");
  }

  all() {
    return this.spec.queries.flatMap((q, i) => seriesOf(this.spec, q, this.answers[i], this.frame)).filter(s => s.values.size);
  }

  // freshness says so if the newest value is old.
  freshness(series) {
    const newest = Math.max(...series.map(lastOf)), age = (place(this.frame, this.frame.end) - newest) * this.frame.step;
    if (age > Math.max(3 * this.frame.step, 4 * this.board.scrape_s)) {
      return `Nothing has come for ${length(age)}: the last value is of ${clock((this.frame.start + newest * this.frame.step) * 1000)}.`;
    }
    return "";
  }

  drawLines() {
    const found = this.all();
    if (!found.length) return false;
    // Lines of nothing hide the others.
    const flat = s => !s.role && [...s.values.values()].every(v => v === 0);
    let shown = found.length > 4 ? found.filter(s => !flat(s)) : found;
    const zero = found.length - shown.length;
    if (!shown.length) shown = [{...found[0], name: `all ${found.length}`}];
    const end = s => s.values.get(lastOf(s));
    if (!shown.some(s => s.role)) shown.sort((a, b) => end(b) - end(a));
    const seen = new Map();
    for (const s of shown) if (s.role) {
      s.nth = seen.get(s.role) ?? 0;
      seen.set(s.role, s.nth + 1);
    }
    const left = Math.max(0, shown.length - mostSeries);
    shown = [...shown.slice(0, mostSeries), ...this.limits()];
    this.uplot?.destroy();
    this.plot.replaceChildren();
    const cells = this.drawLegend(shown, zero === found.length ? 0 : zero, left);
    this.uplot = lines(this.plot, this.frame, this.spec.unit, shown, this.board.looks, idx => shown.forEach((s, i) => {
      if (cells[i]) cells[i].textContent = quantity(idx == null ? end(s) : s.values.get(idx), s.unit);
    }), this.marks, dots(this.traces.map(t => ({...t, color: this.board.looks[t.role]?.color ?? css("--soft")}))));
    this.drawTraces();
    this.plot.setAttribute("aria-label", `${this.spec.title}: ${shown.slice(0, inLegend).map(s => `${s.name} ${quantity(end(s), s.unit)}`).join(", ")}`);
    this.say(this.freshness(found), "warn");
    return true;
  }

  // limits are lines where values begin to mean something else.
  limits() {
    return (this.spec.thresholds ?? []).filter(t => t.level !== "warn").map(t => ({
      name: `${t.level === "good" ? "fine" : "too much"} from`, role: "margin", unit: this.spec.unit,
      values: new Map(gridOf(this.frame).map((_, i) => [i, t.value])),
    }));
  }

  drawLegend(shown, zero, left) {
    const cells = [];
    const rows = shown.map((s, i) => {
      const look = lookOf(s, i, this.board.looks);
      const key = svg("svg", {class: "key", width: 22, height: 8, "aria-hidden": "true"},
        svg("line", {x1: 0, x2: 22, y1: 4, y2: 4, stroke: look.stroke, "stroke-width": look.width, "stroke-dasharray": look.dash.join(" ")}));
      cells[i] = el("span", {class: "value"}, quantity(s.values.get(lastOf(s)), s.unit));
      return el("li", {}, key, el("span", {class: "name", title: s.name}, s.name), cells[i]);
    });
    render(this.legend, [shown.map(s => s.name), shown.map(s => quantity(s.values.get(lastOf(s)), s.unit)), zero, left], () => [
      el("ul", {}, rows.slice(0, inLegend)),
      rows.length > inLegend && el("details", {"data-key": "more"}, el("summary", {}, `${rows.length - inLegend} more`), el("ul", {}, rows.slice(inLegend))),
      zero > 0 && el("p", {class: "soft"}, `${plural(zero, "other is", "others are")} 0`),
      left > 0 && el("p", {class: "soft"}, `${plural(left, "series is", "series are")} not drawn`),
    ]);
    return this.legend.contains(cells[0]) ? cells : [...this.legend.querySelectorAll(".value")];
  }

  drawTraces() {
    const slowest = this.traces.slice(0, inTraces);
    render(this.traced, slowest, () => slowest.length > 0 && el("details", {"data-key": "traces"},
      el("summary", {}, `◇ ${plural(this.traces.length, "call")} with a trace`),
      el("ul", {class: "traces"}, slowest.map(t => el("li", {}, el("time", {}, clock(t.t * 1000)), ` ${clip(t.name, 40)} ${quantity(t.value, t.unit)} `, el("code", {}, clip(t.id, 64)))))));
  }

  drawHeat() {
    const columns = new Map();
    for (const r of this.answers[0]) for (const [t, h] of r.histograms ?? []) {
      const buckets = (h?.buckets ?? []).map(([, low, high, n]) => [Number(low), Number(high), Number(n)]).filter(b => b.every(Number.isFinite));
      columns.set(place(this.frame, t), [...(columns.get(place(this.frame, t)) ?? []), ...buckets]);
    }
    if (!columns.size) {
      if (!this.answers[0].length) return false;
      this.plot.replaceChildren();
      this.say("Prometheus keeps no native histograms of it. Set scrape_native_histograms: true.", "warn");
      return true;
    }
    this.uplot?.destroy();
    this.plot.replaceChildren();
    const role = this.spec.queries[0].role, colour = this.board.looks[role]?.color ?? css("--p0");
    const {plot, most} = heat(this.plot, this.frame, this.spec.unit, columns, colour, this.marks);
    this.uplot = plot;
    const last = columns.get(Math.max(...columns.keys())), busiest = last.reduce((a, b) => b[2] > a[2] ? b : a, [0, 0, 0]);
    this.plot.setAttribute("aria-label", `${this.spec.title}: of late most are between ${quantity(busiest[0], this.spec.unit)} and ${quantity(busiest[1], this.spec.unit)}`);
    const ramp = el("span", {class: "ramp", "aria-hidden": "true"});
    ramp.style.setProperty("--ramp", colour);
    render(this.legend, ["heat", colour, quantity(most, "per_second")], () => el("p", {class: "soft"}, "few ", ramp, ` ${quantity(most, "per_second")} in a bucket`));
    this.say(this.freshness([{values: columns}]), "warn");
    return true;
  }

  drawStates() {
    const found = this.all();
    if (!found.length) return false;
    this.plot.replaceChildren(...states(this.frame, found.slice(0, mostSeries), this.spec.states ?? []));
    const words = found.slice(0, mostSeries).map(s => {
      const state = (this.spec.states ?? []).find(k => k.value === s.values.get(lastOf(s)));
      return `${s.name}: ${state ? state.text : "not known"}`;
    });
    render(this.legend, words, () => el("p", {class: "soft"}, clip(words.join(", ") + ".", 300)));
    this.say(this.freshness(found), "warn");
    return true;
  }

  drawStat() {
    const values = this.spec.queries.flatMap((q, i) => this.answers[i].map(r => ({name: nameOf(q, r.metric), role: q.role, unit: q.unit ?? this.spec.unit, value: number(r.value?.[1])})))
      .filter(v => v.value != null).slice(0, 8);
    if (!values.length) return false;
    render(this.plot, values, () => el("dl", {class: values.length > 1 ? "several" : "one"}, values.map(v => {
      const level = levelOf(this.spec, v.value);
      return el("div", {}, el("dt", {class: values.length > 1 ? "" : "hidden"}, v.name),
        el("dd", {}, quantity(v.value, v.unit), meaning[level] && level !== "good" && el("small", {class: level}, meaning[level])));
    })));
    this.say("");
    return true;
  }

  drawTable() {
    const labels = this.spec.labels ?? [], rows = new Map();
    this.answers.forEach((result, i) => result.forEach(r => {
      const of = labels.map(l => r.metric[l] ?? ""), key = JSON.stringify(of);
      if (!rows.has(key)) rows.set(key, {of, values: []});
      rows.get(key).values[i] = number(r.value?.[1]);
    }));
    if (!rows.size) return false;
    const all = [...rows.values()], shown = all.slice(0, mostRows);
    render(this.plot, shown, () => wide(this.spec.title, el("table", {},
      el("thead", {}, el("tr", {}, labels.map(l => el("th", {scope: "col"}, l)), this.spec.queries.map(q => el("th", {scope: "col", class: "n"}, q.legend)))),
      el("tbody", {}, shown.map(r => el("tr", {}, r.of.map(v => el("td", {class: "name"}, clip(v, 100))),
        this.spec.queries.map((q, i) => el("td", {class: "n"}, quantity(r.values[i], q.unit ?? this.spec.unit)))))))));
    this.say(all.length > shown.length ? `${plural(all.length - shown.length, "row is", "rows are")} not shown.` : "");
    return true;
  }
}
