"""Pooled with a quantal user in whole batches: gains and proofs by belief LPs (sections 5.3 and 5.4 of docs/model.md).

A profile needs no optimal belief LP to be certified: any prices that prove that no agent gains more than the tolerance
do. The beliefs of the played schemes give good ones, so that most proofs succeed at the first attempt.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.checks.base import WORK
from emalign_jax.exact.checks.batch import Examinations, Facts, ignore, not_examined
from emalign_jax.exact.checks.examination import known_range, relative, without_impossible_messages
from emalign_jax.exact.checks.one_by_one import OneByOne
from emalign_jax.exact.checks.standard_checks import StandardChecks
from emalign_jax.exact.concavification.belief_lps import BeliefLPs
from emalign_jax.exact.concavification.branch_and_bound import operations
from emalign_jax.exact.concavification.problems import joined, pooled_problems
from emalign_jax.exact.obedience.fewer_messages import fit
from emalign_jax.exact.responses import pooled_payoffs
from emalign_jax.games.game import ReducedGame
from emalign_jax.games.units import LP_ERROR, NEGLIGIBLE_RANGE
from emalign_jax.lp import choice

# Belief LPs treated together, so that memory stays bounded.
TOGETHER = 1024
# With so many games compiling is worth while.
FEWEST = 64


class PooledBeliefs(StandardChecks):
    """The checks of a batch of games.

    checks: the checks of the same games one by one, of which this takes the setting.
    """

    def __init__(self, checks: OneByOne, sound: Bool[np.ndarray, "N"]):
        super().__init__(checks, sound)
        self.at_once = TOGETHER
        choice.check_word(checks.lp)
        self.compiled = checks.lp == "batched" or (checks.lp == "auto" and checks.count >= FEWEST)
        N, XB = len(sound), self.game.user.shape[2]
        self._known = np.zeros(N, bool)  # Whether the monopolists of a game are known.
        self._range, self._alone = np.full((N, self.K), np.nan), np.full((N, self.K), np.nan)
        self._monopolists = np.full((N, self.K, XB, XB), np.nan)

    def _setting(self, at) -> tuple[Any, Any]:
        """The games and users of these numbers."""
        return self._games(at), jax.tree.map(lambda x: x[at], self.users)

    # monopolists

    def _learn(self, at) -> None:
        """Find the monopolists' best and worst payoffs, and so the payoff ranges, of these games."""
        new = np.unique(at)
        new = new[~self._known[new]]
        step = max(1, TOGETHER // (2 * self.K))
        for first in range(0, len(new), step):
            self._learn_some(new[first : first + step])

    def _learn_some(self, some) -> None:
        many, agents = np.repeat(some, self.K), np.tile(np.arange(self.K), len(some))
        game, user = self._setting(many)
        silent = np.zeros((len(many), 0, game.user.shape[2], 1))
        problems = joined([pooled_problems(game, silent, agents, user, sign) for sign in (1.0, -1.0)])
        revealing = np.broadcast_to(np.eye(silent.shape[2]), (2 * len(many), silent.shape[2], silent.shape[2]))
        lps = BeliefLPs(problems, revealing, self.compiled)
        found = lps.best(np.arange(2 * len(many)))
        most, worst = found.value.reshape(2, len(some), self.K)
        ranges = most + worst  # The worst payoffs have the opposite sign.
        self._range[some] = np.where(ranges <= NEGLIGIBLE_RANGE * self.stakes[some], 0.0, ranges)
        self._alone[some] = most
        self._monopolists[some] = found.scheme[: len(many)].reshape(len(some), self.K, *found.scheme.shape[1:])
        self._note_fallback(np.concatenate([many, many]), lps)
        self._known[some] = True

    def _note_fallback(self, at, lps: BeliefLPs) -> None:
        self.fallback[at[lps.fallback]] = True

    def _negligible(self, at):
        return np.where(self._range[at] > 0, 0.0, NEGLIGIBLE_RANGE * self.stakes[at])

    # profiles

    def examine(self, at, schemes, bracket=None, tolerance=None, tell=ignore):
        self._learn(at)
        schemes, out = without_impossible_messages(schemes), not_examined(len(at), self.K)
        step = max(1, TOGETHER // self.K)
        for first in range(0, len(at), step):
            some = np.arange(first, min(first + step, len(at)))
            width = None if bracket is None else np.full(len(some), float(bracket))
            out.put(some, self._examine_some(at[some], schemes[some], width, tolerance))
            tell(int(some[-1]) + 1)
        return out

    def refine(self, at, schemes, examined, brackets, asked):
        some = np.flatnonzero(brackets < asked / 2)
        if len(some):
            schemes = without_impossible_messages(schemes[some])
            examined.put(some, self._examine_some(at[some], schemes, brackets[some], None))
        return examined

    def _examine_some(self, at, schemes, brackets, tolerance) -> Examinations:
        """Examine profiles; brackets: [n] the distance of upper from lower bounds, as a share of the payoff range."""
        n, K = len(at), self.K
        value, payoffs = self._payoffs(at, schemes)
        each, agents = np.repeat(np.arange(n), K), np.tile(np.arange(K), n)
        lps, every = self._lps(at[each], schemes[each], agents), np.arange(n * K)
        ranges, negligible = self._range[at], self._negligible(at)
        if tolerance is None:
            width = None if brackets is None else (brackets[:, None] * ranges + negligible / 2).ravel()
            found = lps.best(every, width, cells_of_work(self.game, schemes.shape))
            bracketed = np.full(n, brackets is not None)
        else:
            present, enough = payoffs.ravel(), (payoffs + self._allowed(at, tolerance)).ravel()
            found = lps.better(every, present, enough)
            gains = np.maximum(found.value.reshape(n, K) - payoffs, 0)
            bracketed = (relative(gains, known_range(ranges, negligible, gains)) <= tolerance).all(1)
            bracketed &= brackets is not None
            if bracketed.any():
                rows = np.flatnonzero(np.repeat(bracketed, K))
                proved = lps.prove(rows, present[rows], enough[rows], cells_of_work(self.game, schemes.shape))
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

    def _lps(self, at, schemes, agents) -> BeliefLPs:
        game, user = self._setting(at)
        return belief_lps(game, schemes, agents, user, self.compiled)

    def _allowed(self, at, tolerance: float) -> Float[np.ndarray, "n K"]:
        """The gains that `certificates` accepts."""
        return tolerance * self._range[at] + self._negligible(at) + LP_ERROR * self.stakes[at]

    def _examination(self, at, value, payoffs, best, upper, schemes, bracketed) -> Examinations:
        n, K = payoffs.shape
        best, upper = best.reshape(n, K), upper.reshape(n, K)
        gains = np.maximum(best - payoffs, 0)
        upper = np.minimum(upper, np.maximum(self.most_payoff[at], best))
        details, nothing = np.empty(n, object), np.full((n, K), np.nan)
        details[:] = list(schemes.reshape(n, K, *schemes.shape[-2:]))
        shares = relative(gains, known_range(self._range[at], self._negligible(at), gains))
        return Examinations(
            value, payoffs, gains, np.maximum(upper - payoffs, gains), shares, bracketed, nothing,
            np.full((n, K, K), np.nan), details,
        )  # fmt: skip

    # best responses

    def best_responses(self, at, schemes, examined, agents):
        found = [one[i] for one, i in zip(examined.details, agents, strict=True)]
        return _fitted(np.array(found), schemes.shape[-1])

    def monopolists(self, at, messages):
        self._learn(at)
        found = self._monopolists[at]
        return _fitted(found.reshape(-1, *found.shape[2:]), messages).reshape(*found.shape[:3], messages)

    def monopoly(self, at):
        self._learn(at)
        form, found = self.form_of(at), np.empty((2, len(at), self.K))
        game, user = self._setting(at)
        for i in range(self.K):
            alone = game._replace(agents=game.agents[:, i : i + 1])
            found[0, :, i] = pooled_payoffs(alone, self._monopolists[at, i][:, None], user)[0]
        found[0] = form.user_unit[:, None] * found[0] + form.user_zero[:, None]
        found[1] = form.agent_unit * self._alone[at] + form.agent_zero
        return found

    # certificates

    def facts(self, at):
        self._learn(at)
        columns = self.full[at], self.none[at], self.informed[at], self._range[at], self._negligible(at)
        return Facts(*columns, self.stakes[at], self.scale[at])


def belief_lps(
    game: ReducedGame, schemes: Float[np.ndarray, "n K XB M"], agents, user: Any, compiled: bool
) -> BeliefLPs:
    """The belief LPs of agent agents[n] in profile n, which know the beliefs of its present scheme."""
    problems = pooled_problems(game, schemes, agents, user)
    played = schemes[np.arange(len(agents)), agents].swapaxes(1, 2) * problems.target[:, None]
    return BeliefLPs(problems, played, compiled)


def cells_of_work(game: ReducedGame, shape: tuple[int, ...]) -> int:
    """How many cells may be bounded for the upper bound of one agent, with schemes of this shape [..., K, XB, M]."""
    K, XB, M = shape[-3:]
    types, A = game.user.shape[-3] * M ** (K - 1), game.user.shape[-1]
    return WORK // operations(XB, types, A)


def _fitted(schemes: Float[np.ndarray, "n XB S"], messages: int) -> Float[np.ndarray, "n XB M"]:
    """The schemes with `messages` columns; NaN where they need more."""
    out = np.full((*schemes.shape[:2], messages), np.nan)
    if messages >= schemes.shape[2]:
        out[:] = np.pad(schemes, ((0, 0), (0, 0), (0, messages - schemes.shape[2])))
        return out
    for n, scheme in enumerate(schemes):
        fitted = fit(scheme, messages)
        if fitted is not None:
            out[n] = fitted
    return out
