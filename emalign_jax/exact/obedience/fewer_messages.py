"""Schemes with fewer messages and the same payoffs (Caratheodory's theorem)."""

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
    """A scheme of at most XB + 1 of the given messages, each with the same posterior as before, that pays the agent at
    least sum(own), and the user at least sum(user) and at most max(at_most, sum(user)). A scheme of at most XB + 1
    messages is returned without its unused messages.

    own, user: [S] the contribution of each message to the agent's and the user's payoff.
    """
    XB = scheme.shape[0]
    used = scheme.max(0) > 0
    scheme, own, user = scheme[:, used], own[used], user[used]
    if scheme.shape[1] <= XB + 1:
        return scheme
    # The LP has XB + 1 rows, so that at most XB + 1 weights are positive at a vertex.
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


def fit(scheme: Float[np.ndarray, "XB S"], messages: int) -> np.ndarray | None:
    """`scheme` with `messages` columns: unused ones are dropped or added; None if it needs more."""
    if scheme.shape[1] == messages:  # In a conversation replies depend on the message's number, so none is moved.
        return scheme
    used = scheme[:, scheme.max(0) > 0]
    if used.shape[1] > messages:
        return None
    out = np.zeros((scheme.shape[0], messages))
    out[:, : used.shape[1]] = used
    return out
