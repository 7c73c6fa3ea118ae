"""Best responses in Selection with a rational user: the obedience LP (section 5.1 of the model).

The holder is the agent whom the user picks. A rival takes over by being worth more to her, at least the
holder's value v: his payoff is then f_i(v), the most an agent gets at user value >= v. The holder may
lower his offer to the best rival's value.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from jaxtyping import Float

from emalign_jax.exact import frontier
from emalign_jax.exact._base import NOTHING, AbstractCheck, Deviation, register
from emalign_jax.exact.obedience import Advice, ObedienceLP, check_size, cut
from emalign_jax.exact.responses import VALUE_TIE, SelectionTable, choose, selection_table
from emalign_jax.game import ReducedGame
from emalign_jax.protocols import Selection
from emalign_jax.protocols.selection import check_agents
from emalign_jax.users import RationalUser

MATERIAL = 1e-4  # of an agent's payoff range: what a tie tolerance may be worth to him without a word
MOST_TOLERANCE = 1e-5  # a user who forgoes more than this is not the LP's


class SelectionCheck(AbstractCheck):
    """What both users share."""

    most_value: float
    least_value: float
    _last: tuple[np.ndarray, SelectionTable] | None = None

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        self.temperature = float(self.protocol.temperature)

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        check_agents(games)

    def table(self, schemes) -> SelectionTable:
        """values V [K] and payoffs O [K, K]; the last profile's is kept, for it is asked for again and again."""
        if self._last is None or not np.array_equal(self._last[0], schemes):
            self._last = schemes.copy(), selection_table(self.game, schemes, self.user, self.scale)
        return self._last[1]

    def payoffs(self, schemes):
        table = self.table(schemes)
        chosen = self.choose(table.values)
        return float(chosen @ table.values), table.payoffs @ chosen

    def choose(self, values: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
        """Her law over agents."""
        return choose(values, self.temperature, self.scale)

    @property
    def can_outbid(self) -> bool:
        """Whether takeovers are all or nothing, as `dynamics.outbid` needs."""
        return self.sharp

    @property
    def sharp(self) -> bool:
        """Whether she picks the best of those she compares."""
        return self.temperature == 0

    @property
    @abc.abstractmethod
    def most_scheme(self) -> Float[np.ndarray, "XB S"]:
        """A scheme that is worth `most_value` to her."""

    @abc.abstractmethod
    def at_least(self, agent: int, value: float = -np.inf) -> Deviation:
        """f_agent(value): the most he gets while she gets at least `value` (or all she can get)."""

    def standing(self, schemes):
        """values V [K], payoffs O [K, K], the holder, and the best rival (None if there is none)."""
        values, payoffs = self.table(schemes)
        holder = int(choose(values, 0.0, self.scale).argmax())
        rivals = values.copy()
        rivals[holder] = -np.inf
        rival = int(choose(rivals, 0.0, self.scale).argmax()) if len(values) > 1 else None
        return values, payoffs, holder, rival

    def _switch(self, schemes, agent, scheme) -> float:
        """What `agent` gets if he alone changes to `scheme`."""
        M = max(schemes.shape[2], scheme.shape[1])
        profile = np.zeros((*schemes.shape[:2], M))
        profile[:, :, : schemes.shape[2]] = schemes
        profile[agent] = 0
        profile[agent, :, : scheme.shape[1]] = scheme
        return float(self.payoffs(profile)[1][agent])


@register(Selection, RationalUser)
class SelectionRational(SelectionCheck):
    """Exact with ties for the selected agent: the gain is the supremum over all schemes (section 5.1).

    Under other tie rules the LP is an upper bound, and what its scheme attains the lower one. The LP knows true ties
    only; what her tie tolerance may add to it is bounded by the LP's dual, left out where it is at most `MATERIAL`, and
    part of `upper` where it is more (a game in which actions are all but tied).
    """

    otherwise = "with a positive temperature take a QuantalUser"

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        if self.temperature > 0:
            raise ValueError(
                f"temperature: the exact check of {type(self.protocol).__name__} with a rational user needs "
                f"temperature 0; {self.otherwise}"
            )
        if self.user.tolerance > MOST_TOLERANCE:
            raise ValueError(
                f"tolerance: the exact check of Selection needs a tie tolerance of at most {MOST_TOLERANCE:g}, got "
                f"{self.user.tolerance}"
            )
        self._lp: Any = None
        self._tolerant: Any = None
        self._curves: frontier.Frontier | None = None
        self.most_value, self.least_value = self.informed(True)[0], self.informed(False)[0]

    @property
    def most_scheme(self):
        return np.eye(self.game.mass.shape[1])

    @property
    def lp(self) -> Any:
        """HiGHS's model, made when it is needed."""
        if self._lp is None:
            self._lp = self._model()
        return self._lp

    @classmethod
    def prepare_lps(cls, checks, lp):
        if cls is not SelectionRational:  # whose LPs are others
            return 0
        checks = [check for check in checks if check._lp is None and check._curves is None and not check.fallback]
        if not checks or not frontier.choose(lp, len(checks), checks[0].game):
            return 0
        game: Any = ReducedGame(*(np.stack(x) for x in zip(*(check.game for check in checks), strict=True)))
        curves, least = frontier.trace(game, game.agents), -frontier.most(game, -game.agents)
        proved = np.asarray(curves.proved.all(1) & np.isfinite(least).all(1))
        for n, check in enumerate(checks):
            check.fallback = not bool(proved[n])
            if proved[n]:
                check._curves = curves.of(n)
                found = curves.paid[n, :, 0] - least[n]
                check._range = np.where(found <= NOTHING * check.dictated, 0.0, found)
        return int((~proved).sum())

    def confirm(self) -> None:
        """From now on derive every LP's answer in rational arithmetic (`ValueError` if the game is too large)."""
        self._lp, self._curves = self._model(exact=True), None

    def at_least(self, agent: int, value: float = -np.inf) -> Deviation:
        return self._deviate(self._best(agent, self._reachable(value)))

    def _best(self, agent: int, value: float = -np.inf, *at_most: float) -> Advice:
        """The most he gets while she gets at least `value`: off his curve if it has been traced, else by HiGHS."""
        if self._curves is None or at_most:
            return self.lp.best(self.game.agents[agent], value, *at_most)
        paid, law, price, excess = self._curves.best(agent, value)
        own, user = frontier.spread(self.game.agents[agent]), frontier.spread(self.game.user)
        return Advice(True, paid, cut(law, own, user), "Optimal", None, price, excess)

    def _reachable(self, value: float) -> float:
        """Rounding must not make full revelation infeasible."""
        return min(value, self.most_value - VALUE_TIE * self.scale)

    def _model(self, exact: bool = False, slack: float = 0.0) -> Any:
        """The LP of all that an agent can do."""
        return ObedienceLP(self.game, exact, slack)

    def _deviate(self, advice: Advice) -> Deviation:
        return Deviation(advice.value, advice.value + advice.excess, advice.scheme, advice.status, advice.exact)

    def _bracketed(self, agent: int, value: float = -np.inf, *at_most: float) -> Deviation:
        """`at_least` with an upper bound that holds for her tie tolerance too; `at_most` bounds her value."""
        value = self._reachable(value)
        advice = self._best(agent, value, *at_most)
        upper, slack = advice.value + advice.excess, self.user.tolerance * self.scale
        immaterial = MATERIAL * self.payoff_range[agent] + self.negligible[agent]
        if advice.optimal and slack * advice.slack_price > immaterial:
            self._tolerant = self._tolerant or self._model(slack=slack)
            relaxed = self._tolerant.best(self.game.agents[agent], value - slack, *(most + slack for most in at_most))
            upper = relaxed.value if relaxed.value > advice.value + immaterial else upper
            if not relaxed.optimal:
                upper = float(self.game.agents[agent].max(-1).sum())
        return self._deviate(advice)._replace(upper=upper)

    def monopolist(self, agent, sign=1.0):
        if sign > 0:
            return self._deviate(self._best(agent))
        advice = self.lp.best(sign * self.game.agents[agent])
        return Deviation(sign * advice.value, sign * advice.value, advice.scheme, advice.status)

    def _most_paid(self, agent, sign):
        return sign * self.lp.price(sign * self.game.agents[agent]).value

    def deviations(self, schemes, agents, bracket=None):
        found = self._suprema(schemes, agents)
        if self.user.ties == "agents":
            return found
        attained, payoffs = [], self.payoffs(schemes)[1]
        for i, d in zip(agents, found, strict=True):
            stay, switch = payoffs[i], self._switch(schemes, i, d.scheme)
            attained.append(d._replace(value=switch) if switch > stay else d._replace(value=stay, scheme=schemes[i]))
        return attained

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        super().check_size(games, protocol, user, messages)
        check_size(games.user_features, games.agent_features, games.actions)

    def _suprema(self, schemes, agents) -> list[Deviation]:
        """Best responses if ties go to the selected agent."""
        values, payoffs, holder, rival = self.standing(schemes)
        return [self._deviation(i, values, payoffs, holder, rival, schemes[i]) for i in agents]

    def _deviation(self, i, values, payoffs, holder, rival, present) -> Deviation:
        tie = VALUE_TIE * self.scale
        if i != holder:
            stay = Deviation(payoffs[i, holder], payoffs[i, holder], present)
            if values[holder] >= self.most_value - tie and i > holder:
                return stay  # nobody can be worth more to her, and ties stay with the holder
            found = self._bracketed(i, values[holder])
            return max(stay, found, key=_by_value)._replace(upper=max(stay.upper, found.upper))
        # dropping out is never better than the lowest offer that still wins: he can make the rival's his own
        return self._bracketed(i) if rival is None else self._bracketed(i, values[rival])


def _by_value(deviation: Deviation) -> float:
    return deviation.value if np.isfinite(deviation.value) else np.inf  # a failed LP must show
