"""How the derivative of an equilibrium is found, and whether it can be trusted (section 4.9 of docs/model.md).

`Implicit`: at a root F(z, p) = 0 the implicit function theorem gives dz = -J^-1 dF/dp dp. Both modes of differentiation
get it from one Newton step at the root, z - J^-1 F(z, p), in which z and J^-1 are constants. The step does not change
the value. Only first derivatives are right, because J^-1 is held constant.

`Unrolled`: play is differentiated step by step; by checkpoints, memory is that of the square root of the steps.

Both return a `Derivative`, which is `SMOOTH` where the derivative can be trusted.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array as JaxArray
from jaxtyping import Float

from emalign_jax.games.game import Array
from emalign_jax.internal import validation
from emalign_jax.internal.arguments import integer, number
from emalign_jax.internal.validation import setting
from emalign_jax.play import smooth_play
from emalign_jax.play.smooth_play import SmoothPlay, System, messages_in_use, residual, unit
from emalign_jax.result import Derivative, display

# With unsmoothed agents, a message with a probability in this interval is about to go out of use.
NEAR_BOUNDARY = (1e-6, 1e-3)
# Share of a right-hand side that may lie outside the range of J.
RANGE_SHARE = 1e-6
# Units of rounding that a number of F may be wrong by.
ROUNDING_UNITS = 64
# How far the root may be from z, in any logit, and how much the derivative may change in between, as a share.
LARGEST_DOUBT = 1e-3
# With `Unrolled`: how much of a perturbation of the start may be left when play ends, as a share.
FORGOTTEN_SHARE = 1e-5


class Implicit(eqx.Module):
    """The derivative by the implicit function theorem at the equilibrium.

    Args:
        condition: the largest condition number of the linear system for a derivative that is trusted; None means 1e10.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> def value(utilities):  # of the user, in the equilibrium that agents of these utilities find
        ...     game = em.Game(np.diag([0.7, 0.3])[None], np.eye(2), utilities)
        ...     setting = game, em.Pooled(), em.QuantalUser(5.0), em.SmoothPlay(10.0)
        ...     return em.solve(*setting, key=0, differentiation=em.Implicit()).user
        >>> jax.grad(value)(jnp.array([[[0.0, 0.0], [1.0, 1.0]]])).shape
        (1, 2, 2)

    Source: section 4.9 of docs/model.md.
    """

    condition: float | None = setting(
        "condition", None, number, "a finite number >= 1 or None", lambda x: 1 <= x < np.inf
    )
    __repr__ = display.written

    def find(self, solver: SmoothPlay, start: Float[Array, "K rows M"], system: System):
        """The scheme and the derivative of one game.

        Args:
            solver: a `SmoothPlay`.
            start: [K, rows, M] logits.
            system: the equations of the smoothed equilibrium.
        """
        fixed = jax.lax.stop_gradient((start, system))
        z = smooth_play.settle(solver, smooth_play.play(solver, *fixed), fixed[1])
        used = messages_in_use(solver, z, fixed[1])
        z, left, J, inverse = jax.lax.stop_gradient(smooth_play.newton(solver, z, used, fixed[1]))
        finite, sound = jnp.isfinite(z).all(), jnp.isfinite(J).all()
        z = jnp.where(finite, z, 0)
        reached = left <= solver.residual_tolerance * unit(system)
        if solver.unsmoothed:
            boundary, singular = _faults_unsmoothed(
                z, used, fixed[1], jnp.where(sound, J, jnp.eye(len(J), dtype=J.dtype))
            )
        else:
            condition = jnp.abs(J).sum(0).max() * jnp.abs(inverse).sum(0).max()
            # A message that crosses the threshold of being in use is too rare to change anything.
            boundary, singular = (
                jnp.array(False),
                ~(condition <= (self.condition or 1e10)) | _in_doubt(z, used, fixed[1], inverse),
            )
        inverse = jnp.where(jnp.isfinite(inverse).all(), inverse, 0)
        step = (inverse @ residual(z, used, system).ravel()).reshape(z.shape)
        scheme = smooth_play.to_scheme(z - step, used)
        derivative = jnp.full((), int(Derivative.SMOOTH))
        for wrong, code in (
            (boundary, Derivative.BOUNDARY), (singular, Derivative.SINGULAR), (~reached, Derivative.NOT_REACHED),
            (~(finite & sound), Derivative.NOT_FINITE),
        ):  # fmt: skip
            derivative = jnp.where(wrong, int(code), derivative)
        return scheme, derivative


validation.describe(("differentiation",), Implicit, "em.Implicit() or em.Unrolled()")


class Unrolled(eqx.Module):
    """The derivative of play itself, step by step.

    Play is damped logit responses, z <- z - rate * precision * F(z). There are no Newton steps, and `steps` and
    `learning_rate` of the solver are not used. The result is NOT_REACHED if play or its derivative has not converged.

    Args:
        steps: number of steps.
        rate: share of the way to the logit response in each step.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> setting = em.catalog.judge(), em.Pooled(), em.QuantalUser(5.0), em.SmoothPlay(10.0)
        >>> found = em.solve(*setting, key=0, differentiation=em.Unrolled(steps=1000))
        >>> em.Derivative(int(found.derivative)).name
        'SMOOTH'

    Source: section 4.9 of docs/model.md.
    """

    steps: int = setting("steps", 2000, integer, 1)
    rate: float = setting("rate", 0.03, number, "a number > 0 and <= 1", lambda x: 0 < x <= 1)
    __repr__ = display.written

    def find(self, solver: SmoothPlay, start: Float[Array, "K rows M"], system: System):
        """The scheme and the derivative of one game; arguments as of `Implicit.find`."""
        if solver.unsmoothed:
            raise ValueError(
                "differentiation: Unrolled needs agents of finite precision (agents_precision is inf): take Implicit"
            )
        scale = unit(system)
        used = jnp.ones(start.shape, bool)
        each = math.isqrt(self.steps - 1) + 1

        def move(z, system):
            moved = z - self.rate / system.temperature * residual(z, used, system)
            # The mean is removed directly, because the step in the mean may overshoot.
            return moved - moved.mean(-1, keepdims=True)

        def step(z, _):
            return move(z, system), None

        @jax.checkpoint
        def several(z, early):
            z = jnp.where(early, smooth_play.snap(z), z)
            return jax.lax.scan(jax.checkpoint(step), z, None, length=each)

        chunks = -(-self.steps // each)
        z, _ = jax.lax.scan(several, start, 2 * np.arange(chunks) < chunks)
        fixed = jax.lax.stop_gradient((z, system))
        left = jnp.abs(residual(fixed[0], used, fixed[1])).max()
        # If A is the derivative of a step, n steps miss the share A^n of the derivative of the equilibrium.
        _, along = jax.linearize(lambda z: move(z, fixed[1]), fixed[0])
        probe = jnp.cos(1.0 + jnp.arange(z.size, dtype=z.dtype)).reshape(z.shape)
        probe = probe - probe.mean(-1, keepdims=True)
        left_of_probe = jax.lax.fori_loop(0, self.steps, lambda _, v: along(v), probe)
        forgotten = jnp.linalg.norm(left_of_probe.ravel()) <= FORGOTTEN_SHARE * jnp.linalg.norm(probe.ravel())
        reached = (left <= solver.residual_tolerance * scale) & forgotten
        derivative = jnp.where(reached, int(Derivative.SMOOTH), int(Derivative.NOT_REACHED))
        return smooth_play.to_scheme(z, used), jnp.where(jnp.isfinite(z).all(), derivative, int(Derivative.NOT_FINITE))


validation.describe(("differentiation",), Unrolled, "em.Implicit() or em.Unrolled()")


def _in_doubt(z, used, system: System, inverse) -> JaxArray:
    """Whether the derivative may change within the distance from z at which the root may lie. F is known up to
    rounding, so the root is only known up to J^-1 times rounding; near a bifurcation both are large."""
    F, here = jax.linearize(lambda z: residual(z, used, system), z)
    game = system.game
    size = jnp.abs(game.agents).max(-1) / jnp.where(game.mass > 0, game.mass, jnp.inf)
    noise = ROUNDING_UNITS * jnp.finfo(z.dtype).eps * (size.max() + jnp.abs(system.temperature * z).max())
    off = (inverse @ (F.ravel() + noise * jnp.cos(1.0 + jnp.arange(z.size, dtype=z.dtype)))).reshape(z.shape)
    _, there = jax.linearize(lambda z: residual(z, used, system), z + off)
    change = inverse @ (there(off) - here(off)).ravel()
    far = jnp.abs(off).max()
    return ~((far <= LARGEST_DOUBT) & (jnp.abs(change).max() <= LARGEST_DOUBT * far))


def _faults_unsmoothed(z, used, system: System, J) -> tuple[JaxArray, JaxArray]:
    """(boundary, singular) of unsmoothed agents. boundary: a message is about to come into use or to go out of it.
    singular: payoffs change along a direction in which F does not, or a change of the game moves F in a direction that
    no change of schemes makes up for."""
    scheme = smooth_play.to_scheme(z, used)
    nearly = used & (scheme > NEAR_BOUNDARY[0]) & (scheme < NEAR_BOUNDARY[1])
    everything = jnp.ones_like(used)
    message_value = -residual(
        jnp.where(used, z, smooth_play.FLOOR - 20), everything, system._replace(temperature=0.0 * z[0, 0, 0])
    )
    best = jnp.where(used, message_value, -jnp.inf).max(-1, keepdims=True)
    sent = (smooth_play.row_chance(system, z.shape) * scheme).sum(1, keepdims=True) > smooth_play.UNUSED_PROBABILITY
    tempting = ~used & sent & (message_value > best - NEAR_BOUNDARY[1] * unit(system))
    U, s, Vt = jnp.linalg.svd(J)
    null = s <= smooth_play.NULL_SHARE * s[0]

    def payoffs(flat):
        paid = system.protocol.payoffs(system.game, smooth_play.to_scheme(flat.reshape(z.shape), used), system.user)
        return jnp.append(paid.agents, paid.user)

    slopes = jax.jacrev(payoffs)(z.ravel())  # [K + 1, n]
    along_null = jnp.where(null, slopes @ Vt.T, 0)
    outside = jnp.linalg.norm(along_null) > RANGE_SHARE * jnp.maximum(jnp.linalg.norm(slopes), unit(system))
    # All left null directions at once, with weights that do not cancel.
    weights = jnp.where(null, jnp.cos(1.0 + jnp.arange(len(s), dtype=z.dtype)), 0)

    def push(game):
        return residual(z, used, system._replace(game=game)).ravel()

    _, pull = jax.vjp(push, system.game)
    size = lambda tree: jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree)))  # noqa: E731
    usual = size(pull(jnp.ones_like(z).ravel() / math.sqrt(z.size))[0].agents)
    pushed = size(pull(U @ weights)[0].agents) > RANGE_SHARE * jnp.maximum(usual, 1.0)
    return nearly.any() | tempting.any(), outside | pushed
