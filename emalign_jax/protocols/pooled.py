"""Pooled: one round, and the user sees all K messages before acting (section 2.1 of docs/model.md).

A joint message n = (s_1, ..., s_K) is one of N = M^K; W[n, xb] = prod_i scheme_i[xb, s_i].
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from emalign_jax.games.game import Array, Game, ReducedGame
from emalign_jax.internal.arguments import power
from emalign_jax.internal.sums import UNROLLED, add_up, dot, softmax
from emalign_jax.protocols.base import AbstractProtocol, Payoffs, inverse_mass, options_of, pairwise_advantages
from emalign_jax.protocols.conversation import Conversation
from emalign_jax.users.base import AbstractUser, Options

# With more agents, a gradient agent by agent takes long to compile on a CPU and is slower than one of all at once.
MOST_AGENTS_ONE_BY_ONE = 5


class Pooled(AbstractProtocol):
    """One round of messages, of which the user sees all.

    Example:
        >>> game, silent = em.catalog.judge(), em.no_information(1, 2, 2)
        >>> round(float(em.certify(game, silent, em.Pooled(), em.RationalUser()).user), 3)
        0.7

    Source: section 2.1 of docs/model.md.
    """

    name = "pooled"
    expected_utilities = True
    counts_welfare = True

    @property
    def as_conversation(self):
        return Conversation(1, 1) if type(self) is Pooled else None  # A subclass need not be one.

    def full_revelation_is_heard(self, agents):
        return True

    def payoffs(self, game: ReducedGame, schemes: Float[Array, "K XB M"], user: AbstractUser) -> Payoffs:
        return Payoffs(*_forward(game, schemes, user))

    def pseudo_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K XB M"], user: AbstractUser
    ) -> Float[Array, "K XB M"]:
        if user.logit_precision is None:
            return super().pseudo_gradient(game, schemes, user)
        batch_of_one = jax.tree.map(lambda x: jnp.asarray(x)[..., None], (game, schemes, user))
        return self.batched_pseudo_gradient(*batch_of_one)[..., 0]

    def batched_pseudo_gradient(
        self, games: ReducedGame, schemes: Float[Array, "K XB M N"], user: AbstractUser
    ) -> Float[Array, "K XB M N"]:
        if user.logit_precision is None:
            return super().batched_pseudo_gradient(games, schemes, user)
        mass, utility, goals, _ = games  # [XA, XB, N], [XA, XB, A, N], [K, XA, XB, A, N]
        weights = _joint(schemes)  # W [n, XB, N]
        by_cell = weights.swapaxes(0, 1)  # [XB, n, N]
        per_mass = inverse_mass(dot(by_cell[None], mass[:, :, None], 1))[:, :, None]  # 1 / D [XA, n, 1, N]
        means = dot(by_cell[None, :, :, None], utility[:, :, None], 1) * per_mass  # E [XA, n, A, N]
        own_means = dot(by_cell[None, None, :, :, None], goals[:, :, :, None], 2) * per_mass  # H_i / D [K, XA, n, A, N]
        response = softmax(user.logit_precision * means, 2)
        C = user.logit_precision * response * (own_means - dot(response[None], own_means, 3)[:, :, :, None])
        by_mass = dot(C, jnp.broadcast_to(means, C.shape), 3)  # sum_a C_i E [K, XA, n, N]
        by_type = [
            dot(response[x, :, None][None], goals[:, x, None], 3)
            + dot(C[:, x, :, None], utility[x, None][None], 3)
            - by_mass[:, x, :, None] * mass[x]
            for x in range(len(mass))
        ]
        by_weight = functools.reduce(jnp.add, by_type)  # d U_i / d W [K, n, XB, N]
        return (_each_agent if len(schemes) <= MOST_AGENTS_ONE_BY_ONE else _all_agents)(by_weight, schemes)

    def sums_are_unrolled(self, game, messages, user):
        K, _, XB, A = game.agents.shape[-4:]
        return user.logit_precision is not None and max(XB, A, messages ** (K - 1)) <= UNROLLED

    def messages(self, game: Game) -> int:
        return game.agent_features

    def cells(self, game: Game, messages: int) -> int:
        return game.agents * game.user_features * power(messages, game.agents) * game.actions


def _each_agent(by_weight: Float[Array, "K n XB N"], schemes: Float[Array, "K XB M N"]):
    """d U_i / d scheme_i [K, XB, M, N] from d U_i / d W: the sum over the others' messages, weighted by them."""
    (K, XB, M, N), gradient = schemes.shape, []
    before, after = jnp.ones((1, XB, N), by_weight.dtype), _joint(schemes[1:])
    for i in range(K):
        rows = by_weight[i].reshape(len(before), M, len(after), XB, N)
        others = before[:, None, None] * after[None, None]
        gradient.append(add_up(add_up(rows * others, 2), 0).swapaxes(0, 1))
        before, after = _outer(before, schemes[i]), _joint(schemes[i + 2 :])
    return jnp.stack(gradient)


