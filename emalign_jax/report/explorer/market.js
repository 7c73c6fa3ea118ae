// The mathematics of one market, as in docs/model.md: the reduced game (section 1.1), units (4.5), the obedience LP
// (5.1), the value-payoff frontier and the equilibrium set of Selection (6.5). Constants and steps are those of the
// Python package, with which the tests compare it.
//
// Letters: XA user features, XB agent features, Y outcomes, A actions, K agents. Arrays are nested: prior[xa][xb][y],
// user[a][y], agents[i][a][y]; totals[xa][xb][a] are probabilities times expected payoffs.

const EPS = Number.EPSILON;
const VALUE_TIE = 1e-9; // user values this close are equal, in the user's unit
const NEGLIGIBLE = 1e-8; // values of information and payoff ranges up to this count as 0, in their unit
const STRAIGHT = 1e-11; // a curve this close to its chord counts as straight
const ZERO_GAP = 1e-8; // a gap up to this counts as 0, summed over agents in their units
const TOLERANCE = 1e-9; // of HiGHS

export const sum = (numbers) => numbers.reduce((total, x) => total + x, 0);
export const dot = (x, y) => x.reduce((total, xk, k) => total + xk * y[k], 0);
const argmax = (numbers) => numbers.reduce((best, x, k) => (x > numbers[best] ? k : best), 0);
export const range = (count) => Array.from({ length: count }, (_, k) => k);
export const pairs = (XA, XB) => range(XA).flatMap((xa) => range(XB).map((xb) => [xa, xb]));
export const last = (list) => list[list.length - 1];

// ---------------------------------------------------------------------------------------------------- the market

/** The probability of each x_B. */
export const beliefOf = (prior) => prior[0].map((_, xb) => sum(prior.map((row) => sum(row[xb]))));

/**
 * The game that the sliders describe: {prior, user, agents, names}.
 *
 * base: a game; its agents repeat, with numbers, where more are asked for.
 * bias: how far each agent is from the user: 0 wants what the user wants, 1 is as given.
 * belief: the probability of each x_B; null leaves the prior as it is.
 */
export function marketOf(base, { bias, belief }) {
  const own = beliefOf(base.prior);
  const scaled = (p, xb) => p.map((x) => (own[xb] > 0 ? (x * belief[xb]) / own[xb] : 0));
  const given = base.agents.length;
  const blended = (utility, t) => utility.map((row, a) => row.map((x, y) => (1 - t) * base.user[a][y] + t * x));
  return {
    prior: belief ? base.prior.map((row) => row.map(scaled)) : base.prior,
    user: base.user,
    agents: bias.map((t, i) => blended(base.agents[i % given], t)),
    names: bias.map((_, i) => base.names.agents[i % given] + (i < given ? "" : ` (${Math.floor(i / given) + 1})`)),
  };
}

/** Numbers that differ by no more than their noise are replaced by the lowest of them. */
function mergeNoise(payoff, noise) {
  const order = range(payoff.length).sort((a, b) => payoff[a] - payoff[b]);
  const merged = payoff.slice();
  for (let k = 1; k < order.length; k++) {
    const [low, high] = [order[k - 1], order[k]];
    if (payoff[high] - payoff[low] <= noise[high] + noise[low]) merged[high] = merged[low];
  }
  return merged;
}

/** Totals less those of the action `origin`, and the totals of `origin` [xa][xb]. */
function sumOut(prior, utility, origin) {
  const base = utility[origin];
  const ahead = utility.map((row) => row.map((x, y) => x - base[y]));
  const rounding = utility.map((row, a) =>
    row.map((x, y) => (4 + row.length) * EPS * Math.abs(ahead[a][y]) + EPS * (Math.abs(x) + Math.abs(base[y]))),
  );
  const cell = (p) =>
    mergeNoise(
      ahead.map((row) => dot(p, row)),
      rounding.map((row) => dot(p, row)),
    );
  return { totals: prior.map((row) => row.map(cell)), zero: prior.map((row) => row.map((p) => dot(p, base))) };
}

