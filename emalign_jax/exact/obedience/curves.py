"""Concave curves over the user's value, found breakpoint by breakpoint: f_i and M of section 6.5 of docs/model.md.

Supporting lines are followed, so that no breakpoint is missed, as a grid of values would miss some.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.obedience.program import ObedienceLP
from emalign_jax.games.units import VALUE_TIE
from emalign_jax.lp.highs import LPFailed

# In the agents' units. A curve this close to its chord counts as straight.
STRAIGHT = 1e-11


class Point(NamedTuple):
    """A point of a concave curve with a supergradient."""

    v: float
    value: float
    slope: float


class Curve(NamedTuple):
    """A concave piecewise linear function, given by its breakpoints."""

    v: Float[np.ndarray, "P"]
    value: Float[np.ndarray, "P"]

    def at(self, v: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
        return np.interp(v, self.v, self.value)


def trace(lp: ObedienceLP, payoff: Float[np.ndarray, "XA XB A"], low: float, high: float, exactly: bool) -> Curve:
    """The largest `payoff` at user value at least v (f), or `exactly` v (M), with all its breakpoints between the least
    value of a scheme, `low`, and the largest, `high`.

    Between two points the curve lies above their chord and below their supporting lines. At the crossing of these lines
    there is a breakpoint, or the supporting line of the curve splits the interval in two.
    """

    def evaluate(v: float) -> Point:
        found = lp.price(payoff, v, v if exactly else np.inf)
        if not found.optimal:
            raise LPFailed
        return Point(v, found.value, found.slope)

    # At the ends themselves rounding may make the LP infeasible, and supergradients are unbounded.
    done, todo = [evaluate(low + VALUE_TIE)], [evaluate(high - VALUE_TIE)]
    while todo:
        crossing = kink_between(done[-1], todo[-1])
        if crossing is None:
            done.append(todo.pop())
        else:
            todo.append(evaluate(crossing))
    v, value, slope = np.array(done).T
    value[0] -= slope[0] * VALUE_TIE
    value[-1] += slope[-1] * VALUE_TIE
    v[[0, -1]] = low, high
    return Curve(v, value)


def kink_between(left: Point, right: Point) -> float | None:
    """Where the supporting lines at two points cross; None if the curve is straight in between."""
    width = right.v - left.v
    above_right = left.value + left.slope * width - right.value
    above_left = right.value - right.slope * width - left.value
    if min(above_left, above_right) <= STRAIGHT:
        return None
    share = above_left / (above_left + above_right)
    return left.v + share * width if min(share, 1 - share) * width > VALUE_TIE else None


def distinct(v: np.ndarray) -> np.ndarray:
    """Sorted, without values that differ from the one before by rounding; both ends are kept."""
    v = np.unique(v)
    kept = [v[0]]
    for x in v[1:-1]:
        if kept[-1] + VALUE_TIE < x < v[-1] - VALUE_TIE:
            kept.append(x)
    return np.array([*kept, v[-1]])
