"""Upper bounds of the payoff of any belief in a cell, for a quantal user and many cells at once.

A cell is a sub-simplex of beliefs with vertices v_i. phi is the sum of phi_t = D_t psi_t over types t. Section 5.3 of
docs/model.md derives three bounds of phi_t on a cell, called `first`, `second` and `third` here. Each has the form
sum_i lambda_i (phi_t(v_i) + excess_i), with lambda the weights of the vertices, so that the largest vertex value bounds
the cell. E and W are the user's and the agent's expected payoffs of the actions.

The excess of an edge is assigned mainly to its lower vertex (by the choice of s there). Cells are divided along the
edge that contributes most. All this is float64: bounds hold up to rounding, about 1e-12 of the payoffs.

Functions work on NumPy and jax arrays alike (`xp`). Vertices v, edges e and actions a are Python lists of arrays [T, N]
(T types, N cells) or [N]: sums that are written out become one loop when compiled, and other sums several slow ones.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

from emalign_jax.exact.concavification.quantal import mix, total
from emalign_jax.internal.xla import stage

# Relative to the target: types that together can add no more than this are not bounded more closely.
NEGLIGIBLE = 0.05
# Candidate weights of one end of an edge against the other.
WEIGHTS = (1e-4, 1e-2, 0.2, 0.5, 0.8, 1 - 1e-2, 1 - 1e-4)
# The range of the point of an edge at which a cell is divided.
CUTS = (0.02, 0.98)
# Candidate multiples of a type's excess that stand for the excess of the other types.
OTHER_TYPES = (1.0, 3.0, 30.0)
TINY = 1e-300


class Cells(NamedTuple):
    """N cells, each with the numbers of its problem.

    vertices:  [V, B, N]
    mass:      [B, T, N]; user, goal: [B, A, T, N]; price: [B, N]
    precision: [N]
    target:    [N] how close to 0 the bound of value less price is wanted
    """

    vertices: Any
    mass: Any
    user: Any
    goal: Any
    price: Any
    precision: Any
    target: Any


def bound(cells: Cells, xp) -> tuple[Any, Any, Any, Any]:
    """Upper bounds [N] of value less price, the values at the vertices [V, N], and where to divide: the number of an
    edge of `edges` [N] and the share of the way from its first end [N]."""
    posterior = _posterior(cells, xp=xp)
    mass, values, at_most, mean = _vertices(cells, *posterior, xp=xp)
    first, second, third = _type_bounds(cells.precision, *posterior, mean, xp=xp)
    pair, by_pairs, part, cut = _pairs(mass, first, second, third, xp=xp)
    by_edges = _assigned(mass, at_most, first, pair, by_pairs, xp=xp)
    bounds = _smallest(mass, at_most, first, by_edges, xp=xp)
    return bounds, *_division(values, part, cut, xp=xp)


@stage()
def _division(values, part, cut, xp):
    edge, top, share = 0, part[0], cut[0]
    for e in range(1, len(part)):
        edge, share = xp.where(part[e] > top, e, edge), xp.where(part[e] > top, cut[e], share)
        top = xp.maximum(part[e], top)
    edge = edge + xp.zeros(top.shape, int)
    return xp.stack(values), edge, xp.clip(xp.where(top > 0, share, 0.5), *CUTS)


def edges(V: int) -> list[tuple[int, int]]:
    """The ends (i, j), i < j, of the edges of a cell."""
    return list(itertools.combinations(range(V), 2))


def most(parts: list[Any], xp) -> Any:
    return functools.reduce(xp.maximum, parts)


def least(parts: list[Any], xp) -> Any:
    return functools.reduce(xp.minimum, parts)


@stage()
def _posterior(cells: Cells, xp):
    """At each vertex the mass of each type, and by action the expectations E and W and the response. Where a type has
    probability 0 its posterior is arbitrary: the mean of the cell's other vertices."""
    A, L = cells.user.shape[1], cells.precision
    mass = [mix(vertex, cells.mass) for vertex in cells.vertices]
    whole = total(mass)
    scale = [1 / xp.where(m > 0, m, np.inf) for m in mass]
    otherwise = 1 / xp.where(whole > 0, whole, np.inf)

    def expected(numbers):
        totals = [mix(vertex, numbers) for vertex in cells.vertices]
        mean = total(totals) * otherwise
        return [xp.where(m > 0, x * s, mean) for m, x, s in zip(mass, totals, scale, strict=True)]

    E, W = ([expected(x[:, a]) for a in range(A)] for x in (cells.user, cells.goal))
    response = []
    for v in range(len(mass)):
        best = most([E[a][v] for a in range(A)], xp)
        power = [xp.exp(L * (E[a][v] - best)) for a in range(A)]
        share = 1 / total(power)
        response.append([x * share for x in power])
    return mass, E, W, [[response[v][a] for v in range(len(mass))] for a in range(A)]


