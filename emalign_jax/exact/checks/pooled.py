"""Best responses in Pooled by concavification (sections 5.3 and 5.4 of docs/model.md).

The value is attained by the scheme returned with it, or approached, where the tie rule breaks a tie otherwise. If a
bracket is asked for, the upper bound is proved by branch and bound for a quantal user, and by enumeration or a MILP for
a rational one. Otherwise it is the agent's payoff from choosing the user's action itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from emalign_jax.exact.checks import pooled_groups
from emalign_jax.exact.checks.base import WORK, AbstractCheck, Deviation, register_check
from emalign_jax.exact.checks.examination import examine
from emalign_jax.exact.concavification.belief_milp import MAX_BINARIES
from emalign_jax.exact.concavification.beliefs import (
    MAX_EDGES,
    BeliefProblem,
    count_corners,
    monopoly_problem,
    pooled_problem,
)
from emalign_jax.exact.concavification.column_generation import BeliefLP, BeliefOptimum
from emalign_jax.exact.concavification.interleaving import Search, side_by_side
from emalign_jax.exact.responses import pooled_payoffs
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
        self._start_on(np.empty(0))

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

    def monopolist(self, agent, sign=1.0):
        if (agent, sign) not in self._alone:
            self._search_monopolists([(self, agent, sign)])
        return self._alone[agent, sign]

    @staticmethod
    def _search_monopolists(asked: list[tuple[PooledCheck, int, float]]) -> None:
        found = side_by_side([check._search_alone(agent, sign) for check, agent, sign in asked])
        for (check, agent, sign), optimum in zip(asked, found, strict=True):
            check._alone[agent, sign] = Deviation(optimum.value, optimum.value, optimum.scheme, optimum.status)

    def _search_alone(self, agent: int, sign: float) -> Search[BeliefOptimum]:
        revealing = np.eye(self.game.mass.shape[1])
        return (yield from BeliefLP(self._monopolies[agent], revealing, sign=sign).search())

    @functools.cached_property
    def _monopolies(self) -> list[BeliefProblem]:
        return [monopoly_problem(self.game, i, self.user) for i in range(len(self.game.agents))]

    games_at_once = 2048  # Enough groups of games for many cores.

    @classmethod
    def prepare_monopolists(cls, checks):
        cls._search_monopolists([(check, 0, 1.0) for check in checks])

    @classmethod
    def prepare(cls, checks, profiles, bracket=None, tolerance=None, progress=lambda done: None):
        bracket, tolerance = (None if x is None else float(x) for x in (bracket, tolerance))
        pooled_groups.prepare(checks, profiles, bracket, tolerance, progress)

    @classmethod
    def prepare_group(cls, checks, profiles, bracket, tolerance) -> None:
        """`prepare` in this process, for games that are searched side by side."""
        cls._prepare_ranges(checks)
        pairs = list(zip(checks, profiles, strict=True))
        if tolerance is not None:
            cls._search_open(pairs, None)
            examined = [examine(check, schemes) for check, schemes in pairs]
            pairs = [p for p, e in zip(pairs, examined, strict=True) if e.worst <= tolerance and not e.bracketed]
        cls._search_open(pairs, bracket)
        for check in checks:
            check.release_caches()

    def release_caches(self) -> None:
        self._lps = {}

    @classmethod
    def _prepare_ranges(cls, checks) -> None:
        asked = [(check, i, s) for check in checks if check._range is None for i in check._agents for s in (1.0, -1.0)]
        cls._search_monopolists([(check, i, sign) for check, i, sign in asked if (i, sign) not in check._alone])

    @classmethod
    def _search_open(cls, pairs, bracket: float | None) -> None:
        cls._search_deviations([(c, i) for c, schemes in pairs for i in c._open(schemes, c._agents, bracket)], bracket)

    @property
    def _agents(self) -> range:
        return range(len(self.game.agents))

    def _open(self, schemes, agents: Iterable[int], bracket: float | None) -> list[int]:
        """Those of `agents` whose best response is not known yet."""
        self.start_on(schemes)
        return [i for i in agents if (i, bracket) not in self.responses]

    def start_on(self, schemes) -> None:
        """Forget the best responses to schemes other than these."""
        if not np.array_equal(schemes, self._schemes):
            self._start_on(schemes.copy())

    def _start_on(self, schemes) -> None:
        self._schemes = schemes
        self._lps: dict[int, BeliefLP] = {}
        self.responses: dict[tuple[int, float | None], Deviation] = {}  # By agent and bracket.

    @staticmethod
    def _search_deviations(asked: list[tuple[PooledCheck, int]], bracket: float | None) -> None:
        found = side_by_side([check._search_response(i, bracket) for check, i in asked])
        for (check, i), optimum in zip(asked, found, strict=True):
            upper = min(optimum.upper, float(check.most[i]))
            check.responses[i, bracket] = Deviation(optimum.value, upper, optimum.scheme, optimum.status)

    def _search_response(self, agent: int, bracket: float | None) -> Search[BeliefOptimum]:
        """The agent's best response to the current schemes; its belief LP is kept."""
        if agent not in self._lps:
            problem = pooled_problem(self.game, self._schemes, agent, self.user)
            present = (self._schemes[agent] * problem.prior[:, None]).T
            self._lps[agent] = BeliefLP(problem, present)
        return (yield from self._lps[agent].search(bracket=self._width(agent, bracket), work=WORK))

    def deviations(self, schemes, agents, bracket=None):
        if bracket is not None:
            bracket = float(bracket)
            self._prepare_ranges([self])
        self._search_deviations([(self, i) for i in self._open(schemes, agents, bracket)], bracket)
        return [self.responses[i, bracket] for i in agents]


@register_check(Pooled, QuantalUser)
class PooledQuantal(PooledCheck):
    """A quantal user. The bracket closes to 1e-4 for few x_B, and stays open for many."""


@register_check(Pooled, RationalUser)
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

    def common_response_payoffs(self, schemes):
        if self.user.favours:
            lowest = RationalUser(ties="lowest", tolerance=self.user.tolerance)  # The user's value is the same.
            return pooled_payoffs(self.game, schemes, lowest)[1]
        return self.payoffs(schemes)[1]
