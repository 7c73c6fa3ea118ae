"""Best responses in Pooled by concavification (sections 5.3 and 5.4 of docs/model.md).

The value is attained by the scheme returned with it, or approached, where the tie rule breaks a tie otherwise. If a
bracket is asked for, the upper bound is proved by branch and bound for a quantal user, and by enumeration or a MILP for
a rational one. Otherwise it is the agent's payoff from choosing the user's action itself.
"""

from __future__ import annotations

import jax
import numpy as np

from emalign_jax.exact.checks.base import WORK, AbstractCheck, Deviation, register_check
from emalign_jax.exact.checks.belief_checks import deviations, monopolist
from emalign_jax.exact.checks.pooled_beliefs import PooledBeliefs, common_responses, profile_lps
from emalign_jax.exact.concavification.belief_milp import MAX_BINARIES
from emalign_jax.exact.concavification.kinks import MAX_EDGES, count_corners
from emalign_jax.exact.responses import pooled_payoffs
from emalign_jax.internal.arguments import power
from emalign_jax.protocols import Pooled
from emalign_jax.users.quantal import QuantalUser
from emalign_jax.users.rational import RationalUser

MAX_CELLS = 2**14


@register_check(Pooled, QuantalUser, counts_welfare=True)
class PooledCheck(AbstractCheck):
    """A quantal user. The bracket closes to 1e-4 for few x_B, and stays open for many."""

    revealing_is_picked = True
    has_proofs = True

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        self._alone: dict[tuple[int, float], Deviation] = {}  # By agent and sign.

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        cells = power(messages, games.agents - 1) * games.user_features * games.agent_features * games.actions
        if cells > MAX_CELLS:
            raise ValueError(
                f"messages: the belief LP of {games.agents} agents with {messages} messages has "
                f"M^(K-1) * XA * XB * A = {cells} cells, the limit is {MAX_CELLS} (half a minute a game): take fewer "
                "agents or messages, or Selection, or verify=False"
            )

    @classmethod
    def together(cls, checks, sound):
        return PooledBeliefs(checks, sound) if sound.any() else checks

    def payoffs(self, schemes):
        return pooled_payoffs(self.game, schemes, self.user)

    def common_response_payoffs(self, schemes):
        return common_responses(self.game, schemes, self.user)

    def monopolist(self, agent, sign=1.0):
        if (agent, sign) not in self._alone:
            self._alone[agent, sign] = monopolist(self.game, agent, self.user, sign)
        return self._alone[agent, sign]

    def deviations(self, schemes, agents, bracket=None):
        many, alike = len(agents), (self.game, self.user, schemes)
        game, user, profiles = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], many, 0), alike)
        lps = profile_lps(game, profiles, np.array(agents), user, compiled=False)
        width = None if bracket is None else np.array([self._width(i, float(bracket)) for i in agents])
        found = lps.best(np.arange(many), width, WORK)
        upper = np.minimum(found.upper, np.fmax(self.payoff_bounds[list(agents)], found.value))
        return deviations(found.value, upper, found.scheme)


@register_check(Pooled, RationalUser, counts_welfare=True)
class PooledRational(PooledCheck):
    """A rational user. Best beliefs are found by enumeration or a MILP, which limits the number of types."""

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        super().check_size(games, protocol, user, messages)
        types, A = games.user_features * messages ** (games.agents - 1), games.actions
        planes = games.agent_features + types * A * (A - 1)
        if count_corners(planes, games.agent_features) > MAX_EDGES and types * A > MAX_BINARIES:
            raise ValueError(
                f"messages: the best response to {games.agents - 1} rivals with {messages} messages is a MILP of XA * "
                f"M^(K-1) * A = {types * A} binaries, the limit is {MAX_BINARIES}: take fewer agents, messages or user "
                "features, or a quantal user, or Selection, or verify=False"
            )
