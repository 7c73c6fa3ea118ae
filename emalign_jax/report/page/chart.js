// A scatter of the rows on a canvas: a column against another, in the colour of a third.

const SHAPES = "●▲■◆✚✖";
const CATEGORIES = 12; // different values that get a place of their own on an axis, or a colour
const NEAR = 14; // pixels

class Chart {
  constructor(data, open) {
    Object.assign(this, { data, open });
    this.rows = [];
    this.at = -1;
    const plain = data.columns.filter((column) => column.different(1) === null);
    const asked = (column) => [data.x, data.y].includes(column.name) && column.values.some(Number.isFinite);
    const axes = data.columns.filter((column) => asked(column)
      || (plain.includes(column) && (!column.isText || column.different(CATEGORIES))));
    const colours = plain.filter((column) => column.kind !== "number" && column.different(CATEGORIES));
    const options = (columns) => columns.map((column) => [column.name, column.label]);
    this.x = data.column(this.pick(data.x, axes, 0));
    this.y = data.column(this.pick(data.y, axes.filter((column) => !column.isText), 1));
    this.colour = colours.includes(data.column(data.colour)) ? data.column(data.colour) : null;
    const set = (name) => (value) => {
      this[name] = data.column(value) || null;
      this.draw();
    };
    this.controls = make("div", { class: "controls" },
      choice("across", options(axes), this.x?.name, set("x")),
      choice("up", options(axes.filter((column) => !column.isText)), this.y?.name, set("y")),
      choice("colour", [["", "one"], ...options(colours)], this.colour?.name ?? "", set("colour")));
    this.canvas = make("canvas", {
      tabindex: "0", role: "img",
      pointermove: (event) => this.point(event),
      pointerleave: () => this.show(-1),
      click: (event) => { this.point(event); if (this.at >= 0) this.open(this.points[this.at].row, this.canvas); },
      keydown: (event) => this.walk(event),
      blur: () => this.show(-1),
    });
    this.tip = make("div", { class: "tip", role: "status", hidden: true });
    this.legend = make("ul", { class: "legend", "aria-label": "Colours" });
    this.note = make("p", { class: "note" });
    this.element = make("div", { class: "chart" }, this.controls,
      make("div", { class: "canvas" }, this.canvas, this.tip), this.legend, this.note);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    addEventListener("beforeprint", () => this.draw(true));
    addEventListener("afterprint", () => this.draw());
  }

  pick(name, columns, otherwise) {
    return columns.some((column) => column.name === name) ? name : columns[Math.min(otherwise, columns.length - 1)]?.name;
  }

  update(rows) {
    this.rows = rows;
    this.draw();
  }