@stage()
def _vertices(cells: Cells, mass, E, W, response, xp):
    """The masses of the types that vary on the cell (else 0), the values at the vertices and these plus the excess of
    the types that do not vary, and which vary.

    Most types take the same action on the whole cell. The odds of the other actions bound the excess of a type.
    """
    A, V = range(len(E)), range(len(mass))
    mean = [total([response[a][v] * W[a][v] for a in A]) for v in V]
    values = [(mass[v] * mean[v]).sum(0) - mix(cells.vertices[v], cells.price) for v in V]
    surest, likely = -np.inf, response[0]
    for own in response:
        sure = least(own, xp)
        likely = [xp.where(sure > surest, x, y) for x, y in zip(own, likely, strict=True)]
        surest = xp.maximum(sure, surest)
    odds = total([most([x / xp.maximum(y, TINY) for x, y in zip(own, likely, strict=True)], xp) for own in response])
    everything = [x for own in W for x in own]
    above = xp.minimum(odds - 1, 1) * (most(everything, xp) - least(everything, xp))
    varies = above * most(mass, xp) > NEGLIGIBLE / len(above) * cells.target
    settled = xp.where(varies, 0, above)
    at_most = [values[v] + (mass[v] * settled).sum(0) for v in V]
    return [xp.where(varies, m, 0) for m in mass], values, at_most, mean


@stage()
def _type_bounds(L, mass, E, W, response, mean, xp) -> tuple[list[Any], list[Any], list[Any]]:
    """By how much phi_t may exceed the mixture of its vertex values: `first` at each vertex per mass, and `second` and
    `third` on each edge, times x y / (sqrt x + sqrt y)^2 of the masses x, y at its ends."""
    A, V = range(len(E)), range(len(mass))
    high, low = [], []  # Bounds of the response on the cell.
    for a in A:
        apart = [[L * (E[b][v] - E[a][v]) for v in V] for b in A]
        high.append(1 / total([xp.exp(least(x, xp)) for x in apart]))
        low.append(1 / total([xp.exp(most(x, xp)) for x in apart]))
    # By how much action a may pay less than the mean response.
    short = [total([high[b] * xp.maximum(most([W[b][v] - W[a][v] for v in V], xp), 0) for b in A]) for a in A]
    first = []  # The mean payoff exceeds its vertex value by at most this.
    for v in V:
        apart = [W[a][v] - mean[v] for a in A]
        room = [xp.maximum((high[a] - response[a][v]) * apart[a], (low[a] - response[a][v]) * apart[a]) for a in A]
        first.append(xp.maximum(total(room), 0))

    ends, pairs = edges(len(mass)), list(itertools.combinations(A, 2))
    x, y = ([[own[i] - own[j] for i, j in ends] for own in z] for z in (E, W))  # By action and edge.
    third = [most([own[e] for own in y], xp) - least([own[e] for own in y], xp) for e in range(len(ends))]
    second = [0 * z for z in third]
    if not pairs:
        return first, second, third
    squares = [total([(z[a][e] - z[b][e]) ** 2 for a, b in pairs for e in range(len(ends))]) for z in (x, y)]
    ratio = xp.sqrt(squares[1] / xp.maximum(squares[0], TINY)) + TINY
    for a, b in pairs:
        above, below = xp.minimum(high[a] * high[b], 0.25), low[a] * low[b]
        bend, half, middle = L * above * (short[a] + short[b]), (above - below) / 2, above + below
        apart = [W[a][v] - W[b][v] for v in V]
        top, bottom = most(apart, xp), least(apart, xp)
        reach = xp.maximum(above * top, below * top) - xp.minimum(above * bottom, below * bottom)
        for e in range(len(ends)):
            xs, ys = x[a][e] - x[b][e], y[a][e] - y[b][e]
            second[e] += L * ((bend + half * ratio) * xs * xs + half / ratio * ys * ys - middle * xs * ys)
            third[e] += L * xp.abs(xs) * reach
    return first, [xp.maximum(z, 0) / 2 for z in second], third


