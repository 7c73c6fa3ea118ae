"""Pooled: one round, the user sees all K messages before she acts (section 2 of the model).

A joint message n = (s_1, ..., s_K) is one of N = M^K; W[n, xb] = prod_i scheme_i[xb, s_i].
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from emalign_jax.game import Array, Game, ReducedGame
from emalign_jax.protocols._base import AbstractProtocol, Payoffs, posterior_mean, user_scale
from emalign_jax.users import AbstractUser, QuantalUser, RationalUser


class Pooled(AbstractProtocol):
    def payoffs(self, game: ReducedGame, schemes: Float[Array, "K XB M"], user: AbstractUser) -> Payoffs:
        _, _, agents_total, _, user_value, _, favoured = _forward(game, schemes, user)
        return Payoffs(user_value, (favoured * agents_total).sum((-3, -2, -1)))

    def pseudo_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K XB M"], user: AbstractUser
    ) -> Float[Array, "K XB M"]:
        if not isinstance(user, QuantalUser):
            raise ValueError(
                "user: Pooled payoffs of a rational user jump; take user.smoothed(precision) for gradients"
            )
        weights, mass, agents_total, means, _, response, _ = _forward(game, schemes, user)
        K, XB, M = schemes.shape
        sent = mass[..., None]  # [XA, N, 1]
        H = posterior_mean(agents_total, jnp.broadcast_to(mass, agents_total.shape[:-1]))  # [K, XA, N, A]
        C = user.precision * response * (H - (response * H).sum(-1, keepdims=True))
        C = jnp.where(sent > 0, C, 0)
        by_weight = (
            jnp.einsum("xna,ixba->inb", response, game.agents)
            + jnp.einsum("ixna,xba->inb", C, game.user)
            - jnp.einsum("ixn,xb->inb", (C * means).sum(-1), game.mass)
        )  # [K, N, XB], d U_i / d W[n, xb]
        before, after = jnp.ones((1, XB), weights.dtype), _joint(schemes[1:])
        gradient = []
        for i in range(K):
            rows = by_weight[i].reshape(M**i, M, M ** (K - 1 - i), XB)
            gradient.append(jnp.einsum("lmrb,lb,rb->bm", rows, before, after))
            before = _outer(before, schemes[i])
            after = _joint(schemes[i + 2 :])
        return jnp.stack(gradient)

    def smoothed(self, temperature) -> Pooled:
        return self

    def messages(self, game: Game) -> int:
        return game.agent_features

    def cells(self, game: Game, messages: int) -> int:
        return game.agents * game.user_features * messages**game.agents * game.actions


def _outer(weights, scheme):
    """Joint weights [N, XB] with one agent more, whose message varies fastest: [N * M, XB]."""
    return (weights[:, None, :] * scheme.T[None, :, :]).reshape(-1, weights.shape[-1])


def _joint(schemes):
    weights = jnp.ones((1, schemes.shape[1]), schemes.dtype)
    for scheme in schemes:
        weights = _outer(weights, scheme)
    return weights


def _forward(game, schemes, user):
    weights = _joint(schemes)  # W [N, XB]
    mass = jnp.einsum("nb,xb->xn", weights, game.mass)  # D [XA, N]
    user_total = jnp.einsum("nb,xba->xna", weights, game.user)  # T
    agents_total = jnp.einsum("nb,ixba->ixna", weights, game.agents)  # H
    means = posterior_mean(user_total, mass)  # E
    scale = user_scale(game)
    response = user.respond(means, jnp.zeros_like(means), scale)
    favoured = response
    if isinstance(user, RationalUser) and user.ties == "agents":
        favoured = user.respond(jnp.broadcast_to(means, agents_total.shape), agents_total, scale)
    return weights, mass, agents_total, means, (response * user_total).sum(), response, favoured
