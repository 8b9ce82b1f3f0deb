// The mirror: what it does, and the switches. Each asks first and leaves a line.

const shares = [1000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000];
const ppm = n => quantity(n, "ppm");
const mostLines = 50;

const offWords = {killed: "switched off by an operator", guard: "switched off by the live guard", panic: "switched off after a panic", memory: "switched off for want of memory"};
const evidenceWords = {switchback: "slices of time with and without copying", baseline: "sampled users against the others, as a change from a baseline", "no baseline": "absolute limits alone: there is no baseline"};

class MirrorView {
  constructor(board) {
    this.board = board;
    this.node = byId("mirror-state");
    this.chip = byId("chip-mirror");
    this.switches = byId("switches");
    this.sampling = byId("sampling");
    this.log = byId("log");
    this.trouble = "";
  }

  may(action) { return this.board.mirror?.includes(action); }

  async start() {
    this.draw();
    if (!this.board.mirror) return;
    for (;;) {
      if (!document.hidden) await this.poll();
      await pause(2000);
    }
  }

  async poll() {
    const asked = this.asked = (this.asked ?? 0) + 1;
    try {
      const state = (await ask("darklaunch/mirror/api/v1/state"))?.mirror; // beside it stands the configuration's
      if (asked !== this.asked) return;
      if (!state || typeof state.enabled !== "boolean" || !state.sample) throw new Problem("answers with what is no state");
      this.state = state;
      this.heard = now();
      this.trouble = "";
    } catch (e) {
      if (asked !== this.asked) return;
      this.trouble = `The mirror ${e instanceof Problem ? e.message : "can’t be read"}.` + (this.heard ? ` What is shown is of ${clock(this.heard)}.` : "");
    }
    this.draw();
  }

  draw() {
    const s = this.state;
    const had = document.activeElement?.closest("#switches, #sampling") ?? this.lost;
    render(this.chip, [!!this.board.mirror, s?.enabled, s?.off, s?.sample?.sample_ppm, !!this.trouble], () => {
      this.chip.className = "chip " + (!s || this.trouble ? "none" : s.enabled ? "on" : "off");
      if (!this.board.mirror) return "No mirror";
      if (!s) return this.trouble ? "Mirror not reached" : "Mirror …";
      return [el("span", {"aria-hidden": "true"}, s.enabled ? "●" : "○"), s.enabled ? `Mirroring ${ppm(s.sample.sample_ppm)}` : "Mirroring off", this.trouble && " (stale)"];
    });
    render(this.switches, [s?.enabled, this.pending], () => this.onAndOff());
    render(this.sampling, [s?.enabled, s?.sample?.sample_ppm, this.pending], () => this.upAndDown());
    render(this.node, [s, this.trouble, this.board.mirror], () => this.parts(s));
    // The button that had the focus may have become another one, or can't have it for now.
    this.lost = null;
    if (!had || document.activeElement !== document.body) return;
    const next = had.querySelector("button:not(:disabled)");
    if (next) next.focus();
    else this.lost = had;
  }

  button(name, text, action) {
    return el("button", {type: "button", class: name, disabled: !!this.pending, onclick: action}, text);
  }

  onAndOff() {
    if (!this.state) return null;
    if (this.state.enabled) return this.may("kill") && this.button("stop", "Stop mirroring", () => this.kill());
    return this.may("resume") && this.button("go", "Resume mirroring", () => this.resume());
  }

  upAndDown() {
    if (!this.state?.enabled || !this.may("sample")) return null;
    const at = this.state.sample.sample_ppm, up = shares.find(v => v > at), down = shares.findLast(v => v < at);
    return [
      down != null && this.button("quiet", `Sample down to ${ppm(down)}`, () => this.sample(down)),
      up != null && this.button("quiet", `Sample up to ${ppm(up)}`, () => this.sample(up)),
    ];
  }

