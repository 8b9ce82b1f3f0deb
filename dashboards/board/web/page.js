// The page: what is on it, and when it asks.

const every = 5000;

const start = async () => {
  let board;
  try {
    board = await ask("board/page.json");
  } catch (e) {
    byId("said").textContent = `The page’s own server ${e.message}. Load it again.`;
    byId("verdict-body").replaceChildren(el("h1", {}, "The page can’t be drawn."), el("p", {class: "trouble"}, `Its own server ${e.message}. Load it again.`));
    return;
  }
  const panels = [], marks = new Marks(board);
  marks.changed = () => panels.forEach(p => p.uplot?.redraw(false));
  for (const section of board.sections) {
    const grid = byId(section.id + "-panels");
    for (const spec of section.panels) {
      const panel = new Panel(board, spec, marks);
      panels.push(panel);
      grid.append(panel.node);
    }
  }
  const verdict = new VerdictView(board), mirror = new MirrorView(board), alerts = new AlertsView();
  verdict.onDocument = doc => drawDifferences(board, doc);
  const said = byId("data-state");
  const tell = () => {
    const all = [alerts, ...panels.filter(p => p.asked)], bad = all.filter(p => p.failed).length;
    said.textContent = bad ? `${bad} of ${all.length} questions to Prometheus have no answer.` : `As of ${clock(now())}${Number.isNaN(fixed) ? "" : ", a fixed time"}`;
    said.className = bad ? "trouble" : "soft";
  };
  const askFor = shown => Promise.all([marks.refresh(frameNow(board)), ...[alerts, ...shown].map(p => p.refresh())]).then(tell);

  // Only what is near the window is asked for.
  const seen = new IntersectionObserver(entries => {
    for (const e of entries) {
      const p = panels.find(p => p.node === e.target), before = p.seen;
      p.seen = e.isIntersecting;
      if (p.seen && !before && !p.asked) p.refresh().then(tell);
    }
  }, {rootMargin: "300px"});
  panels.forEach(p => seen.observe(p.node));

  let asking = false;
  const refresh = async all => {
    if (asking && !all) return;
    asking = true;
    await askFor(panels.filter(p => p.seen || all && p.asked));
    asking = false;
  };
  const tick = async () => {
    for (;;) {
      await pause(every);
      if (!document.hidden && !chosen.paused && Number.isNaN(fixed)) await refresh();
    }
  };

  const range = byId("range"), paused = byId("pause");
  range.value = chosen.span;
  range.addEventListener("change", () => {
    chosen.span = range.value;
    parameters.set("range", range.value);
    history.replaceState(null, "", "?" + parameters + location.hash);
    refresh(true);
  });
  paused.addEventListener("click", () => {
    chosen.paused = !chosen.paused;
    paused.setAttribute("aria-pressed", chosen.paused);
    paused.textContent = chosen.paused ? "Go on" : "Pause";
    if (!chosen.paused) refresh(true);
  });

  const redraw = () => panels.forEach(p => p.draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let wait, width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's address bar
    width = innerWidth;
    clearTimeout(wait);
    wait = setTimeout(redraw, 150);
  });
  addEventListener("beforeprint", () => { printing.now = true; redraw(); });
  addEventListener("afterprint", () => { printing.now = false; redraw(); });

  verdict.start();
  mirror.start();
  await refresh();
  document.documentElement.dataset.drawn = "once"; // for who waits until there is something to see
  // The rest once, so that it is there when it is scrolled to or printed.
  for (const p of panels) if (!p.asked) await p.refresh();
  tell();
  document.documentElement.dataset.drawn = "all";
  tick();
};

start();