/** The reduced game: mass[xa][xb], and {totals, zero} of the user and of each agent, counted from one action. */
export function reduceGame({ prior, user, agents }) {
  const likely = user[0].map((_, y) => sum(prior.flat().map((p) => p[y])));
  const origin = argmax(user.map((row) => dot(row, likely)));
  return {
    mass: prior.map((row) => row.map(sum)),
    user: sumOut(prior, user, origin),
    agents: agents.map((utility) => sumOut(prior, utility, origin)),
  };
}

// ------------------------------------------------------------------------------------------------------- units

/** An upper bound [xa][xb][a] of the probability with which the user can be brought to take each action. */
function likelyActions(totals) {
  return totals.map((cells) => {
    const gain = (a, c) => sum(cells.map((g) => Math.max(g[a] - g[c], 0)));
    return cells.map((g) =>
      g.map((x, a) => Math.min(1, ...g.map((y, c) => (y - x > gain(a, c) ? gain(a, c) / (y - x) : 1)))),
    );
  });
}

/** The least (sign 1) or most (-1) that totals can come to if no action is likelier than `likely`: a knapsack. */
function attainable(totals, likely, sign) {
  let paid = 0;
  totals.forEach((cells, xa) =>
    cells.forEach((g, xb) => {
      let room = 1;
      for (const a of range(g.length).sort((p, q) => sign * (g[p] - g[q]))) {
        const taken = Math.min(room, likely[xa][xb][a]);
        paid += taken * g[a];
        room -= taken;
      }
    }),
  );
  return paid;
}

/** Totals in their unit, counted from the user's best action in each cell: {totals, unit, zero}. */
function inUnits({ totals, zero }, best, likely) {
  const origin = totals.map((cells, xa) => cells.map((g, xb) => g[best[xa][xb]]));
  const ahead = totals.map((cells, xa) => cells.map((g, xb) => g.map((x) => x - origin[xa][xb])));
  const spread = attainable(ahead, likely, -1) - attainable(ahead, likely, 1);
  const dictated = sum(ahead.flat().map((g) => Math.max(...g) - Math.min(...g)));
  const unit = spread > 0 ? spread : dictated > 0 ? dictated : 1;
  return {
    totals: ahead.map((cells) => cells.map((g) => g.map((x) => x / unit))),
    unit,
    zero: sum(origin.flat()) + sum(zero.flat()),
  };
}

// ------------------------------------------------------------------------------------------- the obedience LP

const ceilingOfTwo = (x) => (x > 0 ? Math.min(1, 2 ** (Math.floor(Math.log2(x)) + 1)) : 0);

/** All distributions over recommendations that the user obeys; a recommendation names an action for each x_A. */
class Obedience {
  constructor(highs, user, likely) {
    const [XA, XB, A] = [user.length, user[0].length, user[0][0].length];
    this.recommendations = range(A ** XA).map((r) => range(XA).map((xa) => Math.floor(r / A ** xa) % A));
    const R = this.recommendations.length;
    this.scale = range(XB).map((xb) =>
      this.recommendations.map((r) => Math.min(...r.map((a, xa) => ceilingOfTwo(likely[xa][xb][a])))),
    );
    const column = (xb, r) => xb * R + r;
    const entries = range(XB * R).map(() => []); // of each column: [row, value]
    range(XB).forEach((xb) => range(R).forEach((r) => entries[column(xb, r)].push([xb, this.scale[xb][r]])));
    let rows = XB;
    for (const [r, actions] of this.recommendations.entries()) {
      for (const [xa, other] of pairs(XA, A)) {
        const advantage = user[xa].map((g, xb) => (g[actions[xa]] - g[other]) * this.scale[xb][r]);
        const size = Math.max(...advantage.map(Math.abs));
        if (!(size > 0)) continue;
        const unit = 2 ** (Math.floor(Math.log2(size)) + 1); // a power of two, so that division does not round
        advantage.forEach((x, xb) => x !== 0 && entries[column(xb, r)].push([rows, x / unit]));
        rows += 1;
      }
    }
    this.valueRow = rows;
    this.spread(user).forEach((x, k) => x !== 0 && entries[k].push([rows, x]));
    const fill = (head, tail) =>
      Float64Array.from([...range(XB).map(() => 1), ...range(rows - XB).map(() => head), tail]);
    const starts = entries.reduce((found, e) => [...found, last(found) + e.length], [0]);
    this.model = highs.createModel();
    this.model.options.set({
      output_flag: false,
      presolve: "off",
      solver: "simplex",
      primal_feasibility_tolerance: TOLERANCE,
      dual_feasibility_tolerance: TOLERANCE,
    });
    this.model.passModel({
      numCols: XB * R,
      numRows: rows + 1,
      sense: highs.constants.objectiveSense.maximize,
      colCost: new Float64Array(XB * R),
      colLower: new Float64Array(XB * R),
      colUpper: new Float64Array(XB * R).fill(highs.infinity),
      rowLower: fill(0, -highs.infinity),
      rowUpper: fill(highs.infinity, highs.infinity),
      matrix: {
        format: "csc",
        numRows: rows + 1,
        numCols: XB * R,
        starts: Int32Array.from(starts),
        indices: Int32Array.from(entries.flat().map((e) => e[0])),
        values: Float64Array.from(entries.flat().map((e) => e[1])),
      },
    });
    this.highs = highs;
  }

