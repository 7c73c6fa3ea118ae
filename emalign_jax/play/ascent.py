"""Gradient ascent of one agent's payoff, the others' schemes fixed, from many starts: a search for deviations.

It proves nothing; what it finds is a lower bound of a deviation gain once the exact part has evaluated it.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from emalign_jax.games.game import ReducedGame
from emalign_jax.internal import batching
from emalign_jax.internal.transfers import fetch
from emalign_jax.internal.xla import filter_jit, update_of
from emalign_jax.play.step import LOGIT_FLOOR
from emalign_jax.play.tiles import bucket
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.schemes import to_logits
from emalign_jax.users.base import AbstractUser

# Weight of the uniform distribution mixed into each start.
EXPLORE = 0.02
STEPS = 120
# First and last value of each annealed quantity, geometric in between, as in `GradientPlay`: the learning rate, the
# precision that replaces a rational user, the temperature that replaces the choice of the best agent.
LEARNING_RATE = (0.5, 0.05)
PRECISION = (20.0, 2000.0)
TEMPERATURE = (0.05, 0.0005)
ADAM = optax.scale_by_adam(b1=0.8, b2=0.95)
# Limit of the numbers in the largest tensor of one call.
BLOCK_CELLS = 2**24
# Limit of the games in one call: larger blocks are no faster, and the last block is padded.
MOST_GAMES = 256


def ascend(
    game: ReducedGame,
    schemes: Float[np.ndarray, "P K rows M"],
    agents: Int[np.ndarray, "P"],
    protocol: AbstractProtocol,
    user: AbstractUser,
    cells: int,
) -> tuple[Float[np.ndarray, "P rows M"], Float[np.ndarray, "P"]]:
    """Ascent of the payoff of agent agents[p] from schemes[p], in games in standard units: where its scheme ends, and
    its payoff there with the last precision and temperature.

    protocol, user: their parameters are scalars or [P].
    cells: numbers in one game's largest tensor, by which the size of blocks is chosen.

    Computed in float64, so that the result does not depend on the other games of a block: in float32 differences in
    rounding may lead to another end.
    """
    P = len(schemes)
    everything = (
        game, schemes, np.asarray(agents), batching.flatten(protocol, (P,)), batching.flatten(user, (P,)),
    )  # fmt: skip
    everything = jax.tree.map(lambda x: x if x.dtype.kind == "i" else np.asarray(x, np.float64), everything)
    block = min(MOST_GAMES, max(16, BLOCK_CELLS // cells))
    found = []
    for at in range(0, P, block):
        some = np.arange(at, min(at + block, P))
        rows = np.pad(some, (0, min(bucket(len(some)), block) - len(some)), mode="edge")
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            ends = fetch(_ascend(*jax.tree.map(lambda x, rows=rows: x[rows], everything)))
            found.append([x[: len(some)] for x in ends])
    rules, payoffs = (np.concatenate(x) for x in zip(*found, strict=True))
    return rules / rules.sum(-1, keepdims=True), payoffs


@filter_jit
def _ascend(game, schemes, agents, protocol, user):
    agents = jax.nn.one_hot(agents, schemes.shape[1], dtype=schemes.dtype)
    start = to_logits(jnp.einsum("pi,pirm->prm", agents, schemes), EXPLORE)

    def setting(logits, schemes, agent, protocol, user, row):
        rule = jax.nn.softmax(logits, axis=-1)
        profile = jnp.where(agent[:, None, None] > 0, rule, schemes)
        return rule, profile, protocol.smoothed(row[2]), user.smoothed(row[1])

    def slope_of(logits, schemes, agent, game, protocol, user, row):
        rule, schemes, protocol, user = setting(logits, schemes, agent, protocol, user, row)
        slope = protocol.own_gradient(game, schemes, agent, user)
        return rule * (slope - (rule * slope).sum(-1, keepdims=True))

    def payoff(logits, schemes, agent, game, protocol, user, row):
        _, schemes, protocol, user = setting(logits, schemes, agent, protocol, user, row)
        return protocol.payoffs(game, schemes, user).agents @ agent

    def step(state, row):
        logits, moments = state
        slope = jax.vmap(slope_of, (0,) * 6 + (None,))(logits, *fixed, row)
        update, moments = jax.vmap(functools.partial(update_of, ADAM))(-slope, moments)
        moved = logits - row[0] * update
        moved = jnp.maximum(moved - moved.max(-1, keepdims=True), LOGIT_FLOOR)
        return (jnp.where(jnp.isfinite(moved), moved, logits), moments), None

    fixed = (schemes, agents, game, protocol, user)
    rows = jnp.stack([jnp.geomspace(*pair, STEPS) for pair in (LEARNING_RATE, PRECISION, TEMPERATURE)], axis=1)
    (logits, _), _ = jax.lax.scan(step, (start, jax.vmap(ADAM.init)(start)), rows.astype(start.dtype))
    reached = jax.vmap(payoff, (0,) * 6 + (None,))(logits, *fixed, rows[-1].astype(start.dtype))
    return jax.nn.softmax(logits, axis=-1), reached
