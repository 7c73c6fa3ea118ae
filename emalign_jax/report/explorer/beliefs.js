// What messages do to beliefs, actions and payoffs: benchmarks, and the concavification over one belief (section 5.3 of
// docs/model.md), for rational and quantal users. Arrays are those of market.js; a precision of Infinity is rational.

import { dot, last, pairs, range, sum } from "./market.js";

const TIE = 1e-7; // two actions are tied if one beats the other by at most this share of what they differ by

// ------------------------------------------------------------------------------------------- what a message does

/** The actions that a rational user may take: those as good as every other one, given the totals in each x_B. */
function tied(cells, weights, totals) {
  const ahead = (a, c) => sum(cells.map((g, xb) => weights[xb] * Math.max(g[a] - g[c], 0)));
  const good = (a, c) => a === c || ahead(a, c) * (1 + TIE) >= ahead(c, a) * (1 - TIE);
  return range(totals.length).filter((a) => totals.every((_, c) => good(a, c)));
}

/** The probabilities with which a quantal user takes actions of these expected utilities. */
function logit(values, precision) {
  const best = Math.max(...values);
  const odds = values.map((x) => Math.exp(precision * (x - best)));
  const total = sum(odds);
  return odds.map((x) => x / total);
}

/** The sum over x_B of the totals [xb][a], weighted. */
function weighted(cells, weights) {
  const total = cells[0].map((x) => weights[0] * x);
  for (let xb = 1; xb < cells.length; xb++) {
    for (let a = 0; a < total.length; a++) total[a] += weights[xb] * cells[xb][a];
  }
  return total;
}

/**
 * What user and agents get from a message that is sent with probability weights[xb] at each x_B: {user, agents}.
 * A rational user breaks ties for the agent whose payoff it is.
 */
export function message({ mass, user, agents }, weights, precision) {
  const paid = { user: 0, agents: agents.map(() => 0) };
  mass.forEach((row, xa) => {
    const total = dot(row, weights);
    if (!(total > 0)) return;
    const own = weighted(user.totals[xa], weights);
    let worth;
    if (precision === Infinity) {
      const actions = tied(user.totals[xa], weights, own);
      worth = (payoffs) => Math.max(...actions.map((a) => payoffs[a]));
    } else {
      const odds = logit(
        own.map((x) => x / total),
        precision,
      );
      worth = (payoffs) => dot(odds, payoffs);
    }
    paid.user += worth(own) + dot(user.zero[xa], weights);
    agents.forEach(({ totals, zero }, i) => {
      paid.agents[i] += worth(weighted(totals[xa], weights)) + dot(zero[xa], weights);
    });
  });
  return paid;
}

/** What user and agents get without information and with all that agents know: {none, full}. */
export function benchmarks(reduced, precision) {
  const columns = reduced.mass[0].map((_, xb) => xb);
  const told = columns.map((xb) =>
    message(
      reduced,
      columns.map((k) => Number(k === xb)),
      precision,
    ),
  );
  return {
    none: message(
      reduced,
      columns.map(() => 1),
      precision,
    ),
    full: {
      user: sum(told.map((t) => t.user)),
      agents: reduced.agents.map((_, i) => sum(told.map((t) => t.agents[i]))),
    },
  };
}

// ---------------------------------------------------------------------------------- concavification over a line

const GRID = 500; // beliefs at which a quantal user's values are computed, besides those near indifference

/** Upper hull of points [t, value] in ascending order of t. */
function upperHull(points) {
  const hull = [];
  for (const p of points) {
    while (hull.length > 1 || (hull.length && hull[0][0] === p[0])) {
      const [b, a] = [last(hull), hull[hull.length - 2]];
      if (b[0] === p[0] ? b[1] > p[1] : (b[1] - a[1]) * (p[0] - a[0]) > (p[1] - a[1]) * (b[0] - a[0])) break;
      hull.pop();
    }
    if (!hull.length || last(hull)[0] < p[0]) hull.push(p);
  }
  return hull;
}

