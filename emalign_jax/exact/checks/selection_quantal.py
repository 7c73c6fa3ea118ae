"""Best responses in Selection with a quantal user (section 5.5 of docs/model.md), in one game: a batch of one."""

from __future__ import annotations

import functools

import numpy as np

from emalign_jax.exact.checks.base import Deviation, register_check
from emalign_jax.exact.checks.belief_checks import deviations, monopolist
from emalign_jax.exact.checks.selection_beliefs import SelectionBeliefs
from emalign_jax.exact.checks.selection_rational import SelectionCheck
from emalign_jax.protocols import Selection
from emalign_jax.users.quantal import QuantalUser


@register_check(Selection, QuantalUser, counts_welfare=True)
class SelectionQuantal(SelectionCheck):
    """A quantal user: `value` is attained by the scheme, `upper` is proved where a bracket is asked for."""

    @classmethod
    def together(cls, checks, sound):
        return SelectionBeliefs(checks, sound) if sound.any() else checks

    @functools.cached_property
    def _batch(self) -> SelectionBeliefs:
        return SelectionBeliefs.of_one(self)

    def monopolist(self, agent, sign=1.0):
        return monopolist(self.game, agent, self.user, sign)

    def at_least(self, agent: int, value: float = -np.inf) -> Deviation:
        """The largest payoff of `agent` with a scheme worth at least `value` to the user (or as much as possible)."""
        found = self._batch.best_at_least(np.zeros(1, int), np.array([agent]), np.array([value]))
        return deviations(found.value, found.value, found.scheme)[0]

    def deviations(self, schemes, agents, bracket=None):
        found = self._batch.respond(schemes, np.array(agents), bracket)
        return deviations(found.value, np.maximum(found.upper, found.value), found.schemes)
