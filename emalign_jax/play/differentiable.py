"""`solve` with `differentiation`: smoothed equilibria as pure JAX, for use under jit, vmap and grad.

Computed in float64, whatever the session and the dtype of the games: in float32 it would depend on rounding which
equilibrium is found, and what its derivative is.
"""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.games.game import Array, Game, ReducedGame
from emalign_jax.internal import batching
from emalign_jax.internal.float64 import in_float64
from emalign_jax.play import Implicit, SmoothPlay, Unrolled
from emalign_jax.play.smooth_play import System
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.base import reduce_for
from emalign_jax.protocols.schemes import random_schemes
from emalign_jax.result import Derivative
from emalign_jax.users.base import AbstractUser

Differentiation = Implicit | Unrolled
# Smaller probabilities of a given start are raised to this, so that their logits are finite.
LEAST_START_PROBABILITY = 1e-30


def solve_smooth(
    games: Game,
    protocol: AbstractProtocol,
    user: AbstractUser,
    solver: SmoothPlay,
    differentiation: Differentiation,
    start: Float[Array, "*batch K rows M"],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Schemes, the user's value, the agents' payoffs and the `Derivative` of every game, in the dtype of the games.

    start: schemes to start from; may have more leading axes than the games.

    Derivatives are those of the equilibrium with respect to the game and the parameters of protocol, user and solver
    (with `Unrolled` also the start). A game with numbers that are not finite gets NaN, NOT_FINITE, and derivatives 0.
    """
    with np.errstate(over="ignore"):  # no warning: numbers too large for float32 become infinite
        return _solve(games.labelled(None), protocol, user, solver, differentiation, jnp.asarray(start))


def check(protocol: Any, user: Any, solver: Any) -> None:
    """Raise `ValueError` where an equilibrium has no derivative."""
    if not isinstance(solver, SmoothPlay):
        raise ValueError(f"solver: differentiation goes with SmoothPlay, got {type(solver).__name__}")
    if not user.is_smooth:
        raise ValueError(
            f"user: the equilibria of {type(user).__name__} jump and have no derivative; take QuantalUser(precision)"
        )
    if not protocol.exact_payoffs:
        raise ValueError(f"protocol: differentiation needs exact payoffs, got {type(protocol).__name__}")
    if not protocol.is_smooth:
        raise ValueError(
            f"protocol: the choice of {type(protocol).__name__} jumps and has no derivative; take a temperature > 0"
        )


def starts_of(games: Game, protocol: AbstractProtocol, key, starts: int, messages: int, first: int = 0) -> jax.Array:
    """Random schemes [S, ..., K, rows, M] of S starts; [..., K, rows, M] with one start. The scheme of game i of the
    batch depends on (key, start, first + i) alone."""
    count, rows = int(np.prod(games.batch_shape)), protocol.rows(games, messages)
    keys = [jax.random.fold_in(jax.random.fold_in(key, s), 0) for s in range(starts)]
    drawn = jnp.stack([random_schemes(k, count, games.agents, rows, messages, first=first) for k in keys])
    drawn = drawn.reshape(starts, *games.batch_shape, *drawn.shape[2:])
    return drawn[0] if starts == 1 else drawn


@eqx.filter_jit
def _solve(games, protocol, user, solver, differentiation, start):
    dtype = jnp.result_type(games.prior, games.user_utility, games.agent_utilities)
    solve_all = functools.partial(_solve_all, differentiation=differentiation)
    return in_float64(solve_all, games, protocol, user, solver, start, dtype=dtype)


def _solve_all(games, protocol, user, solver, start, differentiation):
    batch = np.broadcast_shapes(games.batch_shape, start.shape[:-3])

    def flat(x, core):
        x = jnp.asarray(x)
        return jnp.broadcast_to(x, (*batch, *x.shape[x.ndim - core :])).reshape(-1, *x.shape[x.ndim - core :])

    leaves = (games.prior, games.user_utility, games.agent_utilities)
    sound = jnp.ones(games.batch_shape, bool)
    for x in leaves:
        sound &= jnp.isfinite(x).all(tuple(range(len(games.batch_shape), x.ndim)))
    sound = jax.lax.stop_gradient(sound)
    # Replaced before any product, whose derivative would not be 0 if a factor is not finite.
    safe = [jnp.where(sound.reshape(*sound.shape, *(1,) * (x.ndim - sound.ndim)), x, 0) for x in leaves]
    reduced = reduce_for(Game(*safe, check="shapes"), protocol, user)
    user = user.plain
    sound = jnp.broadcast_to(sound, batch).reshape(-1)
    reduced = ReducedGame(*(flat(x, core) for x, core in zip(reduced, (2, 3, 4, 3), strict=True)))
    dtype = reduced.user.dtype
    start = flat(start, 3).astype(dtype)
    modules = [batching.flatten(module, batch, jnp) for module in (protocol, user, solver)]
    protocol, user, solver = batching.cast(modules, dtype)

    def one(game, start, protocol, user, solver, sound):
        leaves = jax.tree.leaves((game, start, protocol, user))
        finite = jnp.stack([jnp.isfinite(x).all() for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]).all()
        finite = jax.lax.stop_gradient(finite & sound)
        # A game without stakes in its place, so that no NaN reaches the derivatives of other games.
        zeros = jax.tree.map(jnp.zeros_like, game)
        empty = zeros._replace(mass=jnp.full_like(game.mass, 1 / game.mass.size))
        game = jax.tree.map(lambda x, y: jnp.where(finite, x, y), game, empty)
        start = jnp.where(finite, start, 1 / start.shape[-1])
        temperature = 1 / jnp.asarray(solver.agents_precision, dtype)
        logits = jnp.log(jnp.maximum(start, LEAST_START_PROBABILITY))
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
        out = jax.vmap(one)(reduced, start, protocol, user, solver, sound)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), out)
