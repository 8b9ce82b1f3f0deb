"use strict";
// The page is whole without this: it puts charts to point at in place of the drawings.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const scale = {s: [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]], B: [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]]};
  const say = unit => v => {
    if (v == null) return "–";
    if (unit === "share") return +(v * 100).toPrecision(3) + " %";
    const steps = scale[unit] || [[1, unit === "1/s" ? "/s" : ""]];
    const [by, name] = steps.find(s => Math.abs(v) >= s[0]) || steps[steps.length - 1];
    return +(v / by).toPrecision(3) + " " + name;
  };
  const drawn = new Map();
  function chart(box, spec) {
    const old = drawn.get(box);
    if (old) { old.destroy(); box.replaceChildren(); }
    const ink = css("--soft"), line = css("--line"), colour = {a: css("--a"), b: css("--b"), c: css("--c")};
    const axis = {stroke: ink, grid: {stroke: line, width: 1}, ticks: {stroke: line, width: 1}};
    const x = {label: spec.x, value: (u, v) => v == null ? "–" : spec.ticks ? spec.ticks[v - 1] ?? "" : String(v)};
    drawn.set(box, new uPlot({
      width: Math.max(260, box.clientWidth), height: 220,
      scales: {x: {time: false}, y: {range: (u, low, high) => low < high ? uPlot.rangeNum(low, high, 0.1, true) : low ? [low * 0.9, low * 1.1] : [0, spec.unit === "share" ? 0.01 : 1]}},
      axes: [{...axis, values: (u, vs) => vs.map(v => spec.ticks ? spec.ticks[v - 1] ?? "" : v), incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]},
        {...axis, size: 70, values: (u, vs) => vs.map(say(spec.unit))}],
      series: [x, ...spec.lines.map(l => ({label: l.role, stroke: colour[l.colour], width: 2, spanGaps: false, points: {show: true, size: 5}, value: (u, v) => say(spec.unit)(v)}))],
    }, [spec.lines[0].values.map((_, i) => i + 1), ...spec.lines.map(l => l.values)], box));
  }
  const open = d => d.querySelectorAll("[data-chart]").forEach(box => {
    const spec = data.charts[box.dataset.chart];
    if (spec && spec.lines.length && spec.lines[0].values.length > 1) {
      box.querySelectorAll("svg").forEach(s => s.remove());
      chart(box, spec);
    }
  });
  document.querySelectorAll("details").forEach(d => {
    if (d.open) open(d);
    d.addEventListener("toggle", () => { if (d.open && !d.querySelector(".uplot")) open(d); });
  });
  const again = () => drawn.forEach((_, box) => chart(box, data.charts[box.dataset.chart]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  let wait;
  addEventListener("resize", () => { clearTimeout(wait); wait = setTimeout(again, 150); });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => { d.open = true; }));
})();
