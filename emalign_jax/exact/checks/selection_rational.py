"""Best responses in Selection with a rational user, by the obedience LP (section 5.1 of docs/model.md).

The holder is the agent that the user picks. A rival i takes over with a scheme whose value to the user exceeds the
holder's value v; its payoff is then f_i(v), the largest payoff of agent i at user value >= v. The holder may lower its
offer to the best rival's value.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.checks import selection_curves
from emalign_jax.exact.checks.base import AbstractCheck, Deviation, register_check
from emalign_jax.exact.obedience import frontier, recommendations
from emalign_jax.exact.obedience.attaining_schemes import AttainingSchemes
from emalign_jax.exact.obedience.fewer_messages import compress
from emalign_jax.exact.obedience.program import TOLERANCE, Advice, ObedienceLP, check_size, scheme_of, without_noise
from emalign_jax.exact.responses import SelectionTable, choose, selection_table
from emalign_jax.games.game import ReducedGame
from emalign_jax.games.units import NEGLIGIBLE_RANGE, NEGLIGIBLE_TIE_EFFECT, VALUE_TIE
from emalign_jax.protocols import Selection
from emalign_jax.protocols.selection import check_agents
from emalign_jax.users.rational import RationalUser

# In tie tolerances: the margin by which a scheme avoids ties that the user would break otherwise.
STRICT = 1.25


class SelectionCheck(AbstractCheck):
    """The common part of the checks of Selection with a rational and a quantal user."""

    revealing_is_picked = True

    _last: tuple[np.ndarray, SelectionTable] | None = None

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        self.temperature = float(self.protocol.temperature)

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        check_agents(games)

    def table(self, schemes) -> SelectionTable:
        """values V [K] and payoffs O [K, K] of the profile `schemes`; the last profile's table is kept."""
        if self._last is None or not np.array_equal(self._last[0], schemes):
            self._last = schemes.copy(), selection_table(self.game, schemes, self.user)
        return self._last[1]

    def payoffs(self, schemes):
        table = self.table(schemes)
        chosen = self.choose(table.values)
        return float(chosen @ table.values), table.payoffs @ chosen

    def choose(self, values: Float[np.ndarray, "K"]) -> Float[np.ndarray, "K"]:
        """The user's distribution over agents."""
        return choose(values, self.temperature, self.scale)

    def _switch(self, schemes, agent, scheme) -> float:
        """The payoff of `agent` if it alone changes to `scheme`."""
        M = max(schemes.shape[2], scheme.shape[1])
        profile = np.zeros((*schemes.shape[:2], M))
        profile[:, :, : schemes.shape[2]] = schemes
        profile[agent] = 0
        profile[agent, :, : scheme.shape[1]] = scheme
        return float(self.payoffs(profile)[1][agent])


