"""An upper bound of the payoff of any belief with a quantal user, by branch and bound over sub-simplices.

`column_generation.py` gives a price for each x_B. It remains to bound the maximum over the simplex of
phi(mu) - price @ mu, where phi is the sum of phi_t = D_t psi_t over types t. Section 5.3 of docs/model.md derives three
bounds of phi_t on a cell (a sub-simplex with vertices v_i), called `first`, `second` and `third` here. Each has the
form sum_i lambda_i (phi_t(v_i) + excess_i), with lambda the weights of the vertices, so that the largest vertex value
bounds the cell. E and W are the user's and the agent's expected payoffs of the actions.

The excess of an edge is assigned mainly to its lower vertex (by the choice of s there). Cells are divided along the
edge that contributes most. All this is float64: bounds hold up to rounding, about 1e-12 of the payoffs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.concavification.beliefs import BeliefProblem
from emalign_jax.exact.concavification.interleaving import Search, alone

# For a larger precision no bound is given: its square might overflow.
MAX_PRECISION = 1e9
# Cells bounded in one pass, so that arrays stay in the cache.
CELL_BLOCK = 256
# Relative to the target: types that together can add no more than this are not bounded more closely.
NEGLIGIBLE = 0.05
# Candidate weights of one end of an edge against the other.
WEIGHTS = (1e-4, 1e-2, 0.2, 0.5, 0.8, 1 - 1e-2, 1 - 1e-4)
# The range of the point of an edge at which a cell is divided.
CUTS = (0.02, 0.98)
# Candidate multiples of a type's excess that stand for the excess of the other types.
OTHER_TYPES = (1.0, 3.0, 30.0)
# The largest number of beliefs above the target that are returned.
REFUTATIONS = 8


class PricingBound(NamedTuple):
    """Bounds of the maximum over beliefs of the payoff less the price.

    upper: an upper bound of the maximum
    best:  the largest difference found, attained at the first belief of `at`
    at:    [N, B] beliefs whose difference exceeds the target, or the best one
    work:  the number of operations
    """

    upper: float
    best: float
    at: Float[np.ndarray, "N B"]
    work: int


def bound_pricing(
    problem: BeliefProblem, goal: Float[np.ndarray, "B TA"], price: Float[np.ndarray, "B"], target: float, work: int
) -> PricingBound:
    """`pricing_bound` for one problem."""
    return alone(pricing_bound(problem, goal, price, target, work))


def pricing_bound(
    problem: BeliefProblem, goal: Float[np.ndarray, "B TA"], price: Float[np.ndarray, "B"], target: float, work: int
) -> Search[PricingBound]:
    """Bound the maximum over the simplex of `problem.value(mu, goal) - price @ mu`, until it is proved to be at most
    `target`, a belief above it is found, or `work` is used up (per cell: edges x types x pairs of actions)."""
    B, T, A = problem.own_payoff.shape
    if B == 1:
        best = float((problem.value(np.ones((1, 1)), goal) - price)[0])
        return PricingBound(best, best, np.ones((1, 1)), 0)
    if not float(problem.user.precision) <= MAX_PRECISION:
        return PricingBound(np.inf, -np.inf, np.eye(B)[:1], 0)
    cost = max(1, B * (B - 1) // 2 * T * A * (A - 1) // 2)
    pool = [(np.eye(B)[None], np.array([np.inf]))]  # Sub-simplices [N, B, B] and their bounds so far.
    proved, best, at, used = -np.inf, -np.inf, pool[0][0][0, :1], 0
    while pool and used < work and best <= target:
        cells = _take(pool, CELL_BLOCK)
        used += len(cells) * cost
        bounds, values, edges = yield Cells(problem, goal, price, cells, target)
        bounds = np.where(np.isfinite(bounds), bounds, np.inf)  # Where a bound overflowed, nothing is proved.
        if values.max() > best:
            best = float(values.max())
            at = cells.reshape(-1, B)[np.argsort(-values.ravel())[: max(1, min(REFUTATIONS, (values > target).sum()))]]
        left = bounds > target
        proved = max(proved, float(bounds[~left].max(initial=-np.inf)))
        if left.any():
            pool.append((_split(cells[left], edges[left]), np.tile(bounds[left], 2)))
    return PricingBound(max([proved, *(float(bounds.max()) for _, bounds in pool)]), best, at, used)


def _take(pool: list, count: int) -> np.ndarray:
    """Remove and return the last `count` cells of the pool, or all."""
    taken = []
    while pool and count:
        cells, bounds = pool.pop()
        if len(cells) > count:
            pool.append((cells[:-count], bounds[:-count]))
            cells = cells[-count:]
        taken.append(cells)
        count -= len(cells)
    return np.concatenate(taken)


def _split(cells: Float[np.ndarray, "N V B"], edges) -> Float[np.ndarray, "2*N V B"]:
    """Divide each cell in two at a point of an edge: (i, j, share of the way from i to j) [N, 3]."""
    rows = np.arange(len(cells))
    i, j, share = edges[:, 0].astype(int), edges[:, 1].astype(int), edges[:, 2:]
    middle = (1 - share) * cells[rows, i] + share * cells[rows, j]
    halves = np.concatenate([cells, cells])
    halves[rows, i] = middle
    halves[len(cells) + rows, j] = middle
    return halves


def bound_cells(problem: BeliefProblem, goal, price, cells: Float[np.ndarray, "N V B"], target: float):
    """Upper bounds [N] of value - price @ mu on each cell, the values at its vertices [N, V], and where to divide it:
    edge (i, j) and the share of the way from i to j [N, 3]."""
    return Cells.serve([Cells(problem, goal, price, cells, target)])[0]


class Cells(NamedTuple):
    """A request to bound these cells, see `interleaving.py`.

    Below, V is the number of vertices, e of edges, P of pairs of a cell and a type; the axis of cells or pairs comes
    last, so that sums over the other axes run along memory.
    """

    problem: BeliefProblem
    goal: Float[np.ndarray, "B TA"]
    price: Float[np.ndarray, "B"]
    cells: Float[np.ndarray, "N V B"]
    target: float

    @property
    def size(self) -> tuple[int, int, int]:
        return self.problem.own_payoff.shape

    @property
    def work(self) -> int:
        B, T, A = self.size
        return len(self.cells) * B * T * A

    @staticmethod
    def serve(requests: list[Cells]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The results of `bound_cells` for each request."""
        counts = [len(r.cells) for r in requests]
        ends = np.cumsum(counts)
        (B, T, A), N = requests[0].size, ends[-1]
        mass, totals, values = np.empty((B, N, T)), np.empty((2, A, B, N, T)), np.empty((B, N))
        for r, count, end in zip(requests, counts, ends, strict=True):
            at = slice(end - count, end)
            vertices = r.cells.swapaxes(0, 1).reshape(B * count, B)
            mass[:, at], *found = (x.reshape(B, count, *x.shape[1:]) for x in r.problem.totals(vertices, r.goal))
            totals[0, :, :, at], totals[1, :, :, at] = (np.moveaxis(x, -1, 0) for x in found)
            values[:, at] = -(vertices @ r.price).reshape(B, count)
        precision = np.repeat([float(r.problem.user.precision) for r in requests], counts)
        target = np.repeat([r.target for r in requests], counts)
        bounds, edges = _bound(precision, mass, totals, values, target)
        return [
            (bounds[end - count : end], values[:, end - count : end].T, edges[end - count : end])
            for count, end in zip(counts, ends, strict=True)
        ]


