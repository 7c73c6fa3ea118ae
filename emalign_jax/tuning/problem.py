"""A tuning problem: its checked arguments, equilibria under given parameters, and their score."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from emalign_jax.games.game import Array, Game, faults
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import POSITIVE, number
from emalign_jax.internal.validation import optimizer_of
from emalign_jax.mechanisms import AbstractMechanism
from emalign_jax.play import Implicit, SmoothPlay, Unrolled
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.tuning.blocks import equilibria
from emalign_jax.tuning.objectives import Objective
from emalign_jax.users.base import AbstractUser

# In place of a `Derivative` where no equilibrium was looked for.
NOT_PLAYED = -1


class Problem(NamedTuple):
    """The checked arguments of `tune`."""

    games: Game
    protocol: AbstractProtocol
    user: AbstractUser
    mechanism: AbstractMechanism
    objective: Objective
    solver: SmoothPlay
    differentiation: Implicit | Unrolled
    optimizer: optax.GradientTransformation


def make_problem(
    games,
    protocol,
    user,
    mechanism,
    objective,
    solver,
    steps,
    learning_rate,
    optimizer=None,
    differentiation=None,
    params=None,
) -> Problem:
    """A `Problem` with defaults filled in. Raises `ValueError` that names the argument and the rule."""
    if not isinstance(mechanism, AbstractMechanism):
        raise ValueError(f"mechanism: expected an AbstractMechanism, got {type(mechanism).__name__}")
    if len(games.batch_shape) != 1:
        raise ValueError(f"games: expected one batch axis, got {list(games.batch_shape)}")
    wrong = faults(games)
    if (wrong != "").all():
        raise ValueError(f"games: every game is malformed, the first: {wrong[0] if len(wrong) else 'there is none'}")
    learning_rate = number("learning_rate", learning_rate, *POSITIVE)
    optimizer = None if optimizer is None else optimizer_of("optimizer", optimizer)
    mechanism.check(games, protocol, user)
    if params is not None:
        mechanism.check_params(params)
    games = on_device(games)
    optimizer = _adam(learning_rate, steps) if optimizer is None else optimizer
    return Problem(
        games, protocol, user, mechanism, Objective() if objective is None else objective,
        SmoothPlay() if solver is None else solver,
        Implicit() if differentiation is None else differentiation, optimizer,
    )  # fmt: skip


def on_device(games: Game) -> Game:
    """`games` in the session's float type, like parameters, without labels. Numbers too large for float32 become
    infinite, and their game gets a result code."""
    with np.errstate(over="ignore"):
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), games.labelled(None))


@functools.lru_cache
def _adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Cached, because another object with the same numbers would compile the step again."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps, 0.1))


def score(problem: Problem, params: Any, user: Float[Array, "S N"], counted: Bool[Array, "S N"]) -> jax.Array:
    """The objective less the cost: [N] if all parameters are per game, else one number; -inf if no value is counted."""
    cost, games = problem.mechanism.cost(params, problem.games), counted.any(0)
    if problem.mechanism.all_per_game:
        return jnp.where(games, problem.objective.of_games(user, counted) - cost, -jnp.inf)
    mean_cost = jnp.where(games, cost, 0).sum() / jnp.maximum(games.sum(dtype=user.dtype), 1)
    return jnp.where(games.any(), problem.objective(user, counted) - mean_cost, -jnp.inf)


@eqx.filter_jit
def _under(problem: Problem, params):
    """Games, protocols and users [R, N] under the parameters [R, ...]."""

    def one(params):
        games, *rest = problem.mechanism.apply(params, problem.games, problem.protocol, problem.user)
        return games, *(batching.flatten(module, problem.games.batch_shape, jnp) for module in rest)

    return jax.vmap(one)(params)


def settle(
    problem: Problem, params: Any, schemes: Float[jax.Array, "R S N K rows M"], which: Bool[np.ndarray, "R S N"]
) -> tuple[jax.Array, Float[np.ndarray, "R S N"], Int[np.ndarray, "R S N"]]:
    """Search for equilibria from these schemes in the games marked in `which`: (schemes, user's value, derivative).
    Elsewhere schemes are kept, and value and derivative are NaN and NOT_PLAYED."""
    user, derivative = np.full(which.shape, np.nan), np.full(which.shape, NOT_PLAYED)
    asked = np.argwhere(which)
    if not len(asked):
        return schemes, user, derivative
    setting = _under(problem, params)
    solver = batching.flatten(problem.solver, problem.games.batch_shape, jnp)
    moved = np.array(schemes)

    def take(numbers):
        restart, start, game = asked[numbers].T
        games, protocol, user = jax.tree.map(lambda x: x[restart, game], setting)
        return games, protocol, user, jax.tree.map(lambda x: x[game], solver), moved[restart, start, game]

    found, user[which], derivative[which] = equilibria(len(asked), take)
    moved[which] = np.where(np.isfinite(found), found, moved[which])
    return jnp.asarray(moved), user, derivative
