// Numbers with units, and sentences.

const nb = "\u00a0";
const significant = new Intl.NumberFormat("en", {maximumSignificantDigits: 3, useGrouping: true});
const whole = n => new Intl.NumberFormat("en", {maximumFractionDigits: 0}).format(n);

const steps = {
  seconds: [[60, "min"], [1, "s"], [1e-3, "ms"], [1e-6, "µs"]],
  bytes: [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]],
  count: [[1e9, "G"], [1e6, "M"], [1e4, "k"], [1, ""]],
};

// units says of each what a number is divided by and what stands behind it. A number
// has the largest step that leaves it at 1 or more.
const units = {
  none: [], count: steps.count, seconds: steps.seconds, bytes: steps.bytes,
  share: [[0.01, "%"]], ppm: [[1e4, "%"]],
  per_second: steps.count.map(([by, name]) => [by, name + "/s"]),
  requests_per_sec: steps.count.map(([by, name]) => [by, name + "/s"]),
  bytes_per_second: steps.bytes.map(([by, name]) => [by, name + "/s"]),
  cores: [[1, "cores"]], seconds_per_call: steps.seconds, per_request: steps.count,
  // As a verdict names them.
  s: steps.seconds, B: steps.bytes, "1/s": [[1, "/s"]],
};

const stepOf = (unit, v) => {
  const all = units[unit] ?? [];
  // What is about to be rounded up to the next step has that already.
  const fits = all.find(([by, name]) => Math.abs(v) >= by * (name === "min" ? 2 : 0.9995));
  const [by, name] = fits ?? (v === 0 ? all.find(([b]) => b === 1) : all[all.length - 1]) ?? [1, ""];
  return [by === 1e4 && name[0] === "k" ? 1e3 : by, name];
};

const plainNumber = v => (v < 0 ? "−" : "") + significant.format(Math.abs(v));

const withUnit = (number, name) => number + (name && name[0] !== "/" && !/^[kMG]?(\/|$)/.test(name) ? nb : "") + name;

const quantity = (v, unit) => {
  if (v == null || Number.isNaN(v)) return "–";
  if (!Number.isFinite(v)) return v > 0 ? "∞" : "−∞";
  const [by, name] = stepOf(unit, v);
  return withUnit(plainNumber(v / by), name);
};

// onAxis has all its numbers in the unit of the largest.
const onAxis = (values, unit) => {
  const [by, name] = stepOf(unit, Math.max(...values.map(v => Math.abs(v))));
  return values.map(v => v == null ? "" : withUnit(plainNumber(v / by), v === 0 && name !== "%" ? "" : name).trim());
};

// percent has as many digits as are worth reading: 0.12, 8.6, 120.
const percent = share => {
  const v = Math.abs(share * 100);
  if (!Number.isFinite(v)) return share > 0 ? "∞" : "−∞";
  let text = v.toFixed(v < 0.01 ? 4 : v < 1 ? 2 : v >= 99.95 ? 0 : 1);
  if (text.includes(".")) text = text.replace(/\.?0+$/, "");
  return (share < 0 && Number(text) !== 0 ? "−" : "") + text;
};

const clock = t => new Date(t).toLocaleTimeString("en-GB");

const length = seconds => {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return s + nb + "s";
  if (s < 7200) return Math.round(s / 60) + nb + "min";
  if (s < 172800) return Math.round(s / 3600) + nb + "h";
  return Math.round(s / 86400) + nb + "days";
};

const plural = (n, one, many = one + "s") => `${whole(n)} ${n === 1 ? one : many}`;

const capital = s => s ? s[0].toUpperCase() + s.slice(1) : s;