def _bound(L: Float[np.ndarray, "N"], mass: Float[np.ndarray, "V N T"], totals, values, target: Float[np.ndarray, "N"]):
    """Bounds [N] and where to divide the cells [N, 3]; adds the payoffs at the vertices to `values` [V, N]. totals:
    the user's and the goal's [2, A, V, N, T]."""
    V, N, T = mass.shape
    # At a vertex where a type has probability 0 its posterior is arbitrary: the mean of the other vertices is used.
    E, W = _posterior(totals, mass)
    distribution = np.exp(L[:, None] * (E - E.max(0)))
    distribution /= distribution.sum(0)
    mean = (distribution * W).sum(0)  # psi [V, N, T]
    values += (mass * mean).sum(-1)

    # Most types take the same action on the whole cell. The odds of the other actions bound the excess of a type.
    surest = distribution.min(1).argmax(0)[None, None]
    odds = (distribution / np.maximum(np.take_along_axis(distribution, surest, 0), 1e-300)).max(1).sum(0) - 1
    above = np.minimum(odds, 1) * (W.max((0, 1)) - W.min((0, 1)))  # [N, T]
    varies = above * mass.max(0) > NEGLIGIBLE / T * target[:, None]
    linear = (mass * np.where(varies, 0, above)).sum(-1)  # [V, N]
    n, t = np.nonzero(varies)
    if not len(n):
        return (values + linear).max(0), np.tile([0, 1, 0.5], (N, 1))
    pair = n * T + t
    mass, mean = (x.reshape(V, -1).take(pair, -1) for x in (mass, mean))
    E, W, distribution = (x.reshape(len(distribution), V, -1).take(pair, -1) for x in (E, W, distribution))
    active = _Types(L[n], mass, E, W, distribution, mean)
    bounds, edge, share = active.excess(n, values + linear)
    return bounds, np.stack([active.i[edge], active.j[edge], share], axis=1)


