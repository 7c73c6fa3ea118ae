"""`solve` with `differentiation`: smoothed equilibria as pure JAX, to be used under jit, vmap and grad.

In float64 inside, whatever the session and the dtype of the games: in float32, rounding decides which equilibrium is
found, and what its derivative is.
"""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.games.game import Array, Game, ReducedGame, reduce_game
from emalign_jax.internal import batching
from emalign_jax.internal.float64 import in_float64
from emalign_jax.play import Implicit, SmoothPlay, Unrolled
from emalign_jax.play.smooth_play import System
from emalign_jax.protocols import AbstractProtocol, SampledConversation
from emalign_jax.protocols.schemes import random_schemes
from emalign_jax.result import Derivative
from emalign_jax.users.base import AbstractUser

Differentiation = Implicit | Unrolled
SMALLEST = 1e-30  # probability that a given start keeps


def solve_smooth(
    games: Game,
    protocol: AbstractProtocol,
    user: AbstractUser,
    solver: SmoothPlay,
    differentiation: Differentiation,
    start: Float[Array, "*batch K rows M"],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Schemes, user value, agents' payoffs and `Derivative` of every game, from `start`, whose leading axes may be more
    than those of the games. Derivatives are those of the equilibrium by the game and the parameters of protocol, user
    and solver (with `Unrolled` also by the start).

    In the dtype of the games. A game with numbers that are not finite gets NaN, the code NOT_FINITE, and derivatives 0.
    """
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and its game a code
        return _solve(games, protocol, user, solver, differentiation, jnp.asarray(start))


def check(protocol: Any, user: Any, solver: Any) -> None:
    """Raise `ValueError` for what has no derivative."""
    if not isinstance(solver, SmoothPlay):
        raise ValueError(f"solver: differentiation goes with SmoothPlay, got {type(solver).__name__}")
    if not user.is_smooth:
        raise ValueError(
            f"user: the equilibria of {type(user).__name__} jump and have no derivative; take QuantalUser(precision)"
        )
    if isinstance(protocol, SampledConversation):
        raise ValueError("protocol: differentiation needs exact payoffs, got SampledConversation")
    if not protocol.is_smooth:
        raise ValueError(
            f"protocol: the choice of {type(protocol).__name__} jumps and has no derivative; take a temperature > 0"
        )


def starts_of(games: Game, protocol: AbstractProtocol, key, starts: int, messages: int, first: int = 0) -> jax.Array:
    """Random schemes [S, ..., K, rows, M], of [..., K, rows, M] with one start; that of game i of the batch depends on
    (key, start, first + i)."""
    count, rows = int(np.prod(games.batch_shape)), protocol.rows(games, messages)
    keys = [jax.random.fold_in(jax.random.fold_in(key, s), 0) for s in range(starts)]
    drawn = jnp.stack([random_schemes(k, count, games.agents, rows, messages, first=first) for k in keys])
    drawn = drawn.reshape(starts, *games.batch_shape, *drawn.shape[2:])
    return drawn[0] if starts == 1 else drawn


@eqx.filter_jit
def _solve(games, protocol, user, solver, differentiation, start):
    dtype = jnp.result_type(games.prior, games.user_utility, games.agent_utilities)
    whole = functools.partial(_solve_all, differentiation=differentiation)
    return in_float64(whole, games, protocol, user, solver, start, dtype=dtype)


def _solve_all(games, protocol, user, solver, start, differentiation):
    batch = np.broadcast_shapes(games.batch_shape, start.shape[:-3])

    def flat(x, core):
        x = jnp.asarray(x)
        return jnp.broadcast_to(x, (*batch, *x.shape[x.ndim - core :])).reshape(-1, *x.shape[x.ndim - core :])

    leaves = (games.prior, games.user_utility, games.agent_utilities)
    whole = jnp.ones(games.batch_shape, bool)
    for x in leaves:
        whole &= jnp.isfinite(x).all(tuple(range(len(games.batch_shape), x.ndim)))
    whole = jax.lax.stop_gradient(whole)
    # before anything is multiplied: the derivative of a product by what is not finite is not 0
    safe = [jnp.where(whole.reshape(*whole.shape, *(1,) * (x.ndim - whole.ndim)), x, 0) for x in leaves]
    reduced = reduce_game(Game(*safe, check="shapes"))
    whole = jnp.broadcast_to(whole, batch).reshape(-1)
    reduced = ReducedGame(flat(reduced.mass, 2), flat(reduced.user, 3), flat(reduced.agents, 4))
    dtype = reduced.user.dtype
    start = flat(start, 3).astype(dtype)
    modules = [batching.flatten(module, batch, jnp) for module in (protocol, user, solver)]
    protocol, user, solver = batching.cast(modules, dtype)

    def one(game, start, protocol, user, solver, whole):
        leaves = jax.tree.leaves((game, start, protocol, user))
        finite = jnp.stack([jnp.isfinite(x).all() for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]).all()
        finite = jax.lax.stop_gradient(finite & whole)
        # a sound stand-in, so that no NaN reaches the derivatives of the others
        sound = ReducedGame(jnp.full_like(game.mass, 1 / game.mass.size), game.user * 0, game.agents * 0)
        sound = jax.tree.map(jnp.zeros_like, sound)._replace(mass=sound.mass)
        game = jax.tree.map(lambda x, y: jnp.where(finite, x, y), game, sound)
        start = jnp.where(finite, start, 1 / start.shape[-1])
        temperature = 1 / jnp.asarray(solver.agents_precision, dtype)
        logits = jnp.log(jnp.maximum(start, SMALLEST))
        logits = logits - logits.mean(-1, keepdims=True)
        system = System(game, protocol, user, temperature)
        scheme, derivative = differentiation.find(solver, logits, system)
        paid = protocol.payoffs(game, scheme, user)
        ok = finite & (derivative != int(Derivative.NOT_FINITE))
        hide = lambda x: jnp.where(ok, x, jax.lax.stop_gradient(jnp.nan))  # noqa: E731
        return (
            hide(scheme),
            hide(paid.user),
            hide(paid.agents),
            jnp.where(finite, derivative, int(Derivative.NOT_FINITE)),
        )

    with jax.default_matmul_precision("highest"):
        out = jax.vmap(one)(reduced, start, protocol, user, solver, whole)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), out)
