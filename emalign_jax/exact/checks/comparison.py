"""Best responses in Comparison with a rational user: the obedience LP, once for every rank an agent may take.

Section 5.7 of docs/model.md: agent i takes rank r among the others' values w_0 >= w_1 >= ... by being worth v to the
user, w_r <= v <= w_(r-1), and is picked with probability p_r = C(K - 1 - r, m - 1) / C(K, m). The LP on the closed
interval gives the supremum over the open one. Where an interval is a point (tied rivals, V_full, V_none) the tie rule
says who has which rank.
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

HAIR = 1e-6  # of her range: how far inside its interval a scheme is put that loses its rank on the edge
SURE = 1e-9  # of an agent's payoff range: a payoff that close to the supremum attains it


@register_check(Comparison, RationalUser)
class ComparisonRational(SelectionRational):
    """As `SelectionRational`: the supremum over all schemes, with ties for the picked agent; the scheme attains it, or
    comes within a hair of her value."""

    tolerance = AbstractCheck.tolerance
    otherwise = "gradient play anneals one by itself; a positive temperature needs verify=False"

    def __init__(self, game, protocol, user):
        super().__init__(game, protocol, user)
        K = len(self.game.agents)
        m = min(self.protocol.compared, K)  # a monopolist is alone
        self.chances = np.array([math.comb(K - 1 - r, m - 1) / math.comb(K, m) for r in range(K)])
        edges = np.flatnonzero(np.diff(self.chances)) + 1
        # ranks of one chance are one placement: all of them if she meets one agent, those never picked otherwise
        self.placements = list(zip([0, *edges], [*(edges - 1), K - 1], strict=True))
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
                "exact: Comparison of fewer than all agents weighs the LPs of several ranks, and is not derived in "
                "rational arithmetic; leave it False"
            )
        super().confirm()

    def ranking(self, values: Float[np.ndarray, "K"]) -> list[int]:
        """Agents, the best first; the lowest index among equals."""
        left, order = values.copy(), []
        for _ in values:
            order.append(int(choose(left, 0.0, self.scale).argmax()))
            left[order[-1]] = -np.inf
        return order

    def choose(self, values):
        chosen = np.empty(len(values))
        chosen[self.ranking(values)] = self.chances
        return chosen

    def _suprema(self, schemes, agents):
        if self.revealing_is_picked:
            return super()._suprema(schemes, agents)
        return [self.best_placement(schemes, i) for i in agents]

    def best_placement(self, schemes: Float[np.ndarray, "K XB M"], agent: int) -> Deviation:
        """The best response of `agent`, over all ranks that he can take."""
        values, payoffs = self.table(schemes)
        present = float(self.payoffs(schemes)[1][agent])
        best = Deviation(present, present, schemes[agent])
        upper, where = present, None
        rivals = [j for j in self.ranking(values) if j != agent]
        for first, last in self.placements:
            low = values[rivals[last]] if last < len(rivals) else -np.inf
            high = values[rivals[first - 1]] if first else np.inf
            if not first <= self._rank(values, agent, low, high) <= last:
                continue
            chance, others = self.chances[first], np.delete(self.chances, first) @ payoffs[agent, rivals]
            found = self._within(agent, low, high)
            if found.status != "Optimal":
                return found
            upper = max(upper, chance * found.upper + others)
            if chance * found.value + others > best.value:
                best = found._replace(value=chance * found.value + others, exact=None)
                where = low, high
        if where is not None:
            best = best._replace(scheme=self._inside(schemes, agent, best, *where))
        return best._replace(upper=upper)

    def _rank(self, values, agent: int, low: float, high: float) -> int:
        """Of `agent` in the middle of what he can be worth to her between `low` and `high`."""
        ends = np.clip([low, high], self.least_value, self.most_value)
        placed = values.copy()
        placed[agent] = ends.mean()
        return self.ranking(placed).index(agent)

    def _within(self, agent: int, low: float, high: float, hair: float = 0.0) -> Deviation:
        """The best of his schemes between `low` and `high`, ties included; further inside by `hair`."""
        tie = VALUE_TIE * self.scale
        low = max(low, self.least_value) if low > -np.inf else low
        high = min(high, self.most_value) if high < np.inf else high
        if high - low < 2 * tie:
            low, high = low - tie, high + tie
        return self._bracketed(agent, low + hair, max(high, self.least_value + tie) - hair)

    def _inside(self, schemes, agent: int, best: Deviation, low: float, high: float) -> np.ndarray:
        """A scheme that pays him what `best` says, or nearly: on the edge of its interval it may have another rank."""
        enough = best.value - SURE * self.payoff_range[agent] - self.negligible[agent]
        attained = self._switch(schemes, agent, best.scheme)
        room = np.ptp(np.clip([low, high], self.least_value, self.most_value))
        if attained >= enough or room == 0:
            return best.scheme
        nudged = self._within(agent, low, high, min(HAIR * self.scale, room / 4))
        better = nudged.status == "Optimal" and self._switch(schemes, agent, nudged.scheme) > attained
        return nudged.scheme if better else best.scheme
