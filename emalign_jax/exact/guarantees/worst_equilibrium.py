"""The worst equilibrium of Selection in a large game: the first zero of the stability profile (section 6.5 of
docs/model.md).

`stability` follows f_i and M from breakpoint to breakpoint, of which a game of a thousand states has thousands. Here
they are evaluated only where the first zero of gap(v) = sum_i f_i(v) - M(v) may be. All are concave: f_i lies above the
chords between the points at which it is known and below the supporting lines there, and so does M. An interval in
which the chords of the f_i lie above the supporting lines of M holds no zero.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

import numpy as np

from emalign_jax.exact.guarantees.equilibrium_set import ZERO_GAP
from emalign_jax.exact.obedience.curves import Point, kink_between
from emalign_jax.games.units import LP_ERROR, VALUE_TIE
from emalign_jax.internal import processors

Evaluate = Callable[[float], Point]


class KnownPoints:
    """A concave curve that never rises, known where it was evaluated: f_i of an agent.

    evaluate: the curve and its slope at a user value.
    low, high: the ends, in which the curve is evaluated at once.
    """

    def __init__(self, evaluate: Evaluate, low: float, high: float):
        self._evaluate = evaluate
        self._points = [evaluate(low), evaluate(high)]

    def at(self, v: float) -> float:
        """The value at v, which is evaluated if it is not known."""
        place = bisect.bisect_left(self._points, v, key=lambda point: point.v)
        if place == len(self._points) or self._points[place].v != v:
            self._points.insert(place, self._evaluate(v))
        return self._points[place].value

    def bounds(self, v: float) -> tuple[float, float]:
        """The curve's value at v is between these."""
        place = bisect.bisect_left(self._points, v, key=lambda point: point.v)
        left, right = self._points[max(place - 1, 0)], self._points[min(place, len(self._points) - 1)]
        if right.v == v or right.v == left.v:
            return right.value, right.value
        chord = left.value + (right.value - left.value) * (v - left.v) / (right.v - left.v)
        lines = left.value + left.slope * (v - left.v), right.value - right.slope * (right.v - v)
        return chord, max(min(lines), chord)


def first_zero(joint: Evaluate, curves: Sequence[KnownPoints], low: float, high: float) -> float:
    """The least v at which gap is 0, with each agent's payoff in its own unit; `high` if there is none before.

    joint:  M, the largest sum of payoffs at user value exactly v.
    curves: f_i of two or more agents.
    """
    tolerance = ZERO_GAP + 2 * LP_ERROR * len(curves)

    def is_zero(point: Point) -> bool:
        """Whether gap is 0. Agents are evaluated, those with the widest bounds first, until this is decided."""
        while True:
            bounds = np.array([curve.bounds(point.v) for curve in curves])
            least, most = bounds.sum(0) - point.value
            if least > tolerance or most <= tolerance:
                return bool(most <= tolerance)
            width = bounds[:, 1] - bounds[:, 0]
            open_ = np.flatnonzero(width > 0)
            widest = open_[np.argsort(-width[open_])][: max(1, len(open_) // 2)]
            processors.each(lambda k: curves[k].at(point.v), widest.tolist())

    left = joint(low + VALUE_TIE)
    if is_zero(left):
        return low
    right = joint(high - VALUE_TIE)
    todo = [(right, is_zero(right))]
    while todo:
        right, ends = todo[-1]
        between = kink_between(left, right)
        if between is not None:
            # The gap's bound is concave on either side of the crossing, so that its least value is at an end.
            line = left.value + left.slope * (between - left.v)
            if sum(curve.bounds(between)[0] for curve in curves) - line > tolerance:
                between = None
        if between is not None:
            point = joint(between)
            todo.append((point, is_zero(point)))
        elif ends:
            return right.v
        else:
            left, _ = todo.pop()
    return high
