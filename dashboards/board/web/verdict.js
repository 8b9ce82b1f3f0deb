// The verdict: a sentence first, then why, what would settle it, and what it rests on.

const routeOf = route => !route || route === "*" ? "all routes" : clip(route, 100);
const limitOf = m => Math.max(m.margin ?? 0, m.allowed ?? 0);
const titleOf = m => m.stat ? `${m.name} ${m.stat}` : m.name;
const nouns = {
  latency: m => ["latency " + (m.stat ?? "").replace("p999", "p99.9"), "slower", "faster"],
  cpu_per_request: () => ["CPU time a request", "more", "less"],
  allocations_per_request: () => ["allocations a request", "more", "less"],
};
const wordsOf = m => nouns[m.name]?.(m) ?? [clip(titleOf(m), 60).replaceAll("_", " "), "more", "less"];

// round is an effect in the unit that follows it.
const round = (m, v) => m.absolute && m.unit !== "share" ? quantity(v, m.unit) : percent(v);
const unitOf = m => !m.absolute ? nb + "%" : m.unit === "share" ? " points" : "";
const signedRound = (m, v) => (v > 0 && round(m, v) !== "0" ? "+" : "") + round(m, v);
const ends = ci => [ci[0] ?? -Infinity, ci[1] ?? Infinity];

// told is "latency p99 of /threads is 8.6 % slower on shadow (2.1 to 15.5 %)".
const told = m => {
  const [name, more, less] = wordsOf(m), about = `${name} of ${routeOf(m.route)}`;
  if (m.effect == null) return about + " can’t be told";
  const verb = m.absolute ? " are " : " is ";
  const sign = m.effect < 0 ? -1 : 1;
  const span = !m.ci ? "" : ` (${ends(m.ci).map(v => v * sign).sort((a, b) => a - b).map(v => round(m, v)).join(" to ")}${unitOf(m)})`;
  if (round(m, m.effect) === "0") return about + verb + "the same" + span;
  return about + verb + round(m, m.effect * sign) + unitOf(m) + " " + (sign < 0 ? less : more) + ` on ${clip(m.of, 10)}` + span;
};

const outcome = m => {
  if (m.verdict === "pass") return m.improved ? "improved" : "passed";
  if (m.verdict === "fail") return "failed";
  const missing = (m.blocks_needed ?? 0) - m.blocks;
  return "not decided" + (missing > 0 ? `, ${missing} more ${missing === 1 ? "block" : "blocks"}` + (m.needed_s > 0 ? `, about ${length(m.needed_s)}` : "") : "");
};

const reasonOf = r => (r.metric ? `${clip(r.metric, 60)} of ${routeOf(r.route)}: ` : "") + clip(r.text, 300);

const marks = {pass: "✓", fail: "✕", inconclusive: "?", warming: "…", collecting: "…"};
const stateWords = {pass: "Pass", fail: "Fail", inconclusive: "Inconclusive", warming: "Warming up", collecting: "Not decided yet"};

const rank = m => m.role === "watch" ? 3 : m.verdict === "fail" ? 0 : m.verdict === "pass" ? 2 : 1;
const beyond = m => !m.ci ? -Infinity : m.name === "throughput" ? -ends(m.ci)[1] - limitOf(m) : ends(m.ci)[0] - limitOf(m);
const inOrder = metrics => metrics.filter(m => m && typeof m === "object").slice(0, 2000).sort((a, b) => rank(a) - rank(b) || beyond(b) - beyond(a));

// whisker draws an interval so that the margins of all rows stand in one line: what
// is left of 0 is better, what is right of the margin worse than allowed.
const whisker = m => {
  const box = svg("svg", {class: "whisker " + (m.role === "watch" ? "watch" : m.verdict), viewBox: "0 0 200 24", role: "img",
    "aria-label": m.effect == null ? "no interval" : `effect ${signedRound(m, m.effect)}${unitOf(m)}, margin ${round(m, limitOf(m))}${unitOf(m)}`});
  const limit = limitOf(m) || 1, worse = m.name === "throughput" ? -1 : 1;
  const at = v => 70 + 50 * Math.max(-1.3, Math.min(2.5, v * worse / limit));
  const line = (name, x1, x2, y1, y2) => box.append(svg("line", {class: name, x1, x2, y1, y2}));
  line("axis", 0, 200, 12, 12);
  line("zero", 70, 70, 4, 20);
  line("margin", 120, 120, 1, 23);
  if (m.effect == null) return box;
  if (m.ci) {
    const [a, b] = ends(m.ci).map(at).sort((p, q) => p - q);
    line("ci", a, Math.max(b, a + 1), 12, 12);
    for (const v of ends(m.ci)) if (v * worse > limit * 2.5 || v * worse < limit * -1.3) box.append(svg("path", {class: "beyond", d: v * worse > 0 ? "M194 7 L200 12 L194 17 Z" : "M6 7 L0 12 L6 17 Z"}));
  }
  box.append(svg("circle", {class: "dot", cx: at(m.effect), cy: 12, r: 4.5}));
  return box;
};