  // Where numbers go on an axis of this length, in pixels, and its ticks. Few different values stand side by side.
  scale(column, length, ticks) {
    const different = column.different(CATEGORIES);
    if (different && (column.kind !== "number" || this.data.filters.includes(column.name))) {
      const step = length / different.length;
      const places = new Map(different.map(({ value }, k) => [value, (k + 0.5) * step]));
      return { at: (value) => places.get(value) ?? NaN, room: Math.min(step * 0.35, 60),
        ticks: different.map(({ value, text }) => [places.get(value), text]) };
    }
    let [low, high] = [Infinity, -Infinity];
    for (const row of this.rows) {
      const value = column.values[row];
      if (Number.isFinite(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
    }
    if (low > high) [low, high] = [0, 1];
    const most = Math.max(Math.abs(low), Math.abs(high));
    const margin = high - low > most * 1e-4 ? (high - low) * 0.04 : most * 0.1 || 1; // nearly one value is shown as one
    [low, high] = [low - margin, high + margin];
    const power = 10 ** Math.floor(Math.log10((high - low) / ticks));
    const step = power * [1, 2, 5, 10].find((k) => (high - low) / (k * power) <= ticks);
    const marks = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) {
      const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      const plain = Math.max(Math.abs(low), Math.abs(high)) < 1e5 && (digits < 5 || high > 0.1);
      const text = plain ? (k * step).toFixed(digits) : Number((k * step).toPrecision(3)).toExponential();
      marks.push([((k * step - low) / (high - low)) * length, text]);
    }
    return { at: (value) => ((value - low) / (high - low)) * length, room: 0, ticks: marks };
  }

  draw(onPaper = false) {
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (!width || !this.x || !this.y) return;
    const dark = !onPaper && matchMedia("(prefers-color-scheme: dark)").matches;
    const [ink, faint] = dark ? ["#e8e8e8", "#4a4d52"] : ["#1a1a1a", "#d9d9d9"];
    const palette = dark ? ["#56b4e9", "#ff9455", "#2fc79b", "#e79bc6", "#f0c24b", "#b9b4ff"]
      : ["#0072b2", "#c04a00", "#00805c", "#a8487f", "#8a6500", "#5b4bc4"];
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.scale(ratio, ratio);
    context.font = "13px system-ui, sans-serif";
    const box = { left: 58, right: width - 12, top: 26, bottom: height - 44 };
    const across = this.scale(this.x, box.right - box.left, width < 500 ? 4 : 8);
    const up = this.scale(this.y, box.bottom - box.top, 6);
    this.frame(context, box, across, up, ink, faint);
    const kinds = this.colour ? this.colour.different(CATEGORIES) : [{ value: null }];
    const kindOf = new Map(kinds.map(({ value }, k) => [value, k]));
    this.points = [];
    let missing = 0;
    for (const row of this.rows) {
      const spread = ((Math.imul(row + 1, 2654435761) >>> 0) / 2 ** 32 - 0.5) * 2; // the same each time
      const x = box.left + across.at(this.x.number(row)) + spread * across.room;
      const y = box.bottom - up.at(this.y.number(row)) - (across.room ? 0 : spread * up.room);
      if (Number.isFinite(x) && Number.isFinite(y)) {
        this.points.push({ x, y, row, kind: kindOf.get(this.colour ? this.colour.number(row) : null) ?? 0 });
      } else missing++;
    }
    const size = this.points.length > 2000 ? 2.5 : this.points.length > 300 ? 3.5 : 4.5;
    context.globalAlpha = this.points.length > 2000 ? 0.5 : 0.8;
    for (const { x, y, kind } of this.points) {
      context.fillStyle = palette[kind % palette.length];
      mark(context, x, y, size, kind % SHAPES.length);
    }
    context.globalAlpha = 1;
    if (across.room && !this.colour) this.medians(context, across.room, ink);
    this.picture = context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    this.points.sort((a, b) => a.x - b.x || a.y - b.y);
    this.ink = ink;
    this.show(-1);
    this.legend.replaceChildren(...(this.colour ? kinds : []).map(({ text }, k) => make("li", {},
      make("span", { class: `kind-${k % palette.length}`, "aria-hidden": "true" }, SHAPES[k % SHAPES.length]), text)));
    this.note.textContent = [
      across.room ? `Points are spread sideways.${this.colour ? "" : " Lines: medians."}` : "",
      missing ? `${many(missing, this.data.what)} without a number not drawn.` : "",
    ].join(" ").trim();
    this.canvas.setAttribute("aria-label", `Chart of ${many(this.points.length, this.data.what)}: ${this.y.head} against `
      + `${this.x.head}. Arrow keys go from point to point, Enter opens one. The table below has the same rows.`);
  }

  frame(context, box, across, up, ink, faint) {
    context.strokeStyle = faint;
    context.fillStyle = ink;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [place, text] of up.ticks) {
      context.fillRect(box.left - 4, box.bottom - place, 4, 1);
      context.strokeRect(box.left, box.bottom - place + 0.5, box.right - box.left, 0);
      context.fillText(text, box.left - 7, box.bottom - place, box.left - 8);
    }
    context.textAlign = "center";
    context.textBaseline = "top";
    const room = (box.right - box.left) / Math.max(1, across.ticks.length) - 6;
    for (const [place, text] of across.ticks) {
      context.fillRect(box.left + place, box.bottom, 1, 4);
      context.fillText(fitted(context, text, Math.max(room, 24)), box.left + place, box.bottom + 7);
    }
    context.fillRect(box.left, box.bottom, box.right - box.left, 1);
    context.fillText(this.x.head, (box.left + box.right) / 2, box.bottom + 25);
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.fillText(this.y.head, 4, 14);
  }

