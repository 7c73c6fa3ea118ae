"""The obedience LP: every law over actions that one agent's scheme can induce in a rational user.

Variables z[xb, r] >= 0, r one recommended action for each x_A (A^XA of them), sum_r z = 1 for each
x_B, and obedience: for each r, x_A and action b,
    sum_xb z[xb, r] (g[xa, xb, r(xa)] - g[xa, xb, b]) >= 0          (section 5.1 of the model).
The feasible set depends on the prior and the user alone, so one model serves all agents of a game.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.arguments import power
from emalign_jax.exact.compress import compress
from emalign_jax.exact.lp import KeptLP
from emalign_jax.game import ReducedGame

MAX_COLUMNS = 4096
NEGLIGIBLE = 1e-11  # LP noise: probabilities below it are set to 0


class Advice(NamedTuple):
    """value: of the objective (NaN unless optimal); scheme: [XB, S], at most max(A, XB + 1) messages, in floats;
    exact: the value of the LP as the rational number that it is (None unless asked for and optimal);
    slack_price: if she may miss her best action by a little, the value grows by at most this times that little;
    excess: no law does better than the value by more than this, as far as that was measured (0: the solver's word)."""

    optimal: bool
    value: float
    scheme: Float[np.ndarray, "XB S"]
    status: str
    exact: Fraction | None = None
    slack_price: float = np.inf
    excess: float = 0.0


class Price(NamedTuple):
    """value: of the objective, slope: what one more unit of her value adds to it (both NaN unless optimal)."""

    optimal: bool
    value: float
    slope: float
    status: str


def check_size(user_features: int, agent_features: int, actions: int) -> None:
    """Raise `ValueError` where the LP would have more than `MAX_COLUMNS` columns."""
    columns = power(actions, user_features) * agent_features
    if columns > MAX_COLUMNS:
        raise ValueError(
            f"the obedience LP of A = {actions}, XA = {user_features}, XB = {agent_features} has A^XA * XB = {columns} "
            f"columns, the limit is {MAX_COLUMNS}: take fewer actions or user features, or a quantal user"
        )


def cut(
    law: Float[np.ndarray, "XB R"], own: Float[np.ndarray, "XB R"], user: Float[np.ndarray, "XB R"], at_most=np.inf
) -> Float[np.ndarray, "XB S"]:
    """The scheme of a law over recommendations, without noise and with at most max(A, XB + 1) messages."""
    scheme = np.where(law > NEGLIGIBLE, law, 0)
    scheme /= scheme.sum(1, keepdims=True)
    used = scheme.max(0) > 0
    if used.sum() > scheme.shape[0] + 1:
        return compress(scheme, (scheme * own).sum(0), (scheme * user).sum(0), at_most)
    return scheme[:, used]


class ObedienceLP:
    """The kept model of one game; exact: answers in rational arithmetic, see `KeptLP` (ValueError if too large);
    slack: by how much (in her utility) a recommended action may miss her best one."""

    def __init__(self, game: ReducedGame, exact: bool = False, slack: float = 0.0):
        user, mass = np.asarray(game.user), np.asarray(game.mass)
        XA, XB, A = user.shape
        check_size(XA, XB, A)
        self.recommended = np.array(list(itertools.product(range(A), repeat=XA)))  # [R, XA]
        R = len(self.recommended)
        self._shape = (XB, R)
        reveal = np.zeros((XB, XB, R))
        reveal[np.arange(XB), np.arange(XB)] = 1
        rows, relief, of = [reveal], [], []
        for r, advice in enumerate(self.recommended):
            for xa in range(XA):
                advantage = user[xa, :, advice[xa], None] - user[xa]  # [XB, A]
                size = np.abs(advantage).max(0)
                advantage = advantage + slack * mass[xa][:, None]
                unit = np.exp2(np.frexp(size)[1])  # a power of two, so that nothing is rounded
                for b in np.nonzero(size > 0)[0]:
                    row = np.zeros((1, XB, R))
                    row[0, :, r] = advantage[:, b] / unit[b]
                    rows.append(row)
                    relief.append(mass[xa] / unit[b])
                    of.append(r)
        obedience = len(of)
        self._relief, self._of = np.array(relief).reshape(-1, XB), np.array(of, int)
        self._user_spread = self._spread(user)
        rows.append(self._user_spread[None])
        self._value_row = XB + obedience
        self._lp = KeptLP(
            np.concatenate(rows).reshape(-1, XB * R),
            np.concatenate([np.ones(XB), np.zeros(obedience), [-np.inf]]),
            np.concatenate([np.ones(XB), np.full(obedience + 1, np.inf)]),
            exact=exact,
        )

    def _spread(self, payoff: Float[np.ndarray, "XA XB A"]) -> Float[np.ndarray, "XB R"]:
        """Expected payoff of x_B under each recommendation."""
        return np.add.reduce([row[:, advice] for row, advice in zip(payoff, self.recommended.T, strict=True)])

    def best(
        self, payoff: Float[np.ndarray, "XA XB A"], value_at_least: float = -np.inf, value_at_most: float = np.inf
    ) -> Advice:
        """Maximise `payoff` over obedient laws that give the user a value within these bounds."""
        self._lp.set_cost(self._spread(payoff).ravel())
        self._lp.set_row(self._value_row, value_at_least, value_at_most)
        result = self._lp.solve()
        if not result.optimal:
            return Advice(False, np.nan, np.full(self._shape, np.nan), result.status)
        scheme = cut(result.x.reshape(self._shape), self._spread(payoff), self._user_spread, value_at_most)
        return Advice(True, result.value, scheme, result.status, result.exact, self._slack_price(result.row_dual))

    def _slack_price(self, dual) -> float:
        """By weak duality: slack adds at most its multipliers times the mass to every column's price."""
        XB, R = self._shape
        added = np.zeros((R, XB))
        multipliers = np.maximum(-dual[XB : self._value_row], 0)
        np.add.at(added, self._of, multipliers[:, None] * self._relief)
        return float(added.max(0).sum())

    def price(
        self, payoff: Float[np.ndarray, "XA XB A"], value_at_least: float = -np.inf, value_at_most: float = np.inf
    ) -> Price:
        """The most of `payoff` over obedient laws that give the user a value within these bounds, and a supergradient.

        The slope is the dual of the value row: a supergradient in the bound that binds, 0 if none does.
        """
        self._lp.set_cost(self._spread(payoff).ravel())
        self._lp.set_row(self._value_row, value_at_least, value_at_most)
        result = self._lp.solve()
        slope = result.row_dual[self._value_row] if result.optimal else np.nan
        return Price(result.optimal, result.value, float(slope), result.status)
