"""The compiled part of gradient play: a chunk of steps of a tile of games.

The games are the last axis of every array, so that XLA vectorises along them whatever the sizes of one game.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from emalign_jax.games.game import Array
from emalign_jax.internal.sums import dot, softmax
from emalign_jax.internal.xla import filter_jit, one_kernel, update_of
from emalign_jax.protocols.schemes import to_logits

# Logits are at least this, with the largest at 0: messages of probability 1e-6 count as never sent.
LOGIT_FLOOR = -14.0
# Weight of the uniform distribution mixed into given schemes, so that no logit starts at the floor.
EXPLORE = 0.04


class Schedule(NamedTuple):
    """The values [steps] of each annealed quantity."""

    learning_rate: np.ndarray
    precision: np.ndarray
    temperature: np.ndarray
    step: np.ndarray


class State(NamedTuple):
    """The state of games between steps; `previous` is the last gradient, for optimistic steps."""

    logits: Float[jax.Array, "K rows M N"]
    optimizer: optax.OptState
    previous: Float[jax.Array, "K rows M N"]


class Reached(NamedTuple):
    """The end of a chunk: schemes, the stationarity gap of each agent in units of utility, whether all is finite."""

    schemes: Float[Array, "K rows M N"]
    gap: Float[jax.Array, "K N"]
    finite: Bool[jax.Array, "N"]


@filter_jit
def begin(solver, schemes: Float[jax.Array, "N K rows M"]) -> State:
    logits = jnp.moveaxis(to_logits(schemes, EXPLORE), 0, -1)
    return State(logits, jax.vmap(solver.optimizer.init, -1, -1)(logits), jnp.zeros_like(logits))


@filter_jit
def advance(
    solver, game, protocol, user, state: State, schedule: Schedule, taken: Int[jax.Array, "N"], fused: bool = False
):
    """`solver.chunk` steps from `state`, in games in standard units: (state, Reached).

    taken: the number of steps that each game has taken before.
    fused: whether to compile the steps as one kernel (`internal.xla.one_kernel`).
    """

    def gradient(logits, row):
        """d payoff / d logits of every game."""
        scheme = softmax(logits, 2)
        smoothed = lambda protocol, step, temperature: protocol.at_step(step).smoothed(temperature)  # noqa: E731
        smooth = jax.vmap(smoothed, -1, -1)(protocol, row.step, row.temperature)
        slope = smooth.batched_pseudo_gradient(game, scheme, user.smoothed(row.precision))
        return scheme * (slope - dot(scheme, slope, 2)[:, :, None])

    def moved(logits, direction, optimizer_state, rate):
        update, optimizer_state = jax.vmap(functools.partial(update_of, solver.optimizer), -1, -1)(
            -direction, optimizer_state
        )
        logits = logits - rate * update
        logits = logits - logits.max(2, keepdims=True)  # softmax does not change with a shift
        return jnp.maximum(logits, LOGIT_FLOOR), optimizer_state

    def step(carry, count):
        state, _ = carry
        row = jax.tree.map(lambda x: x[taken + jnp.minimum(count, solver.chunk - 1).astype(taken.dtype)], schedule)
        direction = here = gradient(state.logits, row)
        if solver.extrapolation == "extragradient":
            ahead, _ = moved(state.logits, direction, state.optimizer, row.learning_rate)
            direction = gradient(ahead, row)
        aim = 2 * direction - state.previous if solver.extrapolation == "optimistic" else direction
        logits, optimizer_state = moved(state.logits, aim, state.optimizer, row.learning_rate)
        ok = jnp.isfinite(logits).all((0, 1, 2))  # a game with numbers that are not finite keeps its state
        new = State(logits, optimizer_state, direction)
        ends = count == solver.chunk
        return (jax.tree.map(lambda a, b: jnp.where(ok & ~ends, a, b), new, state), here), None

    # One step more, which does not move: its gradient is that at the end, without compiling it again.
    steps = lambda *carry: jax.lax.scan(step, carry, jnp.arange(solver.chunk + 1))[0]  # noqa: E731
    begun = state, jnp.zeros_like(state.logits)
    state, direction = one_kernel(steps, *begun) if fused else steps(*begun)
    scheme = softmax(state.logits, 2)
    gap = (direction / scheme).max(2).sum(1)  # d payoff / d scheme, less its mean
    finite = jnp.isfinite(direction).all((0, 1, 2)) & jnp.isfinite(gap).all(0)
    return state, Reached(scheme, gap, finite)