  /** What a unit of each column is worth. */
  spread(totals) {
    return this.scale.flatMap((scale, xb) =>
      this.recommendations.map((r, k) => sum(r.map((a, xa) => totals[xa][xb][a])) * scale[k]),
    );
  }

  setPayoff(totals) {
    this.model.changeColsCost(
      { kind: "range", from: 0, to: this.scale.flat().length - 1 },
      Float64Array.from(this.spread(totals)),
    );
  }

  /** The largest payoff at user values from `least` to `most`, and its slope in the bound that binds. */
  price(least, most = Infinity) {
    this.model.changeRowBounds(this.valueRow, least, Math.min(most, this.highs.infinity));
    const optimal = () => {
      this.model.run();
      return this.model.getModelStatus() === this.highs.constants.modelStatus.optimal;
    };
    if (!optimal()) {
      this.model.clearSolver(); // a warm start can fail
      this.model.options.set("presolve", "on");
      const solved = optimal();
      this.model.options.set("presolve", "off");
      if (!solved) throw new Error("HiGHS did not solve an LP of this market.");
    }
    return { value: this.model.getObjectiveValue(), slope: this.model.getSolution().rowDual[this.valueRow] };
  }
}

// ----------------------------------------------------------------------------- frontiers and the equilibrium set

/** Where the supporting lines at two points cross; null if the curve is straight in between. */
function kinkBetween(left, right) {
  const width = right.v - left.v;
  const aboveRight = left.value + left.slope * width - right.value;
  const aboveLeft = right.value - right.slope * width - left.value;
  if (Math.min(aboveLeft, aboveRight) <= STRAIGHT) return null;
  const share = aboveLeft / (aboveLeft + aboveRight);
  return Math.min(share, 1 - share) * width > VALUE_TIE ? left.v + share * width : null;
}

/** A concave curve {v, value} with all its breakpoints: f of `totals` at user value at least v, or exactly v. */
function trace(lp, totals, low, high, exactly) {
  lp.setPayoff(totals);
  const evaluate = (v) => ({ v, ...lp.price(v, exactly ? v : Infinity) });
  // At the ends themselves rounding may make the LP infeasible.
  const done = [evaluate(low + VALUE_TIE)];
  const todo = [evaluate(high - VALUE_TIE)];
  while (todo.length) {
    const crossing = kinkBetween(last(done), last(todo));
    if (crossing === null) done.push(todo.pop());
    else todo.push(evaluate(crossing));
  }
  const curve = { v: done.map((p) => p.v), value: done.map((p) => p.value) };
  const end = done.length - 1;
  curve.value[0] -= done[0].slope * VALUE_TIE;
  curve.value[end] += done[end].slope * VALUE_TIE;
  [curve.v[0], curve.v[end]] = [low, high];
  return curve;
}

