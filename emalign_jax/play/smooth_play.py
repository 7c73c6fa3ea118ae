"""Logit equilibria of agents of finite precision, as roots of a smooth function (section 4.9 of docs/model.md).

With z the logits of schemes pi and v_i = (d U_i / d pi_i) / P(x_B), a stationary profile satisfies

    F(z) = center(z) / precision - center(v) + mean(z) = 0,

with mean and center over the messages of a row. With precision inf, F = 0 says that all messages in use are worth the
same; messages that are not in use are left out. Play (Adam along -F) comes near the root, damped Newton steps reach it.

All of it is in float64, whatever the session (`internal/float64.py`). Near unstable equilibria differences in rounding
grow until they decide where play ends. So that the result of a game does not depend on how it is compiled or batched,
logits are rounded to a grid in every step: it is much coarser than rounding errors, and much finer than differences
that matter.
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
from emalign_jax.result import display
from emalign_jax.users.base import AbstractUser

# Messages with a smaller probability of being sent are out of use.
UNUSED_PROBABILITY = 1e-10
# With precision inf also messages with a smaller probability given x_B: play drives logits of messages that do not pay
# to the floor.
UNUSED_AT_FEATURE = 1e-5
FLOOR = -14.0
# With precision inf, singular values below this share of the largest count as 0.
NULL_SHARE = 1e-9
# Limit of a Newton step, in any logit.
LONGEST_STEP = 4.0
# Shares of a Newton step that are tried.
STEP_SHARES = (1.0, 0.5, 0.2, 0.05)
# Share of the way to the logit response in a step of `settle`.
SETTLE_RATE = 0.1
ADAM = optax.scale_by_adam(b1=0.5, b2=0.9)
# Grid of logits, in play and in Newton steps longer than LONG_STEP.
GRID = 2.0**-30
LONG_STEP = 1e-3


class SmoothPlay(eqx.Module):
    """Hyper-parameters of the search for a smoothed equilibrium, which goes with `differentiation` in `solve`.

    Args:
        agents_precision: > 0, in units of 1 / utility; a scalar or an array over the batch of games. The higher it is,
            the closer agents are to best responses, and the harder equilibria are to find and to differentiate. With
            inf agents are not smoothed, and an equilibrium is a root on the messages in use alone.
        steps: number of steps of play, before Newton steps.
        learning_rate: (first, last) length of a step in logits, geometric in between.
        settle: number of damped logit responses after play; their result is kept if it lowers `|F|`.
        newton: largest number of Newton steps.
        tolerance: `|F|` at an equilibrium, in units of the largest difference between two actions to any agent;
            None means 1e-9.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> setting = em.catalog.judge(), em.Pooled(), em.QuantalUser(5.0), em.SmoothPlay(10.0)
        >>> found = em.solve(*setting, key=0, differentiation=em.Implicit())
        >>> em.Derivative(int(found.derivative)).name
        'SMOOTH'

    Source: section 4.9 of docs/model.md.
    """

    agents_precision: Float[Array, "*batch"]
    steps: int = eqx.field(static=True)
    learning_rate: tuple[float, float] = eqx.field(static=True)
    settle: int = eqx.field(static=True)
    newton: int = eqx.field(static=True)
    tolerance: float | None = eqx.field(static=True)
    unsmoothed: bool = eqx.field(static=True)
    __repr__ = display.written

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
        self.agents_precision, self.unsmoothed = precision, False
        if not isinstance(precision, Tracer):
            infinite = np.isinf(np.asarray(precision))
            if infinite.any() and not infinite.all():
                raise ValueError("agents_precision: expected all finite or all inf over the batch, got a mixture")
            self.unsmoothed = bool(infinite.all())
        self.steps, self.newton = integer("steps", steps, 0), integer("newton", newton, 0)
        self.settle = integer("settle", settle, 0)
        self.learning_rate = pair("learning_rate", learning_rate)
        self.tolerance = None if tolerance is None else number("tolerance", tolerance, *POSITIVE)

    @property
    def residual_tolerance(self) -> float:
        """`tolerance`, or its default."""
        return self.tolerance or 1e-9


validation.describe(("solver",), SmoothPlay, "a solver such as em.GradientPlay()")


class System(NamedTuple):
    """What the equilibrium of one game depends on.

    temperature: 1 / agents_precision, in units of utility.
    """

    game: ReducedGame
    protocol: AbstractProtocol
    user: AbstractUser
    temperature: Float[Array, ""]


def unit(system: System) -> Float[Array, ""]:
    """The unit of |F|: the largest difference between two actions to any agent in any cell."""
    game = system.game
    spread = game.agents.max(-1) - game.agents.min(-1)
    most = jnp.where(
        game.mass > NEGLIGIBLE_PROBABILITY, spread / jnp.where(game.mass > NEGLIGIBLE_PROBABILITY, game.mass, 1), 0
    ).max()
    return jax.lax.stop_gradient(jnp.where(most > 0, most, 1))


def snap(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The nearest point of the grid; the derivative is that of the identity."""
    return z + jax.lax.stop_gradient(jnp.round(z / GRID) * GRID - z)


