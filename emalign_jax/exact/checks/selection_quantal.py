"""Best responses in Selection with a quantal user (section 5.5 of docs/model.md).

The value V of agent i's scheme to the user and its payoff O to agent i are both averages over beliefs. F(v), the
largest O at V >= v (or V = v), is concave, and the belief LP's dual is a line above it.

* temperature 0: i is picked if V exceeds the others' largest value v; then it gets F(v), otherwise its payoff under the
  picked rival.
* temperature tau > 0: i gets R + s(V) (O - R), where s is the logistic function of (V - z) / tau, and z and R are the
  others' log-sum-exp and mean payoff. The maximum over v of R + s(v) (F(v) - R) is found by cutting planes: lines above
  F, each from one belief LP at the maximiser v of the lines so far.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.base import WORK, Deviation, register_check
from emalign_jax.exact.checks.selection_rational import SelectionCheck
from emalign_jax.exact.concavification.beliefs import monopoly_problem
from emalign_jax.exact.concavification.column_generation import BeliefLP, BeliefOptimum
from emalign_jax.exact.responses import choose
from emalign_jax.games.units import VALUE_TIE
from emalign_jax.protocols import Selection
from emalign_jax.users.quantal import QuantalUser

# In the user's unit: the accuracy of values found by column generation.
BELIEF_SLACK = 1e-7
# With a positive temperature: the largest number of belief LPs per best response, and their number without a bracket.
CUTS = 30
SOFT_VALUES = 5
# The number of intervals into which the range of user values is divided in each step of `soft_bound`.
INTERVALS = 400


@register_check(Selection, QuantalUser)
class SelectionQuantal(SelectionCheck):
    """A quantal user: `value` is attained by the scheme, `upper` is proved where a bracket is asked for."""

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        self._revealed = np.eye(self.game.mass.shape[1])
        self._lps: dict[int, BeliefLP] = {}

    @property
    def most_value(self) -> float:
        """The largest user value found of any scheme. For a quantal user it may exceed that of full revelation."""
        return self._value_optima[1.0].value

    @property
    def least_value(self) -> float:
        return self._value_optima[-1.0].value

    @property
    def most_scheme(self):
        return self._value_optima[1.0].scheme

    @functools.cached_property
    def _value_optima(self) -> dict[float, BeliefOptimum]:
        """By sign, the schemes found with the largest and the smallest user value."""
        return {sign: lp.best() for sign, lp in self._value_lps.items()}

    @functools.cached_property
    def _value_limits(self) -> tuple[float, float, str]:
        """Bounds of the user value of any scheme, lower and upper, and HiGHS's status."""
        width = BELIEF_SLACK * self.scale
        low, high = (self._value_lps[sign].best(bracket=width, work=WORK) for sign in (-1.0, 1.0))
        if not (low.optimal and high.optimal):
            return -np.inf, np.inf, high.status if low.optimal else low.status
        return -low.upper, high.upper, "Optimal"

    @functools.cached_property
    def _value_lps(self) -> dict[float, BeliefLP]:
        """By sign, the belief LP of an agent whose utility is the user's, or its negative."""
        as_agent = self.game._replace(agents=self.game.user[None])
        problem = monopoly_problem(as_agent, 0, self.user)
        return {sign: BeliefLP(problem, self._revealed, sign=sign) for sign in (1.0, -1.0)}

    def lp(self, agent: int) -> BeliefLP:
        """The agent's belief LP, which keeps the beliefs it has found."""
        if agent not in self._lps:
            problem = monopoly_problem(self.game, agent, self.user)
            optima = [(optimum.scheme * problem.prior[:, None]).T for optimum in self._value_optima.values()]
            self._lps[agent] = BeliefLP(problem, np.concatenate([self._revealed, *optima]))
        return self._lps[agent]

    def monopolist(self, agent, sign=1.0):
        lp = self.lp(agent) if sign > 0 else BeliefLP(self.lp(agent).problem, self._revealed, sign=sign)
        found = lp.best()
        return Deviation(found.value, found.value, found.scheme, found.status)

    def at_least(self, agent, value=-np.inf):
        found = self.lp(agent).best(self._reachable(value))
        return Deviation(found.value, found.value, found.scheme, found.status)

    def _reachable(self, value: float) -> float:
        slack = BELIEF_SLACK * self.scale
        return float(np.clip(value, self.least_value + slack, max(self.most_value - slack, self.least_value)))

    def deviations(self, schemes, agents, bracket=None):
        values, payoffs = self.table(schemes)
        present = self.payoffs(schemes)[1]
        result = []
        for i in agents:
            best = Deviation(present[i], self.most[i], schemes[i])
            for scheme in (np.ones((len(self._revealed), 1)), self._revealed):
                best = self._better(best, schemes, i, scheme)
            others = np.delete(values, i), np.delete(payoffs[i], i)
            width = self._width(i, bracket)
            if not len(others[0]):
                found = self._alone(best, schemes, i, width)
            elif self.temperature == 0:
                found = self._outbid(best, schemes, i, *others, width)
            else:
                found = self._persuade(best, schemes, i, *others, width)
            result.append(found._replace(upper=max(found.upper, found.value)))
        return result

    def _better(self, best: Deviation, schemes, agent, scheme) -> Deviation:
        payoff = self._switch(schemes, agent, scheme)
        return best._replace(value=payoff, scheme=scheme) if payoff > best.value else best

    def _ask(self, best, schemes, agent, at_least, at_most, width):
        """Solve one belief LP: the better of `best` and the LP's deviation, and the LP's optimum."""
        found = self.lp(agent).best(at_least, at_most, bracket=width, work=WORK)
        if not found.optimal:
            return best._replace(status=found.status), found
        return self._better(best, schemes, agent, found.scheme), found

    def _alone(self, best, schemes, agent, width) -> Deviation:
        best, found = self._ask(best, schemes, agent, -np.inf, np.inf, width)
        return best._replace(upper=min(best.upper, found.upper))

    def _outbid(self, best, schemes, agent, values, payoffs, width) -> Deviation:
        """The best response at temperature 0: the user picks the agent of the largest value."""
        rival = int(choose(values, 0.0, self.scale).argmax())
        least = values[rival]
        asked = self._reachable(
            least + BELIEF_SLACK * self.scale
        )  # Above the rival's value, so that the agent is picked.
        best, found = self._ask(best, schemes, agent, asked, np.inf, width)
        if width is None or not found.optimal:
            return best
        stays = payoffs[values >= least - 2 * VALUE_TIE * self.scale].max()  # Under the picked rival.
        least -= VALUE_TIE * self.scale
        if least > self._value_limits[1]:
            return best._replace(upper=stays)  # No scheme has so large a user value.
        return best._replace(upper=min(best.upper, max(found.level - found.value_price * least, stays)))

    def _persuade(self, best, schemes, agent, values, payoffs, width) -> Deviation:
        """The best response at a positive temperature: an agent is picked with probability softmax(V / temperature)."""
        if width is None:
            for value in [-np.inf, *np.linspace(self.least_value, self.most_value, SOFT_VALUES + 2)[1:-1]]:
                best, _ = self._ask(best, schemes, agent, value, np.inf, None)
            return best
        tau = self.temperature
        weights = np.exp((values - values.max()) / tau)
        base = float(weights @ payoffs / weights.sum())
        shift = float(values.max() + tau * np.log(weights.sum()))
        low, high, status = self._value_limits
        if not np.isfinite([low, high]).all():
            return best._replace(status=status)
        lines: list[tuple[float, float]] = []
        at = -np.inf  # The first LP has no bound on the user's value.
        for _ in range(CUTS):
            exactly = at if at == -np.inf else self._reachable(at)
            best, found = self._ask(best, schemes, agent, exactly, np.inf if at == -np.inf else exactly, width / 4)
            if not found.optimal:
                return best
            if np.isfinite(found.level):
                lines.append((found.level, found.value_price))
            elif not lines:
                return best
            at, upper = soft_bound(np.array(lines), base, shift, tau, low, high, width / 8)
            best = best._replace(upper=min(best.upper, upper))
            if best.upper - best.value <= width:
                break
        return best


