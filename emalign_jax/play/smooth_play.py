"""Smoothed equilibria: every agent's scheme is a logit response, so that the profile is a root of a smooth function.

With z the logits of schemes pi and v_i = (d U_i / d pi_i) / P(x_B), a stationary profile satisfies

    F(z) = center(z) / precision - center(v) + mean(z) = 0,

mean and center being over the messages of a row (section 4.9 of docs/model.md). With precision inf, F says that all
messages in use are worth the same; those not in use are left out. The root is neared by play (Adam along -F) and
finished by damped Newton steps.

All of it is in float64, whatever the session (`float64.py`). Play may pass close to equilibria that are not stable, and
what rounding has left then grows until it decides where play ends. So that the same game ends the same whatever it is
compiled or batched with, logits are snapped to a grid on the way: one much coarser than rounding, which is so forgotten
at every step, and much finer than anything that matters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Bool, Float

from emalign_jax.games.game import Array, ReducedGame
from emalign_jax.internal import validation
from emalign_jax.internal.arguments import POSITIVE, integer, number, pair
from emalign_jax.internal.validation import float_parameter
from emalign_jax.internal.xla import update_of
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.base import NEGLIGIBLE_PROBABILITY
from emalign_jax.users.base import AbstractUser

UNUSED = 1e-10  # a message sent less often than this matters to nobody
OUT_OF_USE = 1e-5  # with precision inf: play drives what does not pay to the floor, exp(FLOOR)
FLOOR = -14.0
REPEATED = 1e-9  # with precision inf: singular values below this share of the largest count as 0
LONGEST = 4.0  # of a Newton step, in any logit
SHARES = (1.0, 0.5, 0.2, 0.05)  # of a Newton step that are tried
SETTLE_RATE = 0.1  # share of the way to the logit response
ADAM = optax.scale_by_adam(b1=0.5, b2=0.9)  # as in `GradientPlay`
GRID = 2.0**-30  # of logits during play, and of Newton's while its steps are longer than `FAR`
FAR = 1e-3


class SmoothPlay(eqx.Module):
    """Hyper-parameters of the search for a smoothed equilibrium; goes with `differentiation` in `solve`.

    agents_precision: > 0, in units of 1 / utility; a scalar or an array over the batch of games. Agents of a higher
        one are closer to best responses, and their equilibria harder to find and to differentiate. inf: the agents are
        not smoothed, and an equilibrium is a root on the messages in use alone.
    steps:            of play before Newton's
    learning_rate:    (first, last) of a step, in logits, geometric in between
    settle:           damped logit responses after play, which are kept if they lower |F|
    newton:           steps at most
    tolerance:        |F| of an equilibrium, in units of the largest difference between two actions to any agent;
                      None: 1e-9
    """

    agents_precision: Float[Array, "*batch"]
    steps: int = eqx.field(static=True)
    learning_rate: tuple[float, float] = eqx.field(static=True)
    settle: int = eqx.field(static=True)
    newton: int = eqx.field(static=True)
    tolerance: float | None = eqx.field(static=True)
    plain: bool = eqx.field(static=True)

    def __init__(
        self,
        agents_precision: Any = 20.0,
        *,
        steps: int = 300,
        learning_rate: tuple[float, float] = (0.2, 0.02),
        settle: int = 30,
        newton: int = 20,
        tolerance: float | None = None,
    ):
        precision = float_parameter("agents_precision", agents_precision, "a number > 0", lambda x: x > 0)
        self.agents_precision, self.plain = precision, False
        if not isinstance(precision, Tracer):
            infinite = np.isinf(np.asarray(precision))
            if infinite.any() and not infinite.all():
                raise ValueError("agents_precision: expected all finite or all inf over the batch, got a mixture")
            self.plain = bool(infinite.all())
        self.steps, self.newton = integer("steps", steps, 0), integer("newton", newton, 0)
        self.settle = integer("settle", settle, 0)
        self.learning_rate = pair("learning_rate", learning_rate)
        self.tolerance = None if tolerance is None else number("tolerance", tolerance, *POSITIVE)

    @property
    def enough(self) -> float:
        """The tolerance."""
        return self.tolerance or 1e-9


validation.describe(("solver",), SmoothPlay, "a solver such as em.GradientPlay()")


class System(NamedTuple):
    """What the equilibrium of one game depends on.

    temperature: 1 / agents_precision, in utility
    """

    game: ReducedGame
    protocol: AbstractProtocol
    user: AbstractUser
    temperature: Float[Array, ""]


def unit(system: System) -> Float[Array, ""]:
    """Largest difference between two actions to any agent in any cell: |F| is measured in it."""
    game = system.game
    spread = game.agents.max(-1) - game.agents.min(-1)
    most = jnp.where(
        game.mass > NEGLIGIBLE_PROBABILITY, spread / jnp.where(game.mass > NEGLIGIBLE_PROBABILITY, game.mass, 1), 0
    ).max()
    return jax.lax.stop_gradient(jnp.where(most > 0, most, 1))


def snap(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The nearest point of the grid; the derivative is that of leaving z as it is."""
    return z + jax.lax.stop_gradient(jnp.round(z / GRID) * GRID - z)


