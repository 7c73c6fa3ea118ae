// The page: controls, what they mean, and what is shown when one of them moves.

import { benchmarks, concavification } from "./beliefs.js";
import { beliefFigure, colour, dotFigure, frontierFigure, show } from "./draw.js";
import { beliefOf, equilibria, marketOf, range, reduceGame, sum } from "./market.js";

const STEPS = 60; // positions of the slider of precision; the last is a rational user
const AGENTS = 5;
const BIAS = { min: 0, max: 2, step: 0.05 };
const BELIEF = { min: 0.01, max: 0.99, step: 0.01 };

const byId = (id) => document.getElementById(id);
const data = (id) => JSON.parse(byId(id).textContent);
const within = ({ min, max }, x) => Math.min(max, Math.max(min, x));

/** An element with attributes and children; strings become text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ------------------------------------------------------------------------------------------------------- state

const markets = data("markets");
const state = {};

const base = () => markets.find((market) => market.key === state.market);
const mostAgents = () => Math.max(AGENTS, base().agents.length);
const spread = () => Math.max(...base().user.flat()) - Math.min(...base().user.flat()) || 1;
const precisionAt = (position) =>
  position >= STEPS ? Infinity : Number((10 ** (position / 20) / spread()).toPrecision(3));
const positionOf = (precision) =>
  precision === Infinity
    ? STEPS
    : within({ min: 0, max: STEPS - 1 }, Math.round(20 * Math.log10(precision * spread())));

function setMarket(key) {
  state.market = markets.some((market) => market.key === key) ? key : markets[0].key;
  Object.assign(state, { belief: null, precision: Infinity, bias: base().agents.map(() => 1) });
}

const setAgents = (count) => (state.bias = range(count).map((i) => state.bias[i] ?? 1));

/** What the link says; numbers that make no sense are left out. */
function readLink() {
  const said = new URLSearchParams(location.hash.slice(1));
  const numbers = (name) => (said.get(name) ?? "").split(",").filter(Boolean).map(Number);
  setMarket(said.get("market"));
  const bias = numbers("bias");
  if (bias.length && bias.length <= mostAgents() && bias.every(Number.isFinite))
    state.bias = bias.map((t) => within(BIAS, t));
  const belief = numbers("belief");
  const given = beliefOf(base().prior);
  if (belief.length === given.length && belief.every((p, k) => p >= 0 && p > 0 === given[k] > 0)) {
    state.belief = belief.map((p) => p / sum(belief));
  }
  const [precision] = numbers("precision");
  if (precision > 0) state.precision = precision;
}

function writeLink() {
  const said = [`market=${encodeURIComponent(state.market)}`, `bias=${state.bias}`];
  if (state.belief) said.push(`belief=${state.belief}`);
  if (state.precision < Infinity) said.push(`precision=${state.precision}`);
  try {
    history.replaceState(null, "", `#${said.join("&")}`);
  } catch {
    location.hash = said.join("&"); // some browsers forbid the former in files
  }
}

// ---------------------------------------------------------------------------------------------------- controls

function slider(id, label, { min, max, step }, value, said, moved) {
  const input = element("input", { type: "range", id, min, max, step });
  const reading = element("span", { "aria-hidden": "true" });
  input.value = value;
  const tell = () => {
    reading.textContent = said();
    input.setAttribute("aria-valuetext", said());
  };
  input.addEventListener("input", () => {
    moved(Number(input.value));
    tell();
    later();
  });
  tell();
  return element("div", { class: "slider" }, element("label", { for: id }, label), reading, input);
}

function beliefSliders() {
  const belief = state.belief ?? beliefOf(base().prior);
  const names = base().names.agent_features;
  const possible = range(belief.length).filter((k) => belief[k] > 0);
  if (possible.length < 2 || possible.length > 8) return [];
  // One number is enough for two values of x_B.
  const shown = possible.length === 2 ? possible.slice(1) : possible;
  return shown.map((k) => {
    const now = () => (state.belief ?? beliefOf(base().prior))[k];
    return slider(
      `belief-${k}`,
      `Probability of ${names[k]}`,
      BELIEF,
      now(),
      () => show(now()),
      (p) => {
        const held = state.belief ?? beliefOf(base().prior);
        state.belief = held.map((x, j) => (j === k ? p : (x * (1 - p)) / (1 - held[k])));
        if (possible.length > 2) refresh(`belief-${k}`);
      },
    );
  });
}

