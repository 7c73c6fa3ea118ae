"""Units and tolerances: what counts as a difference, a tie, or nothing (section 4 of docs/model.md).

Everything that compares numbers takes its tolerance from here, so that every method means the same by it. Functions
work on NumPy and jax arrays alike (`xp`), on any batch axes, and know neither games nor users. Payoffs are totals
[..., XA, XB, A]: probability of the cell (x_A, x_B) times the expected payoff there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

TIE = 1e-7  # two options are tied if one beats the other by at most this share of what they differ by
ROUNDING_OF_TIES = 8  # and always within so many units of rounding
VALUE_TIE = 1e-9  # values of two agents to the user that differ by at most this, in units of the user, are equal
WORTHLESS = 1e-8  # V_full - V_none of at most this, in units of the user, is 0
NOTHING = 1e-8  # a payoff range of at most this, in units of the agent, is rounding
FAINT = 1e-30  # actions that can be brought about with no larger probability than that count in no unit
LP_ERROR = 1e-9  # to which payoffs are known, in units of whose they are: the tolerance of the LPs
IMMATERIAL = 1e-6  # of an agent's payoff range: what a tie tolerance may be worth to the agent without being counted


def merge_noise(payoff: Any, noise: Any, xp=np) -> Any:
    """`payoff` [..., A] with numbers that differ by no more than their `noise` [..., A] made equal.

    A difference of two sums is rarely 0 where it should be (.1 + .2 - .3 = 5.6e-17). The lowest number of each group
    stands for all.
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

    advantage: [..., A, A] of a over c, summed over cells, weighted by how likely they are; any scale.

    a falls short of c by no more than `tolerance` times what the two differ by in all, cell by cell: an error of at
    most this share in every difference between two options in a cell. It does not depend on the unit or the origin of
    the payoff, on other options, on cells in which the two are equal, or on what cannot happen.
    """
    tolerance = xp.maximum(tolerance, ROUNDING_OF_TIES * xp.finfo(advantage.dtype).eps).astype(advantage.dtype)
    return advantage * (1 + tolerance) >= xp.swapaxes(advantage, -1, -2) * (1 - tolerance)


def eased(payoff: Any, ease: Any, xp=np) -> Any:
    """[..., A, A]: payoff[a] - payoff[c], the shortfalls of a eased as far as `as_good` with this tolerance eases them.

    ease: a number, or [A, A] one for each pair; negative where a must be ahead by so much.
    """
    ahead = advantages(payoff, xp)
    return ahead * (1 + ease) - xp.swapaxes(ahead, -1, -2) * (1 - ease)


def most_likely(user: Any, forgone: Any = 0.0, tolerance: float = 0.0, xp=np) -> Any:
    """[..., XA, XB, A]: no scheme makes the user take action a in a cell with a larger probability than this, given the
    cell.

    user:    [..., XA, XB, A] the user's totals.
    forgone: [..., XA] what the user gives up at most, in expectation, by taking any one action rather than the best:
             0 for a rational user, P(x_A) / (e * precision) for a quantal one, inf where nothing is known.
    tolerance: of the user's ties.

    Where a is worse than c, taking it costs; what a gains on c in all other cells must pay for that. So an action that
    is a disaster in a cell is taken there next to never, and a dominated one never.
    """
    ahead = advantages(user, xp)
    gained = ahead.sum(-3, keepdims=True) * (1 + tolerance) + xp.asarray(forgone)[..., None, None, None]
    lost = xp.swapaxes(ahead, -1, -2) * (1 - tolerance)
    return xp.where(lost > gained, gained / xp.where(lost > gained, lost, 1), 1).min(-1)


def attainable(payoff: Any, likely: Any, xp=np) -> tuple[Any, Any]:
    """Bounds [...] of the sum over cells of the payoff [..., XA, XB, A], each action being taken with at most the
    probability `likely`, all of them with 1 in every cell: (least, most)."""
    ends, likely = [], xp.broadcast_to(likely, payoff.shape)
    for sign in (1, -1):
        order = xp.argsort(sign * payoff, -1)
        room = xp.take_along_axis(likely, order, -1)
        before = xp.minimum(xp.cumsum(room, -1) - room, 1)
        taken = xp.minimum(room, 1 - before)
        ends.append((taken * xp.take_along_axis(payoff, order, -1)).sum((-3, -2, -1)))
    return ends[0], ends[1]


def unit(payoff: Any, likely: Any, xp=np) -> Any:
    """The unit of a utility [...]: how much its expectation can vary with what the user is told, at most. Where that is
    nothing (`FAINT` actions aside), what it would be worth to choose the action; 0 where actions do not matter at all.

    payoff, likely: [..., XA, XB, A], see `attainable`.
    """
    # what is common to all actions of a cell cancels, and must not cost precision
    likely = xp.where(likely > FAINT, likely, 0)
    best = xp.argmax(xp.broadcast_to(likely, payoff.shape), -1)[..., None]
    least, most = attainable(payoff - xp.take_along_axis(payoff, best, -1), likely, xp)
    dictated = (payoff.max(-1) - payoff.min(-1)).sum((-2, -1))
    return xp.where(most > least, most - least, dictated)