def soft_bound(
    lines: Float[np.ndarray, "C 2"], base: float, shift: float, tau: float, low: float, high: float, width: float
) -> tuple[float, float]:
    """The maximiser over v in [low, high] of base + s(v) (f(v) - base), and an upper bound within `width` of the
    maximum, where f(v) is the minimum of level - slope * v over `lines` and s(v) = 1 / (1 + exp((shift - v) / tau))."""

    def picked(v):
        return 1 / (1 + np.exp(np.minimum((shift - v) / tau, 700)))

    def most(v):
        return (lines[:, :1] - lines[:, 1:] * v).min(0)

    ends = np.linspace(low, high, INTERVALS + 1)
    left, right = ends[:-1], ends[1:]
    done = -np.inf  # The largest bound of the intervals that are no longer divided.
    while True:
        # On an interval f is at most the minimum over lines of the line's larger end, and s is monotone.
        over = np.maximum(lines[:, :1] - lines[:, 1:] * left, lines[:, :1] - lines[:, 1:] * right).min(0) - base
        bound = base + np.where(over > 0, over * picked(right), over * picked(left))
        middle = (left + right) / 2
        value = base + picked(middle) * (most(middle) - base)
        best = int(value.argmax())
        keep = bound > value[best] + width
        done = max(done, float(bound[~keep].max(initial=-np.inf)))
        if not keep.any() or (right - left).max() <= 1e-12 * max(abs(low), abs(high), 1e-300):
            return float(middle[best]), max(done, float(bound[keep].max(initial=-np.inf)))
        keep[best] = True
        ends = np.linspace(left[keep], right[keep], max(2, INTERVALS // int(keep.sum())) + 1)
        left, right = ends[:-1].ravel(), ends[1:].ravel()