function controls() {
  const names = marketOf(base(), state).names;
  const agents = slider(
    "agents",
    "Number of agents",
    { min: 1, max: mostAgents(), step: 1 },
    state.bias.length,
    () => String(state.bias.length),
    (count) => {
      setAgents(count);
      refresh("agents");
    },
  );
  const bias = names.map((name, i) =>
    slider(
      `bias-${i}`,
      `Bias: ${name}`,
      BIAS,
      state.bias[i],
      () => show(state.bias[i]),
      (t) => (state.bias[i] = t),
    ),
  );
  const told = () => (state.precision === Infinity ? "rational" : show(state.precision));
  const precision = slider(
    "precision",
    "Precision of the user",
    { min: 0, max: STEPS, step: 1 },
    positionOf(state.precision),
    told,
    (position) => (state.precision = precisionAt(position)),
  );
  return [...beliefSliders(), precision, agents, ...bias];
}

/** Make the sliders again, since some depend on others, and leave the keyboard where it is. */
function refresh(focused) {
  byId("sliders").replaceChildren(...controls());
  if (focused) byId(focused)?.focus();
}

// ------------------------------------------------------------------------------------------------------ results

function table(caption, head, rows) {
  const cells = (row) => row.map((x, c) => element(c ? "td" : "th", c ? {} : { scope: "row" }, x));
  const made = element(
    "table",
    {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head.map((x) => element("th", { scope: "col" }, x)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row)))),
  );
  return element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption }, made);
}

const precise = (x) => (x === null ? "–" : show(x, innerWidth < 480 ? 4 : 7));

/** All that is computed of a game: {told, lines, exact}, the last null for a quantal user. */
export function analyse(highs, game, precision) {
  const reduced = reduceGame(game);
  const exact = precision === Infinity ? equilibria(highs, reduced) : null;
  return { told: benchmarks(reduced, precision), lines: concavification(reduced, precision), exact };
}

/** What each agent gets alone with the user, and what the user gets then; null where it is not computed. */
function alone({ exact, lines }, agent) {
  if (exact) return exact.monopoly[agent];
  if (!lines) return null;
  const { value, around } = lines.parties[agent + 1];
  return { agent: value, user: sum(around.map(([[t], weight]) => weight * lines.userAt(t))) };
}

function sentence({ told, exact }) {
  const [none, full] = [told.none.user, told.full.user];
  const ends = `It gets ${show(none)} without information and ${show(full)} with all that agents know`;
  if (!exact) return `The user errs. ${ends}.`;
  const { worst, best } = exact;
  const same = (x, y) => Math.abs(x - y) <= 1e-8 * Math.max(1, Math.abs(x), Math.abs(y));
  if (same(none, full)) return `Information is worth nothing to this user, who gets ${show(full)} in any case.`;
  const says = (v) =>
    same(v, full)
      ? "full information"
      : same(v, none)
        ? "no information"
        : `${show((v - none) / (full - none))} of the way to full information`;
  const only = same(worst, best)
    ? `In every equilibrium the user gets ${show(worst)}: ${says(worst)}.`
    : `The user gets ${show(worst)} in the worst equilibrium (${says(worst)}) and ${show(best)} in the best (${says(best)}).`;
  return `${only} ${ends}.`;
}

function figures(found, names) {
  const { told, exact, lines } = found;
  const width = Math.max(260, byId("values").clientWidth);
  const rows = [{ label: "no information", low: told.none.user, high: told.none.user, kind: "end" }];
  names.forEach((name, i) => {
    const one = alone(found, i);
    if (one) rows.push({ label: `${name} alone`, low: one.user, high: one.user, kind: colour(i) });
  });
  if (exact) exact.intervals.forEach(([low, high]) => rows.push({ label: "equilibria", low, high, kind: "zone" }));
  rows.push({ label: "full information", low: told.full.user, high: told.full.user, kind: "end" });
  byId("values").replaceChildren(dotFigure(width, rows, "value of the user"));

  const curved = exact && exact.curves[0].v.length > 1;
  byId("frontier-part").hidden = !curved;
  if (curved) byId("frontier").replaceChildren(frontierFigure(width, exact, names));

  byId("belief-part").hidden = !lines;
  byId("belief-none").hidden = Boolean(lines);
  if (lines) {
    const columns = Math.max(1, Math.floor((width + 16) / 300));
    const each = (width - 16 * (columns - 1)) / columns;
    const axis = `probability of ${base().names.agent_features[1]}`;
    const parties = lines.parties.map((party, k) => {
      const name = k ? names[k - 1] : "the user";
      const drawn = beliefFigure(each, party, lines.prior, axis, name, k ? colour(k - 1) : "user");
      const words = `${name}: ${show(party.value)} at most`;
      return element("figure", {}, element("figcaption", {}, words), drawn);
    });
    byId("beliefs").replaceChildren(...parties);
  }
}