const metricRow = m => el("li", {class: "metric " + (m.role === "watch" ? "watch" : m.verdict)},
  el("span", {class: "mark", "aria-hidden": "true"}, m.role === "watch" ? "·" : marks[m.verdict] ?? "?"),
  el("span", {class: "of"}, el("b", {}, capital(wordsOf(m)[0])), " ", el("span", {class: "route"}, routeOf(m.route))),
  el("span", {class: "values"}, m[m.against] == null && m[m.of] == null ? "not measured" : `${quantity(m[m.against], m.unit)} → ${quantity(m[m.of], m.unit)}`, el("small", {}, `${clip(m.against, 10)} → ${clip(m.of, 10)}`)),
  whisker(m),
  el("span", {class: "effect"}, m.effect == null ? "–" : signedRound(m, m.effect) + unitOf(m),
    el("small", {}, `${m.ci ? ends(m.ci).map(v => signedRound(m, v)).join(" to ") + " · " : ""}margin ${round(m, limitOf(m))}${unitOf(m)}`)),
  el("span", {class: "outcome"}, outcome(m), m.role === "watch" && el("small", {}, "watched, decides nothing")));

const headline = (summary, doc) => {
  const first = doc?.reasons?.[0], gating = inOrder(doc?.metrics ?? []).filter(m => m.role !== "watch");
  switch (summary.state) {
    case "pass": {
      const closest = gating.filter(m => m.ci).sort((a, b) => ends(b.ci)[1] / limitOf(b) - ends(a.ci)[1] / limitOf(a))[0];
      return ["Shadow is as fast and as right as allowed.", closest ? `Closest to its margin: ${told(closest)}, margin ${round(closest, limitOf(closest))}${unitOf(closest)}.` : ""];
    }
    case "fail": {
      const worst = gating.find(m => m.verdict === "fail");
      return [worst ? `${capital(told(worst))}, margin ${round(worst, limitOf(worst))}${unitOf(worst)}.` : first ? capital(reasonOf(first)) + "." : "Shadow is worse than allowed.", ""];
    }
    case "warming": return ["Nothing is evidence yet.", "The beginning of a run is left out: caches are cold and connections are being made."];
  }
  const open = gating.find(m => m.verdict !== "pass" && m.effect != null);
  return [open ? `${capital(told(open))}, margin ${round(open, limitOf(open))}${unitOf(open)}: not decided.` : first ? capital(reasonOf(first)) + "." : "There is not enough evidence yet.", ""];
};

const mostComparisons = 16, mostReasons = 6, mostMetrics = 12;

class VerdictView {
  constructor(board) {
    this.board = board;
    this.node = byId("verdict-body");
    this.chip = byId("chip-verdict");
    this.summaries = new Map();
    this.documents = new Map();
    this.picked = parameters.get("comparison");
    this.garbage = 0;
    this.asked = 0;
    this.trouble = "";
  }

  start() {
    if (!this.board.verdict) {
      this.draw();
      return;
    }
    follow("darklaunch/verdict/api/v1/events", data => this.event(data), problem => {
      this.trouble = `The verdict ${problem.message}.` + (this.heard ? ` What is shown is of ${clock(this.heard)}.` : "") + " It is tried again.";
      this.draw();
    });
    this.draw();
  }

  event(data) {
    let s;
    try {
      s = JSON.parse(data);
    } catch {}
    if (!s || typeof s.comparison !== "string" || typeof s.state !== "string") {
      this.garbage++;
      this.draw();
      return;
    }
    this.heard = now();
    this.trouble = "";
    if (this.summaries.size >= mostComparisons && !this.summaries.has(s.comparison)) return;
    this.summaries.set(s.comparison, s);
    this.draw();
    if (s === this.current()) this.fetch(s.comparison);
  }

  current() {
    return this.summaries.get(this.picked) ?? this.summaries.values().next().value;
  }