/** The curve at v, by interpolation. */
export function curveAt({ v, value }, at) {
  if (v.length < 2) return value[0];
  const found = v.findIndex((x, k) => k > 0 && x >= at);
  const right = found < 0 ? v.length - 1 : found;
  const share = (at - v[right - 1]) / (v[right] - v[right - 1]);
  return value[right - 1] + share * (value[right] - value[right - 1]);
}

/** Sorted, without values that differ from the one before by rounding; both ends are kept. */
function distinct(values) {
  const sorted = [...values].sort((x, y) => x - y);
  const kept = [sorted[0]];
  const end = last(sorted);
  for (const x of sorted) if (x > last(kept) + VALUE_TIE && x < end - VALUE_TIE) kept.push(x);
  return [...kept, end];
}

/**
 * Selection with a rational user, exactly: {worst, best, intervals, curves, monopoly}, in the units of the game.
 *
 * intervals: the user's values in pure equilibria, [[low, high], ...]; curves: of each agent, {v, value}, the most that
 * it gets at user value at least v; monopoly: {agent, user}, what an agent gets alone with the user, and what the user
 * gets then (the most, if the agent has several best schemes).
 */
export function equilibria(highs, reduced) {
  const best = reduced.user.totals.map((cells) => cells.map(argmax));
  const likely = likelyActions(reduced.user.totals);
  const user = inUnits(reduced.user, best, likely);
  const agents = reduced.agents.map((agent) => inUnits(agent, best, likely));
  const [XA, XB] = [user.totals.length, user.totals[0].length];
  const silent = user.totals.map((cells) => cells[0].map((_, a) => sum(cells.map((g) => g[a]))));
  const low = sum(silent.map((totals) => Math.max(...totals)));
  const high = sum(user.totals.flat().map((g) => Math.max(...g)));
  const worth = (v) => user.unit * v + user.zero;
  const lp = new Obedience(highs, user.totals, likely);
  try {
    if (high - low <= NEGLIGIBLE) {
      const paid = agents.map((agent) => (lp.setPayoff(agent.totals), lp.price(-highs.infinity).value));
      const only = agents.map((agent, i) => ({ v: [worth(high)], value: [agent.unit * paid[i] + agent.zero] }));
      return outcome([[worth(high), worth(high)]], only);
    }
    const own = agents.map((agent) => trace(lp, agent.totals, low, high, false));
    const total = range(XA).map((xa) =>
      range(XB).map((xb) => user.totals[xa][xb].map((_, a) => sum(agents.map((agent) => agent.totals[xa][xb][a])))),
    );
    const joint = trace(lp, total, low, high, true);
    const v = distinct([...joint.v, ...own.flatMap((curve) => curve.v)]);
    // A single agent has no rival: it can have its most at any value that the user is left with.
    const most = (x) => (own.length > 1 ? sum(own.map((curve) => curveAt(curve, x))) : Math.max(...joint.value));
    const zero = v.map((x) => most(x) - curveAt(joint, x) <= ZERO_GAP);
    const intervals = [];
    v.forEach((x, k) => {
      if (zero[k] && zero[k - 1]) last(intervals)[1] = worth(x);
      else if (zero[k]) intervals.push([worth(x), worth(x)]);
    });
    if (own.length > 1 && !last(zero)) intervals.push([worth(high), worth(high)]); // nobody can outbid full information
    const curves = own.map(({ v, value }, i) => ({
      v: v.map(worth),
      value: value.map((x) => agents[i].unit * x + agents[i].zero),
      flat: worth(v[value.findLastIndex((x) => x >= value[0] - ZERO_GAP)]),
    }));
    return outcome(intervals, curves);
  } finally {
    lp.model.dispose();
  }
}

function outcome(intervals, curves) {
  const monopoly = curves.map(({ v, value, flat }) => ({ agent: value[0], user: flat ?? v[0] }));
  return { worst: intervals[0][0], best: last(intervals)[1], intervals, curves, monopoly };
}
