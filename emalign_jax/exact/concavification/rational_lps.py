"""Belief LPs with a rational user: proofs by enumeration of all edges, or by a MILP (section 5.4 of docs/model.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.concavification import rational
from emalign_jax.exact.concavification.belief_lps import AbstractBeliefLPs
from emalign_jax.exact.concavification.belief_milp import bound_by_milp
from emalign_jax.exact.concavification.branch_and_bound import PricingBounds
from emalign_jax.exact.concavification.kinks import (
    MAX_EDGES,
    count_corners,
    count_planes,
    edges,
    kinks,
    without_repeats,
)
from emalign_jax.exact.concavification.problems import without_equal_types
from emalign_jax.internal.processors import each

# At most so many kinks are listed.
MAX_KINKS = 4000
# Edges * types * pairs of actions in one call, so that memory stays bounded.
EDGE_NUMBERS = 2**20
# Distances from a kink at which the user's response is evaluated too.
NUDGES = (1e-5, 1e-3)


class RationalBeliefLPs(AbstractBeliefLPs):
    has_kernels = False

    def __init__(self, problems, beliefs, compiled):
        super().__init__(without_equal_types(problems), beliefs, compiled)
        self._edges: dict[int, tuple[Any, Any, bool]] = {}  # By problem: beliefs, their suprema, whether all are known.

    def list_corners(self):
        found = without_repeats(kinks(self.problems, MAX_KINKS))
        # With ties for the agent its payoff is largest at the kink itself; its negative is largest beside it.
        attained = self.problems.acting.favours and (self.problems.sign > 0).all()
        return found if attained else np.concatenate([found, _nudged(found)], 1)

    @staticmethod
    def payoffs(problems, beliefs, xp=np):
        return rational.payoffs(problems, beliefs)

    def climb_kernel(self, problems, price, starts, xp):
        return starts, self.payoffs(problems, starts)[0] - (starts * price[:, None]).sum(2)

    def bound(self, some, target, work, looser=1.0):
        self._list_edges([int(n) for n in some if n not in self._edges])
        found = each(lambda n: self._bound(int(some[n]), float(target[n]), int(work[n])), range(len(some)))
        upper, best, at, spent = (np.array(x) for x in zip(*found, strict=True))
        return PricingBounds(upper, best, at[:, None], spent)

    def _list_edges(self, new: list[int]) -> None:
        """List the edges of these problems, those with as many planes together."""
        planes = count_planes(self.problems.rows(new)) if new else np.empty(0, int)
        parts = [np.flatnonzero(planes == count) for count in np.unique(planes)]
        B, T, A = self.problems.size
        numbers = [min(count_corners(int(planes[part[0]]), B), MAX_EDGES) * T * A * A for part in parts]
        blocks = [
            part[first : first + max(1, EDGE_NUMBERS // number)]
            for part, number in zip(parts, numbers, strict=True)
            for first in range(0, len(part), max(1, EDGE_NUMBERS // number))
        ]

        def call(block):
            problems = self.problems.rows([new[k] for k in block])
            beliefs, known = edges(problems)
            return beliefs, rational.suprema(problems, beliefs), known

        for block, found in zip(blocks, each(call, blocks), strict=True):
            for k, *one in zip(block, *found, strict=True):
                self._edges[new[k]] = tuple(one)

    def _bound(self, n: int, target: float, work: int):
        beliefs, paid, known = self._edges[n]
        price = self.price[n]
        if not known:
            if work <= 0:
                return np.inf, -np.inf, self.problems.target[n], 0
            return tuple(bound_by_milp(self.problems.rows([n]), price, target, work))
        attained = self._own_at_candidates[n, len(self._lattice.points) :] - self._corners[n] @ price
        best = int(attained.argmax())
        upper = max(float((paid - beliefs @ price).max()), float(attained[best]))
        return upper, float(attained[best]), self._corners[n, best], 0


def _nudged(kinks: Float[np.ndarray, "P N B"]) -> Float[np.ndarray, "P M B"]:
    """Beliefs near kinks, at which actions that the tie rule does not play at the kink are strictly best."""
    P, _, B = kinks.shape
    toward = np.eye(B) - kinks[:, :, None]
    return np.concatenate([kinks[:, :, None] + share * toward for share in NUDGES], 1).reshape(P, -1, B)