  parts(s) {
    const trouble = this.trouble && el("p", {class: "trouble"}, this.trouble);
    if (!this.board.mirror) return el("p", {class: "note"}, "No mirror is given: darklaunch dash --mirror HOST:PORT shows one, and its switches.");
    if (!s) return trouble || el("p", {class: "note"}, "The mirror is being asked.");
    const f = s.sample, tile = (name, value, more) => el("div", {}, el("dt", {}, name), el("dd", {}, value, more && el("small", {}, more)));
    const copies = (s.copies ?? []).filter(c => c && c.role).slice(0, 4);
    const used = copies.filter(c => c.offered > 0 || c.pending > 0);
    return [
      trouble,
      el("p", {class: "lead"}, s.enabled
        ? `Mirroring is on: ${ppm(f.effective_ppm)} of the users are copied${f.effective_ppm < f.sample_ppm ? `, though ${ppm(f.sample_ppm)} were asked for: shadow can’t keep up` : ""}.`
        : `Mirroring is off, ${offWords[s.off] ?? clip(s.off, 40)}: no copies are sent.`, s.why && ` ${capital(clip(s.why, 200))}.`),
      el("dl", {class: "tiles"},
        tile("Users in the sample", whole(f.sampled_users ?? 0), f.shed_users ? `${whole(f.shed_users)} shed` : "seen so far"),
        tile("Share of users", percent(f.user_fraction ?? 0) + nb + "%", "of those seen"),
        tile("Share of requests", percent(f.request_fraction ?? 0) + nb + "%", "are mirrored"),
        tile("Touched users", percent(f.touched_fraction ?? 0) + nb + "%", "by a mirrored request"),
        tile("Held now", whole(s.pending?.copies ?? 0), `copies, ${quantity(s.pending?.bytes ?? 0, "bytes")}, in ${plural(s.pending?.lanes ?? 0, "lane")}`)),
      used.length > 0 && wide("Copies by role", el("table", {},
        el("thead", {}, el("tr", {}, ["copies to", "offered", "sent", "pending", "dropped", "tainted users"].map((h, i) => el("th", {scope: "col", class: i && i !== 4 ? "n" : ""}, h)))),
        el("tbody", {}, used.map(c => el("tr", {}, el("th", {scope: "row"}, clip(c.role, 20)), [c.offered, c.sent, c.pending].map(n => el("td", {class: "n"}, whole(n))),
          el("td", {class: "name"}, Object.entries(c.dropped ?? {}).slice(0, 15).map(([why, n]) => `${whole(n)} ${clip(why, 30).replaceAll("_", " ")}`).join(", ") || "none"), el("td", {class: "n"}, whole(c.tainted_users ?? 0))))))),
      s.guard?.evidence && el("p", {class: "soft"}, `The live guard goes by ${evidenceWords[s.guard.evidence] ?? clip(s.guard.evidence, 40)}.`),
    ];
  }

  // line adds to the log, which is read out.
  line(text) {
    byId("log-none").hidden = true;
    this.log.append(el("li", {}, el("time", {}, clock(Date.now())), " ", text));
    while (this.log.children.length > mostLines) this.log.firstChild.remove();
    byId("said").textContent = text;
    clearTimeout(this.fade);
    this.fade = setTimeout(() => { byId("said").textContent = ""; }, 20_000);
  }

  async act(what, method, path, value, done) {
    this.pending = what;
    this.draw();
    try {
      this.line(done(await change(method, "darklaunch/mirror/api/v1/" + path, value)));
    } catch (e) {
      this.line(`${what}: the mirror ${e instanceof Problem ? e.message : "can’t be read"}. Nothing is known to have changed.`);
    }
    this.pending = null;
    await this.poll();
    this.draw();
  }

  async kill() {
    if (!await confirmed("Stop mirroring?", "No more copies are sent, those that wait are dropped. Live is not touched. Where copies may change state, users who miss one are tainted until they are seeded.", "Stop mirroring", "stop")) return;
    await this.act("Stop mirroring", "POST", "kill", {}, a => a.enabled === false ? "Mirroring is off: no copies are sent." : "The mirror says that it is still on.");
  }

  async resume() {
    if (!await confirmed("Resume mirroring?", `Copies of ${ppm(this.state.sample.sample_ppm)} of the users are sent again.`, "Resume mirroring", "go")) return;
    await this.act("Resume mirroring", "POST", "resume", {}, a => a.enabled ? "Mirroring is on again." : `The mirror stays off: ${offWords[a.off] ?? clip(a.off, 40)}.`);
  }

  async sample(to) {
    const from = this.state.sample.sample_ppm, up = to > from;
    if (!await confirmed(`${up ? "Raise" : "Lower"} the sample to ${ppm(to)}?`, `It is ${ppm(from)} of the users now. ${up ? "More users are copied to shadow, which gets more load; those in it stay." : "Fewer users are copied; where copies may change state, those who leave are tainted if they come back."}`, `${up ? "Raise" : "Lower"} to ${ppm(to)}`, "go")) return;
    const admit = this.state.sample.admit_ppm;
    // Who is admitted ahead of the sample stays so.
    const value = admit > from ? {ppm: to, admit_ppm: Math.max(to, admit)} : {ppm: to};
    await this.act(`Sample ${ppm(to)}`, "PUT", "sample", value, a => `The sample is ${ppm(a.sample_ppm)} of the users, it was ${ppm(from)}.`);
  }
}

// confirmed asks, and says whether the answer was yes.
const confirmed = (title, text, yes, tone) => new Promise(answer => {
  // A new one each time: that the last one was closed may not have been told yet.
  const last = byId("confirm"), dialog = last.cloneNode(false);
  last.replaceWith(dialog);
  dialog.replaceChildren(el("form", {method: "dialog"}, el("h2", {id: "confirm-title"}, title), el("p", {}, text),
    el("div", {class: "buttons"}, el("button", {value: "no", class: "quiet"}, "Cancel"), el("button", {value: "yes", class: tone, autofocus: true}, yes))));
  dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), {once: true});
  dialog.onkeydown = e => { if (e.repeat && e.key === "Enter") e.preventDefault(); }; // the key that asked must not answer
  dialog.showModal();
});
