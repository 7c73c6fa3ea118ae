// What schemes and the stability profile of one game look like.

const MOST_LINES = 64; // of a scheme: conversations have many

// How often each message is sent, a row for each value of x_B (or point of a conversation).
function schemeTable(agent, scheme, labels) {
  const [states, messages] = scheme.shape;
  const known = states === labels.agent_features.length;
  const rows = Array.from({ length: Math.min(states, MOST_LINES) }, (_, state) => {
    const words = known ? labels.agent_features[state] : `point ${state}`;
    const cells = Array.from({ length: messages }, (_, message) => heat(
      scheme.values[state * messages + message], `message ${message}`));
    return [head(words), ...cells];
  });
  const heads = [known ? "x_B" : "point", ...Array.from({ length: messages }, (_, message) => `message ${message}`)];
  const cut = states > MOST_LINES ? `; the first ${MOST_LINES} of ${states} rows` : "";
  const what = known ? "" : "; rows are the points of the conversation at which the agent speaks";
  return wide(table(`${agent}: probability of each message${what}${cut}`, heads, rows, { class: "heat" }));
}

// What each message leads to: how likely it is, the posterior of the outcomes, and the user's best action at it.
function posteriorTable(agent, scheme, prior, utility, labels) {
  const [states, messages] = scheme.shape;
  const [features, , outcomes] = prior.shape;
  const rows = [];
  for (let message = 0; message < messages; message++) {
    for (let feature = 0; feature < features && rows.length < MOST_LINES; feature++) {
      const weights = new Array(outcomes).fill(0);
      for (let state = 0; state < states; state++) {
        for (let y = 0; y < outcomes; y++) {
          weights[y] += scheme.values[state * messages + message] * prior.values[(feature * states + state) * outcomes + y];
        }
      }
      const total = weights.reduce((a, b) => a + b, 0);
      if (!(total > 1e-7)) continue; // it is never sent
      const name = String(message) + (features > 1 ? `, ${labels.user_features[feature]}` : "");
      rows.push([head(name), total.toFixed(3), ...weights.map((w, y) => heat(w / total, labels.outcomes[y])),
        bestActions(weights, utility, labels)]);
    }
  }
  const heads = ["message", "sent", ...labels.outcomes, "best action"];
  return wide(table(`${agent}: the belief that each message alone leads to`, heads, rows, { class: "heat" }));
}

// Actions whose expected utility is within rounding of the best.
function bestActions(weights, utility, labels) {
  const [actions, outcomes] = utility.shape;
  const values = Array.from({ length: actions }, (_, a) => weights.reduce(
    (sum, w, y) => sum + w * utility.values[a * outcomes + y], 0));
  const best = Math.max(...values);
  const close = 1e-4 * (best - Math.min(...values));
  return labels.actions.filter((_, a) => values[a] >= best - close).join(" or ");
}

function head(words) {
  return make("th", { scope: "row", role: "rowheader" }, words);
}

// A probability, the deeper the colour the larger.
function heat(probability, label) {
  const cell = make("td", { role: "cell", class: "number", "data-label": label },
    probability > 0 && probability < 5e-4 ? "<.001" : probability.toFixed(3).replace(/\.000$/, ""));
  cell.style.setProperty("--share", `${Math.round(Math.max(0, Math.min(1, probability)) * 45)}%`);
  return cell;
}

// Many messages or outcomes scroll inside their own frame, which can then be reached by key.
function wide(element) {
  return make("div", { class: "wide", role: "group", tabindex: "0",
    "aria-label": element.querySelector("caption").textContent }, element);
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// The least total deviation gain of a profile that leaves the user with value v; equilibria are where it is 0.
function profileFigure(value, gap, zero) {
  const [width, height, left, bottom] = [360, 200, 46, 36];
  const [low, high] = [value[0], value[value.length - 1]];
  const top = Math.max(...gap, 1e-12);
  const x = (v) => left + ((v - low) / (high - low || 1)) * (width - left - 12);
  const y = (g) => height - bottom - (g / top) * (height - bottom - 24);
  const path = value.map((v, k) => `${k ? "L" : "M"}${x(v).toFixed(1)} ${y(gap[k]).toFixed(1)}`).join(" ");
  const marks = intervals(value, zero).map(([from, to]) => svg("line", {
    class: "zero", x1: x(from) - 3, x2: x(to) + 3, y1: y(0), y2: y(0),
  }));
  const words = (text, at, up, anchor) => svg("text", { x: at, y: up, "text-anchor": anchor }, text);
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "profile", role: "img",
    "aria-label": `Stability profile from ${shown(low)} to ${shown(high)}; ${equilibria(value, zero)}` },
    svg("line", { class: "axis", x1: left, x2: width - 12, y1: y(0), y2: y(0) }),
    svg("path", { class: "curve", d: path }), ...marks,
    words("least total gain from deviating", 4, 12, "start"), words(shown(top), left - 5, y(top) + 4, "end"),
    words("0", left - 5, y(0) + 4, "end"), words(`no information: ${shown(low)}`, left, height - 16, "start"),
    words(`full: ${shown(high)}`, width - 12, height - 16, "end"), words("the user's value", width / 2, height - 2, "middle"));
}

// First and last value of each run of zeros.
function intervals(value, zero) {
  const found = [];
  value.forEach((v, k) => {
    if (zero[k] && k && zero[k - 1]) found[found.length - 1][1] = v;
    else if (zero[k]) found.push([v, v]);
  });
  return found;
}

function equilibria(value, zero) {
  const words = intervals(value, zero).map(([low, high]) => low === high ? shown(low) : `${shown(low)} to ${shown(high)}`);
  return `the user's value in pure equilibria: ${words.join("; ") || "none"}`;
}
