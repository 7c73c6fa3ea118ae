"""Best responses in Pooled: concavification over beliefs (sections 5.3 and 5.4 of the model).

The value is a lower bound of the supremum, attained by the scheme that comes with it. The upper bound is
the payoff that the agent would have if he chose her action himself, knowing (x_A, x_B): valid, and loose.
"""

from __future__ import annotations

import numpy as np

from emalign_jax.exact._base import AbstractCheck, Deviation, register
from emalign_jax.exact.beliefs import concavify, monopoly_problem, pooled_problem
from emalign_jax.exact.responses import pooled_payoffs
from emalign_jax.protocols import Pooled
from emalign_jax.users import QuantalUser, RationalUser

MAX_CELLS = 2**14


@register(Pooled, RationalUser)
@register(Pooled, QuantalUser)
class PooledCheck(AbstractCheck):
    @classmethod
    def check_size(cls, games, messages):
        cells = messages ** (games.agents - 1) * games.user_features * games.agent_features * games.actions
        if cells > MAX_CELLS:
            raise ValueError(
                f"messages: the belief LP of {games.agents} agents with {messages} messages has "
                f"M^(K-1) * XA * XB * A = {cells} cells, the limit is {MAX_CELLS} (half a minute a game): take fewer "
                "agents or messages, or Selection, or verify=False"
            )

    def payoffs(self, schemes):
        return pooled_payoffs(self.game, schemes, self.user, self.scale)

    def common_law_payoffs(self, schemes):
        if isinstance(self.user, RationalUser) and self.user.ties == "agents":  # each payoff is a supremum of its own
            lowest = RationalUser(ties="lowest", tolerance=self.user.tolerance)  # worth the same to the user
            return pooled_payoffs(self.game, schemes, lowest, self.scale)[1]
        return self.payoffs(schemes)[1]

    def monopolist(self, agent, sign=1.0):
        problem = monopoly_problem(self.game, agent, self.user, self.scale)
        optimum = concavify(problem, np.eye(self.game.mass.shape[1]), sign=sign)
        return Deviation(optimum.value, optimum.value, optimum.scheme, optimum.status)

    def deviations(self, schemes, agents):
        result = []
        for i in agents:
            problem = pooled_problem(self.game, schemes, i, self.user, self.scale)
            optimum = concavify(problem, (schemes[i] * problem.prior[:, None]).T)
            dictated = float(self.game.agents[i].max(-1).sum())
            result.append(Deviation(optimum.value, dictated, optimum.scheme, optimum.status))
        return result
