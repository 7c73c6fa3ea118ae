// Figures of the explorer as SVG: dots on a line, curves, values over a belief. Every figure is an image to a screen
// reader, whose label holds the numbers; all text is set as text, whatever names say.

import { last, range } from "./market.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const LETTER = 7.2; // width of a letter, about, in pixels at the figures' text size
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "5 2"];

/** A number to read, with so many significant digits; what is left of a difference of equal numbers is 0. */
export const show = (x, digits = 4) => (Math.abs(x) < 1e-14 ? "0" : String(Number(x.toPrecision(digits))));

/** The class of an agent's colour. */
export const colour = (agent) => `agent${agent % 5}`;

function node(tag, attributes, ...children) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function figure(width, height, label, children) {
  const size = { width, height, viewBox: `0 0 ${width} ${height}` };
  return node("svg", { ...size, role: "img", "aria-label": label }, ...children);
}

const text = (x, y, words, attributes = {}) => node("text", { x, y, ...attributes }, words);
const line = (x1, y1, x2, y2, kind) => node("line", { x1, y1, x2, y2, class: kind });
const path = (points, attributes) =>
  node("path", {
    d: points.map(([x, y], k) => `${k ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join(""),
    ...attributes,
  });

/** Words that fit the width, without their middle if they must, and all of them as a tooltip. */
function fitted(x, y, words, width, attributes = {}) {
  const most = Math.max(5, Math.floor(width / LETTER));
  const letters = [...words];
  if (letters.length <= most) return text(x, y, words, attributes);
  const tail = Math.floor(most / 3);
  const short = `${letters.slice(0, most - 1 - tail).join("")}…${letters.slice(-tail).join("")}`;
  const made = text(x, y, short, attributes);
  made.append(node("title", {}, words));
  return made;
}

/** Round numbers within [low, high], about `count` of them. */
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((k) => k * power >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return range(Math.floor(high / step + 1e-9) - first + 1).map((k) => Number(((first + k) * step).toPrecision(12)));
}

const scale =
  ([low, high], [from, to]) =>
  (x) =>
    from + ((x - low) / (high - low)) * (to - from);

/** An interval that holds all numbers, with a margin, and is never empty. */
function domain(numbers, margin = 0.06) {
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  const room = margin * (high - low) || Math.max(Math.abs(high), 1) * 0.1;
  return [low - room, high + room];
}

function bottomAxis(x, [low, high], y, words, count) {
  const marks = ticks(low, high, count).flatMap((t) => [
    line(x(t), y, x(t), y + 4, "axis"),
    text(x(t), y + 17, show(t), { "text-anchor": "middle", class: "quiet" }),
  ]);
  const middle = (x(low) + x(high)) / 2;
  const title = fitted(middle, y + 35, words, 2 * middle, { "text-anchor": "middle", class: "quiet" });
  return [line(x(low), y, x(high), y, "axis"), ...marks, title];
}

function leftAxis(y, [low, high], x, right, count) {
  return ticks(low, high, count).flatMap((t) => [
    line(x, y(t), right, y(t), "grid"),
    text(x - 10, y(t) + 4, show(t), { "text-anchor": "end", class: "quiet" }),
  ]);
}

/**
 * Dots on one line, a row each: rows [{label, low, high, kind}], where low = high is one value and kind a class.
 */
export function dotFigure(width, rows, words) {
  const [step, top] = [28, 8];
  const left = Math.min(0.42 * width, LETTER * Math.max(...rows.map((row) => row.label.length)) + 14);
  const right = width - 92;
  const bottom = top + step * rows.length;
  const held = domain(rows.flatMap((row) => [row.low, row.high]));
  const x = scale(held, [left, right]);
  const drawn = rows.flatMap(({ label, low, high, kind }, k) => {
    const y = top + step * (k + 0.5);
    const span = show(low) === show(high) ? show(low) : `${show(low)} to ${show(high)}`;
    return [
      line(left, y, right, y, "grid"),
      fitted(0, y + 4, label, left - 8),
      ...(high > low ? [line(x(low), y, x(high), y, `span ${kind}`)] : []),
      ...[...new Set([low, high])].map((v) => node("circle", { cx: x(v), cy: y, r: 5.5, class: `dot ${kind}` })),
      text(width - 2, y + 4, span, { "text-anchor": "end", class: "value" }),
    ];
  });
  const said = rows.map(({ label, low, high }) => `${label} ${show(low)}${high > low ? ` to ${show(high)}` : ""}`);
  const axis = bottomAxis(x, held, bottom, words, width < 500 ? 3 : 6);
  return figure(width, bottom + 42, `${words}: ${said.join("; ")}.`, [...axis, ...drawn]);
}

/** Labels moved apart, [[y, ...rest], ...] in ascending order of y. */
function apart(labels, gap, bottom) {
  const placed = [...labels].sort((a, b) => a[0] - b[0]);
  for (let k = 1; k < placed.length; k++) placed[k][0] = Math.max(placed[k][0], placed[k - 1][0] + gap);
  for (let k = placed.length - 1; k >= 0; k--) {
    placed[k][0] = Math.min(placed[k][0], k === placed.length - 1 ? bottom : placed[k + 1][0] - gap);
  }
  return placed;
}

/** The frontiers of all agents over the user's value, with the values that equilibria have. */
export function frontierFigure(width, { curves, intervals, worst, best }, names) {
  const [top, height] = [34, width < 500 ? 290 : 330];
  const bottom = height - 44;
  const v = domain(
    curves.flatMap((curve) => curve.v),
    0.02,
  );
  const paid = domain(curves.flatMap((curve) => curve.value));
  const room = Math.min(0.3 * width, LETTER * Math.max(...names.map((name) => name.length)) + 40);
  const [x, y] = [scale(v, [56, width - room]), scale(paid, [bottom, top])];
  const zones = intervals.map(([low, high]) => {
    const kind = high > low ? "zone" : "zone point";
    return node("rect", { x: x(low) - 1.5, y: top, width: x(high) - x(low) + 3, height: bottom - top, class: kind });
  });
  const groups = new Map(); // agents whose curves are the same share a line and a label
  curves.forEach((curve, i) => {
    const key = curve.value.map((value, k) => `${show(curve.v[k])},${show(value)}`).join();
    groups.set(key, [...(groups.get(key) ?? []), i]);
  });
  const members = [...groups.values()];
  const lines = members.map(([i]) =>
    path(
      curves[i].v.map((at, k) => [x(at), y(curves[i].value[k])]),
      {
        class: `curve ${colour(i)}`,
        "stroke-dasharray": DASHES[i % 5],
      },
    ),
  );
  const labels = members.map(([i, ...others]) => {
    const words = names[i] + (others.length ? ` + ${others.length}` : "");
    return [y(last(curves[i].value)) + 4, words, i];
  });
  const edge = width - room;
  const written = apart(labels, 15, bottom).map(([at, name, i]) =>
    fitted(edge + 8, at, name, room - 10, { class: `label ${colour(i)}` }),
  );
  const middle = (x(worst) + x(best)) / 2;
  const says = worst === best ? `equilibrium: ${show(worst)}` : `equilibria: ${show(worst)} to ${show(best)}`;
  const half = (says.length * LETTER) / 2;
  const above = text(Math.min(Math.max(middle, 4 + half), width - half - 4), 14, says, {
    "text-anchor": "middle",
    class: "label",
  });
  const said = curves.map(({ v, value }, i) => {
    const points = v.map((at, k) => `${show(value[k])} at ${show(at)}`);
    return `${names[i]}: ${points.length > 6 ? [points[0], last(points)].join(", …, ") : points.join(", ")}`;
  });
  const label = `The most each agent gets (first number) while the user's value is at least the second. ${said.join("; ")}. ${says}.`;
  const axis = bottomAxis(x, v, bottom, "the user's value, at least", width < 500 ? 3 : 6);
  return figure(width, height, label, [
    ...zones,
    ...leftAxis(y, paid, 56, edge, 5),
    ...axis,
    ...lines,
    ...written,
    above,
  ]);
}

/** One party's value over the belief, its concave closure, and what it comes to at the prior. */
export function beliefFigure(width, party, prior, words, name, kind) {
  const [top, height] = [10, 210];
  const bottom = height - 44;
  const values = [...party.pieces.flat(), ...party.points, ...party.hull].map((p) => p[1]);
  const held = domain(values, 0.1);
  const [x, y] = [scale([0, 1], [52, width - 12]), scale(held, [bottom, top])];
  const at = ([t, value]) => [x(t), y(value)];
  const dot = (point, kind_, r) => node("circle", { cx: at(point)[0], cy: at(point)[1], r, class: kind_ });
  const close = (p, q) => Math.abs(p[0] - q[0]) < 1e-9 && Math.abs(y(p[1]) - y(q[1])) < 1;
  const jumps = party.pieces.flatMap((piece) =>
    party.points.length ? [piece[0], last(piece)].filter((end) => !party.points.some((p) => close(p, end))) : [],
  );
  const reached = party.points.filter((p) => jumps.some((end) => Math.abs(end[0] - p[0]) < 1e-9));
  const marks = [
    line(x(prior), top, x(prior), bottom, "prior"),
    ...party.pieces.map((piece) => path(piece.map(at), { class: `curve ${kind}` })),
    path(party.hull.map(at), { class: `closure ${kind}` }),
    ...jumps.map((point) => dot(point, `open ${kind}`, 3.5)),
    ...reached.map((point) => dot(point, `dot ${kind}`, 3.5)),
    ...party.around.map(([point]) => dot(point, `split ${kind}`, 6)),
    dot([prior, party.value], `dot ${kind}`, 5),
  ];
  const splits = party.around.map(([[t], weight]) => `${show(t)} with probability ${show(weight)}`).join(" and ");
  const label = `${name}: the concave closure is worth ${show(party.value)} at the prior ${show(prior)}, from beliefs ${splits}.`;
  const axes = [...leftAxis(y, held, 52, width - 12, 4), ...bottomAxis(x, [0, 1], bottom, words, 4)];
  return figure(width, height, label, [...axes, ...marks]);
}
