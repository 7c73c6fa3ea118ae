"""Payoffs and gradients of whole batches of games, under any protocol."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.games.game import Game, ReducedGame, centred_game, reduce_game
from emalign_jax.internal import batching
from emalign_jax.internal.validation import check_precision, checked
from emalign_jax.protocols import AbstractProtocol, Payoffs, SampledConversation, SampledGradient, SampledPayoffs
from emalign_jax.protocols.base import believed_prior
from emalign_jax.protocols.schemes import check_shape
from emalign_jax.users.base import AbstractUser


def payoffs(games: Game, schemes, protocol: AbstractProtocol, user: AbstractUser) -> Payoffs:
    """The user's value, the agents' payoffs and what the user believes to get, under given schemes.

    Pure JAX: works under jit, vmap and grad (grad needs a quantal user, and in Selection a temperature > 0), in the
    dtype of the inputs, which is float32 in a session without x64 (section 4.7 of docs/model.md).

    Args:
        games: [...] games.
        schemes: [..., K, XB, M], in conversations [..., K, rows, M]; or a `Solution`. Batch axes of games and schemes
            are broadcast against each other.
        protocol: how the user talks to the agents.
        user: how the user acts.

    Returns:
        `Payoffs`: user [...], agents [..., K], perceived [...].

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> game, silent = em.catalog.judge(), em.no_information(1, 2, 2)
        >>> round(float(em.payoffs(game, silent, em.Selection(), em.RationalUser()).user), 3)  # the judge acquits
        0.7

    Source: section 2 of docs/model.md.
    """
    return _over_batch("payoffs", games, schemes, protocol, user)


def pseudo_gradient(
    games: Game, schemes, protocol: AbstractProtocol, user: AbstractUser
) -> Float[jax.Array, "*both K XB M"]:
    """The derivative of every agent's payoff in its own scheme, in closed form where the protocol has one.

    Args:
        games, schemes, protocol, user: as in `payoffs`.

    Returns:
        [..., K, XB, M], of which entry i is d U_i / d scheme_i.

    Raises:
        ValueError: names the argument and the rule, such as a rational user, whose choices jump.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> em.pseudo_gradient(game, honest, em.Pooled(), em.QuantalUser(5.0)).shape
        (1, 2, 2)

    Source: section 2 of docs/model.md.
    """
    return _over_batch("pseudo_gradient", games, schemes, protocol, user)


def sampled_payoffs(games: Game, schemes, protocol: SampledConversation, user: AbstractUser) -> SampledPayoffs:
    """`payoffs` in a `SampledConversation`, with standard errors.

    Args:
        games, schemes, protocol, user: as in `payoffs`; the protocol is a `SampledConversation`.

    Returns:
        `SampledPayoffs`: user and user_error [...], agents and agents_error [..., K].

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> paid = em.sampled_payoffs(game, honest, em.SampledConversation(1, samples=64), em.QuantalUser(5.0))
        >>> bool(abs(float(paid.user) - 1 / (1 + np.exp(-5))) < 0.05)
        True
    """
    return _over_batch("sampled_payoffs", games, schemes, protocol, user)


def sampled_gradient(games: Game, schemes, protocol: SampledConversation, user: AbstractUser) -> SampledGradient:
    """`pseudo_gradient` in a `SampledConversation`, with standard errors.

    Args:
        games, schemes, protocol, user: as in `payoffs`; the protocol is a `SampledConversation`.

    Returns:
        `SampledGradient`: mean and error [..., K, rows, M].

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> em.sampled_gradient(game, honest, em.SampledConversation(1, samples=64), em.QuantalUser(5.0)).mean.shape
        (1, 2, 2)
    """
    return _over_batch("sampled_gradient", games, schemes, protocol, user)


def _over_batch(method: str, games, schemes, protocol, user):
    games, schemes, protocol, user = checked(games=games, schemes=schemes, protocol=protocol, user=user)
    if not hasattr(protocol, method):
        raise ValueError(f"protocol: expected a SampledConversation, got {type(protocol).__name__}: write em.payoffs")
    check_precision(games=games, schemes=schemes, protocol=protocol, user=user)
    schemes = jnp.asarray(schemes)
    if schemes.ndim and schemes.shape[-1]:
        protocol.check(games, schemes.shape[-1])
    check_shape(games, schemes.shape, protocol)
    user.check(games, protocol, schemes.shape[-1])
    protocol.check_user(games, user, schemes.shape[-1])
    np.broadcast_shapes(games.batch_shape, schemes.shape[:-3])
    return compiled(method, games.labelled(None), schemes, protocol, user)


# Compiled as a whole: operation by operation, the first call of a size would take seconds.
@partial(jax.jit, static_argnums=0)
def compiled(method: str, games, schemes, protocol, user):
    centred, believed = None, None
    if isinstance(games, ReducedGame):
        reduced = games
    else:
        believed = believed_prior(games, protocol, user)
        centred = centred_game(games, believed=believed) if protocol.expected_utilities else None
        reduced = reduce_game(games, believed=believed) if centred is None else centred.game
    user = user.plain
    dtype = batching.common_dtype(*reduced, schemes)
    reduced, schemes = batching.cast((reduced, schemes), dtype)
    batch = np.broadcast_shapes(reduced.mass.shape[:-2], schemes.shape[:-3])

    def flat(x, core):
        return jnp.broadcast_to(x, (*batch, *x.shape[x.ndim - core :])).reshape(-1, *x.shape[x.ndim - core :])

    arguments = (
        ReducedGame(*(flat(x, core) for x, core in zip(reduced, (2, 3, 4, 3), strict=True))),
        flat(schemes, 3),
        *(batching.cast(batching.flatten(module, batch, jnp), dtype) for module in (protocol, user)),
    )
    with jax.default_matmul_precision("highest"):
        out = jax.vmap(lambda g, s, p, u: getattr(p, method)(g, s, u))(*arguments)
    out = jax.tree.map(lambda x: x.reshape((*batch, *x.shape[1:])), out)
    if centred is not None and hasattr(out, "user"):
        perceived, agents, user = (x.sum((-2, -1)).astype(dtype) for x in centred[1:])
        out = out._replace(user=out.user + user, agents=out.agents + agents)
        if getattr(out, "perceived", None) is not None:
            out = out._replace(perceived=out.perceived + perceived)
    if isinstance(out, Payoffs) and out.perceived is None:
        out = out._replace(perceived=out.user if believed is None else jnp.full_like(out.user, jnp.nan))
    return out
