"""Best responses in Pooled: concavification over beliefs (sections 5.3 and 5.4 of the model).

The value is attained by the scheme that comes with it (approached, where a tie rule denies it at a kink). The upper
bound is proved where a bracket is asked for: by branch and bound for a quantal user, by enumeration or a MILP for a
rational one. Else it is what the agent would have if he chose her action himself.
"""

from __future__ import annotations

import math

import numpy as np

from emalign_jax.exact._base import WORK, AbstractCheck, Deviation, register
from emalign_jax.exact.beliefs import MAX_KINKS, monopoly_problem, pooled_problem
from emalign_jax.exact.columns import concavify
from emalign_jax.exact.milp import MAX_BINARIES
from emalign_jax.exact.responses import pooled_payoffs
from emalign_jax.protocols import Pooled
from emalign_jax.users import QuantalUser, RationalUser

MAX_CELLS = 2**14


class PooledCheck(AbstractCheck):
    @classmethod
    def check_size(cls, games, protocol, user, messages):
        cells = messages ** (games.agents - 1) * games.user_features * games.agent_features * games.actions
        if cells > MAX_CELLS:
            raise ValueError(
                f"messages: the belief LP of {games.agents} agents with {messages} messages has "
                f"M^(K-1) * XA * XB * A = {cells} cells, the limit is {MAX_CELLS} (half a minute a game): take fewer "
                "agents or messages, or Selection, or verify=False"
            )

    def payoffs(self, schemes):
        return pooled_payoffs(self.game, schemes, self.user, self.scale)

    def monopolist(self, agent, sign=1.0):
        problem = monopoly_problem(self.game, agent, self.user, self.scale)
        optimum = concavify(problem, np.eye(self.game.mass.shape[1]), sign=sign)
        return Deviation(optimum.value, optimum.value, optimum.scheme, optimum.status)

    def deviations(self, schemes, agents, bracket=None):
        result = []
        for i in agents:
            problem = pooled_problem(self.game, schemes, i, self.user, self.scale)
            present = (schemes[i] * problem.prior[:, None]).T
            optimum = concavify(problem, present, bracket=self._width(i, bracket), work=WORK)
            upper = min(optimum.upper, float(self.game.agents[i].max(-1).sum()))
            result.append(Deviation(optimum.value, upper, optimum.scheme, optimum.status))
        return result


@register(Pooled, QuantalUser)
class PooledQuantal(PooledCheck):
    """Any size up to `MAX_CELLS`; the bracket closes at 1e-4 for a few x_B, and is left open for many."""


@register(Pooled, RationalUser)
class PooledRational(PooledCheck):
    """The best belief is found by enumeration or a MILP, which limits the types."""

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        super().check_size(games, protocol, user, messages)
        types, A = games.user_features * messages ** (games.agents - 1), games.actions
        planes = games.agent_features + types * A * (A - 1) // 2
        if math.comb(planes, games.agent_features - 1) > MAX_KINKS and types * A > MAX_BINARIES:
            raise ValueError(
                f"messages: the best response to {games.agents - 1} rivals with {messages} messages is a MILP of XA * "
                f"M^(K-1) * A = {types * A} binaries, the limit is {MAX_BINARIES}: take fewer agents, messages or user "
                "features, or a quantal user, or Selection, or verify=False"
            )

    def common_law_payoffs(self, schemes):
        if self.user.ties == "agents":  # each payoff is a supremum of its own
            lowest = RationalUser(ties="lowest", tolerance=self.user.tolerance)  # worth the same to the user
            return pooled_payoffs(self.game, schemes, lowest, self.scale)[1]
        return self.payoffs(schemes)[1]