  // fetch asks for the document, at most once at a time and every other second.
  async fetch(name) {
    if (this.busy) {
      this.again = name;
      return;
    }
    this.busy = true;
    try {
      const of = "darklaunch/verdict/api/v1/verdict?" + new URLSearchParams({comparison: name});
      const doc = await ask(of);
      if (!doc || !Array.isArray(doc.metrics)) throw new Problem("answers with what is no verdict");
      this.documents.set(name, doc);
      this.documentTrouble = "";
    } catch (e) {
      this.documentTrouble = `The verdict ${e instanceof Problem ? e.message : "can’t be read"}.`;
    }
    this.draw();
    await pause(2000);
    this.busy = false;
    const next = this.again;
    this.again = null;
    if (next) this.fetch(next);
  }

  draw() {
    const s = this.current(), doc = s && this.documents.get(s.comparison);
    const trouble = [this.trouble, this.documentTrouble, this.garbage ? `${plural(this.garbage, "event")} of the verdict could not be read and ${this.garbage === 1 ? "is" : "are"} left out.` : ""].filter(Boolean);
    render(this.chip, [s?.state, !!this.trouble], () => {
      this.chip.className = "chip " + (s?.state ?? "none");
      return [el("span", {"aria-hidden": "true"}, marks[s?.state] ?? "–"), s ? stateWords[s.state] ?? clip(s.state, 20) : "No verdict", this.trouble && " (stale)"];
    });
    render(this.node, [s, doc, trouble, [...this.summaries.keys()]], () => [trouble.map(t => el("p", {class: "trouble"}, t)), ...this.parts(s, doc)]);
    this.onDocument?.(doc, s);
  }

  parts(s, doc) {
    if (!this.board.verdict) return [el("h1", {}, "No verdict is asked for."), el("p", {class: "lead"}, "Start the page with the address of one to see whether shadow is as good as live: darklaunch dash --verdict HOST:PORT.")];
    if (!s) return [el("h1", {}, this.trouble ? "The verdict is not known." : "Nothing is compared yet."), el("p", {class: "lead"}, this.trouble ? "" : "No mirror has told the verdict of a comparison: darklaunch mirror --verdict HOST:PORT.")];
    const [sentence, more] = headline(s, doc), reasons = (doc?.reasons ?? s.reasons ?? []).filter(r => r && r.text);
    const cures = [...new Set(reasons.map(r => r.cure).filter(Boolean))];
    const names = [...this.summaries.keys()];
    const known = s.mirrors ?? [], away = known.filter(m => !m.connected);
    return [
      el("div", {class: "eyebrow"},
        el("span", {class: "pill " + s.state}, el("span", {"aria-hidden": "true"}, marks[s.state] ?? "?"), " ", stateWords[s.state] ?? clip(s.state, 20)),
        names.length > 1 ? el("label", {}, "of ", el("select", {onchange: e => this.pick(e.target.value)}, names.map(n => el("option", {value: n, selected: n === s.comparison}, clip(n, 60))))) : el("span", {}, clip(s.comparison, 60))),
      el("h1", {}, sentence),
      more && el("p", {class: "lead"}, more),
      s.state !== "pass" && s.state !== "fail" && cures.length > 0 && el("p", {class: "lead"}, el("b", {}, "What would settle it: "), cures.slice(0, 3).map(c => clip(c, 200)).join("; ") + "."),
      s.state !== "pass" && reasons.length > 0 && el("div", {class: "reasons"}, el("h2", {}, "Why"), el("ul", {}, reasons.slice(0, mostReasons).map(r => el("li", {}, capital(reasonOf(r)), s.state === "fail" && r.cure && el("span", {class: "soft"}, ` – what would settle it: ${clip(r.cure, 200)}`)))),
        reasons.length > mostReasons && el("p", {class: "soft"}, `${plural(reasons.length - mostReasons, "further reason")} in the report.`)),
      away.length > 0 && el("p", {class: "trouble"}, `${plural(away.length, "mirror")} of ${known.length} ${away.length === 1 ? "is" : "are"} not connected: ${away.slice(0, 4).map(m => clip(m.id, 40)).join(", ")}.`),
      doc && this.rows(doc),
      el("p", {class: "soft"}, this.evidence(s, doc), " ", doc && doc.judged_at && el("a", {href: "darklaunch/verdict/report?" + new URLSearchParams({comparison: s.comparison})}, "The whole report")),
    ];
  }