class _Types:
    """P pairs of a cell and a type whose response varies: mass [V, P]; E, W, response [A, V, P]; psi [V, P]."""

    def __init__(self, L, mass, E, W, distribution, psi):
        self.mass, self.V = mass, len(mass)
        self.i, self.j = np.triu_indices(self.V, 1)
        A = len(E)
        low, high, short = np.empty_like(E[:, 0]), np.empty_like(E[:, 0]), np.empty_like(E[:, 0])
        with np.errstate(over="ignore"):
            for a in range(A):
                apart = L * (E - E[a])
                high[a] = 1 / np.exp(apart.min(1)).sum(0)
                low[a] = 1 / np.exp(apart.max(1)).sum(0)
        for a in range(A):  # By how much action a may pay less than the mean response.
            short[a] = (high * np.maximum((W - W[a]).max(1), 0)).sum(0)
        apart = W - psi
        up, down = (high[:, None] - distribution) * apart, (low[:, None] - distribution) * apart
        above = np.maximum(np.maximum(up, down).sum(0), 0)  # psi exceeds its vertex value by at most this.
        self.first = mass * above  # [V, P]

        i, j = self.i, self.j
        a, b = np.triu_indices(A, 1)
        x, y = E[:, i] - E[:, j], W[:, i] - W[:, j]  # [A, e, P]
        ranges = np.ptp(y, axis=0)
        x, y = x[a] - x[b], y[a] - y[b]  # [pairs, e, P]
        most = np.minimum(high[a] * high[b], 0.25)
        least = low[a] * low[b]
        xx, yy = x * x, y * y
        ratio = np.sqrt(yy.sum((0, 1)) / np.maximum(xx.sum((0, 1)), 1e-300)) + 1e-300
        curved = (L * L * most * (short[a] + short[b]))[:, None] * xx
        curved += L * ((most - least)[:, None] / 2 * (ratio * xx + yy / ratio) - (most + least)[:, None] * x * y)
        second = np.maximum(curved.sum(0), 0) / 2  # [e, P]
        root = np.sqrt(mass)
        self.even = mass[i] * mass[j] / np.maximum((root[i] + root[j]) ** 2, 1e-300)
        rank = mass.argsort(0).argsort(0)
        peeled = np.where(rank[i] < rank[j], i[:, None], j[:, None])
        apart = W[a] - W[b]  # [pairs, V, P]
        ends = np.stack([q * w for q in (most, least) for w in (apart.max(1), apart.min(1))])
        third = L * (np.abs(x) * np.ptp(ends, axis=0)[:, None]).sum(0) + ranges
        rank = np.take_along_axis(rank, peeled, 0)  # [e, P]
        self.curve = self.pair = second
        least = (self.even * second).sum(0)
        for number in range(1, self.V):  # The number of vertices that are treated separately.
            pair = np.where(rank < number, third, second)
            cost = (self.even * pair).sum(0)
            self.pair = np.where(cost < least, pair, self.pair)
            least = np.minimum(cost, least)

    def excess(self, n, values: Float[np.ndarray, "V N"]):
        """For each cell [N]: the smallest bound found, the edge to divide and where. n [P]: the cell of each pair."""
        N, i, j = values.shape[1], self.i, self.j
        pairs = (self.even * self.pair).sum(0)
        first = self.first.max(0) < pairs
        pair = np.where(first, 0, self.pair)
        share = self._shares(n, pair, values)
        at_i, at_j = share**2 * self.pair * self.mass[i], (1 - share) ** 2 * self.pair * self.mass[j]
        second = np.zeros_like(self.first)
        for e in range(len(i)):
            second[i[e]] += at_i[e]
            second[j[e]] += at_j[e]
        own, bounds = values[:, n], np.full(N, np.inf)
        for others in OTHER_TYPES:  # Which bound is better for a type depends on the excess of the others.
            choice = (own + others * self.first).max(0) < (own + others * second).max(0)
            chosen = np.where(choice, self.first, second)
            bounds = np.minimum(bounds, (values + _sum(n, chosen, N)).max(0))
        size = np.minimum(self.first.max(0), pairs)
        share = np.sqrt(self.even * self.curve)
        share *= size / np.maximum(share.sum(0), 1e-300)
        edge = _sum(n, share, N).argmax(0)
        # The response of a type that is rare at one end changes near that end, so the cell is divided nearer to it.
        rows, root = np.arange(len(n)), np.sqrt(self.mass)
        share, x, y = share[edge[n], rows], root[i[edge[n]], rows], root[j[edge[n]], rows]
        total = _sum(n, np.stack([share, share * x / np.maximum(x + y, 1e-300)]), N)
        return bounds, edge, np.clip(total[1] / np.maximum(total[0], 1e-300), *CUTS)

    def _shares(self, n, pair, values):
        """s [e, P] in x y / (x + y) <= s^2 x + (1 - s)^2 y, where x and y are the masses at the ends of an edge. Any s
        in [0, 1] is valid; it is chosen so that the end with the lower value gets most of the excess."""
        N, i, j = values.shape[1], self.i, self.j
        x, y = self.mass[i], self.mass[j]
        ends = values[i] / (self.V - 1), values[j] / (self.V - 1)  # A vertex has V - 1 edges.
        least, best = np.full((len(i), N), np.inf), np.full((len(i), len(n)), 0.5)
        for weight in WEIGHTS:
            share = (1 - weight) * y / np.maximum(weight * x + (1 - weight) * y, 1e-300)
            at_i, at_j = _sum(n, share**2 * pair * x, N), _sum(n, (1 - share) ** 2 * pair * y, N)
            larger = np.maximum(ends[0] + at_i, ends[1] + at_j)
            better = larger < least
            least = np.where(better, larger, least)
            best = np.where(better[:, n], share, best)
        return best


def _sum(n, what: Float[np.ndarray, "X P"], N: int) -> Float[np.ndarray, "X N"]:
    """Sums over the pairs of each cell; n [P], the cell of each pair, is sorted."""
    out = np.zeros((len(what), N))
    first = np.flatnonzero(np.diff(n, prepend=-1))
    out[:, n[first]] = np.add.reduceat(what, first, axis=1)
    return out


def _posterior(totals: Float[np.ndarray, "2 A V N T"], mass: Float[np.ndarray, "V N T"]):
    """totals / mass; at a vertex without mass, the mean over the cell's other vertices."""
    seen, whole = mass > 0, mass.sum(0)
    if seen.all():
        return totals / mass
    mean = totals.sum(2, keepdims=True) / np.where(whole > 0, whole, np.inf)
    return np.where(seen, totals / np.where(seen, mass, 1), mean)
