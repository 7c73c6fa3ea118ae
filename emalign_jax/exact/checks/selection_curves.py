"""Selection with a rational user in whole batches: gains and best responses read from value-payoff frontiers.

The frontier f_i of an agent (section 5.1 of docs/model.md) holds all that a deviation of that agent can attain against
any schemes of the others. So it is traced once for each game, by the batched simplex, and every profile, start and step
of a search is answered by interpolation. Ties are broken as recommended (ties="agents").
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.checks.batch import AbstractChecks, Examinations, Facts, ignore
from emalign_jax.exact.checks.divided import Divided
from emalign_jax.exact.checks.examination import known_range, relative, without_impossible_messages
from emalign_jax.exact.checks.one_by_one import OneByOne
from emalign_jax.exact.checks.standard_checks import StandardChecks
from emalign_jax.exact.obedience import frontier
from emalign_jax.exact.obedience.fewer_messages import compress
from emalign_jax.exact.obedience.program import NEGLIGIBLE
from emalign_jax.exact.responses import selection_table
from emalign_jax.games.units import NEGLIGIBLE_RANGE, NEGLIGIBLE_TIE_EFFECT, VALUE_TIE

# The smallest share of silence in a scheme that is garbled to be worth less.
BEHIND = 1e-7


class SelectionCurves(StandardChecks):
    """The checks of games all of whose frontiers are proved.

    checks: the checks of the same games one by one, of which this takes the setting.
    """

    def __init__(self, checks: OneByOne, sound: Bool[np.ndarray, "N"]):
        super().__init__(checks, sound)
        game = self.game
        self.curves = frontier.trace(game, game.agents)
        least = -frontier.largest_payoffs(game, -game.agents)
        self.proved = np.asarray(sound & self.curves.proved.all(1) & np.isfinite(least).all(1))
        found = self.curves.paid[:, :, 0] - least
        self.payoff_range = np.where(found <= NEGLIGIBLE_RANGE * self.stakes, 0.0, found)
        self.negligible = np.where(self.payoff_range > 0, 0.0, NEGLIGIBLE_RANGE * self.stakes)
        self.tie = VALUE_TIE * self.scale

    # profiles

    def examine(self, at, schemes, bracket=None, tolerance=None, tell=ignore):
        schemes = without_impossible_messages(schemes)
        found = self._examined(at, *selection_table(self._games(at), schemes, self.user))
        tell(len(at))
        return found

    def refine(self, at, schemes, examined, brackets, asked):
        """With frontiers that have the user's tie tolerance, instead of bounds of its effect, where it matters."""
        selected, rivals = self.leaders(at, examined.values)
        goals = self._goals(at, examined.values, selected, rivals)
        best, price = self.curves.pay(at, goals)
        material = self._material(at, price) & (examined.upper > examined.gains)
        rows = np.flatnonzero(material.any(1))
        if not len(rows):
            return examined
        game = self._games(at[rows])
        relaxed = frontier.trace(game, game.agents, tie_tolerance=self.user.tie_tolerance, keep=False)
        most = relaxed.pay(np.arange(len(rows)), goals[rows])[0] + np.maximum(relaxed.excess, 0)
        gained = np.maximum(np.maximum(most, best[rows]) - examined.agents[rows], examined.gains[rows])
        use = material[rows] & relaxed.proved
        upper = examined.upper.copy()
        upper[rows] = np.where(use, np.minimum(upper[rows], gained), upper[rows])
        return examined._replace(upper=upper)

    def _material(self, at, price):
        """Where the effect of the user's tie tolerance on a payoff is not neglected."""
        room = NEGLIGIBLE_TIE_EFFECT * self.payoff_range[at] + self.negligible[at]
        return self.user.tie_tolerance * price > room

    def after_move(self, at, schemes, before, agents, tolerance=None):
        n = np.arange(len(at))
        own = self.game.agents[at, agents][:, None]
        moved = without_impossible_messages(schemes[n, agents][:, None])
        new = selection_table(self._games(at), moved, self.user, own)
        values, table = before.values.copy(), before.table.copy()
        values[n, agents], table[n, :, agents] = new.values[:, 0], new.payoffs[:, :, 0]
        return self._examined(at, values, table)

    def _examined(self, at, values, table) -> Examinations:
        n, K = np.arange(len(at)), values.shape[1]
        selected, rivals = self.leaders(at, values)
        goals = self._goals(at, values, selected, rivals)
        payoffs, present = table[n, :, selected], values[n, selected]
        best, price = self.curves.pay(at, goals)
        excess = self.curves.excess[at]
        # No scheme is worth more to the user, and ties go to the selected agent.
        stays = (present >= self.full[at] - self.tie[at])[:, None] & (np.arange(K) > selected[:, None])
        loses = np.arange(K) != selected[:, None]
        value = np.where(stays, payoffs, np.where(loses, np.maximum(payoffs, best), best))
        gains = np.maximum(value - payoffs, 0)
        shares = relative(gains, known_range(self.payoff_range[at], self.negligible[at], gains))
        # What the user's tie tolerance adds at most to a payoff; it is neglected where it is small.
        effect = np.where(self._material(at, price), self.user.tie_tolerance * price, 0)
        upper = best + np.maximum(excess, 0) + effect
        upper = np.minimum(upper, np.maximum(self.most_payoff[at], best))
        upper = np.where(stays, payoffs, np.where(loses, np.maximum(payoffs, upper), upper))
        return Examinations(
            present, payoffs, gains, np.maximum(upper - payoffs, gains), shares, np.ones(len(at), bool), values,
            table, np.full(len(at), None),
        )  # fmt: skip

    def _goals(self, at, values, selected, rivals) -> Float[np.ndarray, "n K"]:
        """The user value that each agent must offer: the selected agent's, or for itself the best rival's."""
        n = np.arange(len(at))
        goals = np.repeat(values[n, selected][:, None], values.shape[1], 1)
        goals[n, selected] = np.where(rivals >= 0, values[n, rivals], -np.inf)
        return self._reachable(at[:, None], goals)

    def _reachable(self, at, values):
        """`values`, or slightly less than V_full."""
        return np.minimum(values, self.full[at] - self.tie[at])

    # best responses

    def best_responses(self, at, schemes, examined, agents):
        n = np.arange(len(at))
        selected, rivals = self.leaders(at, examined.values)
        goals = self._goals(at, examined.values, selected, rivals)[n, agents]
        return self._offers(at, agents, goals, schemes.shape[-1])

    def at_least(self, at, agents, values, messages):
        return self._offers(at, agents, self._reachable(at, values), messages)

    def monopolists(self, at, messages):
        K = self.payoff_range.shape[1]
        many, agents = np.repeat(at, K), np.tile(np.arange(K), len(at))
        found = self._offers(many, agents, np.full(len(many), -np.inf), messages)
        return found.reshape(len(at), K, *found.shape[1:])

    def monopoly(self, at):
        form = self.form_of(at)
        best = selection_table(self._games(at), self.curves.distribution[at, :, 0], self.user)
        value = form.user_unit[:, None] * best.values + form.user_zero[:, None]
        return np.array([value, form.agent_unit * self.curves.paid[at, :, 0] + form.agent_zero])

    def _offers(self, at, agents, values, messages: int) -> Float[np.ndarray, "n XB M"]:
        """Schemes on the frontiers, worth slightly more than `values` to the user if there are such schemes."""
        above = values + 4 * self.tie[at]
        return self._schemes(at, agents, self.curves.offer(at, agents, above), messages)

    def _schemes(self, at, agents, distributions, messages: int) -> Float[np.ndarray, "n XB M"]:
        """Schemes that induce these distributions over recommendations; NaN where they need more messages."""
        distributions = np.where(distributions > NEGLIGIBLE, distributions, 0)
        distributions = distributions / distributions.sum(-1, keepdims=True)
        R = distributions.shape[-1]
        if messages >= R:
            return np.pad(distributions, ((0, 0), (0, 0), (0, messages - R)))
        used = distributions.max(1) > 0
        first = np.argsort(~used, 1, kind="stable")[:, :messages]
        schemes = np.take_along_axis(distributions, first[:, None], 2)
        for k in np.flatnonzero(used.sum(1) > messages):
            own, user = (frontier.spread(x) for x in (self.game.agents[at[k], agents[k]], self.game.welfare[at[k]]))
            whole = distributions[k]
            fewer = compress(whole, (whole * own).sum(0), (whole * user).sum(0))
            fits = fewer.shape[1] <= messages
            schemes[k] = np.pad(fewer, ((0, 0), (0, messages - fewer.shape[1]))) if fits else np.nan
        return schemes

    # outbidding

    def can_outbid(self, at):
        return np.ones(len(at), bool)

    def standing(self, at, schemes, examined):
        return examined.values, *self.leaders(at, examined.values)

    def just_behind(self, at, schemes, selected, rivals):
        # A scheme's value is convex in the scheme, so that a share of silence costs at least that share of its worth.
        leader = schemes[np.arange(len(at)), selected]
        own = self.game.agents[at, selected][:, None]
        worth = selection_table(self._games(at), leader[:, None], self.user, own).values[:, 0] - self.none[at]
        share = np.clip(4 * self.tie[at] / np.maximum(worth, 1e-300), BEHIND, 1)[:, None, None]
        silent = np.zeros_like(leader)
        silent[..., 0] = 1
        return (1 - share) * leader + share * silent

    def worth(self, at):
        return self.full[at] - self.none[at]

    def limits(self, at, messages):
        XB = self.game.user.shape[2]
        reveal = np.eye(XB, messages) if messages >= XB else np.full((XB, messages), np.nan)
        return np.broadcast_to(reveal, (len(at), XB, messages))

    # certificates

    def facts(self, at):
        columns = self.full, self.none, self.informed, self.payoff_range, self.negligible, self.stakes, self.scale
        return Facts(*(x[at] for x in columns))


def together(checks: OneByOne, sound: Bool[np.ndarray, "N"]) -> AbstractChecks:
    """The games whose frontiers are proved by the batched solver, and the others one by one."""
    found = SelectionCurves(checks, sound)
    checks.fallback[sound & ~found.proved] = True
    return found if found.proved[sound].all() else Divided(found, checks, found.proved)
