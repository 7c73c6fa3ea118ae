"""Best responses in Selection: the obedience LP (rational user), the belief LP with one more row (quantal).

The holder is the agent whom the user picks. A rival takes over by being worth more to her, at least the
holder's value v: his payoff is then f_i(v), the most an agent gets at user value >= v. The holder may
lower his offer to the best rival's value, or drop out and let that rival have her.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float

from emalign_jax.exact._base import AbstractCheck, Deviation, register
from emalign_jax.exact.beliefs import BeliefProblem, concavify, monopoly_problem
from emalign_jax.exact.obedience import ObedienceLP
from emalign_jax.exact.responses import VALUE_TIE, choose, selection_table
from emalign_jax.protocols import Selection
from emalign_jax.users import QuantalUser, RationalUser


class _SelectionCheck(AbstractCheck):
    @property
    def temperature(self) -> float:
        return float(self.protocol.temperature)

    def payoffs(self, schemes):
        table = selection_table(self.game, schemes, self.user, self.scale)
        chosen = choose(table.values, self.temperature, self.scale)
        return float(chosen @ table.values), table.payoffs @ chosen

    def standing(self, schemes):
        """values V [K], payoffs O [K, K], the holder, and the best rival (None if there is none)."""
        values, payoffs = selection_table(self.game, schemes, self.user, self.scale)
        holder = int(choose(values, 0.0, self.scale).argmax())
        rivals = values.copy()
        rivals[holder] = -np.inf
        rival = int(choose(rivals, 0.0, self.scale).argmax()) if len(values) > 1 else None
        return values, payoffs, holder, rival


@register(Selection, RationalUser)
class SelectionRational(_SelectionCheck):
    """Exact: the gain is the supremum over all schemes (section 5.1)."""

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        if self.temperature > 0:
            raise ValueError(
                "temperature: the exact check of Selection with a rational user needs temperature 0; with a positive "
                "temperature take a QuantalUser"
            )
        self.lp = ObedienceLP(game)
        self.full_value, self.none_value = self.informed(True)[0], self.informed(False)[0]

    def at_least(self, agent: int, value: float = -np.inf) -> Deviation:
        """f_agent(value): the most he gets while she gets at least `value`."""
        # rounding must not make full revelation infeasible
        advice = self.lp.best(self.game.agents[agent], min(value, self.full_value - VALUE_TIE * self.scale))
        return Deviation(advice.value, advice.value, advice.scheme, advice.status)

    def monopolist(self, agent, sign=1.0):
        advice = self.lp.best(sign * self.game.agents[agent])
        return Deviation(sign * advice.value, sign * advice.value, advice.scheme, advice.status)

    def deviations(self, schemes, agents):
        values, payoffs, holder, rival = self.standing(schemes)
        return [self._deviation(i, values, payoffs, holder, rival, schemes[i]) for i in agents]

    def _deviation(self, i, values, payoffs, holder, rival, present) -> Deviation:
        tie = VALUE_TIE * self.scale
        if i != holder:
            stay = Deviation(payoffs[i, holder], payoffs[i, holder], present)
            if values[holder] >= self.full_value - tie and i > holder:
                return stay  # nobody can be worth more to her, and ties stay with the holder
            return max(stay, self.at_least(i, values[holder]), key=_by_value)
        if rival is None:
            return self.at_least(i)
        offer = self.at_least(i, values[rival])
        if values[rival] > self.none_value + tie or rival < i:  # saying nothing makes her pick the rival
            silent = np.ones((present.shape[0], 1))
            offer = max(offer, Deviation(payoffs[i, rival], payoffs[i, rival], silent), key=_by_value)
        return offer


@register(Selection, QuantalUser)
class SelectionQuantal(_SelectionCheck):
    """Lower bounds: what the schemes that were tried attain. The upper bound lets the agent act for her."""

    def payoff_problem(self, agent: int) -> BeliefProblem:
        return monopoly_problem(self.game, agent, self.user, self.scale)

    @functools.cached_property
    def most_for_her(self) -> tuple[float, Float[np.ndarray, "S XB"]]:
        """The largest user value that any scheme reaches, and the beliefs it takes."""
        problem = monopoly_problem(self.game._replace(agents=self.game.user[None]), 0, self.user, self.scale)
        found = concavify(problem, np.eye(self.game.mass.shape[1]))
        return found.value, (found.scheme * problem.prior[:, None]).T

    def monopolist(self, agent, sign=1.0):
        optimum = concavify(self.payoff_problem(agent), np.eye(self.game.mass.shape[1]), sign=sign)
        return Deviation(optimum.value, optimum.value, optimum.scheme, optimum.status)

    def deviations(self, schemes, agents):
        values = selection_table(self.game, schemes, self.user, self.scale).values
        _, payoffs = self.payoffs(schemes)
        reachable, her_beliefs = self.most_for_her
        result = []
        for i in agents:
            problem = self.payoff_problem(i)
            XB = schemes.shape[1]
            beliefs = np.concatenate([np.eye(XB), (schemes[i] * problem.prior[:, None]).T, her_beliefs])
            asked = np.concatenate([[-np.inf], values, np.linspace(values.min(), values.max(), 5)])
            best = Deviation(payoffs[i], float(self.game.agents[i].max(-1).sum()), schemes[i])
            candidates = [np.ones((XB, 1)), np.eye(XB)]
            status = "Optimal"
            for value in np.unique(asked):
                value += 1e-7 * self.scale  # a hair above the rival, so that she does pick him
                if value > reachable - 1e-8 * self.scale:  # an LP as good as infeasible has HiGHS end "Unknown"
                    continue
                found = concavify(problem, beliefs, value_at_least=value)
                if found.optimal:
                    candidates.append(found.scheme)
                elif found.status != "Infeasible":
                    status = found.status
            for scheme in candidates:
                payoff = self._switch(schemes, i, scheme)
                if payoff > best.value:
                    best = best._replace(value=payoff, scheme=scheme)
            result.append(best._replace(status=status))
        return result

    def _switch(self, schemes, agent, scheme) -> float:
        M = max(schemes.shape[2], scheme.shape[1])
        profile = np.zeros((*schemes.shape[:2], M))
        profile[:, :, : schemes.shape[2]] = schemes
        profile[agent] = 0
        profile[agent, :, : scheme.shape[1]] = scheme
        return self.payoffs(profile)[1][agent]


def _by_value(deviation: Deviation) -> float:
    return deviation.value if np.isfinite(deviation.value) else np.inf  # a failed LP must show
