// The table of rows: sorted by any column, filtered, a page at a time.

const PRINTED = 2000; // rows on paper

class List {
  constructor(data, open, changed) {
    Object.assign(this, { data, open, changed });
    this.columns = data.listed.map((name) => data.column(name));
    this.size = matchMedia("(max-width: 48rem)").matches ? 10 : 25;
    this.place = 0;
    this.sorted = { column: null, down: false };
    this.wanted = new Map(Object.entries(data.chosen).map(([name, value]) => [data.column(name), value]));
    this.words = "";
    this.rows = Array.from({ length: data.count }, (_, row) => row);
    this.build();
    this.choose();
    addEventListener("beforeprint", () => this.draw(0, PRINTED));
    addEventListener("afterprint", () => this.draw());
  }

  build() {
    const { data } = this;
    const filters = data.filters.map((name) => {
      const column = data.column(name);
      const options = column.different(Infinity).map(({ value, text }) => [String(value), text]);
      return choice(column.label, [["", "all"], ...options], String(data.chosen[name] ?? ""), (value) => {
        if (value === "") this.wanted.delete(column);
        else this.wanted.set(column, Number(value));
        this.choose();
      });
    });
    const search = make("input", { type: "search", "aria-label": "contains", autocomplete: "off", input: () => {
      this.words = search.value.trim().toLowerCase();
      this.choose();
    } });
    const clear = make("button", { type: "button", click: () => {
      this.controls.querySelectorAll("select, input").forEach((control) => { control.value = ""; });
      this.wanted.clear();
      this.words = "";
      this.sort(null, false);
    } }, "Clear");
    const order = choice("sort by", [["", "as in the file"], ...this.columns.map((c) => [c.name, c.label])], "",
      (name) => this.sort(data.column(name) || null, false));
    const turn = make("button", { type: "button", click: () => this.sort(this.sorted.column, !this.sorted.down) },
      "Reverse");
    this.order = order.querySelector("select");
    this.controls = make("div", { class: "controls", role: "search", "aria-label": `Filter: ${data.title}` },
      make("label", {}, make("span", {}, "contains"), search), filters,
      make("span", { class: "narrow" }, order, turn), clear);
    this.status = make("p", { class: "status", role: "status" });
    this.heads = new Map(this.columns.map((column) => [column, make("th", {
      scope: "col", role: "columnheader", class: column.isText ? null : "number",
    }, make("button", { type: "button", title: column.description, click: () => {
      this.sort(column, this.sorted.column === column && !this.sorted.down);
    } }, column.label, make("span", { class: "arrow", "aria-hidden": "true" })))]));
    this.body = make("tbody", { role: "rowgroup", keydown: (event) => this.walk(event) });
    const open = make("th", { scope: "col", role: "columnheader", class: "control" },
      make("span", { class: "hidden" }, "open"));
    const grid = make("table", { role: "table", class: "list" },
      make("caption", { class: "hidden" }, `${data.title}: one ${data.what} a row`),
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, open, [...this.heads.values()])), this.body);
    const go = (text, label, place) => make("button", {
      type: "button", "aria-label": label, click: () => this.draw(place()),
    }, text);
    const last = () => this.pages() - 1;
    this.buttons = [
      go("« First", "First page", () => 0), go("‹ Previous", "Previous page", () => this.place - 1),
      go("Next ›", "Next page", () => this.place + 1), go("Last »", "Last page", last),
    ];
    this.page = make("span", {});
    this.element = make("div", {}, this.controls, this.status, wide(grid), make("nav", {
      class: "pages", "aria-label": `Pages: ${data.title}`,
    }, this.buttons.slice(0, 2), this.page, this.buttons.slice(2)));
  }

  pages() {
    return Math.max(1, Math.ceil(this.rows.length / this.size));
  }

  sort(column, down) {
    this.sorted = { column, down };
    this.order.value = column ? column.name : "";
    this.choose();
  }

  // The rows that the filters leave, in order. Rows without a number come last, whichever way they are sorted.
  choose() {
    const { data, words } = this;
    const texts = data.columns.filter((column) => column.isText).map((column) => ({
      column, has: column.words.map((word) => word.toLowerCase().includes(words)),
    }));
    const wholes = data.columns.filter((column) => column.kind === "whole" && data.listed.includes(column.name));
    const found = [];
    for (let row = 0; row < data.count; row++) {
      let fits = true;
      for (const [column, value] of this.wanted) {
        if (!Object.is(column.number(row), value)) fits = false;
      }
      if (fits && words) {
        fits = texts.some(({ column, has }) => has[column.values[row]])
          || wholes.some((column) => String(column.values[row]) === words);
      }
      if (fits) found.push(row);
    }
    const { column, down } = this.sorted;
    if (column) {
      const sign = down ? -1 : 1;
      const key = (row) => column.number(row);
      found.sort((a, b) => {
        const [one, other] = [key(a), key(b)];
        if (Number.isNaN(one) || Number.isNaN(other)) return Number.isNaN(one) - Number.isNaN(other) || a - b;
        return one === other ? a - b : sign * (one < other ? -1 : 1);
      });
    }
    this.rows = found;
    this.draw(0);
    this.changed(found);
  }

  draw(place = this.place, size = this.size) {
    this.place = Math.max(0, Math.min(place, this.pages() - 1));
    const first = this.place * this.size;
    const rows = this.rows.slice(first, first + size);
    this.body.replaceChildren(...rows.map((row) => this.line(row)));
    for (const [column, head] of this.heads) {
      const own = column === this.sorted.column;
      head.setAttribute("aria-sort", !own ? "none" : this.sorted.down ? "descending" : "ascending");
      head.querySelector(".arrow").textContent = !own ? "" : this.sorted.down ? " ▼" : " ▲";
    }
    const all = this.rows.length === this.data.count;
    this.status.textContent = `${all ? "" : `${this.rows.length.toLocaleString("en")} of `}`
      + many(this.data.count, this.data.what);
    this.page.textContent = `page ${this.place + 1} of ${this.pages().toLocaleString("en")}`;
    this.buttons.forEach((button, k) => {
      button.disabled = k < 2 ? this.place === 0 : this.place >= this.pages() - 1;
    });
  }

  line(row) {
    const button = make("button", { type: "button", class: "open", "aria-label": `Open ${this.data.name(row)}` },
      "Open");
    const cells = this.columns.map((column) => make("td", {
      role: "cell", "data-label": column.label, class: column.isText ? null : "number",
    }, column.text(row)));
    return make("tr", { role: "row", "data-row": row, click: () => this.open(row, button) },
      make("td", { role: "cell", class: "control" }, button), cells);
  }

  // Arrow keys go from row to row; Enter on a row's button opens it.
  walk(event) {
    const steps = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" };
    const line = event.target.closest("tr");
    const next = event.key in steps && line ? line[steps[event.key]] : null;
    if (!next) return;
    event.preventDefault();
    next.querySelector("button").focus();
  }
}
