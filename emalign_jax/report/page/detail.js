// One row in full, in a dialog: what is proved of it, its schemes, beliefs and profile, and how to compute it again.

class Detail {
  constructor(data) {
    this.data = data;
    this.title = make("h3", { tabindex: "-1", id: `detail-${data.number}` });
    this.body = make("div", {});
    this.steps = [["‹ Previous", -1], ["Next ›", 1]].map(([text, step]) => make("button", {
      type: "button", click: () => this.step(step),
    }, text));
    const close = make("button", { type: "button", click: () => this.dialog.close() }, "Close");
    this.dialog = make("dialog", {
      "aria-labelledby": this.title.id,
      close: () => this.opener?.isConnected && this.opener.focus(),
      click: (event) => event.target === this.dialog && this.dialog.close(),
    }, make("div", { class: "sheet" }, make("div", { class: "bar" }, this.title, this.steps, close), this.body));
    document.body.append(this.dialog);
  }

  // order: the rows that Next and Previous go through; opener: what has the focus afterwards
  async show(row, order, opener) {
    Object.assign(this, { row, order, opener });
    const { data } = this;
    this.title.textContent = `${data.what[0].toUpperCase()}${data.what.slice(1)}: ${data.name(row)}`;
    const place = order.indexOf(row);
    this.steps[0].disabled = place <= 0;
    this.steps[1].disabled = place < 0 || place === order.length - 1;
    const parts = [this.verdict(), await this.agents(), await this.profile(), ...await this.schemes(),
      await this.lines(), this.facts()];
    if (this.row !== row) return; // another was opened in the meantime
    this.body.replaceChildren(...parts.filter(Boolean));
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.scrollTop = 0;
    this.title.focus();
  }

  step(by) {
    this.show(this.order[this.order.indexOf(this.row) + by], this.order, this.opener);
  }

  verdict() {
    const message = this.data.text("message", this.row);
    return message ? make("p", { class: "verdict" }, make("strong", {}, this.data.text("result", this.row)), ` ${message}`)
      : null;
  }

  // The certificate: what each agent gets, and what a deviation gains at least and at most.
  async agents() {
    const { data, row } = this;
    const names = ["agent_payoffs", "gain_lower", "gain_upper", "payoff_range"];
    const lists = await Promise.all(names.map((name) => data.part(name, row)));
    if (lists.some((list) => !list)) return null;
    const words = data.details.labels?.agents;
    const rows = Array.from({ length: data.column("agents").values[row] }, (_, agent) => [
      head(words?.[agent] ?? `agent ${agent}`), ...lists.map(({ values }) => shown(values[agent] ?? NaN)),
      shown(lists[1].values[agent] / lists[3].values[agent]),
    ]);
    const value = (name, text) => `${text} ${data.text(name, row)}`;
    return make("section", {}, make("h4", {}, "Certificate"),
      make("p", {}, `${value("user_value", "The user's value is")}; ${value("no_information", "with no information")}, `
        + `${value("full_information", "with full information")}. ${value("guarantee",
          "Guarantee: no distribution that pays every agent as much is worth less to the user than")}.`),
      table("Gains from deviating, in units of the agent's utility",
        ["agent", "payoff", "gain at least", "gain at most", "payoff range", "gain/range"], rows));
  }

  async profile() {
    const { data, row } = this;
    const from = data.details.profiles;
    if (!from || !data.details.starts) return null;
    const games = await unpack(from.games);
    const place = games.values.indexOf(Math.floor(row / data.details.starts));
    if (place < 0) return null;
    const found = await Promise.all(["value", "gap", "zero"].map((name) => data.part(name, place, from)));
    const count = found[0].values.findIndex(Number.isNaN);
    const [value, gap, zero] = found.map(({ values }) => [...values.subarray(0, count < 0 ? values.length : count)]);
    const words = equilibria(value, zero);
    return make("section", {}, make("h4", {}, "Stability profile"), profileFigure(value, gap, zero),
      make("p", { class: "note" }, `${words[0].toUpperCase()}${words.slice(1)} (thick).`));
  }

  async schemes() {
    const { data, row } = this;
    const { labels, starts } = data.details;
    if (!labels) return [];
    const [all, prior, utility] = await Promise.all([data.part("schemes", row),
      data.part("prior", Math.floor(row / starts)), data.part("utility", Math.floor(row / starts))]);
    if (!all) return [];
    const [, states, messages] = all.shape;
    const alone = states === prior.shape[1]; // one message a value of x_B: not a conversation
    const sections = Array.from({ length: data.column("agents").values[row] }, (_, agent) => {
      const size = states * messages;
      const scheme = { shape: [states, messages], values: all.values.subarray(agent * size, (agent + 1) * size) };
      const name = labels.agents[agent] ?? `agent ${agent}`;
      return make("div", { class: "pair" }, schemeTable(name, scheme, labels),
        alone ? posteriorTable(name, scheme, prior, utility, labels) : null);
    });
    return [make("section", {}, make("h4", {}, "Schemes and beliefs"), sections)];
  }

  async lines() {
    const { data, row } = this;
    if (!data.details.lines) return null;
    const [cell, index] = await Promise.all(["cells", "index"].map((name) => data.part(name, row)));
    const numbers = { game: data.text("game", row), start: data.text("start", row), agents: data.text("agents", row),
      index: String(index.values[0]) };
    const text = data.details.lines[cell.values[0]].replace(/\u27e8(game|start|agents|index)\u27e9/g,
      (_, name) => numbers[name]);
    const copy = make("button", { type: "button", click: async () => {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } }, "Copy");
    return text && make("section", {}, make("h4", {}, "Compute it again"), copy,
      make("pre", { tabindex: "0", "aria-label": "Python" }, text));
  }

  facts() {
    const { data, row } = this;
    const known = data.columns.filter((column) => column.name !== "message" && column.text(row) !== "–");
    const entries = known.map((column) => [
      make("dt", { title: column.description }, column.head), make("dd", {}, column.text(row))]);
    return make("section", {}, make("h4", {}, "All numbers"), make("dl", { class: "facts" }, entries.flat()));
  }
}
