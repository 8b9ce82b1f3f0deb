// Alerts, of the rules that Prometheus evaluates.

const severities = ["critical", "warning", "info"];
const severityOf = a => clip(a.labels?.severity ?? "", 20);

class AlertsView {
  constructor() {
    this.node = byId("alerts-body");
    this.link = byId("alerts-count");
  }

  async refresh() {
    let rules, trouble = "";
    try {
      const frame = {end: Math.floor(now() / 1000)};
      this.down = (await fetchNow({expr: "up == 0"}, frame)).map(r => `${clip(r.metric.job, 40)} at ${clip(r.metric.instance, 60)}`);
      const answer = await turn(() => ask("api/v1/rules?type=alert"));
      if (!Array.isArray(answer?.data?.groups)) throw new Problem("answers with what are no rules");
      rules = answer.data.groups.flatMap(g => g.rules ?? []).filter(r => r && r.name);
      this.heard = now();
      this.rules = rules;
    } catch (e) {
      trouble = `Prometheus ${e instanceof Problem ? e.message : "can’t be read"}.` + (this.heard ? ` What is shown is of ${clock(this.heard)}.` : "");
      rules = this.rules ?? [];
    }
    this.failed = !!trouble;
    this.draw(rules, trouble);
  }

  draw(rules, trouble) {
    const alerts = rules.flatMap(r => (r.alerts ?? []).map(a => ({...a, name: r.name, rule: r}))).filter(a => a.state === "firing" || a.state === "pending");
    const grave = a => [a.state === "firing" ? 0 : 1, (severities.indexOf(severityOf(a)) + 4) % 4];
    alerts.sort((a, b) => grave(a)[0] - grave(b)[0] || grave(a)[1] - grave(b)[1]);
    const firing = alerts.filter(a => a.state === "firing").length, broken = rules.filter(r => r.health === "err");
    this.link.textContent = firing ? ` ${firing}` : "";
    render(this.node, [alerts, trouble, rules.length, broken.map(r => r.name), this.down], () => [
      this.down?.length > 0 && el("p", {class: "trouble"}, `${plural(this.down.length, "program")} that ${this.down.length === 1 ? "is" : "are"} scraped ${this.down.length === 1 ? "does" : "do"} not answer: ${this.down.slice(0, 6).join(", ")}.`),
      trouble && el("p", {class: "trouble"}, trouble),
      !trouble && el("p", {class: "lead"}, rules.length === 0 ? "Prometheus evaluates no alerting rules." : firing ? `${plural(firing, "alert is", "alerts are")} firing, of ${plural(rules.length, "rule")}.` : `No alert is firing: ${plural(rules.length, "rule")} say that all is well.`),
      broken.length > 0 && el("p", {class: "trouble"}, `${plural(broken.length, "rule")} can’t be evaluated: ${broken.slice(0, 4).map(r => `${clip(r.name, 60)} (${clip(r.lastError, 120)})`).join(", ")}.`),
      alerts.length > 0 && el("ul", {class: "alerts"}, alerts.slice(0, 30).map(a => el("li", {class: `${a.state} ${severities.includes(severityOf(a)) ? severityOf(a) : "info"}`},
        el("b", {}, clip(a.name, 80)), " ", el("span", {class: "tier"}, `${a.state}${severityOf(a) ? `, ${severityOf(a)}` : ""}${a.activeAt ? `, for ${length((now() - Date.parse(a.activeAt)) / 1000)}` : ""}`),
        el("p", {}, clip(a.annotations?.summary ?? a.rule.annotations?.summary ?? "", 200)),
        a.annotations?.description && el("p", {class: "soft"}, clip(a.annotations.description, 400))))),
      alerts.length > 30 && el("p", {class: "soft"}, `${alerts.length - 30} more.`),
    ]);
  }
}
