"""A rational user's responses to beliefs of many problems, in NumPy (sections 3.1 and 5.4 of docs/model.md)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.concavification.problems import BeliefProblems
from emalign_jax.exact.responses import respond
from emalign_jax.games import units

# Added to the tie tolerance at edges, where rounding may hide a tie.
EDGE_ROUNDING = 1e-6
# Beliefs * types * pairs of actions at a time, so that memory stays bounded.
NUMBERS = 2**21


def payoffs(
    problems: BeliefProblems, beliefs: Float[np.ndarray, "P R B"]
) -> tuple[Float[np.ndarray, "P R"], Float[np.ndarray, "P R"]]:
    """The payoff `own` and what the user gets at unnormalised beliefs."""
    (P, R, _), (_, T, A) = beliefs.shape, problems.size
    together, parts = max(1, NUMBERS // (P * T * A * A)), []
    for first in range(0, R, together):
        _, own, welfare, response = _responses(problems, beliefs[:, first : first + together])
        parts.append([(response * own).sum((2, 3)), (response * welfare).sum((2, 3))])
    own, user = (np.concatenate(x, 1) for x in zip(*parts, strict=True))
    return own, user


def suprema(problems: BeliefProblems, points: Float[np.ndarray, "P N B"]) -> Float[np.ndarray, "P N"]:
    """The limit superior of the payoff `own` at `points`, which are the edges of each problem."""
    ahead, own, _, response = _responses(problems, points)
    if points.shape[2] <= 2 and not problems.acting.favours:  # The responses on both sides of each edge.
        order = np.argsort(points[..., 0], 1)
        sorted_points, sorted_own, here = (
            np.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), 1) for x in (points, own, response)
        )
        beside = _responses(problems, (sorted_points[:, 1:] + sorted_points[:, :-1]) / 2)[3]
        best = np.asarray((here * sorted_own).sum((2, 3)))
        best[:, 1:] = np.maximum(best[:, 1:], (beside * sorted_own[:, 1:]).sum((2, 3)))
        best[:, :-1] = np.maximum(best[:, :-1], (beside * sorted_own[:, :-1]).sum((2, 3)))
        found = np.empty_like(best)
        np.put_along_axis(found, order, best, 1)
        return found
    tied = units.as_good(ahead, problems.acting.tie_tolerance + EDGE_ROUNDING).all(-1)
    return np.where(tied, own, -np.inf).max(-1).sum(-1)


def _responses(problems: BeliefProblems, beliefs: Float[np.ndarray, "P R B"]):
    """The user's advantages of each action over each other one [P, R, T, A, A] (`units.advantages`), the totals of
    `own` and of what the user gets, and the distribution over actions [P, R, T, A]."""
    P, B = problems.target.shape

    def mixed(payoff):  # Of [P, B, ...].
        return (beliefs @ payoff.reshape(P, B, -1)).reshape(*beliefs.shape[:2], *payoff.shape[2:])

    user, own, welfare = (x.swapaxes(2, 3) for x in (problems.user, problems.own, problems.welfare))
    favoured = own * problems.sign[:, None, None, None]
    ahead, own_total, user_total = mixed(units.advantages(user)), mixed(own), mixed(user)
    response = respond(
        problems.acting, user_total, mixed(problems.mass), lambda: ahead,
        own_total * problems.sign[:, None, None, None], lambda: mixed(units.advantages(favoured)),
    )  # fmt: skip
    return ahead, own_total, mixed(welfare), response