def _all_agents(by_weight: Float[Array, "K n XB N"], schemes: Float[Array, "K XB M N"]):
    """`_each_agent` by operations on all agents at once; the joint messages of agent i in the order of agents
    i, i + 1, ..., K, 1, ..., i - 1."""
    K, XB, M, N = schemes.shape
    turned = [x.reshape(M**i, -1, XB, N).swapaxes(0, 1).reshape(M, -1, XB, N) for i, x in enumerate(by_weight)]
    others = jnp.ones((K, 1, XB, N), by_weight.dtype)
    for places in range(1, K):
        scheme = jnp.roll(schemes, -places, 0).swapaxes(1, 2)  # of agent i + places
        others = (others[:, :, None] * scheme[:, None]).reshape(K, -1, XB, N)
    return add_up(jnp.stack(turned) * others[:, None], 2).swapaxes(1, 2)


def _outer(weights, scheme):
    """Joint weights [n, XB, ...] with one more agent, whose message varies fastest: [n * M, XB, ...]."""
    return (weights[:, None] * scheme.swapaxes(0, 1)[None]).reshape(-1, *weights.shape[1:])


def _joint(schemes):
    """W [n, XB, ...] of schemes [K, XB, M, ...]."""
    weights = jnp.ones((1, schemes.shape[1], *schemes.shape[3:]), schemes.dtype)
    for scheme in schemes:
        weights = _outer(weights, scheme)
    return weights


def _forward(game, schemes, user):
    """What the user gets, the agents' payoffs [K], and what the user believes to get."""
    weights = _joint(schemes)  # W [N, XB]
    mass = jnp.einsum("nb,xb->xn", weights, game.mass)  # D [XA, N]
    user_total = jnp.einsum("nb,xba->xna", weights, game.user)  # T
    agents_total = jnp.einsum("nb,ixba->ixna", weights, game.agents)  # H
    options = options_of(user, lambda x: jnp.einsum("nb,xba->xna", weights, x), game.user, mass)
    own = [Options(jnp.zeros_like(user_total), None)]
    if user.favours:  # ties go to the agent whose payoff is computed, so each agent has a response of its own
        weigh = lambda x: jnp.einsum("nb,ixba->ixna", weights, x)  # noqa: E731
        ahead = pairwise_advantages(user, weigh, game.agents)
        own = [Options(total, None if ahead is None else ahead[i]) for i, total in enumerate(agents_total)]
    responses = jnp.stack([user.respond(options, favour) for favour in own])  # [K or 1, XA, N, A]
    welfare = jnp.einsum("nb,xba->xna", weights, game.welfare)
    value, perceived = ((responses[0] * total).sum() for total in (welfare, user_total))
    return value, (responses * agents_total).sum((-3, -2, -1)), perceived