@stage()
def _pairs(mass, first, second, third, xp):
    """For each edge the smaller bound, and their sum with the weights of the edges; how much each edge contributes and
    where to divide it [N]."""
    V, ends = range(len(mass)), edges(len(mass))
    root = [xp.sqrt(m) for m in mass]
    whole = [root[i] + root[j] for i, j in ends]
    even = [mass[i] * mass[j] / xp.maximum(w * w, TINY) for (i, j), w in zip(ends, whole, strict=True)]
    # An edge is treated separately if one of its ends is among the vertices of the smallest masses.
    place = [total([(mass[u] < mass[v]) * 1 if u > v else (mass[u] <= mass[v]) * 1 for u in V if u != v]) for v in V]
    place = [xp.minimum(place[i], place[j]) for i, j in ends]
    pair = second
    by_pairs = total([w * x for w, x in zip(even, pair, strict=True)])
    for number in V[1:]:  # The number of vertices that are treated separately.
        mixed = [xp.where(p < number, z, x) for p, z, x in zip(place, third, second, strict=True)]
        cost = total([w * x for w, x in zip(even, mixed, strict=True)])
        pair = [xp.where(cost < by_pairs, x, z) for x, z in zip(mixed, pair, strict=True)]
        by_pairs = xp.minimum(cost, by_pairs)
    # The response of a type that is rare at one end changes near that end, so the cell is divided nearer to it.
    part = [xp.sqrt(w * c) for w, c in zip(even, second, strict=True)]
    alone = most([m * f for m, f in zip(mass, first, strict=True)], xp)
    size = xp.minimum(alone, by_pairs) / xp.maximum(total(part), TINY)
    part = [p * size for p in part]
    nearer = [(p * root[i] / xp.maximum(w, TINY)).sum(0) for (i, _), p, w in zip(ends, part, whole, strict=True)]
    part = [p.sum(0) for p in part]
    return pair, by_pairs, part, [n / xp.maximum(p, TINY) for n, p in zip(nearer, part, strict=True)]


@stage()
def _assigned(mass, values, first, pair, by_pairs, xp) -> list[Any]:
    """What the excess of the edges adds at each vertex."""
    at, ends = [0 * m for m in mass], edges(len(mass))
    alone = most([m * f for m, f in zip(mass, first, strict=True)], xp)
    for (i, j), p in zip(ends, pair, strict=True):
        share = _share(mass[i], mass[j], xp.where(alone < by_pairs, 0, p), values[i], values[j], len(mass) - 1, xp)
        at[i] += share * share * p * mass[i]
        at[j] += (1 - share) * (1 - share) * p * mass[j]
    return at


def _share(x, y, pair, at_i, at_j, edges_of_vertex: int, xp):
    """s [T, N] in x y / (x + y) <= s^2 x + (1 - s)^2 y, where x and y are the masses at the ends of an edge. Any s in
    [0, 1] is valid; it is chosen so that the end with the lower value gets most of the excess."""
    fewest, best = np.inf, 0.5
    for weight in WEIGHTS:
        share = (1 - weight) * y / xp.maximum(weight * x + (1 - weight) * y, TINY)
        added_i, added_j = (share * share * pair * x).sum(0), ((1 - share) * (1 - share) * pair * y).sum(0)
        larger = xp.maximum(at_i / edges_of_vertex + added_i, at_j / edges_of_vertex + added_j)
        best = xp.where(larger < fewest, share, best)
        fewest = xp.minimum(larger, fewest)
    return best


@stage()
def _smallest(mass, values, first, by_edges, xp):
    """The smallest bound found [N]."""
    V, bounds = range(len(values)), np.inf
    first = [m * f for m, f in zip(mass, first, strict=True)]
    for others in OTHER_TYPES:  # Which bound is better for a type depends on the excess of the others.
        alone = most([values[v] + others * first[v] for v in V], xp)
        better = alone < most([values[v] + others * by_edges[v] for v in V], xp)
        at = [values[v] + xp.where(better, first[v], by_edges[v]).sum(0) for v in V]
        bounds = xp.minimum(bounds, most(at, xp))
    return xp.where(xp.isfinite(bounds), bounds, np.inf)  # Where a bound overflowed, nothing is proved.
