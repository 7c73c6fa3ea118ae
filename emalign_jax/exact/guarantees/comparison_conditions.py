"""The conditions of an equilibrium of Comparison, one linear inequality a deviation (section 6.9 of docs/model.md).

With K agents of which m are met, R = K - m + 1 ranks are picked with positive probability. A `Pattern` says which
agents have these ranks and which of their values are equal: where values differ, a deviator can place itself between
them, and where they are equal its index decides. For one pattern every deviation condition reads

    sum_t weight_t <q_t, G_i>  >=  chance * F,

in which F is the most that agent i can offer itself with a value in an interval between two of the ranks' values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Where the agents stand that are never picked: just below the last picked one (`BELOW`); one of higher index offers the
# same value, so that it takes over where a picked agent drops out (`EQUAL`); or all are worth what the least scheme is
# (`LEAST`).
BELOW, EQUAL, LEAST = "below", "equal", "least"


class Pattern(NamedTuple):
    """order: the agents of the R picked ranks; ties: [R - 1] whether ranks t and t + 1 have equal values; top: whether
    the first has the largest value of a scheme; bottom: see above; next: the index of the agent of rank R."""

    order: tuple[int, ...]
    ties: tuple[bool, ...]
    top: bool
    bottom: str
    next: int

    @property
    def groups(self) -> list[int]:
        """[R] the number of each rank's value: equal for tied ranks."""
        return [0, *itertools.accumulate(int(not tied) for tied in self.ties)]

    def tied(self, upper: int, lower: int) -> bool:
        """Whether two ranks, of which -1 is the largest value of a scheme and R that of the agents never picked, have
        equal values."""
        last = len(self.order)
        if upper < 0:
            return self.top and (lower == 0 or self.tied(0, lower))
        if lower == last:
            return self.bottom != BELOW and (upper == last - 1 or self.tied(upper, last - 1))
        return all(self.ties[upper:lower])


class Condition(NamedTuple):
    """agent; weights: [R + 1] of its payoff under each rank's scheme; chance and F: `lower` and `upper` are the ranks
    between whose values the deviator offers, None: no bound; both None with chance 0: it drops out."""

    agent: int
    weights: Float[np.ndarray, "ranks"]
    chance: float
    lower: int | None = None
    upper: int | None = None


def patterns(agents: int, ranks: int) -> Iterator[Pattern]:
    """All patterns of `agents` agents of which `ranks` < K have a chance."""
    for order in itertools.permutations(range(agents), ranks):
        others = [j for j in range(agents) if j not in order]
        higher = [j for j in others if j > order[-1]]
        bottoms = [(EQUAL, min(higher)) if higher else (BELOW, -1)]
        if len(higher) == len(others):
            bottoms.append((LEAST, min(higher)))
        rising = [order[t] < order[t + 1] for t in range(ranks - 1)]
        for ties in itertools.product(*([False, True] if up else [False] for up in rising)):
            for top, (bottom, following) in itertools.product((False, True), bottoms):
                yield Pattern(order, ties, top, bottom, following)


def conditions(pattern: Pattern, chances: Float[np.ndarray, "ranks"], agents: int) -> list[Condition]:
    """The conditions that hold in every equilibrium of this pattern.

    chances: [R] with which each rank is picked
    """
    R, found = len(pattern.order), []
    chance = np.append(chances, 0.0)  # The agents never picked have rank R.
    for i in range(agents):
        rank = pattern.order.index(i) if i in pattern.order else R
        for place in range(R):
            upper, lower = _neighbours(rank, place)
            between = _available(pattern, i, upper, lower)
            if between is None:
                continue
            weights = chance - _others(chance, rank, place)
            found.append(Condition(i, weights, float(chance[place]), *between))
        drops = pattern.bottom == EQUAL or (pattern.bottom == LEAST and i > pattern.next)
        if rank < R and drops:
            found.append(Condition(i, chance - _others(chance, rank, R), 0.0))
    return found


def _neighbours(rank: int, place: int) -> tuple[int, int]:
    """The present ranks of those just above and just below an agent of this rank when it has moved to `place`."""
    if place < rank:
        return place - 1, place
    return (rank - 1, rank + 1) if place == rank else (place, place + 1)


def _others(chance: Float[np.ndarray, "ranks"], rank: int, place: int) -> Float[np.ndarray, "ranks"]:
    """The chances of the schemes of all ranks when the agent of this rank has moved to `place`; its own counts 0."""
    moved = chance.copy()
    moved[rank] = 0
    if place < rank:
        moved[place:rank] = chance[place + 1 : rank + 1]
    else:
        moved[rank + 1 : place + 1] = chance[rank:place]
    return moved


def _available(pattern: Pattern, agent: int, upper: int, lower: int) -> tuple[int | None, int | None] | None:
    """(lower, upper) of the values with which the agent can place itself between two ranks; None if it cannot."""
    R = len(pattern.order)
    if pattern.tied(upper, lower):
        above = upper < 0 or pattern.order[upper] < agent
        below = (lower == R and agent < pattern.next) or (lower < R and agent < pattern.order[lower])
        at = max(upper, 0)
        return (at, at) if above and below else None
    last = min(lower, R - 1)  # The agents never picked may be as close to the last rank as they like.
    return last, (None if upper < 0 else upper)
