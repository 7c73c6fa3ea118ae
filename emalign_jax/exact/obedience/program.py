"""The obedience LP: all distributions over actions that one agent's scheme can induce in a rational user.

Variables z[xb, r] >= 0, the probability of recommendation r at x_B, where r names an action for each x_A (A^XA in all).
They sum to 1 for each x_B and satisfy the obedience constraints: for each r, x_A and action b,
    sum_xb z[xb, r] (g[xa, xb, r(xa)] - g[xa, xb, b]) >= 0          (section 5.1 of docs/model.md).
The feasible set depends on the prior and the user alone, so that one model serves all agents of a game.

If a recommendation costs the user very much at some x_B, its probability there is tiny in any obedient distribution.
Its variable is scaled by a bound of that probability, so that it is not lost in the LP's tolerances.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.obedience import recommendations
from emalign_jax.exact.obedience.fewer_messages import compress
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.internal.arguments import power
from emalign_jax.lp.highs import KeptLP, LPResult

MAX_COLUMNS = 4096
# A matrix with more entries is made as a sparse one; making a small one takes longer.
MOST_DENSE = 2**18
# Probabilities below this are noise of the LP and are set to 0.
NEGLIGIBLE = 1e-11
# In standard units. The rounding of a bound: a smaller excess counts as 0.
ROUNDING = 1e-13
# The largest tie tolerance of a user for which the bounds of probabilities (`units.most_likely`) are made.
TOLERANCE = 1e-5


class Advice(NamedTuple):
    """An optimum of the obedience LP.

    optimal:      whether HiGHS found one
    value:        the payoff; NaN unless optimal
    scheme:       [XB, S] a scheme of at most max(A, XB + 1) messages
    status:       "Optimal", or HiGHS's status instead
    exact:        the value as a rational number; None unless asked for and optimal
    slack_price:  a tie tolerance of e (see `ObedienceLP`) raises the value by at most e * slack_price
    excess:       value + excess is an upper bound, proved by the multipliers
    distribution: [XB, R] over recommendations, from which the scheme is made
    """

    optimal: bool
    value: float
    scheme: Float[np.ndarray, "XB S"]
    status: str
    exact: Fraction | None = None
    slack_price: float = np.inf
    excess: float = 0.0
    distribution: Float[np.ndarray, "XB R"] | None = None


class Price(NamedTuple):
    """The largest payoff with its multipliers, without a scheme.

    value:        the payoff; NaN unless optimal
    slope:        its derivative in the bound of the user's value; NaN unless optimal
    status:       "Optimal", or HiGHS's status instead
    obedience:    [rows] the multipliers of the constraints that `ObedienceLP.rows` names, not negative
    distribution: [XB, R] an optimum
    """

    optimal: bool
    value: float
    slope: float
    status: str
    obedience: Float[np.ndarray, "rows"] | None = None
    distribution: Float[np.ndarray, "XB R"] | None = None


def check_size(user_features: int, agent_features: int, actions: int) -> None:
    """Raise `ValueError` where the LP would have more than `MAX_COLUMNS` columns."""
    columns = power(actions, user_features) * agent_features
    if columns > MAX_COLUMNS:
        raise ValueError(
            f"the obedience LP of A = {actions}, XA = {user_features}, XB = {agent_features} has A^XA * XB = {columns} "
            f"columns, the limit is {MAX_COLUMNS}: take fewer actions or user features, or a quantal user"
        )


def assembled(row, column, entry, shape: tuple[int, int]) -> Any:
    """The matrix with these entries at these places: an array, or a sparse one where it would be large."""
    if shape[0] * shape[1] > MOST_DENSE:
        from scipy import sparse  # Imported here because it takes a tenth of a second.

        return sparse.csc_array((entry, (row, column)), shape=shape)
    matrix = np.zeros(shape)
    matrix[row, column] = entry
    return matrix


def without_noise(distribution: Float[np.ndarray, "XB R"]) -> Float[np.ndarray, "XB R"]:
    """Without the probabilities below `NEGLIGIBLE`."""
    distribution = np.where(distribution > NEGLIGIBLE, distribution, 0)
    return distribution / distribution.sum(1, keepdims=True)


def scheme_of(
    distribution: Float[np.ndarray, "XB R"],
    own: Float[np.ndarray, "XB R"],
    user: Float[np.ndarray, "XB R"],
    at_most=np.inf,
) -> Float[np.ndarray, "XB S"]:
    """The scheme of a distribution over recommendations, without noise and with at most max(A, XB + 1) messages.

    own, user: the agent's and the user's payoffs; at_most: see `compress`.
    """
    scheme = without_noise(distribution)
    used = scheme.max(0) > 0
    if used.sum() > scheme.shape[0] + 1:
        return compress(scheme, (scheme * own).sum(0), (scheme * user).sum(0), at_most)
    return scheme[:, used]


class ObedienceLP:
    """The LP of one game, kept from question to question.

    exact:         whether answers are derived in rational arithmetic, see `KeptLP` (`ValueError` if too large).
    tie_tolerance: a number or [A, A]: by how much a recommended action a may be worse than action c, as a share of what
                   they differ by (`units.relaxed`); negative where a must be better by so much.
    sets:          [R, XA, A] the recommendations; by default, all of one action for each type.
    scaled:        whether a variable is scaled by the bound of its probability. Multipliers of LPs without scales prove
                   bounds that know of no such bound.

    rows: [rows, 4] the obedience constraints: recommendation, type, recommended action, other action.
    """

    def __init__(
        self,
        game: ReducedGame,
        exact: bool = False,
        tie_tolerance: Any = 0.0,
        sets: Bool[np.ndarray, "R XA A"] | None = None,
        scaled: bool = True,
    ):
        user = np.asarray(game.user)
        XA, XB, A = user.shape
        if sets is None:
            check_size(XA, XB, A)
        self._sets = recommendations.single_actions(XA, A) if sets is None else sets
        R = len(self._sets)
        self._shape = (XB, R)
        likely = units.most_likely(user, tolerance=TOLERANCE) if scaled else np.ones(user.shape)
        self._possible = recommendations.possible(likely, self._sets)
        r, xa, a, c = recommendations.comparisons(self._sets)
        advantage = units.relaxed(user, tie_tolerance)[xa, :, a, c] * self._possible.T[r]  # [rows, XB]
        size = np.abs(advantage).max(1)
        kept = size > 0
        unit = np.exp2(np.frexp(size[kept])[1])[:, None]  # A power of two, so that division does not round.
        self.rows, self._unit = np.stack([r, xa, a, c], 1)[kept], unit[:, 0]
        self._of, self._advantage = r[kept], advantage[kept] / unit
        stakes = np.abs(user[xa, :, a] - user[xa, :, c]) * self._possible.T[r]
        self._relief = stakes[kept] / unit
        obedience = len(self._of)
        self._user_spread = recommendations.spread(np.asarray(game.welfare), self._sets)
        self._value_row = XB + obedience
        column = np.arange(XB * R).reshape(XB, R)
        totals = np.broadcast_to(np.arange(XB)[:, None], (XB, R)), column, self._possible
        obey = np.broadcast_to(XB + np.arange(obedience)[:, None], (obedience, XB)), column.T[self._of], self._advantage
        worth = np.full((XB, R), self._value_row), column, self._user_spread * self._possible
        row, col, entry = (np.concatenate([x.ravel() for x in part]) for part in zip(totals, obey, worth, strict=True))
        self._lp = KeptLP(
            assembled(row, col, entry, (self._value_row + 1, XB * R)),
            np.concatenate([np.ones(XB), np.zeros(obedience), [-np.inf]]),
            np.concatenate([np.ones(XB), np.full(obedience + 1, np.inf)]),
            exact=exact,
        )

    @property
    def constraints(self) -> tuple[Float[np.ndarray, "rows columns"], Float[np.ndarray, "rows"]]:
        """The rows that say that a vector of the LP's variables is a distribution and obedient, and their lower bounds;
        the first XB are equations."""
        XB, R = self._shape
        matrix = np.zeros((self._value_row, XB, R))
        matrix[np.arange(XB), np.arange(XB)] = self._possible
        matrix[XB + np.arange(len(self._of)), :, self._of] = self._advantage
        return matrix.reshape(self._value_row, XB * R), np.append(np.ones(XB), np.zeros(len(self._of)))

    def column(self, payoff: Float[np.ndarray, "XA XB A"]) -> Float[np.ndarray, "columns"]:
        """What each of the LP's variables pays."""
        return (recommendations.spread(payoff, self._sets) * self._possible).ravel()

    def distribution(self, variables: Float[np.ndarray, "columns"]) -> Float[np.ndarray, "XB R"]:
        """The distribution over recommendations of a vector of variables."""
        return without_noise(variables.reshape(self._shape) * self._possible)

    def best(
        self, payoff: Float[np.ndarray, "XA XB A"], value_at_least: float = -np.inf, value_at_most: float = np.inf
    ) -> Advice:
        """The largest `payoff` over obedient distributions whose user value is within these bounds."""
        own = recommendations.spread(payoff, self._sets)
        self._lp.set_cost((own * self._possible).ravel())
        self._lp.set_row(self._value_row, value_at_least, value_at_most)
        result = self._lp.solve()
        if not result.optimal:
            return Advice(False, np.nan, np.full(self._shape, np.nan), result.status)
        distribution = result.x.reshape(self._shape) * self._possible
        scheme = scheme_of(distribution, own, self._user_spread, value_at_most)
        multipliers = self._multipliers(result)
        bound = self._bound(own, multipliers, float(result.row_dual[-1]), value_at_least, value_at_most)
        excess = 0.0 if result.exact is not None else bound - result.value
        excess = excess if excess > ROUNDING else 0.0
        slack_price = float(bound_of(self._priced(self._relief, multipliers), self._possible))
        return Advice(True, result.value, scheme, result.status, result.exact, slack_price, excess, distribution)

    def _multipliers(self, result: LPResult) -> Float[np.ndarray, "rows"]:
        """Those of the obedience constraints, as they are scaled here."""
        return np.maximum(-result.row_dual[self._value_row - len(self._of) : self._value_row], 0)

    def basis(self) -> list[int] | None:
        """Of the last answer: the status of the variables z[xb, r], xb first, then of the rows: the sums of
        probabilities, obedience, the user's value (`KeptLP.basis`)."""
        return self._lp.basis()

    def _priced(self, rows: Float[np.ndarray, "rows XB"], multipliers: Float[np.ndarray, "rows"]) -> np.ndarray:
        """[XB, R] the sum of the obedience `rows` times their multipliers."""
        added = np.zeros((self._shape[1], self._shape[0]))
        np.add.at(added, self._of, multipliers[:, None] * rows)
        return added.T

    def _bound(self, own, multipliers, value_price: float, value_at_least: float, value_at_most: float) -> float:
        """An upper bound of the payoff, by weak duality. value_price: the multiplier of the user's value."""
        limit = value_at_most if value_price > 0 else value_at_least
        if not np.isfinite(limit):
            value_price, limit = 0.0, 0.0
        prices = (own - value_price * self._user_spread) * self._possible + self._priced(self._advantage, multipliers)
        return bound_of(prices, self._possible) + value_price * limit

    def price(
        self, payoff: Float[np.ndarray, "XA XB A"], value_at_least: float = -np.inf, value_at_most: float = np.inf
    ) -> Price:
        """The largest `payoff` over obedient distributions whose user value is within these bounds, and its slope: a
        supergradient in the bound that binds, 0 if neither does."""
        self._lp.set_cost((recommendations.spread(payoff, self._sets) * self._possible).ravel())
        self._lp.set_row(self._value_row, value_at_least, value_at_most)
        result = self._lp.solve()
        if not result.optimal:
            return Price(False, np.nan, np.nan, result.status)
        multipliers, slope = self._multipliers(result) / self._unit, float(result.row_dual[self._value_row])
        return Price(
            True, result.value, slope, result.status, multipliers, result.x.reshape(self._shape) * self._possible
        )


def bound_of(prices: Float[np.ndarray, "*any XB R"], possible: Float[np.ndarray, "*#any XB R"]) -> Any:
    """The maximum [...] of sum z prices / possible over z with sum_r z = 1 and 0 <= z <= possible.

    prices: of one unit of each variable; a unit is the probability `possible`.
    """
    if (possible == 1).all():
        return units.short(np.maximum, prices).sum(-1)
    certain = units.short(np.maximum, np.where(possible == 1, prices, -np.inf))[..., None]
    some = np.where(possible > 0, prices / np.where(possible > 0, possible, 1), -np.inf)
    some = units.short(np.maximum, some)[..., None]
    base = np.where(np.isfinite(certain), certain, some)
    return (base[..., 0] + np.maximum(np.where(possible > 0, prices - possible * base, 0), 0).sum(-1)).sum(-1)
