"""Upper bounds of the payoff of any belief with a quantal user, by branch and bound over sub-simplices.

`belief_lps.py` gives a price for each x_B. It remains to bound the maximum over the simplex of
phi(mu) - price @ mu. All problems share one list of open cells, which are bounded in blocks of fixed size (`cells.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.concavification import cells as bounds
from emalign_jax.exact.concavification import quantal
from emalign_jax.exact.concavification.problems import BeliefProblems
from emalign_jax.internal.processors import each
from emalign_jax.internal.transfers import fetch, send

# For a larger precision no bound is given: its square might overflow.
MAX_PRECISION = 1e9
# The largest number of beliefs above the target that are returned.
REFUTATIONS = 8
# As a share of the target: a belief that exceeds its price by more is worth a better price. Cells around a belief that
# is hardly below the target would have to be tiny.
REFUTES = 0.5
# Where a belief is above this share of the target, the nearest maximum is searched for after this many cells, and again
# after each doubling of them.
PROMISING, FIRST_CLIMB = 0.05, 128
# Such a search is repeated this often, from where it ended, with steps of at most so much.
CLIMBS, REACH = 2, 0.05
# As a share of the allowed work, the number of cells of bounds between the target and the loosest one of use that are
# kept for later. With more of them the loosest bound is what can be proved.
LATER = 1 / 16
# Numbers of one kind (vertices * types * actions) in a block, for the cache of a core, or for an accelerator.
BLOCK, LARGE_BLOCK = 2**16, 2**22
# Of so many cuts of a cell, the first is along the edge that contributes most of all: without it, cells become flat.
REGULAR = 3
# Few open cells are bounded in blocks smaller by this factor.
SMALLER = 8
# Blocks on a CPU before cells are divided again: a constant, so that results do not depend on the number of cores.
SIDE_BY_SIDE = 2


class PricingBounds(NamedTuple):
    """Bounds of the maximum over beliefs of the payoff less the price, for n problems.

    upper: [n] an upper bound of the maximum
    best:  [n] the largest difference found, attained at the first belief of `at`
    at:    [n, REFUTATIONS, B] beliefs whose difference is above REFUTES times the target, or the best one; repeated to
           fill up
    work:  [n] the number of cells bounded
    """

    upper: Float[np.ndarray, "n"]
    best: Float[np.ndarray, "n"]
    at: Float[np.ndarray, "n R B"]
    work: Int[np.ndarray, "n"]


def operations(B: int, T: int, A: int) -> int:
    """For one cell: edges x types x pairs of actions, the unit in which work is limited."""
    return max(1, B * (B - 1) // 2 * T * A * (A - 1) // 2)


def bound_pricing(
    problems: BeliefProblems,
    price: Float[np.ndarray, "n B"],
    target: Float[np.ndarray, "n"],
    work: Int[np.ndarray, "n"],
    compiled: bool,
    loosest: Float[np.ndarray, "n"] | None = None,
) -> PricingBounds:
    """Bound the maximum over the simplex of payoff less price, for each problem until it is proved to be at most
    `target`, a belief above REFUTES times the target is found, or `work` cells are used up.

    loosest: the largest bounds of use: those are proved first; None: the targets.
    """
    n, B = len(price), problems.size[0]
    if B == 1:
        found = (quantal.payoffs(quantal.setting(problems), np.ones((1, n, 1)), xp=np)[0] - price)[:, 0]
        return PricingBounds(found, found, np.ones((n, REFUTATIONS, 1)), np.zeros(n, int))
    search = _Search(problems, price, target, compiled)
    loosest = target if loosest is None else np.maximum(loosest, target)
    refuting, limit = REFUTES * target, loosest
    allowed = problems.precision <= MAX_PRECISION
    cells = np.broadcast_to(np.eye(B), (n, B, B))
    # Cells, problems, bounds, numbers of cuts; and those of bounds between target and limit, with their numbers.
    pool: list[Any] = [(cells, np.arange(n), np.full(n, np.inf), np.zeros(n, int))]
    later: list[Any] = []
    kept = np.zeros(n, int)
    best, upper, used = np.full(n, -np.inf), np.full(n, -np.inf), np.zeros(n, int)
    at = np.broadcast_to(np.eye(B)[0], (n, REFUTATIONS, B)).copy()
    next_climb = np.full(n, FIRST_CLIMB)
    while pool or later:
        if not pool:
            pool, later, limit = later, [], target
            allowed = allowed & (kept <= LATER * work)
        cells, owner, so_far, cuts = _take(pool, search.at_once)
        open_ = allowed[owner] & (best[owner] <= refuting[owner]) & (used[owner] < work[owner])
        np.maximum.at(upper, owner[~open_], so_far[~open_])
        cells, owner, cuts = cells[open_], owner[open_], cuts[open_]
        if not len(owner):
            continue
        bound, values, *places = search.bound(cells, owner)
        edge, share = (np.where(cuts % REGULAR, *place) for place in places)
        used += np.bincount(owner, minlength=n)
        _keep_best(best, at, refuting, owner, values, cells)
        near = np.flatnonzero((used >= next_climb) & (best > PROMISING * target) & (best <= refuting))
        if len(near):
            next_climb[near] = 2 * used[near]
            reached, gained = search.climb(near, at[near, :1])
            _keep_best(best, at, refuting, near, gained, reached)
        between = (bound > target[owner]) & (bound <= limit[owner])
        kept += np.bincount(owner[between], minlength=n)
        between &= kept[owner] <= LATER * work[owner]
        left = bound > limit[owner]
        done = ~(between | left)
        np.maximum.at(upper, owner[done], bound[done])
        for some, where in ((between, later), (left, pool)):
            if some.any():
                halves = _split(cells[some], edge[some], share[some])
                where.append((halves, *(np.tile(x[some], 2) for x in (owner, bound, cuts + 1))))
    return PricingBounds(np.maximum(upper, best), best, at, used)


def _take(pool: list, count: int) -> tuple[np.ndarray, ...]:
    """Remove and return the last `count` cells of the pool, or all."""
    taken = []
    while pool and count:
        part = pool.pop()
        if len(part[1]) > count:
            pool.append(tuple(x[:-count] for x in part))
            part = tuple(x[-count:] for x in part)
        taken.append(part)
        count -= len(part[1])
    return tuple(np.concatenate(x) for x in zip(*taken, strict=True))


def _split(cells: Float[np.ndarray, "N V B"], edge, share) -> Float[np.ndarray, "2*N V B"]:
    """Divide each cell in two at a point of an edge."""
    rows, ends = np.arange(len(cells)), np.array(bounds.edges(cells.shape[1]))[edge]
    i, j, share = ends[:, 0], ends[:, 1], share[:, None]
    middle = (1 - share) * cells[rows, i] + share * cells[rows, j]
    halves = np.concatenate([cells, cells])
    halves[rows, i] = middle
    halves[len(cells) + rows, j] = middle
    return halves


def _keep_best(best, at, target, owner, values: Float[np.ndarray, "N V"], cells) -> None:
    """Write the best beliefs of these cells where they are better than before, up to `REFUTATIONS` of each problem."""
    cell, vertex = np.nonzero(values > np.maximum(best, target)[owner][:, None])
    top = values.argmax(1)
    better = np.flatnonzero(values[np.arange(len(top)), top] > best[owner])
    cell, vertex = np.concatenate([cell, better]), np.concatenate([vertex, top[better]])
    order = np.lexsort((-values[cell, vertex], owner[cell]))
    cell, vertex = cell[order], vertex[order]
    whose, first, count = np.unique(owner[cell], return_index=True, return_counts=True)
    best[whose] = values[cell[first], vertex[first]]
    for place in range(REFUTATIONS):  # The last one is repeated.
        some = first + np.minimum(place, count - 1)
        at[whose, place] = cells[cell[some], vertex[some]]


class _Search:
    """Bounds blocks of cells of these problems."""

    def __init__(self, problems: BeliefProblems, price, target, compiled: bool):
        B, T, A = problems.size
        self.compiled, self.size, self.problems, self.price = compiled, (B, T, A), problems, price
        numbers = (problems.mass, problems.user, problems.own, price, problems.precision, target)
        self.rows = np.concatenate([x.reshape(len(price), -1) for x in numbers], 1)
        room = LARGE_BLOCK if compiled and jax.default_backend() != "cpu" else BLOCK
        self.block = max(16, 1 << int(np.log2(max(room // (B * T * A), 1))))
        self.at_once = self.block * (SIDE_BY_SIDE if jax.default_backend() == "cpu" else 1)

    def climb(self, some, starts: Float[np.ndarray, "n R B"]) -> tuple[np.ndarray, np.ndarray]:
        """Beliefs [n, R, B] near `starts` that are worth more in these problems, and payoff less price."""
        of, here = quantal.setting(self.problems.rows(some), self.price[some]), np.moveaxis(starts, -1, 0)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for _ in range(CLIMBS):
                here, gained = quantal.ascend(of, np.ascontiguousarray(here), REACH, np)
        return np.moveaxis(here, 0, -1), gained

    def bound(self, cells, owner):
        """Bounds [N], values at the vertices [N, V], and edges and shares where to divide [2, N]."""
        N, sizes = len(owner), (max(16, self.block // SMALLER), self.block)
        compiled = self.compiled and sizes[0] // SMALLER <= N

        def call(first):
            some = np.arange(first, min(first + self.block, N))
            if compiled:  # Of few sizes, so that few programs are compiled; the last cell is repeated.
                some = np.minimum(first + np.arange(sizes[len(some) > sizes[0]]), N - 1)
            return self._bound(cells[some], self.rows[owner[some]], jnp if compiled else np)

        parts = zip(*each(call, range(0, N, self.block)), strict=True)
        bound, values, edge, share = (np.concatenate(x, -1)[..., :N] for x in parts)
        return bound, values.T, edge, share

    def _bound(self, cells, rows, xp):
        B, T, A = self.size
        ends = np.cumsum([B * T, B * A * T, B * A * T, B, 1])
        mass, user, own, price, precision, target = np.split(np.ascontiguousarray(rows.T), ends)
        shape = B, A, T, len(cells)
        vertices = np.ascontiguousarray(np.moveaxis(cells, 0, -1))
        block = bounds.Cells(
            vertices, mass.reshape(B, T, -1), user.reshape(shape), own.reshape(shape), price, precision[0], target[0]
        )
        with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return fetch(bounds.bound(block if xp is np else send(block), xp))
