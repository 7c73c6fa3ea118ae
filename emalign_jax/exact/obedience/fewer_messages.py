"""The same payoffs with fewer messages (Caratheodory)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from emalign_jax.lp.highs import KeptLP


def compress(
    scheme: Float[np.ndarray, "XB S"],
    own: Float[np.ndarray, "S"],
    user: Float[np.ndarray, "S"],
    at_most: float = np.inf,
) -> Float[np.ndarray, "XB T"]:
    """A scheme of at most XB + 1 of the given messages, each with the same belief as before, that pays the
    agent at least sum(own) and the user at least sum(user), and `at_most` unless that is less; unchanged if it is
    small enough already.

    own, user: what each message contributes to the agent's and the user's payoff.
    """
    XB = scheme.shape[0]
    used = scheme.max(0) > 0
    scheme, own, user = scheme[:, used], own[used], user[used]
    if scheme.shape[1] <= XB + 1:
        return scheme
    # a vertex of {weights >= 0: every x_B sends something, her value kept} has XB + 1 positive weights at most
    lp = KeptLP(
        np.concatenate([scheme, user[None]]),
        np.concatenate([np.ones(XB), [user.sum()]]),
        np.concatenate([np.ones(XB), [max(at_most, user.sum())]]),
        cost=own,
    )
    result = lp.solve()
    if not result.optimal:
        return scheme
    smaller = (scheme * result.x)[:, result.x > 1e-12]
    return smaller / smaller.sum(1, keepdims=True)
