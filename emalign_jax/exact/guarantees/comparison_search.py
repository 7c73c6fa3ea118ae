"""The extreme equilibria of Comparison by branch and bound over the values of the picked agents (section 6.9 of
docs/model.md).

For one pattern of ranks an equilibrium is a point of a set that is cut out by linear inequalities in the picked schemes
and the values F of frontiers, which are concave and piecewise linear in the ranks' values. In a box of values F lies
above its chord, so that a linear program contains all equilibria of the box; where its optimum satisfies the conditions
with F itself, it is the optimum of the box, and otherwise the box is divided at a breakpoint of F. There are finitely
many.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.guarantees.comparison_conditions import BELOW, LEAST, Condition, Pattern, conditions, patterns
from emalign_jax.exact.obedience.curves import Curve
from emalign_jax.exact.obedience.program import ObedienceLP
from emalign_jax.games.units import VALUE_TIE
from emalign_jax.lp.highs import KeptLP, LPFailed

# In the agents' units: by how much a condition may be missed, as curves and LPs are known to 1e-9.
SLACK = 1e-8
# In the user's unit: by how much values differ that are to differ in a profile that is certified.
APART = 1e-6
# So many profiles are certified at most in a game.
MOST_ASKED = 20


class Box(NamedTuple):
    """pattern: the number of a pattern; low, high: bounds of the values of its groups of ranks."""

    pattern: int
    low: Float[np.ndarray, "groups"]
    high: Float[np.ndarray, "groups"]


class ComparisonSearch:
    """One game in standard units.

    lp:       of obedient distributions
    strict:   as `lp`, of those that are played whatever the user does with ties
    curves:   [K] the most that each agent can have at user value exactly v
    ends:     the least and the largest value of a scheme
    chances:  [R] with which each rank is picked
    allowed:  [K] the deviation gains that are allowed
    """

    def __init__(
        self,
        game: Any,
        lp: ObedienceLP,
        strict: ObedienceLP,
        curves: list[Curve],
        ends: tuple[float, float],
        chances: Float[np.ndarray, "ranks"],
        allowed: Float[np.ndarray, "K"],
    ):
        self.game, self.lp, self.strict, self.ends = game, lp, strict, ends
        self.chances, self.allowed = chances, allowed
        self.at_least = [Curve(c.v, np.maximum.accumulate(c.value[::-1])[::-1]) for c in curves]
        self.at_most = [Curve(c.v, np.maximum.accumulate(c.value)) for c in curves]
        self.exactly = curves
        self.patterns = list(patterns(len(curves), len(chances)))
        self.conditions = [conditions(pattern, chances, len(curves)) for pattern in self.patterns]
        self.solved = 0
        self.gets = lp.column(game.welfare)
        self.pays = [lp.column(agent) for agent in np.asarray(game.agents)]

    def extreme(
        self, sign: float, most_lps: int, accept: Callable[[Pattern, list[np.ndarray]], bool]
    ) -> tuple[float, bool]:
        """A bound of the largest value times `sign` of an equilibrium, and whether more work would not improve it.

        accept: is asked of profiles that may be equilibria, extreme ones first, until it accepts one. A profile is a
            pattern and the distributions over recommendations [XB, R] of its ranks.
        """
        stop, number, asked = self.solved + most_lps, itertools.count(), 0
        queue: list[tuple[float, int, Box, np.ndarray]] = []

        def push(box: Box) -> None:
            found = self._optimum(box, sign)
            if found is not None:
                heapq.heappush(queue, (-found[0], next(number), box, found[1]))

        for n, pattern in enumerate(self.patterns):
            push(self._whole(n, pattern))
        bound = None
        while queue and self.solved < stop and asked < MOST_ASKED:
            value, _, box, x = heapq.heappop(queue)
            parts = self._parts(box, x)
            if parts is not None:
                for part in parts:
                    push(part)
                continue
            bound = -value if bound is None else bound
            profile = self._profile(box, sign)
            if profile is not None:
                asked += 1
                if accept(self.patterns[box.pattern], profile):
                    break
        if bound is not None:
            return bound, True
        return (-queue[0][0], False) if queue else (-np.inf, True)

    def _whole(self, n: int, pattern: Pattern) -> Box:
        groups = pattern.groups[-1] + 1
        low, high = np.full(groups, self.ends[0]), np.full(groups, self.ends[1])
        low[0] = self.ends[1] if pattern.top else low[0]
        high[-1] = self.ends[0] if pattern.bottom == LEAST else high[-1]
        return Box(n, low, high)

    def _pieces(self, condition: Condition) -> list[tuple[Curve, int]]:
        """F is the least of these curves at the values of these ranks."""
        i, lower, upper = condition.agent, condition.lower, condition.upper
        if lower is None:
            return []
        if lower == upper:
            return [(self.exactly[i], lower)]
        return [(self.at_least[i], lower)] + ([] if upper is None else [(self.at_most[i], upper)])

    def _line(self, condition: Condition, groups: list[int], box: Box) -> tuple[float, int | None, float]:
        """constant + slope * (value of a rank) <= F in the box."""
        lines = []
        for curve, rank in self._pieces(condition):
            low, high = box.low[groups[rank]], box.high[groups[rank]]
            left, right = (float(x) for x in curve.at(np.array([low, high])))
            slope = (right - left) / (high - low) if high - low > VALUE_TIE else 0.0
            least = min(left, right)
            lines.append((left - slope * low if slope else least, rank, slope, least, curve.value.max()))
        if not lines:
            return 0.0, None, 0.0
        # A piece that is at its maximum in all of the box is not the least one.
        binding = [line for line in lines if line[3] < line[4] - SLACK] or lines[:1]
        if len(binding) == 1:
            return binding[0][:3]
        return min(line[3] for line in lines), None, 0.0

    def _optimum(self, box: Box, sign: float, apart: float = 0.0) -> tuple[float, np.ndarray] | None:
        """The largest value times `sign` of the linear program of a box, and its point; None where there is none.

        apart: by how much values that are not tied are to differ, with schemes that are played whatever ties are
        """
        pattern, lp = self.patterns[box.pattern], self.strict if apart else self.lp
        groups, R = pattern.groups, len(pattern.order)
        blocks = R + (pattern.bottom != BELOW)
        rows, bounds = lp.constraints
        n, XB = rows.shape[1], self.game.mass.shape[-1]
        width = self.ends[1] - self.ends[0]
        apart = min(apart, width / (8 * R))
        most = np.append(np.ones(XB), np.full(len(bounds) - XB, np.inf))
        matrix, lower, upper = [np.kron(np.eye(blocks), rows)], [np.tile(bounds, blocks)], [np.tile(most, blocks)]

        def add(terms: dict[int, np.ndarray], low: float, high: float = np.inf) -> None:
            row = np.zeros((blocks, n))
            for block, term in terms.items():
                row[block] += term
            matrix.append(row.reshape(1, -1))
            lower.append(np.array([low]))
            upper.append(np.array([high]))

        for t, group in enumerate(groups):
            low, high = box.low[group], box.high[group]
            if apart and not (pattern.bottom == LEAST and group == groups[-1]):
                low = max(low, self.ends[0] + apart)
            if apart and not (pattern.top and group == 0):
                high = min(high, self.ends[1] - apart)
            if low > high:
                return None
            add({t: self.gets}, low - VALUE_TIE, high + VALUE_TIE)
        for t in range(blocks - 1):
            equal = t == R - 1 or pattern.ties[t]
            add({t: self.gets, t + 1: -self.gets}, 0.0 if equal else apart, 0.0 if equal else np.inf)
        for condition in self.conditions[box.pattern]:
            i = condition.agent
            constant, rank, slope = self._line(condition, groups, box)
            terms = {t: condition.weights[t] * self.pays[i] for t in range(blocks) if condition.weights[t]}
            if rank is not None and slope:
                terms[rank] = terms.get(rank, 0.0) - condition.chance * slope * self.gets
            add(terms, condition.chance * constant - max(SLACK, 100 * SLACK * bool(apart)) - self.allowed[i])
        cost = np.zeros((blocks, n))
        cost[:R] = sign * self.chances[:, None] * self.gets
        self.solved += 1
        found = KeptLP(np.concatenate(matrix), np.concatenate(lower), np.concatenate(upper), cost=cost.ravel()).solve()
        if found.optimal:
            return found.value, found.x.reshape(blocks, n)
        if found.status != "Infeasible":
            raise LPFailed(f"HiGHS did not solve an LP of Comparison: {found.status}")
        return None

    def _parts(self, box: Box, x: np.ndarray) -> list[Box] | None:
        """The box divided at a breakpoint of the condition that the point misses most; None if it misses none."""
        groups, worth = self.patterns[box.pattern].groups, x @ self.gets
        paid = np.array([x @ pays for pays in self.pays])  # [K, blocks]
        worst, place = SLACK, None
        for condition in self.conditions[box.pattern]:
            pieces, i = self._pieces(condition), condition.agent
            if not pieces:
                continue
            most = min(float(np.interp(worth[t], curve.v, curve.value)) for curve, t in pieces)
            short = condition.chance * most - condition.weights[: len(x)] @ paid[i] - self.allowed[i] - SLACK
            if short <= worst:
                continue
            inside = ((t, self._inside(curve, groups[t], box)) for curve, t in pieces)
            cuts = [(abs(v - worth[t]), groups[t], v) for t, within in inside for v in within]
            if cuts:
                worst, place = short, min(cuts)[1:]
        if place is None:
            return None
        group, v = place
        low, high = box.low.copy(), box.high.copy()
        high[group], low[group] = v, v
        return [part for part in (self._tight(box, box.low, high), self._tight(box, low, box.high)) if part is not None]

    def _inside(self, curve: Curve, group: int, box: Box) -> Float[np.ndarray, "cuts"]:
        """The breakpoints of a curve inside the box."""
        low, high = box.low[group], box.high[group]
        return curve.v[(curve.v > low + 2 * VALUE_TIE) & (curve.v < high - 2 * VALUE_TIE)]

    def _tight(self, box: Box, low, high) -> Box | None:
        """The box of these bounds, as values descend from group to group; None if it is empty."""
        high = np.minimum.accumulate(high)
        low = np.maximum.accumulate(low[::-1])[::-1]
        return Box(box.pattern, low, high) if (low <= high + VALUE_TIE).all() else None

    def _profile(self, box: Box, sign: float) -> list[np.ndarray] | None:
        """Distributions over recommendations of the ranks, with values apart, of an extreme of the box."""
        found = self._optimum(box, sign, apart=APART)
        return None if found is None else [self.strict.distribution(np.maximum(x, 0)) for x in found[1]]
