"""Best responses in Selection with a rational user: the obedience LP (section 5.1 of docs/model.md).

The holder is the agent whom the user picks. A rival takes over by being worth more to the user, at least the
holder's value v: the rival's payoff is then f_i(v), the most an agent gets at user value >= v. The holder may
lower the offer to the best rival's value.
"""

from __future__ import annotations

import abc
import functools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.checks.base import AbstractCheck, Deviation, register_check
from emalign_jax.exact.obedience import frontier, recommendations
from emalign_jax.exact.obedience.attaining_schemes import Witness
from emalign_jax.exact.obedience.fewer_messages import compress
from emalign_jax.exact.obedience.program import TOLERANCE, Advice, ObedienceLP, check_size, cut, without_noise
from emalign_jax.exact.responses import SelectionTable, choose, selection_table
from emalign_jax.games.game import ReducedGame
from emalign_jax.games.units import NEGLIGIBLE_RANGE, NEGLIGIBLE_TIE_EFFECT, VALUE_TIE
from emalign_jax.protocols import Selection
from emalign_jax.protocols.selection import check_agents
from emalign_jax.users.rational import RationalUser

STRICT = 1.25  # tie tolerances by which a scheme stays clear of ties that the user would break otherwise


class SelectionCheck(AbstractCheck):
    """What both users share."""

    revealing_is_picked = True

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
            self._last = schemes.copy(), selection_table(self.game, schemes, self.user)
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
        """Whether takeovers are all or nothing, as `best_response_dynamics.outbid` needs."""
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


