"""Four bounds of one type's payoff on a cell of beliefs, for a quantal user (section 5.3 of docs/model.md).

psi is the expectation of the agent's conditional payoffs W under the response sigma, a softmax of the precision L times
the user's E; on a cell, E and W are mixtures of their values at the vertices. Bounded is by how much psi may exceed the
mixture of its values at the vertices: by an excess at each vertex, or at each edge.

As in `cells.py`, vertices v, edges e and actions a are Python lists of arrays [T, N].
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

from emalign_jax.exact.concavification.quantal import total
from emalign_jax.internal.xla import stage

TINY = 1e-300
# How strongly the response is tilted towards what pays the agent, over the range of its payoffs on the cell.
TILTS = (1.0, 5.0, 25.0)


def edges(V: int) -> list[tuple[int, int]]:
    """The ends (i, j), i < j, of the edges of a cell."""
    return list(itertools.combinations(range(V), 2))


def most(parts: list[Any], xp) -> Any:
    return functools.reduce(xp.maximum, parts)


def least(parts: list[Any], xp) -> Any:
    return functools.reduce(xp.minimum, parts)


@stage()
def by_order(L, mass, E, W, response, mean, xp) -> tuple[list[Any], list[Any], list[Any]]:
    """The first three bounds: `first` at each vertex per mass, and `second` and `third` on each edge, times
    x y / (sqrt x + sqrt y)^2 of the masses x, y at its ends."""
    A, V = range(len(E)), range(len(mass))
    high, low = _responses(L, E, xp)
    first, best = [], []  # The mean payoff exceeds its vertex value by at most `first`, and is at most `best`.
    for v in V:
        above = 0.0
        for b in A:  # The smallest of these is the largest mean payoff of probabilities between `low` and `high`.
            apart = [W[a][v] - W[b][v] for a in A if a != b]
            ranges = zip(_but(low, b), _but(high, b), apart, strict=True)
            room = [xp.maximum(lower * x, upper * x) for lower, upper, x in ranges]
            reached = W[b][v] - mean[v] + total([0 * mean[v], *room])
            above = reached if b == 0 else xp.minimum(above, reached)
        first.append(xp.maximum(above, 0))
        best.append(mean[v] + first[v])

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
        short = most([2 * best[v] - W[a][v] - W[b][v] for v in V], xp)  # Of twice the mean payoff.
        bend, half, middle = L * xp.maximum(above * short, below * short), (above - below) / 2, above + below
        apart = [W[a][v] - W[b][v] for v in V]
        top, bottom = most(apart, xp), least(apart, xp)
        reach = xp.maximum(above * top, below * top) - xp.minimum(above * bottom, below * bottom)
        for e in range(len(ends)):
            xs, ys = x[a][e] - x[b][e], y[a][e] - y[b][e]
            second[e] += L * ((bend + half * ratio) * xs * xs + half / ratio * ys * ys - middle * xs * ys)
            third[e] += L * xp.abs(xs) * reach
    return first, [xp.maximum(z, 0) / 2 for z in second], third


def _responses(L, E, xp) -> tuple[list[Any], list[Any]]:
    """Upper and lower bounds of the response on the cell."""
    high, low = [], []
    for a, own in enumerate(E):
        apart = [[L * (x - y) for x, y in zip(other, own, strict=True)] for other in _but(E, a)]
        high.append(1 / total([1 + 0 * own[0], *(xp.exp(least(x, xp)) for x in apart)]))
        low.append(1 / total([1 + 0 * own[0], *(xp.exp(most(x, xp)) for x in apart)]))
    return high, low


def _but(parts: list[Any], a: int) -> list[Any]:
    return parts[:a] + parts[a + 1 :]


@stage()
def tilts(L, mass, E, W, response, mean, xp) -> tuple[list[Any], list[Any]]:
    """Logarithms of the response by action and vertex, and for each strength eta of `TILTS` by vertex
    log E exp(eta (W - mean)) / eta under the response; with the inverses of these strengths."""
    A, V = range(len(E)), range(len(mass))
    everything = [x for own in W for x in own]
    spread = most(everything, xp) - least(everything, xp)
    best = [most([E[a][v] for a in A], xp) for v in V]
    whole = [xp.log(total([xp.exp(L * (E[a][v] - best[v])) for a in A])) for v in V]
    logs = [[L * (E[a][v] - best[v]) - whole[v] for v in V] for a in A]
    tilted = []
    for strength in TILTS:
        rate, inverse = strength / xp.maximum(spread, TINY), spread / strength
        moved = [total([response[a][v] * xp.exp(rate * (W[a][v] - mean[v])) for a in A]) for v in V]
        tilted.append((inverse, [inverse * xp.log(x) for x in moved]))
    return logs, tilted


@stage()
def away(weights, mass, logs, xp) -> list[Any]:
    """The relative entropy, to the response at each vertex, of the response where the vertices have these weights. Of
    all references this one has the least average over the vertices."""
    A, V = range(len(logs)), range(len(mass))
    sent = [weights[v] * mass[v] for v in V]
    whole = total(sent)
    inverse = 1 / xp.where(whole > 0, whole, float("inf"))
    middle = [total([sent[v] * logs[a][v] for v in V]) * inverse for a in A]
    best = most(middle, xp)
    power = [xp.exp(x - best) for x in middle]
    size = total(power)
    reference, shift = [x / size for x in power], best + xp.log(size)
    return [xp.maximum(total([reference[a] * (middle[a] - shift - logs[a][v]) for a in A]), 0) for v in V]
