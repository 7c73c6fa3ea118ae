"""Pooled in whole batches: gains and proofs by belief LPs (sections 5.3 and 5.4 of docs/model.md).

A profile needs no optimal belief LP to be certified: any prices that prove that no agent gains more than the tolerance
do. The beliefs of the played schemes give good ones, so that most proofs succeed at the first attempt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.base import WORK
from emalign_jax.exact.checks.batch import Examinations
from emalign_jax.exact.checks.belief_checks import TOGETHER, BeliefChecks
from emalign_jax.exact.checks.examination import without_impossible_messages
from emalign_jax.exact.concavification.belief_lps import AbstractBeliefLPs
from emalign_jax.exact.concavification.by_user import belief_lps
from emalign_jax.exact.concavification.problems import pooled_problems
from emalign_jax.exact.responses import pooled_payoffs
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.rational import RationalUser


class PooledBeliefs(BeliefChecks):
    """The checks of a batch of games (arguments as in `BeliefChecks`)."""

    def _examine_some(self, at, schemes, brackets, tolerance) -> Examinations:
        n, K = len(at), self.K
        value, payoffs = self._payoffs(at, schemes)
        each, agents = np.repeat(np.arange(n), K), np.tile(np.arange(K), n)
        lps, every = self._lps(at[each], schemes[each], agents), np.arange(n * K)
        if tolerance is None:
            found = lps.best(every, self._widths(at, brackets), WORK)
            bracketed = np.full(n, brackets is not None)
        else:
            present, enough = payoffs.ravel(), (payoffs + self._allowed(at, tolerance)).ravel()
            found = lps.better(every, present, enough)
            gains = np.maximum(found.value.reshape(n, K) - payoffs, 0)
            bracketed = self._worth_proving(at, gains, brackets, tolerance)
            if bracketed.any():
                rows = np.flatnonzero(np.repeat(bracketed, K))
                proved = lps.prove(rows, present[rows], enough[rows], WORK)
                for whole, part in zip(found, proved, strict=True):
                    whole[rows] = part
        self._note_fallback(at[each], lps)
        return self._examination(at, value, payoffs, found.value, found.upper, found.scheme, bracketed)

    def after_move(self, at, schemes, before, agents, tolerance=None):
        """The agent that has moved plays a best response, so that it is examined only where the others gain little."""
        if tolerance is None or self.K == 1:
            return self.examine(at, schemes, None, tolerance)
        schemes = without_impossible_messages(schemes)
        value, payoffs = self._payoffs(at, schemes)
        best = before.agents + before.gains
        found = np.array(list(before.details))
        enough = payoffs + self._allowed(at, tolerance)
        moved = np.arange(self.K) == agents[:, None]

        def improve(some) -> None:
            n, i = np.nonzero(some)
            for first in range(0, len(n), TOGETHER):
                row, agent = n[first : first + TOGETHER], i[first : first + TOGETHER]
                lps = self._lps(at[row], schemes[row], agent)
                better = lps.better(np.arange(len(row)), payoffs[row, agent], enough[row, agent])
                best[row, agent], found[row, agent] = better.value, better.scheme
                self._note_fallback(at[row], lps)

        improve(~moved)
        others = np.where(moved, -np.inf, best - enough).max(1)
        improve(moved & (others <= 0)[:, None])
        upper = np.full(best.shape, np.inf)
        return self._examination(at, value, payoffs, best, upper, found, np.zeros(len(at), bool))

    def _payoffs(self, at, schemes):
        game, user = self._setting(at)
        return pooled_payoffs(game, schemes, user)

    def _lps(self, at, schemes, agents) -> AbstractBeliefLPs:
        game, user = self._setting(at)
        return profile_lps(game, schemes, agents, user, self.compiled)

    def floors(self, at, schemes, examined):
        if not self.user.favours:
            return examined.agents
        game, user = self._setting(at)
        return common_responses(game, without_impossible_messages(schemes), user)


def profile_lps(
    game: ReducedGame, schemes: Float[np.ndarray, "n K XB M"], agents, user: Any, compiled: bool
) -> AbstractBeliefLPs:
    """The belief LPs of agent agents[n] in profile n, which know the beliefs of its present scheme."""
    problems = pooled_problems(game, schemes, agents, user)
    played = schemes[np.arange(len(agents)), agents].swapaxes(1, 2) * problems.target[:, None]
    return belief_lps(problems, played, compiled)


def common_responses(game: ReducedGame, schemes: Float[np.ndarray, "*n K XB M"], user: Any):
    """As `AbstractCheck.common_response_payoffs`, in one game or in a batch."""
    if user.favours:
        user = RationalUser(ties="lowest", tolerance=user.tolerance)  # The user's value is the same.
    return pooled_payoffs(game, schemes, user)[1]