@register_check(Selection, RationalUser)
class SelectionRational(SelectionCheck):
    """Exact: the gain is the supremum over all schemes, under every tie rule (sections 5.1 and 10 of docs/model.md).

    The LP knows true ties only. What the user's tie tolerance may add to it is bounded by the LP's dual, left out where
    it is at most `NEGLIGIBLE_TIE_EFFECT`, and part of `upper` where it is more.
    """

    tolerance = 1e-5  # a profile within 1e-3 may be worth far less to the user than the worst exact equilibrium
    otherwise = "with a positive temperature take a QuantalUser"

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        if self.temperature > 0:
            raise ValueError(
                f"temperature: the exact check of {type(self.protocol).__name__} with a rational user needs "
                f"temperature 0; {self.otherwise}"
            )
        if self.user.tolerance > TOLERANCE:
            raise ValueError(
                f"tolerance: the exact check of Selection needs a tie tolerance of at most {TOLERANCE:g}, got "
                f"{self.user.tolerance}"
            )
        self._lp: Any = None
        self._curves: frontier.Frontier | None = None
        self._strict_curves: frontier.Frontier | None = None
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

    @functools.cached_property
    def _tolerant(self) -> Any:
        """With actions recommended that are tied only within the tolerance."""
        return self._model(ease=self.user.tolerance)

    @functools.cached_property
    def _strict(self) -> Any:
        """With actions recommended that the user's tie rule is sure to take."""
        return self._model(ease=self.strictness)

    @functools.cached_property
    def sets(self) -> Bool[np.ndarray, "R XA A"]:
        """The recommendations that the tie rule lets happen."""
        return recommendations.played(self.game, self.user)

    @property
    def strictness(self) -> Float[np.ndarray, "A A"]:
        """The ease of each action over each other one with which the tie rule is sure to take the former."""
        A = self.game.user.shape[-1]
        before = {"agents": np.zeros((A, A)), "uniform": 1 - np.eye(A)}
        before |= {"lowest": np.tri(A, k=-1), "highest": np.tri(A, k=-1).T}
        return -STRICT * self.user.tolerance * before[self.user.ties]

    @property
    def recommends(self) -> bool:
        """Whether ties are decided as recommended, so that the LP's own scheme will do."""
        return self.user.ties == "agents"

    @classmethod
    def prepare_lps(cls, checks, lp, count):
        if cls is not SelectionRational:  # whose LPs are others
            return 0
        checks = [check for check in checks if check._lp is None and check._curves is None and not check.fallback]
        if not checks or not frontier.choose(lp, count, checks[0].game):
            return 0
        allowed = np.array([check._columns for check in checks])
        some = np.flatnonzero(allowed.any(1))
        if not len(some):
            return 0
        checks, allowed = [checks[n] for n in some], allowed[some]
        game: Any = ReducedGame(*(np.stack(x) for x in zip(*(check.game for check in checks), strict=True)))
        curves = frontier.trace(game, game.agents, allowed=allowed)
        least = -frontier.most(game, -game.agents, allowed=allowed)
        proved = np.asarray(curves.proved.all(1) & np.isfinite(least).all(1))
        strict = None
        if not checks[0].recommends:
            strict = frontier.trace(game, game.agents, allowed=allowed, ease=checks[0].strictness)
            proved &= strict.proved.all(1)
        for n, check in enumerate(checks):
            check.fallback = not bool(proved[n])
            if proved[n]:
                check._curves = curves.of(n)
                check._strict_curves = None if strict is None else strict.of(n)
                found = curves.paid[n, :, 0] - least[n]
                check._range = np.where(found <= NEGLIGIBLE_RANGE * check.stakes, 0.0, found)
        return int((~proved).sum())

    def confirm(self) -> None:
        """From now on derive every LP's answer in rational arithmetic (`ValueError` if the game is too large)."""
        self._lp, self._curves = self._model(exact=True), None

    def at_least(self, agent: int, value: float = -np.inf) -> Deviation:
        return self._deviate(self._witnessed(agent, self._best(agent, self._reachable(value)), self._reachable(value)))

    def _best(self, agent: int, value: float = -np.inf, *at_most: float) -> Advice:
        """The most an agent gets while the user gets at least `value`: off the curve if it has been traced, else by
        HiGHS."""
        if self._curves is None or at_most:
            return self.lp.best(self.game.agents[agent], value, *at_most)
        return self._read(self._curves, agent, value)

    def _read(self, curves: frontier.Frontier, agent: int, value: float) -> Advice:
        paid, law, price, excess = curves.best(agent, value)
        own, user = (recommendations.spread(x, self.single) for x in (self.game.agents[agent], self.game.user))
        return Advice(True, paid, cut(law, own, user), "Optimal", None, price, excess, law)

    @property
    def single(self) -> Bool[np.ndarray, "R XA A"]:
        return recommendations.single_actions(*self.game.user.shape[::2])

    @property
    def of_single(self) -> Bool[np.ndarray, "R single"]:
        """Which of `single` each of `sets` is, if it is one."""
        return (self.sets[:, None] == self.single).all((2, 3))

    @property
    def _columns(self) -> Bool[np.ndarray, "single"]:
        """Which of `single` the batched LP may recommend: none where sets of actions need columns, which HiGHS has."""
        if self.recommends:
            return np.ones(len(self.single), bool)
        return self.of_single.any(0) & (self.sets.sum(-1) == 1).all()

    @functools.cached_property
    def _witness(self) -> Witness:
        return Witness(self.game, self.user, self.sets)

    def _witnessed(self, agent: int, advice: Advice, value: float = -np.inf, *at_most: float) -> Advice:
        """The same with a scheme to whose recommendations the user's tie rule keeps, and which is worth more than a
        rival's to the user (or V_full), at a small loss."""
        if not advice.optimal:
            return advice
        if self.recommends:
            return advice if value == -np.inf else self._outbidding(agent, advice, value, *at_most)
        own, user = (recommendations.spread(x, self.sets) for x in (self.game.agents[agent], self.game.user))
        law, room = None, VALUE_TIE * self.scale
        if value >= self.most_value - 4 * room:
            law, room = self._witness.at_the_most(own), room / 4
        if law is None:
            law = self._strict_law(agent, value, *at_most)
        if law is None:
            return advice
        own_room = (NEGLIGIBLE_TIE_EFFECT * self.payoff_range[agent] + self.negligible[agent]) / 4
        law = self._witness.followed(without_noise(law), own, room, own_room)
        if (law.max(0) > 0).sum() > len(law) + 1:
            return advice._replace(scheme=compress(law, (law * own).sum(0), (law * user).sum(0), *at_most))
        return advice._replace(scheme=law[:, law.max(0) > 0])

    def _outbidding(self, agent: int, advice: Advice, value: float, *at_most: float) -> Advice:
        """The same with a scheme that is worth more than `value` to the user, if there is one."""
        above = value + 4 * VALUE_TIE * self.scale
        if self._curves is not None and not at_most:
            better = self._read(self._curves, agent, above)
        else:
            better = self.lp.best(self.game.agents[agent], above, *at_most)
        return advice._replace(scheme=better.scheme) if better.optimal else advice

    def _strict_law(self, agent: int, value: float, *at_most: float) -> Float[np.ndarray, "XB R"] | None:
        """Over `sets`, with ties clear of the tolerance; worth more than `value` to the user if that can be."""
        above = value + 4 * VALUE_TIE * self.scale
        if self._strict_curves is not None and not at_most:
            law: Any = self._read(self._strict_curves, agent, above).law
            return law[:, self.of_single.argmax(1)]  # the others are not allowed
        for least in (above, value):
            strict = self._strict.best(self.game.agents[agent], least, *at_most)
            if strict.optimal:
                return strict.law
        return None

    def _reachable(self, value: float) -> float:
        """Rounding must not make full revelation infeasible."""
        return min(value, self.most_value - VALUE_TIE * self.scale)

    def _model(self, exact: bool = False, ease: Any = 0.0) -> Any:
        """The LP of all that an agent can do."""
        return ObedienceLP(self.game, exact, ease, self.sets)

    def _deviate(self, advice: Advice) -> Deviation:
        return Deviation(advice.value, advice.value + advice.excess, advice.scheme, advice.status, advice.exact)

    def _bracketed(self, agent: int, value: float = -np.inf, *at_most: float) -> Deviation:
        """`at_least` with an upper bound that holds for the user's tie tolerance too; `at_most` bounds the user's
        value."""
        value = self._reachable(value)
        advice = self._witnessed(agent, self._best(agent, value, *at_most), value, *at_most)
        upper, immaterial = (
            advice.value + advice.excess,
            NEGLIGIBLE_TIE_EFFECT * self.payoff_range[agent] + self.negligible[agent],
        )
        worth = self.user.tolerance * advice.slack_price
        if advice.optimal and worth > immaterial:
            relaxed = self._tolerant.best(self.game.agents[agent], value, *at_most)
            upper = relaxed.value + relaxed.excess if relaxed.optimal else advice.value + worth
            upper = max(upper, advice.value)
        return self._deviate(advice)._replace(upper=min(upper, max(self.most[agent], advice.value)))

    def monopolist(self, agent, sign=1.0):
        if sign > 0:
            return self._deviate(self._witnessed(agent, self._best(agent)))
        advice = self.lp.best(sign * self.game.agents[agent])
        return Deviation(sign * advice.value, sign * advice.value, advice.scheme, advice.status)

    def _most_paid(self, agent, sign):
        return sign * self.lp.price(sign * self.game.agents[agent]).value

    def deviations(self, schemes, agents, bracket=None):
        found = self._suprema(schemes, agents)
        return found if self.recommends else [
            self._attained(schemes, i, d) for i, d in zip(agents, found, strict=True)
        ]  # fmt: skip

    def _attained(self, schemes, agent: int, found: Deviation) -> Deviation:
        """A supremum is believed if its scheme comes near to it; else `value` is the most that is attained by it, by
        silence, by full revelation or by staying put."""
        if found.status != "Optimal":
            return found
        stay, switch = self.payoffs(schemes)[1][agent], self._switch(schemes, agent, found.scheme)
        if max(stay, switch) >= found.value - NEGLIGIBLE_TIE_EFFECT * self.payoff_range[agent] - self.negligible[agent]:
            return found._replace(value=max(found.value, min(switch, found.upper)))  # the LP's value has its error
        tried = [(stay, schemes[agent]), (switch, found.scheme)]
        XB = self.game.mass.shape[1]
        if schemes.shape[1] == XB:  # else they are rules of a conversation
            tried += [(self._switch(schemes, agent, each), each) for each in (np.ones((XB, 1)), np.eye(XB))]
        value, scheme = max(tried, key=lambda each: each[0])
        return found._replace(value=value, scheme=scheme)

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        super().check_size(games, protocol, user, messages)
        check_size(games.user_features, games.agent_features, games.actions)

    def _suprema(self, schemes, agents) -> list[Deviation]:
        """Best responses, as suprema."""
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
