"""Selection with a quantal user in whole batches (section 5.5 of docs/model.md).

The value V of agent i's scheme to the user and its payoff O to agent i are both averages over beliefs. F(v), the
largest O at V >= v (or V = v), is concave, and the belief LP's dual is a line above it.

* temperature 0: i is picked if V exceeds the others' largest value v; then it gets F(v), otherwise its payoff under the
  picked rival.
* temperature tau > 0: i gets R + s(V) (O - R), where s is the logistic function of (V - z) / tau, and z and R are the
  others' log-sum-exp and mean payoff. The maximum over v of R + s(v) (F(v) - R) is found by cutting planes: lines above
  F, each from one belief LP at the maximiser v of the lines so far.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from emalign_jax.exact.checks.base import WORK, AbstractCheck
from emalign_jax.exact.checks.belief_checks import BeliefChecks, fitted
from emalign_jax.exact.checks.examination import without_impossible_messages
from emalign_jax.exact.checks.soft_bound import soft_bound
from emalign_jax.exact.concavification.belief_lps import BeliefOptima
from emalign_jax.exact.concavification.problems import joined, pooled_problems
from emalign_jax.exact.concavification.quantal_lps import QuantalBeliefLPs
from emalign_jax.exact.responses import selection_table
from emalign_jax.games.units import VALUE_TIE

# In the user's unit: the accuracy of values found by column generation.
BELIEF_SLACK = 1e-7
# With a positive temperature: the largest number of belief LPs per best response, and their number without a bracket.
CUTS = 30
SOFT_VALUES = 5


class _Asked(NamedTuple):
    """Best responses of m agents in profiles.

    at, agents:    [m] the games and the agents
    values, table: [m, K], [m, K, K] of the profiles, as in `Examinations`
    present:       [m] the agents' payoffs
    """

    at: Int[np.ndarray, "m"]
    agents: Int[np.ndarray, "m"]
    values: Float[np.ndarray, "m K"]
    table: Float[np.ndarray, "m K K"]
    present: Float[np.ndarray, "m"]

    def rows(self, some) -> _Asked:
        return _Asked(*(x[some] for x in self))

    @property
    def own(self) -> Any:
        """[m, K] which agent is asked about."""
        return np.arange(self.values.shape[1]) == self.agents[:, None]

    @property
    def under(self) -> Float[np.ndarray, "m K"]:
        """The agents' payoffs under each scheme."""
        return self.table[np.arange(len(self.at)), self.agents]