def to_scheme(z: Float[Array, "K rows M"], used: Bool[Array, "K rows M"]) -> Float[Array, "K rows M"]:
    """Softmax over the messages in use; 0 elsewhere."""
    return jax.nn.softmax(jnp.where(used, z, -jnp.inf), axis=-1)


def residual(z: Float[Array, "K rows M"], used: Bool[Array, "K rows M"], system: System) -> Float[Array, "K rows M"]:
    """F(z), zero for messages out of use and in rows that cannot happen."""
    slope = system.protocol.pseudo_gradient(system.game, to_scheme(z, used), system.user)
    chance = row_chance(system, z.shape)
    worth = jnp.where(chance > NEGLIGIBLE_PROBABILITY, slope / jnp.where(chance > NEGLIGIBLE_PROBABILITY, chance, 1), 0)
    count = used.sum(-1, keepdims=True, dtype=z.dtype)
    center = lambda x: x - jnp.where(used, x, 0).sum(-1, keepdims=True) / count  # noqa: E731
    mean = jnp.where(used, z, 0).sum(-1, keepdims=True) / count
    return jnp.where(used, center(system.temperature * z - worth) + mean, 0)


def row_chance(system: System, shape) -> Float[Array, "rows 1"]:
    """P(x_B) of each row of a scheme (in conversations there are several a x_B)."""
    chance = system.game.mass.sum(0)
    return jnp.repeat(chance, shape[1] // len(chance))[:, None]


def messages_in_use(solver: SmoothPlay, z: Float[Array, "K rows M"], system: System) -> Bool[Array, "K rows M"]:
    """Messages that matter. One that is hardly ever sent is out of use at every x_B; with unsmoothed agents one may be
    out of use at some x_B alone."""
    scheme = jax.nn.softmax(z, axis=-1)
    sent = (row_chance(system, z.shape) * scheme).sum(1, keepdims=True) > UNUSED
    if solver.plain:
        sent = sent & (scheme > OUT_OF_USE)
    return jnp.broadcast_to(sent, z.shape) | (z == z.max(-1, keepdims=True))


def jacobian(z, used, system: System) -> tuple[Float[Array, "K rows M"], Float[Array, "n n"]]:
    """F(z), and dF / dz with ones on the diagonal for messages out of use."""
    shape = z.shape
    F, along = jax.linearize(lambda flat: residual(flat.reshape(shape), used, system).ravel(), z.ravel())
    K, rows, M = shape
    unit_vectors = jnp.eye(z.size, dtype=z.dtype).reshape(K, rows, M, z.size)
    first = unit_vectors[:, :, :-1].reshape(-1, z.size)
    # over a batch of games map is four times as fast as jacfwd
    first = jax.lax.map(along, first).reshape(K, rows, M - 1, z.size)
    # the last column of a row is had from the gauge: a shift of the row changes nothing but its mean
    shift = jnp.where(used[..., None], unit_vectors, 0).sum(2)
    last = shift - first.sum(2)
    J = jnp.concatenate([first, last[:, :, None]], 2).reshape(z.size, z.size).T
    keep = used.ravel()
    return F.reshape(shape), jnp.where(keep[:, None] & keep[None, :], J, jnp.eye(len(keep), dtype=J.dtype))


def inverse(solver: SmoothPlay, J: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Unsmoothed agents have directions in which nothing changes, such as between messages that say the same: the
    shortest solution is taken there."""
    return jnp.linalg.pinv(J, rtol=REPEATED) if solver.plain else jnp.linalg.inv(J)


def play(solver: SmoothPlay, z: Float[Array, "K rows M"], system: System) -> Float[Array, "K rows M"]:
    """Adam along -F: all agents climb at once, each in the natural gradient of his own payoff."""
    if not solver.steps:
        return z
    everything = jnp.ones(z.shape, bool)

    def step(state, rate):
        z, moments = state
        update, moments = update_of(ADAM, residual(z, everything, system), moments)
        moved = z - rate * update
        if solver.plain:
            moved = jnp.maximum(moved - moved.max(-1, keepdims=True), FLOOR)
        moved = snap(moved - moved.mean(-1, keepdims=True))
        return (jnp.where(jnp.isfinite(moved).all(), moved, z), moments), None

    rates = jnp.asarray(np.geomspace(*solver.learning_rate, solver.steps), z.dtype)
    return jax.lax.scan(step, (z, ADAM.init(z)), rates)[0][0]


def settle(solver: SmoothPlay, z: Float[Array, "K rows M"], system: System) -> Float[Array, "K rows M"]:
    """Damped logit responses: unlike Adam they come to rest at a stable equilibrium."""
    if solver.plain or not solver.settle:
        return z
    everything = jnp.ones(z.shape, bool)

    def step(state, _):
        z, _ = state
        F = residual(z, everything, system)
        moved = z - SETTLE_RATE / system.temperature * F
        return (moved - moved.mean(-1, keepdims=True), z), jnp.abs(F).max()  # the gauge term alone may overshoot

    (_, moved), left = jax.lax.scan(step, (z, z), None, length=solver.settle + 1)
    return jnp.where(left[-1] < left[0], moved, z)


class Root(NamedTuple):
    """Where Newton's method ends. left: |F| there; J: dF / dz there, and its inverse"""

    z: Float[Array, "K rows M"]
    left: Float[Array, ""]
    J: Float[Array, "n n"]
    inverse: Float[Array, "n n"]


def newton(solver: SmoothPlay, z, used, system: System) -> Root:
    """Newton's method; of each step the share that lowers |F| most is taken, and the search ends where none does."""
    enough = 0.01 * solver.enough * unit(system)
    size = lambda z: jnp.abs(residual(z, used, system)).max()  # noqa: E731

    def going(state):
        return state[1]

    def step(state):
        (z, *_), _, count = state
        F, J = jacobian(z, used, system)
        inverted, left = inverse(solver, J), jnp.abs(F).max()
        root = Root(z, left, J, inverted)
        if not solver.newton:
            return root, jnp.array(False), count
        move = -(inverted @ F.ravel()).reshape(z.shape)
        move = move * jnp.minimum(1, LONGEST / jnp.maximum(jnp.abs(move).max(), 1e-30))
        tried = jnp.stack([z + share * move for share in SHARES])
        sizes = jax.vmap(size)(tried)
        sizes = jnp.where(jnp.isfinite(sizes), sizes, jnp.inf)
        best = sizes.argmin()
        better = (sizes[best] < left) & (left > enough) & (count < solver.newton)
        near = jnp.abs(tried[best] - z).max() <= FAR
        chosen = jnp.where(near, tried[best], snap(tried[best]))
        return root._replace(z=jnp.where(better, chosen, z)), better, count + 1

    n = z.size
    square = jnp.zeros((n, n), z.dtype)
    start = Root(z, jnp.zeros((), z.dtype), square, square)
    return jax.lax.while_loop(going, step, (start, jnp.array(True), jnp.array(0)))[0]