function tables(found, names) {
  const { told, exact } = found;
  const user = [
    ["no information", told.none.user],
    ["full information", told.full.user],
  ];
  if (exact) user.push(["worst equilibrium", exact.worst], ["best equilibrium", exact.best]);
  const agents = names.map((name, i) => {
    const one = alone(found, i);
    const numbers = [told.none.agents[i], told.full.agents[i], one && one.agent, one && one.user];
    return [name, ...numbers.map(precise)];
  });
  byId("numbers").replaceChildren(
    table(
      "Value of the user",
      ["case", "value"],
      user.map(([name, x]) => [name, precise(x)]),
    ),
    table("Payoffs of agents", ["agent", "silence", "revelation", "alone", "user then"], agents),
  );
}

/** The lines of Python that make this game. */
export function python(game, precision) {
  const list = (name) =>
    `    ${name}=${JSON.stringify(game[name === "prior" ? name : name === "user_utility" ? "user" : "agents"])},`;
  const quantal = [
    `user = em.QuantalUser(${precision})`,
    'found = em.solve(game, em.Selection(), user, start="monopolist")',
    "print(float(found.user), em.Result(int(found.result)).message)",
  ];
  const rational = ["every = em.stability(game)", "print(float(every.worst), float(every.best))"];
  const made = [
    "import emalign_jax as em",
    "",
    "game = em.Game(",
    ...["prior", "user_utility", "agent_utilities"].map(list),
    ")",
  ];
  return [...made, ...(precision === Infinity ? rational : quantal)].join("\n") + "\n";
}

let solver = null;
let waiting = 0;

function update() {
  waiting = 0;
  const began = performance.now();
  const game = marketOf(base(), state);
  byId("about").textContent = base().about;
  for (const part of document.querySelectorAll("[data-user]")) {
    part.hidden = (part.dataset.user === "rational") !== (state.precision === Infinity);
  }
  byId("python").textContent = python(game, state.precision);
  writeLink();
  try {
    const found = analyse(solver, game, state.precision);
    byId("sentence").textContent = sentence(found);
    byId("results").hidden = false; // Before the figures are drawn, which take their width from the page.
    figures(found, game.names);
    tables(found, game.names);
    byId("time").textContent = `Computed and drawn in ${Math.ceil(performance.now() - began)} ms.`;
  } catch (error) {
    byId("sentence").textContent = `This market could not be computed: ${error.message}`;
    byId("results").hidden = true;
  }
}

/** Compute once before the next picture, however often sliders moved since the last. */
function later() {
  if (solver && !waiting) waiting = requestAnimationFrame(update);
}

async function copy(words) {
  try {
    await navigator.clipboard.writeText(words);
    byId("copied").textContent = "Copied.";
  } catch {
    byId("code").open = true;
    getSelection().selectAllChildren(byId("python"));
    byId("copied").textContent =
      "The browser does not let a page copy: take what is selected below, or the address of the page.";
  }
}

function begin() {
  const choice = byId("market");
  choice.replaceChildren(...markets.map((market) => element("option", { value: market.key }, market.title)));
  const again = () => {
    choice.value = state.market;
    refresh();
    later();
  };
  choice.addEventListener("change", () => {
    setMarket(choice.value);
    again();
  });
  byId("reset").addEventListener("click", () => {
    setMarket(state.market);
    again();
  });
  byId("copy-python").addEventListener("click", () => copy(byId("python").textContent));
  byId("copy-link").addEventListener("click", () => copy(location.href));
  addEventListener("hashchange", () => {
    readLink();
    again();
  });
  addEventListener("resize", later);
  readLink();
  again();
}

/** HiGHS from the page itself, where it lies compressed. */
async function unpack() {
  const packed = Uint8Array.from(atob(byId("highs-wasm").textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return WebAssembly.compile(await new Response(stream).arrayBuffer());
}

begin();
try {
  const compiled = await unpack();
  const instantiateWasm = async (imports, receive) => receive(await WebAssembly.instantiate(compiled, imports));
  solver = await loadHighs({ instantiateWasm });
  globalThis.explorer = { analyse: (game, precision) => analyse(solver, game, precision), python };
  update();
} catch (error) {
  byId("sentence").textContent = `This browser cannot run the solver: ${error.message}`;
}