@register_check(Selection, RationalUser, counts_welfare=True)
class SelectionRational(SelectionCheck):
    """Exact: the gain is the supremum over all schemes, under every tie rule (sections 5.1 and 10 of docs/model.md).

    The LP has exact ties only. The LP's dual bounds the effect of the user's tie tolerance. It is neglected where it is
    at most `NEGLIGIBLE_TIE_EFFECT`, and included in `upper` where it is more.
    """

    can_outbid: Any = True
    stability_applies = True
    has_proofs = True
    tolerance = 1e-5  # A profile within 1e-3 may be worth far less to the user than the worst exact equilibrium.
    otherwise = "with a positive temperature take a QuantalUser"

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        self.check_setting(self.protocol, self.user)
        self._lp: Any = None
        self._curves: frontier.Frontier | None = None
        self._strict_curves: frontier.Frontier | None = None

    @classmethod
    def check_setting(cls, protocol: Any, user: Any) -> None:
        """Raise `ValueError` for parameters for which the method is not exact."""
        if np.any(np.asarray(protocol.temperature) > 0):
            raise ValueError(
                f"temperature: the exact check of {type(protocol).__name__} with a rational user needs temperature 0; "
                f"{cls.otherwise}"
            )
        if user.tie_tolerance > TOLERANCE:
            raise ValueError(
                f"tolerance: the exact check of Selection needs a tie tolerance of at most {TOLERANCE:g}, got "
                f"{user.tie_tolerance}"
            )

    @functools.cached_property
    def most_value(self) -> float:
        """The largest value of a scheme to the user: V_full, unless the user misreads beliefs."""
        return self._most.value if self.game.is_perceived else self.informed(True)[0]

    @functools.cached_property
    def least_value(self) -> float:
        """The smallest value of a scheme to the user: V_none, unless the user misreads beliefs."""
        return -self.lp.best(-self.game.welfare).value if self.game.is_perceived else self.informed(False)[0]

    @functools.cached_property
    def _most(self) -> Advice:
        """The optimum for the user, where that need not be full information."""
        return self.lp.best(self.game.welfare)

    @functools.cached_property
    def _certain_value(self) -> float:
        """No scheme is worth more to the user than this. With a tie tolerance a user who misreads beliefs may get more
        than `most_value`."""
        if not self.game.is_perceived:
            return self.most_value
        most = self._tolerant.best(self.game.welfare)
        return most.value + most.excess if most.optimal else np.inf

    @property
    def most_scheme(self) -> Float[np.ndarray, "XB S"]:
        """A scheme whose value to the user is `most_value`, as far as ties are broken as recommended."""
        return self._deviate(self._most).scheme if self.game.is_perceived else np.eye(self.game.mass.shape[1])

    @property
    def limit_scheme(self):
        return self.most_scheme

    def just_behind(self, schemes: Float[np.ndarray, "K XB M"], selected: int, rival: int) -> Float[np.ndarray, "XB M"]:
        """The selected agent's scheme, garbled just enough to be worth less to the user when the rival offers it."""
        silent = np.zeros_like(schemes[selected])
        silent[:, 0] = 1
        value = self.table(schemes).values[selected]
        for share in 10.0 ** np.arange(-7, 0.5, 0.5):
            garbled = (1 - share) * schemes[selected] + share * silent
            profile = np.repeat(garbled[None], len(schemes), 0)
            if self.table(profile).values[rival] < value - 2 * VALUE_TIE * self.scale:
                break
        return garbled

    def standing(self, schemes):
        """values V [K], payoffs O [K, K], the holder and the best rival (None if K = 1)."""
        values, payoffs = self.table(schemes)
        holder = int(choose(values, 0.0, self.scale).argmax())
        rivals = values.copy()
        rivals[holder] = -np.inf
        rival = int(choose(rivals, 0.0, self.scale).argmax()) if len(values) > 1 else None
        return values, payoffs, holder, rival

    @property
    def lp(self) -> Any:
        """The obedience LP for HiGHS, made at first use."""
        if self._lp is None:
            self._lp = self._model()
        return self._lp

    @functools.cached_property
    def _tolerant(self) -> Any:
        """The LP that may recommend actions that are best only within the tie tolerance."""
        return self._model(tie_tolerance=self.user.tolerance)

    @functools.cached_property
    def _strict(self) -> Any:
        """The LP that recommends only actions that the user's tie rule is sure to play."""
        return self._model(tie_tolerance=self.strictness)

    @functools.cached_property
    def sets(self) -> Bool[np.ndarray, "R XA A"]:
        """The recommendations that the tie rule plays at some belief."""
        return recommendations.played(self.game, self.user)

    @property
    def strictness(self) -> Float[np.ndarray, "A A"]:
        """The (negative) tie tolerance for each pair of actions a, c with which the tie rule is sure to play a."""
        A = self.game.user.shape[-1]
        against_all = 1 - np.eye(A)
        loses_ties = {"agents": against_all * self.game.is_perceived, "uniform": against_all}
        loses_ties |= {"lowest": np.tri(A, k=-1), "highest": np.tri(A, k=-1).T}
        return -STRICT * self.user.tolerance * loses_ties[self.user.ties]

    @property
    def ties_as_recommended(self) -> bool:
        """Whether ties are broken as recommended, so that the LP's own scheme attains the supremum."""
        return self.user.ties == "agents"

    @classmethod
    def together(cls, checks, sound):
        # Subclasses have other LPs, and for a user who misreads beliefs values have other ends.
        recommended = cls is SelectionRational and checks.user.ties == "agents" and not checks.reduced.is_perceived
        if not (recommended and sound.any() and frontier.choose(checks.lp, checks.count, checks.reduced)):
            return checks
        cls.check_setting(checks.protocol, checks.user)
        checks.lp = "highs"
        return selection_curves.together(checks, sound)

    @classmethod
    def prepare_lps(cls, checks, lp, count):
        if cls is not SelectionRational:  # Subclasses have other LPs.
            return 0
        checks = [check for check in checks if check._lp is None and check._curves is None and not check.fallback]
        if not checks or not frontier.choose(lp, count, checks[0].game):
            return 0
        allowed = np.array([check._allowed for check in checks])
        some = np.flatnonzero(allowed.any(1))
        if not len(some):
            return 0
        checks, allowed = [checks[n] for n in some], allowed[some]
        game: Any = ReducedGame(*(np.stack(x) for x in zip(*(check.game for check in checks), strict=True)))
        curves = frontier.trace(game, game.agents, allowed=allowed)
        least = -frontier.largest_payoffs(game, -game.agents, allowed=allowed)
        proved = np.asarray(curves.proved.all(1) & np.isfinite(least).all(1))
        strict = None
        if not checks[0].ties_as_recommended:
            strict = frontier.trace(game, game.agents, allowed=allowed, tie_tolerance=checks[0].strictness)
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
        """From now on derive every LP's answer in rational arithmetic. Raises `ValueError` if the game is too large."""
        self._lp, self._curves = self._model(exact=True), None

    def at_least(self, agent: int, value: float = -np.inf) -> Deviation:
        """f_agent(value): the largest payoff of `agent` at user value at least `value` (or the largest possible)."""
        value = self._reachable(value)
        return self._deviate(self._with_attaining_scheme(agent, self._best(agent, value), value))

    def _best(self, agent: int, value: float = -np.inf, *at_most: float) -> Advice:
        """The largest payoff of `agent` at user value at least `value` (and at most `at_most`): from the curve if it is
        traced, otherwise by HiGHS."""
        if self._curves is None or at_most:
            return self.lp.best(self.game.agents[agent], value, *at_most)
        return self._read(self._curves, agent, value)

    def _read(self, curves: frontier.Frontier, agent: int, value: float) -> Advice:
        paid, distribution, price, excess = curves.best(agent, value)
        own, user = (recommendations.spread(x, self.single) for x in (self.game.agents[agent], self.game.welfare))
        return Advice(True, paid, scheme_of(distribution, own, user), "Optimal", None, price, excess, distribution)

    @property
    def single(self) -> Bool[np.ndarray, "R XA A"]:
        return recommendations.single_actions(*self.game.user.shape[::2])

    @property
    def is_single(self) -> Bool[np.ndarray, "R single"]:
        """[r, s]: whether sets[r] is single[s]."""
        return (self.sets[:, None] == self.single).all((2, 3))

    @property
    def _allowed(self) -> Bool[np.ndarray, "single"]:
        """Which of `single` the batched LP may recommend: none where sets of several actions are needed, which only the
        LP for HiGHS has."""
        if self.ties_as_recommended:
            return np.ones(len(self.single), bool)
        return self.is_single.any(0) & (self.sets.sum(-1) == 1).all()

    @functools.cached_property
    def _attaining(self) -> AttainingSchemes:
        return AttainingSchemes(self.game, self.user, self.sets)

    def _with_attaining_scheme(self, agent: int, advice: Advice, value: float = -np.inf, *at_most: float) -> Advice:
        """`advice` with a scheme whose recommendations the user's tie rule plays, and which is worth more than `value`
        to the user (or V_full), at a small loss."""
        if not advice.optimal:
            return advice
        if self.ties_as_recommended:
            return advice if value == -np.inf else self._outbidding(agent, advice, value, *at_most)
        own, user = (recommendations.spread(x, self.sets) for x in (self.game.agents[agent], self.game.welfare))
        distribution, room = None, VALUE_TIE * self.scale
        if value >= self.most_value - 4 * room and not self.game.is_perceived:
            distribution, room = self._attaining.fully_informing(own), room / 4
        if distribution is None:
            distribution = self._strict_distribution(agent, value, *at_most)
        if distribution is None:
            return advice
        own_room = (NEGLIGIBLE_TIE_EFFECT * self.payoff_range[agent] + self.negligible[agent]) / 4
        distribution = self._attaining.near(without_noise(distribution), own, room, own_room)
        if (distribution.max(0) > 0).sum() > len(distribution) + 1:
            return advice._replace(
                scheme=compress(distribution, (distribution * own).sum(0), (distribution * user).sum(0), *at_most)
            )
        return advice._replace(scheme=distribution[:, distribution.max(0) > 0])

    def _outbidding(self, agent: int, advice: Advice, value: float, *at_most: float) -> Advice:
        """`advice` with a scheme that is worth more than `value` to the user, if there is one."""
        better = self._best(agent, value + 4 * VALUE_TIE * self.scale, *at_most)
        return advice._replace(scheme=better.scheme) if better.optimal else advice

    def _strict_distribution(self, agent: int, value: float, *at_most: float) -> Float[np.ndarray, "XB R"] | None:
        """The best distribution over `sets` in which ties are avoided by more than the tolerance, worth more than
        `value` to the user if possible."""
        above = value + 4 * VALUE_TIE * self.scale
        if self._strict_curves is not None and not at_most:
            distribution: Any = self._read(self._strict_curves, agent, above).distribution
            return distribution[:, self.is_single.argmax(1)]  # Others are not allowed.
        for least in (above, value):
            strict = self._strict.best(self.game.agents[agent], least, *at_most)
            if strict.optimal:
                return strict.distribution
        return None

    def _reachable(self, value: float) -> float:
        """`value`, or slightly less than V_full, so that rounding does not make full revelation infeasible."""
        return min(value, self.most_value - VALUE_TIE * self.scale)

    def _model(self, exact: bool = False, tie_tolerance: Any = 0.0) -> Any:
        """The LP of all outcomes that one agent can induce."""
        return ObedienceLP(self.game, exact, tie_tolerance, self.sets)

    def _deviate(self, advice: Advice) -> Deviation:
        return Deviation(advice.value, advice.value + advice.excess, advice.scheme, advice.status, advice.exact)

    def _bracketed(self, agent: int, value: float = -np.inf, *at_most: float) -> Deviation:
        """`at_least` with an upper bound that holds with the user's tie tolerance. at_most: bounds the user's value."""
        value = self._reachable(value)
        advice = self._with_attaining_scheme(agent, self._best(agent, value, *at_most), value, *at_most)
        upper = advice.value + advice.excess
        immaterial = NEGLIGIBLE_TIE_EFFECT * self.payoff_range[agent] + self.negligible[agent]
        effect = self.user.tolerance * advice.slack_price  # An upper bound of the effect of the tie tolerance.
        if advice.optimal and effect > immaterial:
            upper = max(self.tolerant_upper(agent, value, advice.value + effect, *at_most), advice.value)
        return self._deviate(advice)._replace(upper=min(upper, max(self.payoff_bounds[agent], advice.value)))

    def tolerant_upper(self, agent: int, value: float, otherwise: float, *at_most: float) -> float:
        """An upper bound of the payoff of `agent` at user value at least `value` with the user's tie tolerance.
        otherwise: what to return if its LP is not solved."""
        relaxed = self._tolerant.best(self.game.agents[agent], value, *at_most)
        return relaxed.value + relaxed.excess if relaxed.optimal else otherwise

    def monopolist(self, agent, sign=1.0):
        if sign > 0:
            return self._deviate(self._with_attaining_scheme(agent, self._best(agent)))
        advice = self.lp.best(sign * self.game.agents[agent])
        return Deviation(sign * advice.value, sign * advice.value, advice.scheme, advice.status)

    def _extreme_payoff(self, agent, sign):
        return sign * self.lp.price(sign * self.game.agents[agent]).value

    def deviations(self, schemes, agents, bracket=None):
        found = self._suprema(schemes, agents)
        # The LP may break ties of a user who misreads beliefs for the user, where the tie rule does for the agent.
        return found if self.user.ties == "agents" and not self.game.is_perceived else [
            self._attained(schemes, i, d) for i, d in zip(agents, found, strict=True)
        ]  # fmt: skip

    def _attained(self, schemes, agent: int, found: Deviation) -> Deviation:
        """`found` if its scheme comes near the supremum. Otherwise `value` is the largest payoff attained by that
        scheme, silence, full revelation or the present scheme."""
        if found.status != "Optimal":
            return found
        stay, switch = self.payoffs(schemes)[1][agent], self._switch(schemes, agent, found.scheme)
        if max(stay, switch) >= found.value - NEGLIGIBLE_TIE_EFFECT * self.payoff_range[agent] - self.negligible[agent]:
            return found._replace(value=max(found.value, min(switch, found.upper)))  # The LP's value has an error.
        tried = [(stay, schemes[agent]), (switch, found.scheme)]
        XB = self.game.mass.shape[1]
        if schemes.shape[1] == XB:  # Otherwise the schemes are rules of a conversation.
            if self.ties_as_recommended:  # Other tie rules have tried it.
                values, _, holder, rival = self.standing(schemes)
                beaten = holder if agent != holder else rival
                value = -np.inf if beaten is None else self._reachable(values[beaten])
                strict = self._strict_distribution(agent, value)
                if strict is not None:
                    payoffs = self.game.agents[agent], self.game.welfare
                    scheme = scheme_of(strict, *(recommendations.spread(x, self.single) for x in payoffs))
                    tried.append((self._switch(schemes, agent, scheme), scheme))
            tried += [(self._switch(schemes, agent, each), each) for each in (np.ones((XB, 1)), np.eye(XB))]
        value, scheme = max(tried, key=lambda each: each[0])
        return found._replace(value=value, scheme=scheme)

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        super().check_size(games, protocol, user, messages)
        cls.check_setting(protocol, user)
        check_size(games.user_features, games.agent_features, games.actions)

    def _suprema(self, schemes, agents) -> list[Deviation]:
        """Best responses as suprema, which need not be attained."""
        values, payoffs, holder, rival = self.standing(schemes)
        return [self._deviation(i, values, payoffs, holder, rival, schemes[i]) for i in agents]

    def _deviation(self, i, values, payoffs, holder, rival, present) -> Deviation:
        tie = VALUE_TIE * self.scale
        if i != holder:
            stay = Deviation(payoffs[i, holder], payoffs[i, holder], present)
            if values[holder] >= self.most_value - tie and i > holder:
                # No scheme is worth more to the user, and ties go to the holder.
                if values[holder] >= self._certain_value - tie:
                    return stay
                return stay._replace(upper=max(stay.upper, self._bracketed(i, values[holder]).upper))
            found = self._bracketed(i, values[holder])
            return max(stay, found, key=_by_value)._replace(upper=max(stay.upper, found.upper))
        # The holder can offer the rival's scheme itself, so that losing is never better than the lowest winning offer.
        return self._bracketed(i) if rival is None else self._bracketed(i, values[rival])


def _by_value(deviation: Deviation) -> float:
    return deviation.value if np.isfinite(deviation.value) else np.inf  # A failed LP must show.
