"""Best responses in Selection with a quantal user (section 5.5 of docs/model.md).

What agent i's scheme is worth to the user, V, and what it pays i, O, are both averages over beliefs. F(v), the most O
at V >= v (or = v), is concave, and the belief LP's dual is a line above it.

* temperature 0: i is picked if V beats the others' best v, so i gets F(v), or what it gets under the others.
* temperature tau > 0: i gets R + s(V) (O - R), s the logistic function of (V - z) / tau, z and R the others' log-sum
  and mean payoff. The maximum over v of R + s(v) (F(v) - R) is found by cutting planes: lines above F, each from one
  belief LP at the v that looks best so far.
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

BELIEF_SLACK = 1e-7  # of her range: values found by column generation are not known better
CUTS = 30  # belief LPs a best response with a soft choice
SOFT_VALUES = 5  # of them where no upper bound is asked for
INTERVALS = 400  # into which a range of values is cut, again and again, to bound what lines above F allow


@register_check(Selection, QuantalUser)
class SelectionQuantal(SelectionCheck):
    """Brackets: `value` is attained by the scheme, `upper` proved where a bracket is asked for."""

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        self._revealed = np.eye(self.game.mass.shape[1])
        self._lps: dict[int, BeliefLP] = {}

    @property
    def most_value(self) -> float:
        """The most that any scheme is known to be worth to her; not always full revelation, for a quantal user."""
        return self._her_optima[1.0].value

    @property
    def least_value(self) -> float:
        return self._her_optima[-1.0].value

    @property
    def most_scheme(self):
        return self._her_optima[1.0].scheme

    @functools.cached_property
    def _her_optima(self) -> dict[float, BeliefOptimum]:
        """By sign, the largest and the smallest value of any scheme to her."""
        return {sign: lp.best() for sign, lp in self._her_lps.items()}

    @functools.cached_property
    def _her_limits(self) -> tuple[float, float, str]:
        """No scheme is worth less, or more, than these; and what HiGHS said."""
        width = BELIEF_SLACK * self.scale
        low, high = (self._her_lps[sign].best(bracket=width, work=WORK) for sign in (-1.0, 1.0))
        if not (low.optimal and high.optimal):
            return -np.inf, np.inf, high.status if low.optimal else low.status
        return -low.upper, high.upper, "Optimal"

    @functools.cached_property
    def _her_lps(self) -> dict[float, BeliefLP]:
        """By sign, the belief LP of an agent who wants what she wants, or the opposite."""
        as_agent = self.game._replace(agents=self.game.user[None])
        problem = monopoly_problem(as_agent, 0, self.user)
        return {sign: BeliefLP(problem, self._revealed, sign=sign) for sign in (1.0, -1.0)}

    def lp(self, agent: int) -> BeliefLP:
        """The agent's belief LP, which keeps the beliefs it has found."""
        if agent not in self._lps:
            problem = monopoly_problem(self.game, agent, self.user)
            hers = [(optimum.scheme * problem.prior[:, None]).T for optimum in self._her_optima.values()]
            self._lps[agent] = BeliefLP(problem, np.concatenate([self._revealed, *hers]))
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
        """One belief LP: the deviation it leads to, and what it found."""
        found = self.lp(agent).best(at_least, at_most, bracket=width, work=WORK)
        if not found.optimal:
            return best._replace(status=found.status), found
        return self._better(best, schemes, agent, found.scheme), found

    def _alone(self, best, schemes, agent, width) -> Deviation:
        best, found = self._ask(best, schemes, agent, -np.inf, np.inf, width)
        return best._replace(upper=min(best.upper, found.upper))

    def _outbid(self, best, schemes, agent, values, payoffs, width) -> Deviation:
        """The user picks the agent whose scheme is worth most to her."""
        rival = int(choose(values, 0.0, self.scale).argmax())
        least = values[rival]
        asked = self._reachable(least + BELIEF_SLACK * self.scale)  # a hair above the rival, so that she does pick him
        best, found = self._ask(best, schemes, agent, asked, np.inf, width)
        if width is None or not found.optimal:
            return best
        stays = payoffs[values >= least - 2 * VALUE_TIE * self.scale].max()  # under whichever of them she picks then
        least -= VALUE_TIE * self.scale
        if least > self._her_limits[1]:
            return best._replace(upper=stays)  # nobody can be worth more to her
        return best._replace(upper=min(best.upper, max(found.level - found.worth * least, stays)))

    def _persuade(self, best, schemes, agent, values, payoffs, width) -> Deviation:
        """She picks an agent with probability softmax(V / temperature)."""
        if width is None:
            for value in [-np.inf, *np.linspace(self.least_value, self.most_value, SOFT_VALUES + 2)[1:-1]]:
                best, _ = self._ask(best, schemes, agent, value, np.inf, None)
            return best
        tau = self.temperature
        weights = np.exp((values - values.max()) / tau)
        base = float(weights @ payoffs / weights.sum())
        shift = float(values.max() + tau * np.log(weights.sum()))
        low, high, status = self._her_limits
        if not np.isfinite([low, high]).all():
            return best._replace(status=status)
        lines: list[tuple[float, float]] = []
        at = -np.inf  # first, his best scheme whatever it is worth to her
        for _ in range(CUTS):
            exactly = at if at == -np.inf else self._reachable(at)
            best, found = self._ask(best, schemes, agent, exactly, np.inf if at == -np.inf else exactly, width / 4)
            if not found.optimal:
                return best
            if np.isfinite(found.level):
                lines.append((found.level, found.worth))
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
    """Where in [low, high] base + s(v) (f(v) - base) is largest, and a bound of it within `width`: f the least of
    level - slope * v over `lines`, s(v) = 1 / (1 + exp((shift - v) / tau))."""

    def chance(v):
        return 1 / (1 + np.exp(np.minimum((shift - v) / tau, 700)))

    def most(v):
        return (lines[:, :1] - lines[:, 1:] * v).min(0)

    ends = np.linspace(low, high, INTERVALS + 1)
    left, right = ends[:-1], ends[1:]
    done = -np.inf  # bound of what was set aside
    while True:
        # on an interval f is at most the least of its lines' larger ends, and s is at an end
        over = np.maximum(lines[:, :1] - lines[:, 1:] * left, lines[:, :1] - lines[:, 1:] * right).min(0) - base
        bound = base + np.where(over > 0, over * chance(right), over * chance(left))
        middle = (left + right) / 2
        value = base + chance(middle) * (most(middle) - base)
        best = int(value.argmax())
        keep = bound > value[best] + width
        done = max(done, float(bound[~keep].max(initial=-np.inf)))
        if not keep.any() or (right - left).max() <= 1e-12 * max(abs(low), abs(high), 1e-300):
            return float(middle[best]), max(done, float(bound[keep].max(initial=-np.inf)))
        keep[best] = True
        ends = np.linspace(left[keep], right[keep], max(2, INTERVALS // int(keep.sum())) + 1)
        left, right = ends[:-1].ravel(), ends[1:].ravel()