/** The two points of the hull around t and their weights: [[point, weight], ...]. */
function support(hull, t) {
  const right = hull.findIndex((p) => p[0] >= t);
  if (right === 0 || hull[right][0] === t) return [[hull[right], 1]];
  const [a, b] = [hull[right - 1], hull[right]];
  const share = (t - a[0]) / (b[0] - a[0]);
  return [
    [a, 1 - share],
    [b, share],
  ];
}

/**
 * For XB = 2: the values of the user and of every agent as functions of the belief t, the probability of the second
 * x_B, each with its concave closure. null if x_B is known or has more values.
 *
 * Each party: pieces [[t, value], ...] of its graph, points [t, value] at which a rational user is indifferent, hull,
 * and at, the value of the closure at the prior with its support. `kinks` are the beliefs of indifference.
 */
export function concavification(reduced, precision) {
  const belief = reduced.mass[0].map((_, xb) => sum(reduced.mass.map((row) => row[xb])));
  if (belief.length !== 2 || !(Math.min(...belief) > 0)) return null;
  const prior = belief[1] / sum(belief);
  const at = (t) => message(reduced, [(1 - t) / belief[0], t / belief[1]], precision);
  const inner = [];
  for (const cells of reduced.user.totals) {
    for (const [a, c] of pairs(cells[0].length, cells[0].length).filter(([a, c]) => a < c)) {
      const [x, y] = cells.map((g, xb) => (g[a] - g[c]) / belief[xb]);
      if (x * y < 0) inner.push(x / (x - y));
    }
  }
  const sorted = [...new Set([0, ...inner.sort((x, y) => x - y), 1])];
  const kinks = sorted.filter((t, k) => k === 0 || t - sorted[k - 1] > 1e-12);
  const parties = [(paid) => paid.user, ...reduced.agents.map((_, i) => (paid) => paid.agents[i])];
  if (precision === Infinity) {
    const met = kinks.map(at);
    const inside = kinks.slice(1).map((right, k) => {
      const width = right - kinks[k];
      return [at(kinks[k] + width / 3), at(right - width / 3)];
    });
    const exact = parties.map((of) => {
      // Within a piece the response is one action, so that values are linear.
      const pieces = inside.map(([first, second], k) => [
        [kinks[k], 2 * of(first) - of(second)],
        [kinks[k + 1], 2 * of(second) - of(first)],
      ]);
      const points = kinks.map((t, k) => [t, of(met[k])]);
      const all = [...pieces.flat(), ...points].sort((p, q) => p[0] - q[0]);
      return { pieces, points, ...closed(upperHull(all), prior) };
    });
    return { prior, kinks, parties: exact };
  }
  const near = kinks.flatMap((t) => range(18).flatMap((j) => [t - 2 ** (-j - 3), t + 2 ** (-j - 3)]));
  const grid = [...range(GRID + 1).map((k) => k / GRID), ...kinks, ...near, prior].filter((t) => t >= 0 && t <= 1);
  const beliefs = [...new Set(grid)].sort((x, y) => x - y);
  const met = beliefs.map(at);
  const smooth = parties.map((of) => {
    const graph = beliefs.map((t, k) => [t, of(met[k])]);
    // The support of the closure at the prior is found again on finer and finer grids around itself.
    let hull = upperHull(graph);
    for (let width = 1 / GRID; width > 1e-9; width /= 6) {
      const around = support(hull, prior).map(([[t]]) => t);
      const finer = around.flatMap((t) => range(13).map((k) => t + ((k - 6) / 6) * width));
      const added = finer.filter((t) => t >= 0 && t <= 1).map((t) => [t, of(at(t))]);
      const kept = hull.filter(([t]) => around.some((s) => Math.abs(s - t) <= 2 / GRID));
      const local = upperHull([...kept, ...added].sort((p, q) => p[0] - q[0]));
      hull = upperHull([...hull, ...local].sort((p, q) => p[0] - q[0]));
    }
    return { pieces: [graph], points: [], ...closed(hull, prior) };
  });
  return { prior, kinks, parties: smooth, userAt: (t) => at(t).user };
}

function closed(hull, prior) {
  const around = support(hull, prior);
  return { hull, around, value: sum(around.map(([[, value], weight]) => value * weight)) };
}
