"""Best responses in Pooled by concavification (sections 5.3 and 5.4 of docs/model.md).

The value is attained by the scheme returned with it, or approached, where the tie rule breaks a tie otherwise. If a
bracket is asked for, the upper bound is proved by branch and bound for a quantal user, and by enumeration or a MILP for
a rational one. Otherwise it is the agent's payoff from choosing the user's action itself.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from emalign_jax.exact.checks import pooled_groups
from emalign_jax.exact.checks.base import WORK, AbstractCheck, Deviation, register_check
from emalign_jax.exact.checks.pooled_beliefs import PooledBeliefs, belief_lps, cells_of_work
from emalign_jax.exact.concavification.belief_lps import BeliefLPs, BeliefOptima
from emalign_jax.exact.concavification.belief_milp import MAX_BINARIES
from emalign_jax.exact.concavification.beliefs import (
    MAX_EDGES,
    BeliefProblem,
    count_corners,
    monopoly_problem,
    pooled_problem,
)
from emalign_jax.exact.concavification.column_generation import BeliefLP
from emalign_jax.exact.concavification.problems import pooled_problems
from emalign_jax.exact.responses import pooled_payoffs
from emalign_jax.games.game import ReducedGame
from emalign_jax.internal.arguments import power
from emalign_jax.protocols import Pooled
from emalign_jax.users.quantal import QuantalUser
from emalign_jax.users.rational import RationalUser

MAX_CELLS = 2**14


class PooledCheck(AbstractCheck):
    revealing_is_picked = True

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

    def payoffs(self, schemes):
        return pooled_payoffs(self.game, schemes, self.user)


@register_check(Pooled, QuantalUser)
class PooledQuantal(PooledCheck):
    """A quantal user. The bracket closes to 1e-4 for few x_B, and stays open for many."""

    @classmethod
    def together(cls, checks, sound):
        return PooledBeliefs(checks, sound) if sound.any() else checks

    def monopolist(self, agent, sign=1.0):
        if (agent, sign) not in self._alone:
            silent = np.zeros((1, 0, self.game.mass.shape[1], 1))
            problems = pooled_problems(self._batch, silent, np.array([agent]), self._user, sign)
            found = BeliefLPs(problems, np.eye(silent.shape[2])[None], compiled=False).best(np.zeros(1, int))
            self._alone[agent, sign] = _deviation(found._replace(upper=sign * found.value), 0, sign)
        return self._alone[agent, sign]

    def deviations(self, schemes, agents, bracket=None):
        every = np.arange(len(agents))
        game, user = (jax.tree.map(lambda x: np.repeat(x, len(agents), 0), x) for x in (self._batch, self._user))
        lps = belief_lps(game, np.repeat(schemes[None], len(agents), 0), np.array(agents), user, compiled=False)
        width = None if bracket is None else np.array([self._width(i, float(bracket)) for i in agents])
        found = lps.best(every, width, cells_of_work(self.game, schemes.shape))
        result = [_deviation(found, n) for n in range(len(agents))]
        return [
            one._replace(upper=min(one.upper, max(float(self.payoff_bounds[i]), one.value)))
            for i, one in zip(agents, result, strict=True)
        ]

    @functools.cached_property
    def _batch(self) -> ReducedGame:
        return ReducedGame(*(np.asarray(x)[None] for x in self.game))

    @functools.cached_property
    def _user(self) -> Any:
        return jax.tree.map(lambda x: np.asarray(x)[None], self.user)


def _deviation(found: BeliefOptima, n: int, sign: float = 1.0) -> Deviation:
    value = sign * float(found.value[n])
    status = "Optimal" if np.isfinite(value) else "Failed"
    return Deviation(value, float(found.upper[n]), found.scheme[n], status)


@register_check(Pooled, RationalUser)
class PooledRational(PooledCheck):
    """A rational user. Best beliefs are found by enumeration or a MILP, which limits the number of types."""

    games_at_once = 2048  # Enough groups of games for many cores.

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        self._start_on(np.empty(0))

    @classmethod
    def prepare(cls, checks, profiles, bracket=None, tolerance=None, progress=lambda done: None):
        bracket, tolerance = (None if x is None else float(x) for x in (bracket, tolerance))
        pooled_groups.prepare(checks, profiles, bracket, tolerance, progress)

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

    def common_response_payoffs(self, schemes):
        if self.user.favours:
            lowest = RationalUser(ties="lowest", tolerance=self.user.tolerance)  # The user's value is the same.
            return pooled_payoffs(self.game, schemes, lowest)[1]
        return self.payoffs(schemes)[1]

    def monopolist(self, agent, sign=1.0):
        if (agent, sign) not in self._alone:
            revealing = np.eye(self.game.mass.shape[1])
            found = BeliefLP(self._monopolies[agent], revealing, sign=sign).best()
            self._alone[agent, sign] = Deviation(found.value, found.value, found.scheme, found.status)
        return self._alone[agent, sign]

    @functools.cached_property
    def _monopolies(self) -> list[BeliefProblem]:
        return [monopoly_problem(self.game, i, self.user) for i in range(len(self.game.agents))]

    def release_caches(self) -> None:
        self._lps = {}

    def start_on(self, schemes) -> None:
        """Forget the best responses to schemes other than these."""
        if not np.array_equal(schemes, self._schemes):
            self._start_on(schemes.copy())

    def _start_on(self, schemes) -> None:
        self._schemes = schemes
        self._lps: dict[int, BeliefLP] = {}
        self.responses: dict[tuple[int, float | None], Deviation] = {}  # By agent and bracket.

    def _respond(self, agent: int, bracket: float | None) -> Deviation:
        """The agent's best response to the current schemes; its belief LP is kept."""
        if agent not in self._lps:
            problem = pooled_problem(self.game, self._schemes, agent, self.user)
            present = (self._schemes[agent] * problem.prior[:, None]).T
            self._lps[agent] = BeliefLP(problem, present)
        found = self._lps[agent].best(bracket=self._width(agent, bracket), work=WORK)
        return Deviation(found.value, min(found.upper, float(self.payoff_bounds[agent])), found.scheme, found.status)

    def deviations(self, schemes, agents, bracket=None):
        bracket = None if bracket is None else float(bracket)
        self.start_on(schemes)
        for i in agents:
            if (i, bracket) not in self.responses:
                self.responses[i, bracket] = self._respond(i, bracket)
        return [self.responses[i, bracket] for i in agents]
