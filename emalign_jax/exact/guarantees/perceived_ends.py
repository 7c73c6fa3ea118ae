"""What a user who misreads beliefs perceives at best and at worst in the equilibria of Selection (section 11.4 of
docs/model.md).

At a zero v of gap below the largest value the equilibria are the obedient distributions worth v that pay f_i(v) to
every agent. Between two breakpoints all f_i are straight, so that these distributions, for all v there, are one
polytope. At the largest value, where no rival can take over, the first agent alone must have its best.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.obedience.curves import Curve
from emalign_jax.exact.obedience.program import ObedienceLP
from emalign_jax.games.game import ReducedGame
from emalign_jax.games.units import VALUE_TIE
from emalign_jax.lp.highs import KeptLP, LPFailed

# In the agents' units: curves and LPs are known to 1e-9.
SLACK = 1e-8


class _Ends:
    """The least and the largest perceived value of distributions, over all that were asked for."""

    def __init__(self, game: Any):
        self.lp, self.game = ObedienceLP(game), game
        self.gets, self.perceives = self.lp.column(game.welfare), self.lp.column(game.user)
        self.pays = [self.lp.column(agent) for agent in np.asarray(game.agents)]
        self.low, self.high = np.inf, -np.inf

    def add(self, low: float, high: float, ends: list[tuple[float, float]]) -> None:
        """Those worth `low` to `high` that pay agent i at least ends[i] there, and in between by interpolation."""
        rows, bounds = self.lp.constraints
        XB, width = self.game.mass.shape[-1], high - low
        slopes = [(right - left) / width if width > VALUE_TIE else 0.0 for left, right in ends]
        least = [left - slope * low - SLACK for (left, _), slope in zip(ends, slopes, strict=True)]
        above = [pays - slope * self.gets for pays, slope in zip(self.pays, slopes, strict=False)]
        matrix = np.array([*rows, self.gets, *above])
        lower = np.concatenate([bounds, [low - VALUE_TIE], least])
        upper = np.full(len(matrix), np.inf)
        upper[:XB], upper[len(rows)] = 1, high + VALUE_TIE
        for sign in (1.0, -1.0):
            found = KeptLP(matrix, lower, upper, cost=sign * self.perceives).solve()
            if not found.optimal:
                raise LPFailed
            self.low, self.high = min(self.low, sign * found.value), max(self.high, sign * found.value)


def perceived_ends(
    game: ReducedGame, v: Float[np.ndarray, "P"], zero: Bool[np.ndarray, "P"], curves: list[Curve]
) -> tuple[float, float]:
    """The least and the largest perceived value of an equilibrium, in standard units.

    game: one game in standard units
    v, zero: the stability profile, as in `Stability`
    curves: what each agent can have at least at user value v: f_i, or its largest payoff if it is alone; empty where
        all schemes are worth the same to the user
    """
    ends, last = _Ends(game), len(v) - 1
    if not curves:
        most = ends.lp.price(np.asarray(game.agents)[0]).value
        ends.add(v[0], v[0], [(most, most)])
        return ends.low, ends.high
    for n in np.flatnonzero(zero):
        if n == last and len(curves) > 1:
            ends.add(v[n], v[n], [tuple(curves[0].at(v[[n, n]]))])
        else:
            right = n + 1 if n < last and zero[n + 1] else n
            ends.add(v[n], v[right], [tuple(curve.at(v[[n, right]])) for curve in curves])
    return ends.low, ends.high