  evidence(s, doc) {
    if (!doc) return "The rows behind it are being asked for.";
    const rig = doc.rig ?? {};
    const parts = [`On ${plural(rig.blocks ?? 0, "block")}${rig.block_s > 0 ? ` of ${length(rig.block_s)}` : ""}, ${whole(rig.pairs ?? 0)} calls a side`];
    if (doc.judged_at) parts.push(`judged at ${clock(doc.judged_at)}`);
    if (s.state !== doc.verdict && s.blocks > 0) parts.push(`${plural(s.blocks, "block")} and ${whole(s.pairs)} pairs so far`);
    return parts.join(", ") + ".";
  }

  rows(doc) {
    const all = inOrder(doc.metrics), first = all.slice(0, mostMetrics), rest = all.slice(mostMetrics, 60);
    const gates = (doc.rig?.gates ?? []).filter(g => g && !g.ok);
    if (!all.length) return null;
    return el("div", {class: "metrics"},
      el("p", {class: "scale", "aria-hidden": "true"}, el("span", {}, "better"), el("span", {}, "same"), el("span", {}, "margin"), el("span", {}, "worse")),
      el("ul", {"aria-label": "What was compared"}, first.map(metricRow)),
      rest.length > 0 && el("details", {"data-key": "metrics"}, el("summary", {}, `${all.length - first.length} more`), el("ul", {}, rest.map(metricRow))),
      (doc.objectives ?? []).length > 0 && el("ul", {class: "objectives", "aria-label": "Objectives"}, doc.objectives.slice(0, 12).map(o => el("li", {class: o.verdict}, el("span", {"aria-hidden": "true"}, marks[o.verdict] ?? "?"), ` ${clip(o.text, 100)}: ${quantity(o.value, o.unit)}, ${o.verdict === "pass" ? "kept" : o.verdict === "fail" ? "broken" : "not decided"}`))),
      gates.length > 0 && el("p", {class: "trouble"}, el("b", {}, "The rig: "), gates.slice(0, 4).map(g => clip(g.text, 160)).join("; ") + "."));
  }

  pick(name) {
    this.picked = name;
    this.draw();
    this.fetch(name);
  }
}

// Differences of answers, by field.
const mostDifferences = 20, mostExamples = 3;
const tiers = {confirmed: "confirmed", observed: "seen, may be noise", noise: "noise: control differs as often"};
const drawDifferences = (board, doc) => render(byId("differences-body"), [doc?.differences, doc?.rules, !doc], () => {
  if (!board.verdict || !doc) return el("p", {class: "note"}, board.verdict ? "No verdict has come yet." : "There is no verdict to tell them.");
  const all = (doc.differences ?? []).filter(d => d && typeof d === "object");
  const hidden = (doc.rules ?? []).reduce((n, r) => n + (r.hid ?? 0), 0);
  return [
    all.length === 0 ? el("p", {class: "note"}, "No field of the answers differs.") : el("ul", {class: "differences"}, all.slice(0, mostDifferences).map(difference)),
    all.length > mostDifferences && el("p", {class: "soft"}, `${plural(all.length - mostDifferences, "further field")} in the report.`),
    hidden > 0 && el("p", {class: "soft"}, `Rules hide ${whole(hidden)} further differences.`),
  ];
});

const difference = (d, i) => el("li", {}, el("details", {"data-key": `${d.route} ${d.field} ${d.kind}`, open: i === 0 && d.examples?.length > 0},
  el("summary", {}, el("span", {class: "mark " + (d.verdict || "watch"), "aria-hidden": "true"}, d.verdict ? marks[d.verdict] ?? "?" : "·"),
    el("code", {}, clip(d.field, 100)), ` ${clip(d.kind, 20)} of ${routeOf(d.route)} `,
    el("span", {class: "rate"}, `${percent(d.rate)}${nb}% of ${whole(d.pairs)}`), " ",
    el("span", {class: "tier"}, (d.noise != null ? `control ${percent(d.noise)}${nb}% · ` : "") + (tiers[d.tier] ?? clip(d.tier, 20)) + (d.verdict ? `: ${{pass: "passed", fail: "failed"}[d.verdict] ?? "not decided"}` : ""))),
  (d.examples ?? []).length === 0 && el("p", {class: "soft"}, "No example was kept."),
  (d.examples ?? []).slice(0, mostExamples).map(e => el("div", {class: "example"},
    el("dl", {}, ["live", "shadow", "control"].filter(r => e[r] || r !== "control").map(r => el("div", {class: r}, el("dt", {}, r), el("dd", {}, el("code", {}, clip(e[r] || "–", 300)))))),
    e.command && el("pre", {tabindex: 0}, clip(e.command, 600))))));
