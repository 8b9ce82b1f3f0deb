// Elements, made of text: nothing on this page reads markup.

const el = (tag, props, ...children) => {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else e.setAttribute(name, value === true ? "" : value);
  }
  e.append(...children.flat(2).filter(c => c != null && c !== false));
  return e;
};

const svg = (tag, props, ...children) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) e.setAttribute(name, value);
  e.append(...children);
  return e;
};

const byId = id => document.getElementById(id);

// clip bounds a text of somebody else's.
const clip = (text, most = 120) => {
  const s = String(text ?? "");
  return s.length > most ? s.slice(0, most - 1) + "…" : s;
};

// render fills node with what build returns, if key is another than last time: what
// did not change keeps its place, focus and selection, and is not read out again.
const rendered = new WeakMap();
const render = (node, key, build) => {
  const text = JSON.stringify(key);
  if (rendered.get(node) === text) return;
  rendered.set(node, text);
  const open = new Set([...node.querySelectorAll("details[data-key][open]")].map(d => d.dataset.key));
  node.replaceChildren(...[build()].flat(2).filter(c => c != null && c !== false));
  for (const d of node.querySelectorAll("details[data-key]")) if (open.has(d.dataset.key)) d.open = true;
};

// wide lets what does not fit be scrolled, by keyboard too.
const wide = (name, child) => el("div", {class: "wide", tabindex: 0, role: "region", "aria-label": name}, child);
