"""One large game as a market of agents: the user's value with no agent, with each agent alone, and in competition.

For tables of hundreds of prompts and tens of agents, with a rational user in Selection (ties for the selected agent).
Each agent has an obedience LP of its own, which is solved again from its last basis; agents are solved side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.guarantees.market_bounds import least_budget_to, least_value
from emalign_jax.exact.guarantees.worst_equilibrium import KnownPoints, first_zero
from emalign_jax.exact.obedience import recommendations
from emalign_jax.exact.obedience.curves import Point
from emalign_jax.exact.obedience.program import ObedienceLP
from emalign_jax.games.game import Game, ReducedGame, reduce_game
from emalign_jax.games.units import NEGLIGIBLE_INFORMATION_VALUE, VALUE_TIE
from emalign_jax.internal import processors
from emalign_jax.internal.arguments import FINITE, boolean, number, power, shown
from emalign_jax.internal.validation import on_host
from emalign_jax.lp.highs import LPFailed
from emalign_jax.protocols import Selection
from emalign_jax.protocols.standard_units import standard_form
from emalign_jax.result import Batched
from emalign_jax.users.rational import RationalUser

# Columns of an obedience LP: 2,000 states and 10 actions have a tenth of it.
MOST_COLUMNS = 2**18
# An agent that is indifferent, to within this share of the user's value, decides for or against the user.
DECIDES_TIES = 1e-7


class MarketValues(Batched):
    """What the user gets in one market; float64, in units of the user's utility.

    Attributes:
        none: V_none, with no agent.
        full: V_full, with x_B revealed.
        monopoly: [K] with agent i alone, who decides between its best schemes for the user.
        worst: the least value of a pure equilibrium of Selection; with one agent, if it decides against the user.
        best: the largest one: V_full for two agents or more.
        guarantee: the sharp lower bound of all equilibria (`worst_case`).
        slack: coverage slack (`coverage`).
        without: [K] `worst` when agent i has left; NaN where it was not asked for, and for the last agent.

    Example:
        >>> values = em.MarketSolver(em.catalog.two_prosecutors()).values()
        >>> round(values.none, 3), round(values.worst, 3), round(values.best, 3)
        (0.7, 0.7, 1.0)
    """

    none: float
    full: float
    monopoly: Float[np.ndarray, "K"]
    worst: float
    best: float
    guarantee: float
    slack: float
    without: Float[np.ndarray, "K"]

    _code: ClassVar[str | None] = None
    _unit: ClassVar[str] = "market"


class Market(MarketValues):
    """`MarketValues` of all agents of a game, and the transfers that would secure a target.

    Attributes:
        none, full, worst, best, guarantee, slack: as in `MarketValues`.
        monopoly, without: [K], as in `MarketValues`.
        transfers: the least budget of transfers, `|t_i| <= transfers` in the agents' utility, that makes the target a
            lower bound of all equilibria.

    Example:
        >>> found = em.market(em.catalog.two_prosecutors())
        >>> found.monopoly.round(3).tolist(), round(found.transfers, 3)
        ([0.7, 0.7], 0.5)
    """

    transfers: float

    def _headline(self) -> dict[str, Any]:
        return super()._headline() | {"transfers": self.transfers}


def market(game: Game | ReducedGame, *, target: float | None = None, without: bool = True) -> Market:
    """One game as a market: the user alone, with each agent alone, and the exact worst and best equilibrium.

    Args:
        game: one `Game`, or a `ReducedGame` where the prior would not fit (section 1.1 of docs/model.md). Up to 2,000
            values of x_B, 10 actions and 100 agents if x_B determines x_A; otherwise A^XA * XB is limited.
        target: the value that `transfers` should secure; V_full by default.
        without: also compute the worst equilibrium when each agent has left, which takes as long as all the rest.

    Returns:
        A `Market`.

    Raises:
        ValueError: for a batch, for games that are too large and for a target that is not a number up to V_full.

    Example:
        >>> found = em.market(em.catalog.two_prosecutors())
        >>> round(found.worst, 3), round(found.best, 3)
        (0.7, 1.0)

    Source: section 6.5 of docs/model.md; docs/guides/market.md.
    """
    boolean("without", without)
    if target is not None:
        target = number("target", target, *FINITE)
    solver = MarketSolver(game)
    values = solver.values(without=without)
    transfers = solver.transfers(values.full if target is None else target)
    labels = game.labels if isinstance(game, Game) else None
    return Market(**vars(values) | {"transfers": transfers, "labels": labels})


class MarketSolver:
    """Questions about one market; what was computed for one set of agents is kept for the next.

    Args:
        game: as for `market`.

    Raises:
        ValueError: as `market`.

    Example:
        >>> solver = em.MarketSolver(em.catalog.prosecutor_against_defender())
        >>> [round(solver.values(agents).worst, 3) for agents in ([0], [1], [0, 1])]
        [0.7, 0.7, 1.0]

    Source: docs/guides/market.md.
    """

    def __init__(self, game: Game | ReducedGame):
        raw = _reduced(game)
        form: Any = standard_form(raw, Selection(), RationalUser())
        self._form, self._game = form, form.game
        XA, XB, A = form.game.user.shape
        one_type = (form.game.mass > 0).sum(0).max() <= 1
        columns = XB * (A if one_type else power(A, XA))
        if columns > MOST_COLUMNS:
            raise ValueError(
                f"game: A^XA * XB = {columns}, the limit is {MOST_COLUMNS}: take fewer states, actions or user "
                "features, or an x_B that determines x_A"
            )
        # If x_B determines x_A, a message that names the action alone says as much as one that names it for each x_A.
        single = recommendations.single_actions
        self._sets = np.repeat(single(1, A), XA, 1) if one_type else single(XA, A)
        # The LP's tolerances are absolute: payoffs of a thousand states that are each worth a thousandth need scaling.
        self._scale = 2.0 ** np.ceil(np.log2(XB))
        user = form.game.user
        self._none, self._full = float(user.sum(1).max(-1).sum()), float(user.max(-1).sum())
        self._worthless = self._full - self._none <= NEGLIGIBLE_INFORMATION_VALUE
        self._alone: dict[int, tuple[float, float]] = {}
        self._curves: dict[int, KnownPoints] = {}
        self._joint: ObedienceLP | None = None

    @property
    def agents(self) -> int:
        """K, the number of agents."""
        return len(self._game.agents)

    def values(
        self,
        agents: Sequence[int] | None = None,
        without: bool = False,
        report: Callable[[int, int], None] | None = None,
    ) -> MarketValues:
        """The `MarketValues` of a market of some of the agents.

        Args:
            agents: their indices; by default all.
            without: also compute the worst equilibrium when each agent has left.
            report: called with how many of the steps are done and their number.

        Raises:
            LPFailed: where HiGHS does not solve an LP.
        """
        chosen = self._chosen(agents)
        steps, done = 2 * len(chosen) + 3 + len(chosen) * without, 0

        def tell(_=None):
            nonlocal done
            done += 1
            if report is not None:
                report(done, steps)

        alone = processors.each(lambda agent: (self._monopoly(agent), tell())[0], chosen)
        if len(chosen) > 1 and not self._worthless:
            processors.each(lambda agent: (self._curve(agent), tell()), chosen)
        worst, best = self._equilibria(chosen)
        tell()
        floors = [least_value(self._game, self._sets, chosen, obedience) for obedience in (True, False)]
        tell()
        left = np.full(len(chosen), np.nan)
        if without and len(chosen) > 1:
            for place in range(len(chosen)):
                left[place] = self._equilibria([*chosen[:place], *chosen[place + 1 :]])[0]
                tell()
        if report is not None:
            report(steps, steps)
        unit, zero = float(self._form.user_unit), float(self._form.user_zero)
        none, full, worst, best, guarantee, covered = (
            float(unit * x + zero) for x in (self._none, self._full, worst, best, *floors)
        )
        monopoly = unit * np.array([value for _, value in alone]) + zero
        return MarketValues(none, full, monopoly, worst, best, guarantee, max(full - covered, 0.0), unit * left + zero)

    def transfers(self, target: float, agents: Sequence[int] | None = None) -> float:
        """The least budget of transfers with which the coverage bound of all equilibria is `target`.

        Transfers are t_i(a, x_A, x_B) of at most the budget in the agents' utility. As of `least_budget` with
        weights="cone" it is an infimum (section 6.7 of docs/model.md).

        Args:
            target: in units of the user's utility.
            agents: their indices; by default all.

        Raises:
            ValueError: for a target above V_full.
        """
        unit, zero = float(self._form.user_unit), float(self._form.user_zero)
        goal = (float(target) - zero) / unit
        if not goal <= self._full + VALUE_TIE:
            raise ValueError(f"target: expected at most V_full = {unit * self._full + zero:.6g}, got {shown(target)}")
        return least_budget_to(self._form, self._chosen(agents), min(goal, self._full))

    def _chosen(self, agents) -> list[int]:
        chosen = list(range(self.agents)) if agents is None else [int(agent) for agent in agents]
        if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= i < self.agents for i in chosen):
            raise ValueError(f"agents: expected different numbers from 0 to {self.agents - 1}, got {chosen}")
        return chosen

    def _lp(self) -> ObedienceLP:
        return ObedienceLP(self._game, sets=self._sets)

    def _equilibria(self, chosen: list[int]) -> tuple[float, float]:
        """The worst and the best equilibrium, in standard units."""
        if len(chosen) == 1:
            return self._monopoly(chosen[0])
        if self._worthless:
            return self._full, self._full
        if self._joint is None:
            self._joint = self._lp()
        lp, payoff = self._joint, self._game.agents[chosen].sum(0)
        curves = processors.each(self._curve, chosen)
        worst = first_zero(lambda v: self._evaluate(lp, payoff, v, v), curves, self._none, self._full)
        return worst, self._full

    def _evaluate(self, lp: ObedienceLP, payoff, low: float, high: float) -> Point:
        found = lp.price(self._scale * payoff, low, high)
        if not found.optimal:
            raise LPFailed(f"HiGHS did not solve an obedience LP: {found.status}")
        return Point(low, found.value / self._scale, found.slope / self._scale)

    def _curve(self, agent: int) -> KnownPoints:
        if agent not in self._curves:
            lp, payoff = self._lp(), self._game.agents[agent]
            self._curves[agent] = KnownPoints(
                lambda v: self._evaluate(lp, payoff, v, np.inf), self._none + VALUE_TIE, self._full - VALUE_TIE
            )
        return self._curves[agent]

    def _monopoly(self, agent: int) -> tuple[float, float]:
        """The user's least and largest value under the agent's best schemes, in standard units."""
        if agent not in self._alone:
            lp, (payoff, user), worth = self._lp(), (self._game.agents[agent], self._game.user), []
            for sign in (-1, 1):
                found = lp.best(self._scale * (payoff + sign * DECIDES_TIES * user))
                if not found.optimal or found.distribution is None:
                    raise LPFailed(f"HiGHS did not solve an obedience LP: {found.status}")
                value = float((found.distribution * recommendations.spread(user, self._sets)).sum())
                worth.append(min(max(value, self._none), self._full))
            self._alone[agent] = worth[0], worth[1]
        return self._alone[agent]


def _reduced(game: Game | ReducedGame) -> ReducedGame:
    if isinstance(game, ReducedGame):
        reduced = ReducedGame(*(np.asarray(x, np.float64) for x in game))
    else:
        (checked,) = on_host(game=game)
        reduced = reduce_game(checked, np)
    if reduced.user.ndim != 3:
        raise ValueError(f"game: expected one game, got a batch with axes {list(reduced.user.shape[:-3])}")
    if not all(np.isfinite(x).all() for x in reduced):
        raise ValueError("game: expected finite numbers")
    if not np.array_equal(reduced.user, reduced.welfare):
        raise ValueError("game: a market has a user who reads beliefs right, but its user and welfare differ")
    return reduced
