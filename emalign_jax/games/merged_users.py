"""Several users served by the same agents, as one game (after Collina et al., arXiv 2602.13451).

A batch of J games, one for each user, becomes one game in which nature draws the user j. The user knows j,
x_A' = (j, x_A), and the outcome contains j, y' = (j, y), so that utilities may depend on it. Agents that commit to a
scheme for each user (personalised) see x_B' = (j, x_B); agents that commit to one scheme for all (anonymous) see x_B
alone. Payoffs are means over users.
"""

from __future__ import annotations

import numpy as np

from emalign_jax.games.game import Game
from emalign_jax.games.labels import Labels, paired
from emalign_jax.internal.validation import on_host


def several_users(games: Game, *, anonymous: bool) -> Game:
    """One game from the games of J users, all equally likely.

    Under Pooled and Conversation this is the market with J users. Under Selection it is not: each user would pick an
    agent, but the user of the merged game picks one agent for all. Personalised schemes under Selection are those of
    the J separate games; anonymous ones are not supported.
    Labels of outcomes and features get the number of the user in front: "user 0: guilty".

    Args:
        games: [..., J] a game for each user, of the same agents.
        anonymous: whether each agent has one scheme for all users, rather than one for each user.

    Returns:
        A `Game` [...].

    Raises:
        ValueError: if there is no batch axis, or no user.

    Example:
        >>> em.several_users(em.catalog.two_users(), anonymous=False).agent_features  # agents see whose turn it is
        4
    """
    games, anonymous = on_host(games=games, anonymous=anonymous)
    if not games.batch_shape or not games.batch_shape[-1]:
        got = "an empty one" if games.batch_shape else "one game"
        raise ValueError(f"games: expected a batch whose last axis is the users, got {got}")
    prior, user, agents = (np.asarray(x) for x in (games.prior, games.user_utility, games.agent_utilities))
    *batch, J, XA, XB, Y = prior.shape
    K, A = agents.shape[-3], agents.shape[-2]
    joint = np.zeros((*batch, J, XA, 1 if anonymous else J, XB, J, Y))
    for j in range(J):
        joint[..., j, :, 0 if anonymous else j, :, j, :] = prior[..., j, :, :, :] / J
    prior = joint.reshape(*batch, J * XA, joint.shape[-4] * XB, J * Y)
    user = np.moveaxis(user, -3, -2).reshape(*batch, A, J * Y)
    agents = np.moveaxis(agents, -4, -2).reshape(*batch, K, A, J * Y)
    return Game(prior, user, agents, labels=_labels(games, J, anonymous))


def _labels(games: Game, users: int, anonymous: bool) -> Labels | None:
    if games.labels is None:
        return None

    def each(of: str) -> tuple[str, ...]:
        words = games.names(of) if getattr(games, of) > 1 else ("",)
        return paired([f"user {j}" for j in range(users)], ": " if words[0] else "", words)

    seen = games.labels.agent_features if anonymous else each("agent_features")
    return games.labels.replace(outcomes=each("outcomes"), user_features=each("user_features"), agent_features=seen)
