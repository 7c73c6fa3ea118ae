"""Bounds of what an agent gains that is picked with a logistic probability (section 5.5 of docs/model.md)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# The number of intervals into which the range of user values is divided in each step.
INTERVALS = 400


def soft_bound(
    lines: Float[np.ndarray, "C 2"], base: float, shift: float, tau: float, low: float, high: float, width: float
) -> tuple[float, float]:
    """The maximiser over v in [low, high] of base + s(v) (f(v) - base), and an upper bound within `width` of the
    maximum, where f(v) is the minimum of level - slope * v over `lines` and s(v) = 1 / (1 + exp((shift - v) / tau))."""

    def picked(v):
        return 1 / (1 + np.exp(np.minimum((shift - v) / tau, 700)))

    def most(v):
        return (lines[:, :1] - lines[:, 1:] * v).min(0)

    ends = np.linspace(low, high, INTERVALS + 1)
    left, right = ends[:-1], ends[1:]
    done = -np.inf  # The largest bound of the intervals that are no longer divided.
    while True:
        # On an interval f is at most the minimum over lines of the line's larger end, and s is monotone.
        over = np.maximum(lines[:, :1] - lines[:, 1:] * left, lines[:, :1] - lines[:, 1:] * right).min(0) - base
        bound = base + np.where(over > 0, over * picked(right), over * picked(left))
        middle = (left + right) / 2
        value = base + picked(middle) * (most(middle) - base)
        best = int(value.argmax())
        keep = bound > value[best] + width
        done = max(done, float(bound[~keep].max(initial=-np.inf)))
        if not keep.any() or (right - left).max() <= 1e-12 * max(abs(low), abs(high), 1e-300):
            return float(middle[best]), max(done, float(bound[keep].max(initial=-np.inf)))
        keep[best] = True
        ends = np.linspace(left[keep], right[keep], max(2, INTERVALS // int(keep.sum())) + 1)
        left, right = ends[:-1].ravel(), ends[1:].ravel()