  medians(context, room, ink) {
    const groups = Map.groupBy ? Map.groupBy(this.points, ({ row }) => this.x.number(row)) : new Map();
    for (const points of groups.values()) {
      const heights = points.map(({ y }) => y).sort((a, b) => a - b);
      const middle = (heights[Math.floor((heights.length - 1) / 2)] + heights[Math.ceil((heights.length - 1) / 2)]) / 2;
      const centre = points.reduce((sum, { x }) => sum + x, 0) / points.length;
      context.fillStyle = ink;
      context.fillRect(centre - room, middle - 1, 2 * room, 2);
    }
  }

  point(event) {
    const place = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - place.left, event.clientY - place.top];
    let [best, nearest] = [NEAR ** 2, -1];
    (this.points || []).forEach((point, k) => {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance < best) [best, nearest] = [distance, k];
    });
    this.show(nearest);
  }

  walk(event) {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageDown: 25, PageUp: -25 };
    const count = (this.points || []).length;
    if (event.key in steps && count) {
      event.preventDefault();
      this.show(this.at < 0 ? 0 : Math.max(0, Math.min(count - 1, this.at + steps[event.key])));
    } else if (event.key === "Enter" && this.at >= 0) {
      this.open(this.points[this.at].row, this.canvas);
    }
  }

  // Ring a point and say what it is; -1 is none.
  show(at) {
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    if (this.picture && this.at !== at) context.putImageData(this.picture, 0, 0);
    this.at = at;
    this.tip.hidden = at < 0;
    this.canvas.classList.toggle("over", at >= 0);
    if (at < 0) return;
    const { x, y, row } = this.points[at];
    context.strokeStyle = this.ink;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(x, y, 8, 0, 2 * Math.PI);
    context.stroke();
    const values = [...new Set([this.x, this.y])].map((column) => `${column.label} ${column.text(row)}`);
    const result = this.data.column("result") ? `, ${this.data.text("result", row)}` : "";
    this.tip.replaceChildren(make("strong", {}, this.data.name(row)), make("br"), values.join(", ") + result);
    const room = this.canvas.clientWidth - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(x + 12, room))}px`;
    this.tip.style.top = y > this.tip.offsetHeight + 16 ? `${y - this.tip.offsetHeight - 12}px` : `${y + 14}px`;
  }
}

function fitted(context, text, room) {
  let short = text;
  while (short.length > 1 && context.measureText(short).width > room) short = `${short.slice(0, -2)}…`;
  return short;
}

function mark(context, x, y, size, shape) {
  context.beginPath();
  const path = (...points) => points.forEach(([dx, dy], k) => {
    if (k) context.lineTo(x + dx * size, y + dy * size);
    else context.moveTo(x + dx * size, y + dy * size);
  });
  const bar = (angle) => {
    const turn = ([dx, dy]) => [dx * Math.cos(angle) - dy * Math.sin(angle), dx * Math.sin(angle) + dy * Math.cos(angle)];
    path(...[[-1.2, -0.4], [1.2, -0.4], [1.2, 0.4], [-1.2, 0.4]].map(turn));
    context.closePath();
  };
  if (shape === 0) context.arc(x, y, size, 0, 2 * Math.PI);
  else if (shape === 1) path([0, -1.2], [1.1, 0.8], [-1.1, 0.8]);
  else if (shape === 2) path([-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]);
  else if (shape === 3) path([0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]);
  else [0, 1].forEach((k) => bar(((shape === 4 ? 0 : 0.5) + k) * Math.PI / 2));
  context.fill();
}
