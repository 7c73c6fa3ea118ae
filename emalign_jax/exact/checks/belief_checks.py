"""What batches of games that are checked by belief LPs have in common: monopolists, payoff ranges and brackets."""

from __future__ import annotations

import abc
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.checks.base import Deviation
from emalign_jax.exact.checks.batch import Examinations, Facts, ignore, not_examined
from emalign_jax.exact.checks.examination import known_range, relative, without_impossible_messages
from emalign_jax.exact.checks.one_by_one import OneByOne
from emalign_jax.exact.checks.standard_checks import StandardChecks
from emalign_jax.exact.concavification.belief_lps import AbstractBeliefLPs
from emalign_jax.exact.concavification.by_user import belief_lps, concavify
from emalign_jax.exact.concavification.problems import joined, monopoly_problem, pooled_problems
from emalign_jax.exact.obedience.fewer_messages import fit
from emalign_jax.exact.responses import pooled_payoffs
from emalign_jax.games.game import ReducedGame
from emalign_jax.games.units import LP_ERROR, NEGLIGIBLE_RANGE
from emalign_jax.lp import choice
from emalign_jax.users.base import AbstractUser

# Belief LPs treated together, so that memory stays bounded.
TOGETHER = 1024
# With so many games compiling is worth while.
FEWEST = 64


class BeliefChecks(StandardChecks):
    """The checks of a batch of games.

    checks: the checks of the same games one by one, of which this takes the setting.
    """

    def __init__(self, checks: OneByOne, sound: Bool[np.ndarray, "N"]):
        super().__init__(checks, sound)
        choice.check_word(checks.lp)
        self._start(checks.lp == "batched" or (checks.lp == "auto" and checks.count >= FEWEST))

    def _start(self, compiled: bool) -> None:
        self.at_once, self.compiled = TOGETHER, compiled
        N, XB = len(self.scale), self.game.user.shape[2]
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
        lps = belief_lps(problems, revealing, self.compiled)
        found = lps.best(np.arange(2 * len(many)))
        most, worst = found.value.reshape(2, len(some), self.K)
        ranges = most + worst  # The worst payoffs have the opposite sign.
        self._range[some] = np.where(ranges <= NEGLIGIBLE_RANGE * self.stakes[some], 0.0, ranges)
        self._alone[some] = most
        self._monopolists[some] = found.scheme[: len(many)].reshape(len(some), self.K, *found.scheme.shape[1:])
        self._note_fallback(np.concatenate([many, many]), lps)
        self._known[some] = True

    def _note_fallback(self, at, lps: AbstractBeliefLPs) -> None:
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

    @abc.abstractmethod
    def _examine_some(self, at, schemes, brackets, tolerance) -> Examinations:
        """Examine profiles; brackets: [n] the distance of upper from lower bounds, as a share of the payoff range."""

    def _allowed(self, at, tolerance: float) -> Float[np.ndarray, "n K"]:
        """The gains that `certificates` accepts."""
        return tolerance * self._range[at] + self._negligible(at) + LP_ERROR * self.stakes[at]

    def _widths(self, at, brackets) -> Float[np.ndarray, "nK"] | None:
        """The brackets of all agents in units of payoff."""
        if brackets is None:
            return None
        return (brackets[:, None] * self._range[at] + self._negligible(at) / 2).ravel()

    def _worth_proving(self, at, gains, brackets, tolerance: float) -> Bool[np.ndarray, "n"]:
        """Whether no agent gains more than the tolerance, so that upper bounds are asked for."""
        shares = relative(gains, known_range(self._range[at], self._negligible(at), gains))
        return np.asarray((shares <= tolerance).all(1) & (brackets is not None))

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
        return fitted(np.array(found), schemes.shape[-1])

    def monopolists(self, at, messages):
        self._learn(at)
        found = self._monopolists[at]
        return fitted(found.reshape(-1, *found.shape[2:]), messages).reshape(*found.shape[:3], messages)

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


def monopolist(game: ReducedGame, agent: int, user: AbstractUser, sign: float) -> Deviation:
    """As `AbstractCheck.monopolist`."""
    found = concavify(monopoly_problem(game, agent, user, sign), np.eye(game.mass.shape[1]))
    return deviations(sign * found.value, sign * found.value, found.scheme)[0]


def deviations(value: Float[np.ndarray, "n"], upper: Float[np.ndarray, "n"], schemes) -> list[Deviation]:
    """Best responses from arrays over agents; NaN where an LP failed."""
    found = zip(value, upper, schemes, strict=True)
    return [Deviation(float(v), float(u), x, "Failed" if np.isnan(v) else "Optimal") for v, u, x in found]


def fitted(schemes: Float[np.ndarray, "n XB S"], messages: int) -> Float[np.ndarray, "n XB M"]:
    """The schemes with `messages` columns; NaN where they need more."""
    out = np.full((*schemes.shape[:2], messages), np.nan)
    if messages >= schemes.shape[2]:
        out[:] = np.pad(schemes, ((0, 0), (0, 0), (0, messages - schemes.shape[2])))
        return out
    for n in np.flatnonzero(np.isfinite(schemes).all((1, 2))):
        fewer = fit(schemes[n], messages)
        if fewer is not None:
            out[n] = fewer
    return out
