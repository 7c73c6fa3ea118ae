"""Units and tolerances: which differences count, and which actions are tied (section 4 of docs/model.md).

All comparisons of numbers take their tolerance from here, so that all methods agree on it. Functions work on NumPy and
jax arrays alike (`xp`), on any batch axes, and know neither games nor users. Payoffs are totals [..., XA, XB, A]: the
probability of the cell (x_A, x_B) times the expected payoff there.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

# Two options are tied if one beats the other by at most this share of what they differ by (section 4.4).
TIE_TOLERANCE = 1e-7
# The tie tolerance is at least this many units of rounding of the float type.
TIE_ROUNDING_UNITS = 8
# The user's values of two agents are equal if they differ by at most this, in the user's unit.
VALUE_TIE = 1e-9
# V_full - V_none counts as 0 up to this, in the user's unit.
NEGLIGIBLE_INFORMATION_VALUE = 1e-8
# A payoff range counts as 0 up to this, in the agent's unit.
NEGLIGIBLE_RANGE = 1e-8
# Actions that can be brought about with at most this probability do not count in a unit.
NEGLIGIBLE_ACTION_PROBABILITY = 1e-30
# The tolerance of LPs, and so the error of payoffs, in the unit of their party.
LP_ERROR = 1e-9
# The effect of a tie tolerance on a deviation gain is not computed up to this share of the agent's payoff range.
NEGLIGIBLE_TIE_EFFECT = 1e-6

REDUCTIONS = {np.maximum: "max", np.minimum: "min", np.logical_and: "all", np.logical_or: "any"}


def short(combine: np.ufunc, x: Any, xp=np) -> Any:
    """combine.reduce(x, -1) for a last axis that is short, such as that of actions: NumPy is ten times as fast with one
    operation for each of its entries."""
    if xp is not np or not x.shape[-1]:
        return getattr(xp, REDUCTIONS[combine])(x, -1)
    return functools.reduce(combine, [x[..., k] for k in range(x.shape[-1])])


def merge_noise(payoff: Any, noise: Any, xp=np) -> Any:
    """`payoff` [..., A], where numbers that differ by no more than their `noise` [..., A] are replaced by the lowest of
    them: rounding makes equal sums differ (.1 + .2 - .3 = 5.6e-17).
    """
    order = xp.argsort(payoff, -1)
    ascending, blur = (xp.take_along_axis(x, order, -1) for x in (payoff, noise))
    apart = ascending[..., 1:] - ascending[..., :-1] > blur[..., 1:] + blur[..., :-1]
    first = xp.concatenate([xp.ones((*payoff.shape[:-1], 1), bool), apart], -1)
    group = xp.where(first, xp.arange(payoff.shape[-1]), 0)
    group = np.maximum.accumulate(group, -1) if xp is np else _running_maximum(group)
    return xp.take_along_axis(xp.take_along_axis(ascending, group, -1), xp.argsort(order, -1), -1)


def _running_maximum(group):
    import jax

    return jax.lax.cummax(group, axis=group.ndim - 1)


def advantages(payoff: Any, xp=np) -> Any:
    """[..., A, A]: by how much option a beats option c where it does, max(payoff[a] - payoff[c], 0)."""
    return xp.maximum(payoff[..., :, None] - payoff[..., None, :], 0)


def as_good(advantage: Any, tolerance: Any, xp=np) -> Any:
    """[..., A, A]: whether option a is worth at least as much as option c, or tied with it.

    advantage: [..., A, A] the expectation over cells of `advantages`, in any unit.
    tolerance: a may fall short of c by this share of what the two differ by (section 4.4 of docs/model.md).
    """
    tolerance = xp.maximum(tolerance, TIE_ROUNDING_UNITS * xp.finfo(advantage.dtype).eps).astype(advantage.dtype)
    return advantage * (1 + tolerance) >= xp.swapaxes(advantage, -1, -2) * (1 - tolerance)


def relaxed(payoff: Any, tolerance: Any, xp=np) -> Any:
    """[..., A, A]: payoff[a] - payoff[c] plus `tolerance` times their distance, in each cell. Option a is as good as c,
    by `as_good` with this tolerance, if the expectation is not negative.

    tolerance: a number, or [A, A] one for each pair; negative where a must beat c by this share.
    """
    ahead = advantages(payoff, xp)
    return ahead * (1 + tolerance) - xp.swapaxes(ahead, -1, -2) * (1 - tolerance)


def most_likely(user: Any, forgone: Any = 0.0, tolerance: float = 0.0, xp=np) -> Any:
    """[..., XA, XB, A]: the largest probability, given the cell, with which any scheme can make the user take action a
    (an upper bound, section 4.5 of docs/model.md).

    user:      [..., XA, XB, A] the user's totals.
    forgone:   [..., XA] `AbstractUser.most_forgone` times P(x_A): 0 for a rational user, inf where nothing is known.
    tolerance: the user's tie tolerance.
    """
    ahead = advantages(user, xp)
    gain = ahead.sum(-3, keepdims=True) * (1 + tolerance) + xp.asarray(forgone)[..., None, None, None]
    loss = xp.swapaxes(ahead, -1, -2) * (1 - tolerance)
    return short(np.minimum, xp.where(loss > gain, gain / xp.where(loss > gain, loss, 1), 1), xp)


def attainable(payoff: Any, likely: Any, xp=np) -> tuple[Any, Any]:
    """(least, most) [...]: bounds of the expected payoff, if each action is taken with at most its probability in
    `likely`.

    payoff, likely: [..., XA, XB, A] totals, and probabilities given the cell. A fractional knapsack in each cell.
    """
    ends, likely = [], xp.broadcast_to(likely, payoff.shape)
    for sign in (1, -1):
        order = xp.argsort(sign * payoff, -1)
        room = xp.take_along_axis(likely, order, -1)
        before = xp.minimum(xp.cumsum(room, -1) - room, 1)
        taken = xp.minimum(room, 1 - before)
        ends.append((taken * xp.take_along_axis(payoff, order, -1)).sum((-3, -2, -1)))
    return ends[0], ends[1]


def unit(payoff: Any, likely: Any, xp=np) -> Any:
    """The unit of a utility [...] (section 4.5 of docs/model.md): an upper bound of how much its expectation can vary
    with what the user is told. Where this is 0, what it would be worth to choose the action; 0 if no
    action matters.

    payoff, likely: [..., XA, XB, A], see `attainable`.
    """
    # The payoff common to all actions of a cell is subtracted first, so that it costs no precision.
    likely = xp.where(likely > NEGLIGIBLE_ACTION_PROBABILITY, likely, 0)
    best = xp.argmax(xp.broadcast_to(likely, payoff.shape), -1)[..., None]
    least, most = attainable(payoff - xp.take_along_axis(payoff, best, -1), likely, xp)
    dictated = (short(np.maximum, payoff, xp) - short(np.minimum, payoff, xp)).sum((-2, -1))
    return xp.where(most > least, most - least, dictated)