def to_scheme(z: Float[Array, "K rows M"], used: Bool[Array, "K rows M"]) -> Float[Array, "K rows M"]:
    """Softmax over the messages in use; 0 elsewhere."""
    return jax.nn.softmax(jnp.where(used, z, -jnp.inf), axis=-1)


def residual(z: Float[Array, "K rows M"], used: Bool[Array, "K rows M"], system: System) -> Float[Array, "K rows M"]:
    """F(z), zero for messages out of use and in rows that cannot happen."""
    slope = system.protocol.pseudo_gradient(system.game, to_scheme(z, used), system.user)
    chance = row_chance(system, z.shape)
    message_value = jnp.where(
        chance > NEGLIGIBLE_PROBABILITY, slope / jnp.where(chance > NEGLIGIBLE_PROBABILITY, chance, 1), 0
    )
    count = used.sum(-1, keepdims=True, dtype=z.dtype)
    center = lambda x: x - jnp.where(used, x, 0).sum(-1, keepdims=True) / count  # noqa: E731
    mean = jnp.where(used, z, 0).sum(-1, keepdims=True) / count
    return jnp.where(used, center(system.temperature * z - message_value) + mean, 0)


def row_chance(system: System, shape) -> Float[Array, "rows 1"]:
    """P(x_B) of each row of a scheme; in conversations each x_B has several rows."""
    chance = system.game.mass.sum(0)
    return jnp.repeat(chance, shape[1] // len(chance))[:, None]


def messages_in_use(solver: SmoothPlay, z: Float[Array, "K rows M"], system: System) -> Bool[Array, "K rows M"]:
    """Whether each message is in use. A message that is hardly ever sent is out of use at every x_B; with unsmoothed
    agents a message can also be out of use at some x_B."""
    scheme = jax.nn.softmax(z, axis=-1)
    sent = (row_chance(system, z.shape) * scheme).sum(1, keepdims=True) > UNUSED_PROBABILITY
    if solver.unsmoothed:
        sent = sent & (scheme > UNUSED_AT_FEATURE)
    return jnp.broadcast_to(sent, z.shape) | (z == z.max(-1, keepdims=True))


def jacobian(z, used, system: System) -> tuple[Float[Array, "K rows M"], Float[Array, "n n"]]:
    """F(z), and dF / dz with ones on the diagonal for messages out of use."""
    shape = z.shape
    F, along = jax.linearize(lambda flat: residual(flat.reshape(shape), used, system).ravel(), z.ravel())
    K, rows, M = shape
    unit_vectors = jnp.eye(z.size, dtype=z.dtype).reshape(K, rows, M, z.size)
    first = unit_vectors[:, :, :-1].reshape(-1, z.size)
    # Over a batch of games `map` is four times as fast as `jacfwd`.
    first = jax.lax.map(along, first).reshape(K, rows, M - 1, z.size)
    # The last column of a row follows from the others: a shift of all its logits changes F by the shift alone.
    shift = jnp.where(used[..., None], unit_vectors, 0).sum(2)
    last = shift - first.sum(2)
    J = jnp.concatenate([first, last[:, :, None]], 2).reshape(z.size, z.size).T
    keep = used.ravel()
    return F.reshape(shape), jnp.where(keep[:, None] & keep[None, :], J, jnp.eye(len(keep), dtype=J.dtype))


def inverse(solver: SmoothPlay, J: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse of J; of unsmoothed agents the pseudoinverse, as there are directions in which F does not change,
    such as between messages with the same meaning."""
    return jnp.linalg.pinv(J, rtol=NULL_SHARE) if solver.unsmoothed else jnp.linalg.inv(J)


def play(solver: SmoothPlay, z: Float[Array, "K rows M"], system: System) -> Float[Array, "K rows M"]:
    """Adam along -F: all agents move at once, each along the natural gradient of its own payoff."""
    if not solver.steps:
        return z
    everything = jnp.ones(z.shape, bool)

    def step(state, rate):
        z, moments = state
        update, moments = update_of(ADAM, residual(z, everything, system), moments)
        moved = z - rate * update
        if solver.unsmoothed:
            moved = jnp.maximum(moved - moved.max(-1, keepdims=True), FLOOR)
        moved = snap(moved - moved.mean(-1, keepdims=True))
        return (jnp.where(jnp.isfinite(moved).all(), moved, z), moments), None

    rates = jnp.asarray(np.geomspace(*solver.learning_rate, solver.steps), z.dtype)
    return jax.lax.scan(step, (z, ADAM.init(z)), rates)[0][0]


def settle(solver: SmoothPlay, z: Float[Array, "K rows M"], system: System) -> Float[Array, "K rows M"]:
    """Damped logit responses, which unlike Adam converge to a stable equilibrium."""
    if solver.unsmoothed or not solver.settle:
        return z
    everything = jnp.ones(z.shape, bool)

    def step(state, _):
        z, _ = state
        F = residual(z, everything, system)
        moved = z - SETTLE_RATE / system.temperature * F
        # The mean is removed directly, because the step in the mean may overshoot.
        return (moved - moved.mean(-1, keepdims=True), z), jnp.abs(F).max()

    (_, moved), left = jax.lax.scan(step, (z, z), None, length=solver.settle + 1)
    return jnp.where(left[-1] < left[0], moved, z)


class Root(NamedTuple):
    """Where Newton's method ends: z, |F| (left), dF / dz (J) and its inverse."""

    z: Float[Array, "K rows M"]
    left: Float[Array, ""]
    J: Float[Array, "n n"]
    inverse: Float[Array, "n n"]


def newton(solver: SmoothPlay, z, used, system: System) -> Root:
    """Newton's method. Of each step the share that lowers |F| most is taken; the search ends if none lowers it."""
    residual_tolerance = 0.01 * solver.residual_tolerance * unit(system)
    size = lambda z: jnp.abs(residual(z, used, system)).max()  # noqa: E731

    def step(state):
        (z, *_), _, count = state
        F, J = jacobian(z, used, system)
        inverted, left = inverse(solver, J), jnp.abs(F).max()
        root = Root(z, left, J, inverted)
        if not solver.newton:
            return root, jnp.array(False), count
        move = -(inverted @ F.ravel()).reshape(z.shape)
        move = move * jnp.minimum(1, LONGEST_STEP / jnp.maximum(jnp.abs(move).max(), 1e-30))
        tried = jnp.stack([z + share * move for share in STEP_SHARES])
        sizes = jax.vmap(size)(tried)
        sizes = jnp.where(jnp.isfinite(sizes), sizes, jnp.inf)
        best = sizes.argmin()
        better = (sizes[best] < left) & (left > residual_tolerance) & (count < solver.newton)
        near = jnp.abs(tried[best] - z).max() <= LONG_STEP
        chosen = jnp.where(near, tried[best], snap(tried[best]))
        return root._replace(z=jnp.where(better, chosen, z)), better, count + 1

    n = z.size
    square = jnp.zeros((n, n), z.dtype)
    start = Root(z, jnp.zeros((), z.dtype), square, square)
    return jax.lax.while_loop(lambda state: state[1], step, (start, jnp.array(True), jnp.array(0)))[0]
