"""Belief LPs with a quantal user: local maxima by Newton steps, proofs by branch and bound."""

from __future__ import annotations

import numpy as np

from emalign_jax.exact.concavification import quantal
from emalign_jax.exact.concavification.belief_lps import AbstractBeliefLPs
from emalign_jax.exact.concavification.branch_and_bound import bound_pricing, operations
from emalign_jax.exact.concavification.kinks import kinks
from emalign_jax.exact.concavification.problems import priced
from emalign_jax.internal.transfers import fetch, send

# At most so many kinks are listed.
MAX_KINKS = 1000


class QuantalBeliefLPs(AbstractBeliefLPs):
    """As `AbstractBeliefLPs`, and the user's value may be bounded."""

    def restrict(self, at_least: Float[np.ndarray, "P"] | float, at_most: Float[np.ndarray, "P"] | float) -> None:
        """From now on allow only schemes whose user value is within these bounds."""
        values = np.stack(np.broadcast_arrays(at_least, at_most, self.value_price)[:2], 1)
        changed = (values != self._values).any(1)
        self._values, self._settled = values, self._settled & ~changed
        self.failed &= ~changed

    def list_corners(self):
        return kinks(self.problems, MAX_KINKS)

    @staticmethod
    def payoffs(problems, beliefs, xp=np):
        beliefs = np.ascontiguousarray(np.moveaxis(beliefs, -1, 0))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return quantal.payoffs(quantal.setting(problems), beliefs, xp=xp)

    def climb_kernel(self, problems, price, starts, xp):
        given = quantal.setting(problems, price), np.ascontiguousarray(np.moveaxis(starts, -1, 0))
        of, begin = given if xp is np else send(given)
        ends, excess = fetch(quantal.ascend(of, begin, self._lattice.spacing, xp))
        return np.moveaxis(ends, 0, -1), excess

    def bound(self, some, target, work, looser=1.0):
        cell = operations(*self.problems.size)
        problems = priced(self.problems.rows(some), self.value_price[some])
        found = bound_pricing(problems, self.price[some], target, -(-work // cell), self.compiled, looser * target)
        return found._replace(work=found.work * cell)
