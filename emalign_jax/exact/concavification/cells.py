"""Upper bounds of the payoff of any belief in a cell, for a quantal user and many cells at once.

A cell is a sub-simplex of beliefs with vertices v_i. phi is the sum of phi_t = D_t psi_t over types t. Section 5.3 of
docs/model.md derives four bounds of phi_t on a cell (`type_bounds.py`). Each has the form
sum_i beta_i (phi_t(v_i) + excess_i), with beta the weights of the vertices, so that for any choice of a bound for each
type the largest vertex value bounds the cell. The choice is improved in a few steps (`_improved`).

The excess of an edge is assigned mainly to its lower vertex (by the choice of s there). Cells are divided along the
edge that contributes most of those at the vertex whose value is the bound, since other edges hardly matter for it.
All this is float64: bounds hold up to rounding, about 1e-12 of the payoffs.

Functions work on NumPy and jax arrays alike (`xp`). Vertices v, edges e and actions a are Python lists of arrays [T, N]
(T types, N cells) or [N]: sums that are written out become one loop when compiled, and other sums several slow ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from emalign_jax.exact.concavification.quantal import mix, total
from emalign_jax.exact.concavification.type_bounds import TINY, away, by_order, edges, least, most, tilts
from emalign_jax.internal.xla import stage

# Relative to the target: types that together can add no more than this are not bounded more closely.
NEGLIGIBLE = 0.05
# Candidate weights of one end of an edge against the other.
WEIGHTS = (1e-4, 1e-2, 0.2, 0.5, 0.8, 1 - 1e-2, 1 - 1e-4)
# The range of the point of an edge at which a cell is divided.
CUTS = (0.02, 0.98)
# How often the choice of bounds is improved, and how much weight the largest vertex value gains in a step.
STEPS, STEP_SIZE = 3, 2.0


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
    """Upper bounds [N] of value less price, the values at the vertices [V, N], and two places to divide: the number of
    an edge of `edges` [2, N] and the share of the way from its first end [2, N], first of an edge at the vertex whose
    value is the bound, then of any."""
    posterior = _posterior(cells, xp=xp)
    mass, values, at_most, mean = _vertices(cells, *posterior, xp=xp)
    first, second, third = by_order(cells.precision, *posterior, mean, xp=xp)
    pair, by_pairs, part, cut = _pairs(mass, first, second, third, xp=xp)
    untilted = _assigned(mass, at_most, first, pair, by_pairs, xp=xp)
    logs, tilted = tilts(cells.precision, *posterior, mean, xp=xp)
    choice = _undecided(at_most, xp=xp)
    for _ in range(STEPS):
        choice = _improved(choice, mass, at_most, untilted, logs, tilted, xp=xp)
    return choice.bound, *_division(values, choice.at, part, cut, xp=xp)


@stage()
def _division(values, at, part, cut, xp):
    top, edge, share = most(at, xp), [], []
    binding = [(at[i] >= top) | (at[j] >= top) for i, j in edges(len(at))]
    for some in ([xp.where(own, p, -1) for own, p in zip(binding, part, strict=True)], part):
        chosen, larger, where = 0 * top, some[0], cut[0]
        for e in range(1, len(some)):
            better = some[e] > larger
            chosen, where = xp.where(better, e, chosen), xp.where(better, cut[e], where)
            larger = xp.maximum(some[e], larger)
        edge.append(chosen)
        share.append(xp.clip(xp.where(larger > 0, where, 0.5), *CUTS))
    return xp.stack(values), xp.stack(edge).astype(int), xp.stack(share)


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
def _assigned(mass, values, first, pair, by_pairs, xp) -> list[list[Any]]:
    """The first bound at each vertex, and what the excess of the edges adds there."""
    at, ends = [0 * m for m in mass], edges(len(mass))
    by_vertex = [m * f for m, f in zip(mass, first, strict=True)]
    alone = most(by_vertex, xp)
    for (i, j), p in zip(ends, pair, strict=True):
        share = _share(mass[i], mass[j], xp.where(alone < by_pairs, 0, p), values[i], values[j], len(mass) - 1, xp)
        at[i] += share * share * p * mass[i]
        at[j] += (1 - share) * (1 - share) * p * mass[j]
    return [by_vertex, at]


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


class _Choice(NamedTuple):
    """Bounds chosen for the types.

    weights: [V][N] of the vertices, adding up to 1: those of large values count more in the next choice
    bound:   [N] the smallest largest vertex value of all choices so far
    at:      [V][N] the vertex values of the choice that has it
    """

    weights: Any
    bound: Any
    at: Any


@stage()
def _undecided(values, xp) -> _Choice:
    even = [0 * x + 1 / len(values) for x in values]
    return _Choice(even, 0 * values[0] + np.inf, values)


def _improved(choice: _Choice, mass, values, untilted, logs, tilted, xp) -> _Choice:
    """For each type the bound that is least on average over the vertices; any choice is valid.

    The smallest largest vertex value over mixtures of bounds is the largest of these averages over the weights of the
    vertices: as in learning to play a zero-sum game, the weights follow the vertex values.
    """
    entropy = away(choice.weights, mass, logs, xp=xp)
    excess = _least_on_average(choice.weights, mass, untilted, tilted, entropy, xp=xp)
    return _followed(choice, values, excess, xp=xp)


@stage()
def _least_on_average(weights, mass, untilted, tilted, entropy, xp) -> list[Any]:
    V = range(len(mass))
    excess, fewest = untilted[0], total([weights[v] * untilted[0][v] for v in V])
    for other in untilted[1:]:
        average = total([weights[v] * other[v] for v in V])
        excess = [xp.where(average < fewest, x, y) for x, y in zip(other, excess, strict=True)]
        fewest = xp.minimum(average, fewest)
    for inverse, moved in tilted:
        other = [mass[v] * xp.maximum(moved[v] + inverse * entropy[v], 0) for v in V]
        average = total([weights[v] * other[v] for v in V])
        excess = [xp.where(average < fewest, x, y) for x, y in zip(other, excess, strict=True)]
        fewest = xp.minimum(average, fewest)
    return excess


@stage()
def _followed(choice: _Choice, values, excess, xp) -> _Choice:
    at = [x + y.sum(0) for x, y in zip(values, excess, strict=True)]
    top = most(at, xp)
    better = top < choice.bound  # Where a bound overflowed, nothing is proved.
    spread = xp.maximum(top - least(at, xp), TINY)
    follow = [w * xp.exp(STEP_SIZE * (x - top) / spread) for w, x in zip(choice.weights, at, strict=True)]
    whole = 1 / total(follow)
    kept = [xp.where(better, x, y) for x, y in zip(at, choice.at, strict=True)]
    return _Choice([x * whole for x in follow], xp.where(better, top, choice.bound), kept)
