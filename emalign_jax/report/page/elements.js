"use strict";
// Elements and numbers. What a run's files say is put in as text nodes and attributes, never as markup.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function choice(label, options, chosen, change) {
  const select = make("select", { "aria-label": label, change: () => change(select.value) },
    options.map(([value, text]) => make("option", { value, selected: value === chosen }, text)));
  return make("label", {}, make("span", {}, label), select);
}

// A table with roles of its own: on a narrow screen its rows become blocks, which would take the roles away.
function table(caption, heads, rows, attributes = {}) {
  const head = (words) => make("th", { scope: "col", role: "columnheader" }, words);
  const cell = (content, k) => content instanceof HTMLTableCellElement ? content
    : make("td", { role: "cell", "data-label": heads[k], class: isNumber(content) ? "number" : null }, content);
  return make("table", { role: "table", ...attributes },
    make("caption", {}, caption),
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, heads.map(head))),
    make("tbody", { role: "rowgroup" }, rows.map((row) => make("tr", { role: "row" }, row.map(cell)))));
}

function isNumber(content) {
  return typeof content === "string" && /^[-−+]?(\d|∞|–$)/.test(content) && !/[a-z]{2}/i.test(content);
}

// Three decimals, or as many digits as say something; a dash for what is not there.
function shown(value, unit = "") {
  if (Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (unit === "share") return (size < 5e-4 ? 0 : value).toFixed(3);
  if (unit && unit !== "utility" && size < 1e-12) return "0"; // rounding, on a scale that is known
  return size >= 1e-3 && size < 1e5 ? value.toFixed(3) : value.toExponential(1);
}

function many(count, what) {
  return `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
}
