"""Best responses in Comparison with a rational user: one obedience LP for every rank of the agent.

Section 5.7 of docs/model.md: agent i has rank r among the others' values w_0 >= w_1 >= ... if its scheme is worth v to
the user with w_r <= v <= w_(r-1), and is then picked with probability p_r = C(K - 1 - r, m - 1) / C(K, m). The LP on
the closed interval gives the supremum over the open interval. Where the interval is a single point (tied rivals,
V_full, V_none) ranks are decided by the tie rule.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.base import AbstractCheck, Deviation, register_check
from emalign_jax.exact.checks.selection_rational import SelectionRational
from emalign_jax.exact.responses import choose
from emalign_jax.games.units import VALUE_TIE
from emalign_jax.protocols import Comparison
from emalign_jax.users.rational import RationalUser

# In the user's unit: how far inside the interval a scheme is moved if its rank is lost at the end of the interval.
INSET = 1e-6
# Relative to the agent's payoff range: a payoff this close to the supremum counts as attaining it.
ATTAINED = 1e-9


@register_check(Comparison, RationalUser, counts_welfare=True)
class ComparisonRational(SelectionRational):
    """As `SelectionRational`: the supremum over all schemes, with ties for the picked agent. The scheme attains it, or
    a payoff near it."""

    tolerance = AbstractCheck.tolerance
    has_proofs = True
    otherwise = "gradient play anneals one by itself; a positive temperature needs verify=False"

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        K = len(self.game.agents)
        m = min(self.protocol.compared, K)  # K = 1 for a monopolist.
        self.probabilities = np.array([math.comb(K - 1 - r, m - 1) / math.comb(K, m) for r in range(K)])
        edges = np.flatnonzero(np.diff(self.probabilities)) + 1
        # (first, last) of successive ranks with equal probability, which one LP covers.
        self.rank_groups = list(zip([0, *edges], [*(edges - 1), K - 1], strict=True))
        self.revealing_is_picked = m == K

    @classmethod
    def check_size(cls, games, protocol, user, messages):
        protocol.check(games, messages)
        super().check_size(games, protocol, user, messages)

    @property
    def can_outbid(self):
        return self.revealing_is_picked

    def confirm(self):
        if not self.revealing_is_picked:
            raise ValueError(
                "exact: Comparison of fewer than all agents combines the LPs of several ranks, which are not derived "
                "in rational arithmetic; leave it False"
            )
        super().confirm()

    def ranking(self, values: Float[np.ndarray, "K"]) -> list[int]:
        """The agents by value to the user, the best first; ties go to the lowest index."""
        left, order = values.copy(), []
        for _ in values:
            order.append(int(choose(left, 0.0, self.scale).argmax()))
            left[order[-1]] = -np.inf
        return order

    def choose(self, values):
        chosen = np.empty(len(values))
        chosen[self.ranking(values)] = self.probabilities
        return chosen

    def _suprema(self, schemes, agents):
        if self.revealing_is_picked:
            return super()._suprema(schemes, agents)
        return [self.best_placement(schemes, i) for i in agents]

    def best_placement(self, schemes: Float[np.ndarray, "K XB M"], agent: int) -> Deviation:
        """The best response of `agent` over all ranks that it can have."""
        values, payoffs = self.table(schemes)
        present = float(self.payoffs(schemes)[1][agent])
        best = Deviation(present, present, schemes[agent])
        upper, where = present, None
        rivals = [j for j in self.ranking(values) if j != agent]
        for first, last in self.rank_groups:
            low = values[rivals[last]] if last < len(rivals) else -np.inf
            high = values[rivals[first - 1]] if first else np.inf
            placed = first <= self._rank(values, agent, low, high) <= last
            if not placed and not self._is_end(low, high):
                continue
            picked = self.probabilities[first]
            others = np.delete(self.probabilities, first) @ payoffs[agent, rivals]
            found = self._within(agent, low, high)
            if found.status != "Optimal":
                return found
            upper = max(upper, picked * found.upper + others)
            if placed and picked * found.value + others > best.value:
                best = found._replace(value=picked * found.value + others, exact=None)
                where = low, high
        if where is not None:
            best = best._replace(scheme=self._inside(schemes, agent, best, *where))
        return best._replace(upper=upper)

    def _rank(self, values, agent: int, low: float, high: float) -> int:
        """The rank of `agent` with a scheme whose value to the user is in the middle between `low` and `high`."""
        ends = np.clip([low, high], self.least_value, self.most_value)
        placed = values.copy()
        placed[agent] = ends.mean()
        return self.ranking(placed).index(agent)

    def _is_end(self, low: float, high: float) -> bool:
        """Whether its tie tolerance may give a user who misreads beliefs more than `low` or less than `high`."""
        tie = VALUE_TIE * self.scale
        return self.game.is_perceived and bool(low >= self.most_value - tie or high <= self.least_value + tie)

    def _within(self, agent: int, low: float, high: float, inset: float = 0.0) -> Deviation:
        """The agent's best scheme whose value to the user is between low + inset and high - inset."""
        tie = VALUE_TIE * self.scale
        low = max(low, self.least_value) if low > -np.inf else low
        high = min(high, self.most_value) if high < np.inf else high
        if high - low < 2 * tie:
            low, high = low - tie, high + tie
        return self._bracketed(agent, low + inset, max(high, self.least_value + tie) - inset)

    def _inside(self, schemes, agent: int, best: Deviation, low: float, high: float) -> np.ndarray:
        """A scheme that attains `best.value` or nearly: at an end of the interval the scheme of the LP may have another
        rank."""
        enough = best.value - ATTAINED * self.payoff_range[agent] - self.negligible[agent]
        attained = self._switch(schemes, agent, best.scheme)
        room = np.ptp(np.clip([low, high], self.least_value, self.most_value))
        if attained >= enough or room == 0:
            return best.scheme
        nudged = self._within(agent, low, high, min(INSET * self.scale, room / 4))
        better = nudged.status == "Optimal" and self._switch(schemes, agent, nudged.scheme) > attained
        return nudged.scheme if better else best.scheme