class SelectionBeliefs(BeliefChecks):
    """The checks of a batch of games (arguments as in `BeliefChecks`)."""

    @classmethod
    def of_one(cls, check: AbstractCheck) -> SelectionBeliefs:
        """The same game as a batch of one."""
        found = cls.__new__(cls)
        form = check.form._replace(game=check.game, protocol=check.protocol, user=check.user)
        found._set(jax.tree.map(lambda x: np.asarray(x)[None], form), check.user)
        found._start(compiled=False)
        return found

    def _start(self, compiled: bool) -> None:
        super()._start(compiled)
        N, XB = len(self.scale), self.game.user.shape[2]
        self.temperature = np.broadcast_to(np.asarray(self.form.protocol.temperature, float), N)
        # Temperatures are all 0 or all positive (`Selection`); an agent alone is always picked.
        self.sharp = self.K == 1 or not self.temperature.any()
        self._least, self._most, self._limit = np.full(N, np.nan), np.full(N, np.nan), np.full((N, 2), np.nan)
        self._offers = np.full((2, N, XB, XB), np.nan)  # Of the largest and of the smallest user value.

    # What the user may get of any scheme.

    def _learn_some(self, some):
        lps = self._value_lps(some)
        found = lps.best(np.arange(2 * len(some)))
        self._note_fallback(np.concatenate([some, some]), lps)
        self._most[some], self._least[some] = np.split(found.value, 2) * np.array([[1], [-1]])
        self._offers[:, some] = found.scheme.reshape(2, len(some), *found.scheme.shape[1:])
        super()._learn_some(some)

    def _value_lps(self, at) -> QuantalBeliefLPs:
        """The belief LPs of agents whose utility is the user's, and of those whose utility is its negative."""
        game, user = self._setting(at)
        as_agent, silent = game._replace(agents=game.welfare[:, None]), np.zeros((len(at), 0, game.user.shape[2], 1))
        agents = np.zeros(len(at), int)
        problems = joined([pooled_problems(as_agent, silent, agents, user, sign) for sign in (1.0, -1.0)])
        revealing = np.broadcast_to(np.eye(silent.shape[2]), (2 * len(at), *[silent.shape[2]] * 2))
        return QuantalBeliefLPs(problems, revealing, self.compiled)

    def _value_limits(self, at) -> Float[np.ndarray, "n 2"]:
        """Proved bounds of the user's value of any scheme, lower and upper; infinite where the proof failed, NaN where
        an LP failed."""
        new = np.unique(at[np.isnan(self._limit[at, 0])])
        if len(new):
            # In standard units, where the scale is 1, or 0 for a user to whom nothing matters.
            found = self._value_lps(new).best(np.arange(2 * len(new)), np.full(2 * len(new), BELIEF_SLACK), WORK)
            high, low = np.split(np.where(np.isnan(found.value), np.nan, found.upper), 2)
            self._limit[new] = np.stack([-low, high], 1)
        return self._limit[at]

    def _reachable(self, at, values) -> Float[np.ndarray, "n"]:
        slack = BELIEF_SLACK * self.scale[at]
        return np.clip(values, self._least[at] + slack, np.maximum(self._most[at] - slack, self._least[at]))

    def _lps(self, at, agents, present=None) -> QuantalBeliefLPs:
        """The belief LPs of these agents, which know full revelation, the extremes of the user's value and the present
        schemes."""
        game, user = self._setting(at)
        XB = game.user.shape[2]
        problems = pooled_problems(game, np.zeros((len(at), 0, XB, 1)), agents, user)
        known = [np.broadcast_to(np.eye(XB), (len(at), XB, XB)), *self._offers[:, at]]
        known += [] if present is None else [present]
        beliefs = np.concatenate([x.swapaxes(1, 2) * problems.target[:, None] for x in known], 1)
        return QuantalBeliefLPs(problems, beliefs, self.compiled)

    # profiles

    def _examine_some(self, at, schemes, brackets, tolerance):
        n, K = len(at), self.K
        each, agents = np.repeat(np.arange(n), K), np.tile(np.arange(K), n)
        (values, table, value, payoffs), lps, best = self._begin(at, schemes, each, agents)
        widths, bracketed = self._widths(at, brackets), np.full(n, brackets is not None)
        if widths is None or tolerance is not None:
            enough = None if tolerance is None else payoffs.ravel() + self._allowed(at, tolerance).ravel()
            self._improve(lps, best, enough)
            if tolerance is not None:
                gains = np.maximum(best.value.reshape(n, K) - payoffs, 0)
                bracketed = self._worth_proving(at, gains, brackets, tolerance)
        if widths is not None and bracketed.any():
            self._bracket(lps, best, np.flatnonzero(np.repeat(bracketed, K)), widths)
        self._note_fallback(at[each], lps)
        best.value[best.failed] = np.nan
        found = self._examination(at, value, payoffs, best.value, best.upper, best.schemes, bracketed)
        return found._replace(values=values, table=table)

    def respond(
        self, schemes: Float[np.ndarray, "K XB M"], agents: Int[np.ndarray, "m"], bracket: float | None
    ) -> _Best:
        """The best responses of some agents in the first game."""
        first = np.zeros(len(agents), int)
        self._learn(first[:1])
        _, lps, best = self._begin(first[:1], without_impossible_messages(schemes)[None], first, agents)
        if bracket is None:
            self._improve(lps, best, None)
        else:
            widths: Any = self._widths(first[:1], np.array([bracket]))
            self._bracket(lps, best, np.arange(len(agents)), widths[agents])
        best.value[best.failed] = np.nan
        return best

    def _begin(self, at, schemes, each: Int[np.ndarray, "m"], agents: Int[np.ndarray, "m"]):
        """What the profiles lead to, the belief LP of agents[j] in profile each[j], and its best response of silence,
        full revelation and the present scheme."""
        outcome = self._outcome(at, schemes)
        values, table, _, payoffs = outcome
        asked = _Asked(at[each], agents, values[each], table[each], payoffs[each, agents])
        present, XB = schemes[each, agents], schemes.shape[2]
        best = _Best(self, asked, present)
        for scheme in (np.ones((XB, 1)), np.eye(XB)):
            best.try_schemes(np.arange(len(each)), np.broadcast_to(scheme, (len(each), *scheme.shape)))
        return outcome, self._lps(asked.at, agents, present), best

    def _outcome(self, at, schemes):
        """The user's values and the agents' payoffs under each scheme, and of the profile."""
        game, user = self._setting(at)
        values, table = selection_table(game, schemes, user)
        chosen = self._chosen(at, values)
        return values, table, np.asarray((chosen * values).sum(1)), (table * chosen[:, None]).sum(2)

    def _chosen(self, at, values: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n K"]:
        """The probabilities with which the user picks each agent; -inf: never."""
        top = values.max(1, keepdims=True)
        if self.sharp:
            return np.eye(values.shape[1])[(values >= top - VALUE_TIE * self.scale[at, None]).argmax(1)]
        weights = np.exp((values - top) / self.temperature[at, None])
        return weights / weights.sum(1, keepdims=True)

    def _rivals(self, asked: _Asked) -> Float[np.ndarray, "m"]:
        """The value of the others' scheme that the user would pick at temperature 0; -inf for an agent alone."""
        others = np.where(asked.own, -np.inf, asked.values)
        top = others.max(1, keepdims=True)
        first = (others >= top - VALUE_TIE * self.scale[asked.at, None]).argmax(1)
        return others[np.arange(len(first)), first]

    def _improve(self, lps: QuantalBeliefLPs, best: _Best, enough) -> None:
        """Better responses, without upper bounds; enough: as in `_ask`."""
        every = np.arange(len(best.value))
        if self.sharp:
            self._outbid(lps, best, every, None, enough)
            return
        at = best.asked.at
        for share in [np.nan, *np.linspace(0, 1, SOFT_VALUES + 2)[1:-1]]:
            goal = self._least[at] + share * (self._most[at] - self._least[at])
            self._ask(lps, best, every, goal, goal, None)

    def _bracket(self, lps: QuantalBeliefLPs, best: _Best, some, widths) -> None:
        """Better responses of some agents and upper bounds within `widths` of them."""
        if self.sharp:
            self._outbid(lps, best, some, widths[some], None)
        else:
            self._persuade(lps, best, some, widths)

    def _ask(self, lps: QuantalBeliefLPs, best: _Best, some, at_least, at_most, widths, enough=None) -> BeliefOptima:
        """Solve these belief LPs, with user values within these bounds (NaN: none), and keep the better responses.

        enough: [m] only as far as `AbstractBeliefLPs.better` does.
        """
        low, high = np.full(len(lps.price), -np.inf), np.full(len(lps.price), np.inf)
        low[some], high[some] = (
            np.where(np.isnan(x), limit, x) for x, limit in ((at_least, -np.inf), (at_most, np.inf))
        )
        lps.restrict(low, high)
        if enough is None:
            found = lps.best(some, widths, WORK)
        else:
            found = lps.better(some, best.asked.present[some], enough[some])
        best.failed[some] |= np.isnan(found.value)
        best.try_schemes(some, found.scheme)
        return found

    def _outbid(self, lps: QuantalBeliefLPs, best: _Best, some, widths, enough) -> None:
        """Best responses at temperature 0: the user picks the agent of the largest value."""
        asked = best.asked.rows(some)
        slack, tie = BELIEF_SLACK * self.scale[asked.at], VALUE_TIE * self.scale[asked.at]
        rival = self._rivals(asked)
        alone = rival == -np.inf
        # Above the rival's value, so that the agent is picked.
        goal = np.where(alone, np.nan, self._reachable(asked.at, np.where(alone, 0, rival + slack)))
        found = self._ask(lps, best, some, goal, np.full(len(some), np.nan), widths, enough)
        if widths is None:
            return
        with np.errstate(invalid="ignore"):
            line = found.level - np.where(found.value_price != 0, found.value_price * (rival - tie), 0)
        others = np.where(asked.own | (asked.values < (rival - 2 * tie)[:, None]), -np.inf, asked.under)
        stays = others.max(1, initial=-np.inf)  # Under the picked rival.
        upper = np.maximum(line, stays)
        unsure = np.flatnonzero(~alone & (rival - tie > self._most[asked.at]))
        if len(unsure):  # Perhaps no scheme has so large a user value.
            beyond = (rival - tie)[unsure] > self._value_limits(asked.at[unsure])[:, 1]
            upper[unsure[beyond]] = stays[unsure[beyond]]
        best.upper[some] = np.minimum(best.upper[some], upper)

    def _persuade(self, lps: QuantalBeliefLPs, best: _Best, some, widths) -> None:
        """Best responses at a positive temperature: an agent is picked with probability softmax(V / temperature)."""
        asked = best.asked.rows(some)
        tau = self.temperature[asked.at]
        others = np.where(asked.own, -np.inf, asked.values)
        top = np.where(np.isfinite(others.max(1)), others.max(1), 0)
        weights = np.exp((others - top[:, None]) / tau[:, None])
        whole = weights.sum(1)
        with np.errstate(divide="ignore"):
            shift = top + tau * np.log(whole)
        base = (weights * asked.under).sum(1) / np.where(whole > 0, whole, 1)
        limits = self._value_limits(asked.at)
        best.failed[some] |= np.isnan(limits).any(1)
        lines: list[list[tuple[float, float]]] = [[] for _ in some]
        goal, left = np.full(len(some), np.nan), np.flatnonzero(np.isfinite(limits).all(1))  # First without bounds.
        for _ in range(CUTS):
            if not len(left):
                return
            exactly = np.where(np.isnan(goal[left]), np.nan, self._reachable(asked.at[left], goal[left]))
            found = self._ask(lps, best, some[left], exactly, exactly, widths[some[left]] / 4)
            going = np.zeros(len(left), bool)
            for n, k in enumerate(left):
                new = np.isfinite(found.level[n])
                if new:
                    lines[k].append((float(found.level[n]), float(found.value_price[n])))
                if not lines[k] or np.isnan(found.value[n]):
                    continue
                row, width = some[k], widths[some[k]]
                low, high = map(float, limits[k])
                goal[k], upper = soft_bound(np.array(lines[k]), base[k], shift[k], tau[k], low, high, width / 8)
                best.upper[row] = min(best.upper[row], upper)
                going[n] = new and best.upper[row] - best.value[row] > width
            left = left[going]

    # best responses

    def best_at_least(self, at, agents, values) -> BeliefOptima:
        """The largest payoffs of these agents with schemes worth at least `values`."""
        self._learn(at)
        lps = self._lps(at, agents)
        lps.restrict(np.where(values == -np.inf, -np.inf, self._reachable(at, values)), np.inf)
        found = lps.best(np.arange(len(at)))
        self._note_fallback(at, lps)
        return found

    # outbidding

    def can_outbid(self, at):
        return np.full(len(at), self.sharp)

    def standing(self, at, schemes, examined):
        return examined.values, *self.leaders(at, examined.values)

    def at_least(self, at, agents, values, messages):
        return fitted(self.best_at_least(at, agents, values).scheme, messages)

    def just_behind(self, at, schemes, selected, rivals):
        leader = schemes[np.arange(len(at)), selected]
        silent = np.zeros_like(leader)
        silent[..., 0] = 1
        game, user = self._setting(at)

        def value(offers):
            return selection_table(game._replace(agents=game.agents[:, :1]), offers[:, None], user).values[:, 0]

        goal, garbled = value(leader) - 2 * VALUE_TIE * self.scale[at], leader
        left = np.ones(len(at), bool)
        for share in 10.0 ** np.arange(-7, 0.5, 0.5):
            garbled = np.where(left[:, None, None], (1 - share) * leader + share * silent, garbled)
            left &= value(garbled) >= goal
        return garbled

    def worth(self, at):
        self._learn(at)
        return self._most[at] - self._least[at]

    def limits(self, at, messages):
        self._learn(at)
        offers = fitted(self._offers[0, at], messages)
        return offers if self.sharp else np.full_like(offers, np.nan)


class _Best:
    """The best responses found so far.

    value, upper: [m] lower and upper bounds
    schemes:      [m, XB, S]
    failed:       [m] whether an LP failed
    """

    def __init__(self, checks: SelectionBeliefs, asked: _Asked, present: Float[np.ndarray, "m XB M"]):
        self.checks, self.asked = checks, asked
        self.value, self.upper = asked.present.copy(), checks.most_payoff[asked.at, asked.agents].copy()
        self.failed, XB = np.isnan(checks._most[asked.at] - checks._least[asked.at]), present.shape[1]
        self.schemes = np.zeros((*present.shape[:2], max(present.shape[2], XB + 1)))
        self.schemes[:, :, : present.shape[2]] = present

    def try_schemes(self, some, schemes: Float[np.ndarray, "n XB S"]) -> None:
        """Keep these schemes of some of the agents where they pay more."""
        checks, asked = self.checks, self.asked.rows(some)
        game, user = checks._setting(asked.at)
        alone = game._replace(agents=game.agents[np.arange(len(some)), asked.agents][:, None])
        valid = np.asarray(np.isfinite(schemes).all((1, 2)))
        values, payoffs = selection_table(alone, np.where(valid[:, None, None], schemes, 0)[:, None], user)
        after = np.where(asked.own, values, asked.values)
        under = np.where(asked.own, payoffs[:, 0], asked.under)
        paid = (checks._chosen(asked.at, after) * under).sum(1)
        better = valid & (paid > self.value[some])
        rows = some[better]
        self.value[rows] = paid[better]
        self.schemes[rows] = 0
        self.schemes[rows, :, : schemes.shape[2]] = schemes[better]
