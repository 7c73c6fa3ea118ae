"""How the derivative of an equilibrium is found, and whether it can be trusted.

`Implicit`: at a root F(z, p) = 0 the implicit function theorem gives dz = -J^-1 dF/dp dp. It is had in both modes from
one Newton step from the root with everything but F's parameters held constant, z - J^-1 F(z, p), which also leaves the
value as it is. First derivatives only: J^-1 is held constant.

`Unrolled`: play is differentiated step by step; memory for the square root of the steps, by checkpoints.

Both give a `Derivative`: `SMOOTH` where the gradient can be trusted.
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
from emalign_jax.result import Derivative

NEARLY = (1e-6, 1e-3)  # with unsmoothed agents: messages this rarely in use are about to leave, or have not quite left
RANGE = 1e-6  # share of a right-hand side that may lie outside the range
ROUNDING = 64  # roundings that may have gone into a number of F
DOUBT = 1e-3  # of a logit, and of the derivative: what the place of the root may be in doubt by
FORGOTTEN = 1e-5  # share of a probe of the start that may be left when play ends, for a derivative that is trusted


class Implicit(eqx.Module):
    """The implicit function theorem at the equilibrium.

    condition: of the linear system, at most, for a gradient that is trusted; None: 1e10
    """

    condition: float | None = setting(
        "condition", None, number, "a finite number >= 1 or None", lambda x: 1 <= x < np.inf
    )

    @property
    def trusted(self) -> float:
        return self.condition or 1e10

    def find(self, solver: SmoothPlay, start: Float[Array, "K rows M"], system: System):
        """(scheme, derivative) of one game."""
        fixed = jax.lax.stop_gradient((start, system))
        z = smooth_play.settle(solver, smooth_play.play(solver, *fixed), fixed[1])
        used = messages_in_use(solver, z, fixed[1])
        z, left, J, inverse = jax.lax.stop_gradient(smooth_play.newton(solver, z, used, fixed[1]))
        finite, sound = jnp.isfinite(z).all(), jnp.isfinite(J).all()
        z = jnp.where(finite, z, 0)
        reached = left <= solver.enough * unit(system)
        if solver.plain:
            boundary, singular = _faults_unsmoothed(
                z, used, fixed[1], jnp.where(sound, J, jnp.eye(len(J), dtype=J.dtype))
            )
        else:
            condition = jnp.abs(J).sum(0).max() * jnp.abs(inverse).sum(0).max()
            # a crossing of the threshold of use is a change that nobody notices
            boundary, singular = jnp.array(False), ~(condition <= self.trusted) | _in_doubt(z, used, fixed[1], inverse)
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
    """Damped logit responses, z <- z - rate * precision * F(z), differentiated step by step (no Newton steps; the
    solver's `steps` and `learning_rate` are not used). NOT_REACHED where play, or its derivative, has not converged.

    steps: of play
    rate:  share of the way to the logit response that a step goes
    """

    steps: int = setting("steps", 2000, integer, 1)
    rate: float = setting("rate", 0.03, number, "a number > 0 and <= 1", lambda x: 0 < x <= 1)

    def find(self, solver: SmoothPlay, start: Float[Array, "K rows M"], system: System):
        """(scheme, derivative) of one game."""
        if solver.plain:
            raise ValueError(
                "differentiation: Unrolled needs agents of finite precision, others' play never ends at a boundary"
            )
        scale = unit(system)
        used = jnp.ones(start.shape, bool)
        each = math.isqrt(self.steps - 1) + 1

        def move(z, system):
            moved = z - self.rate / system.temperature * residual(z, used, system)
            return moved - moved.mean(-1, keepdims=True)  # at once: the gauge term alone may overshoot

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
        # with A the derivative of a step, that of n steps is short of the equilibrium's by A^n of itself
        _, along = jax.linearize(lambda z: move(z, fixed[1]), fixed[0])
        probe = jnp.cos(1.0 + jnp.arange(z.size, dtype=z.dtype)).reshape(z.shape)
        probe = probe - probe.mean(-1, keepdims=True)
        memory = jax.lax.fori_loop(0, self.steps, lambda _, v: along(v), probe)
        forgotten = jnp.linalg.norm(memory.ravel()) <= FORGOTTEN * jnp.linalg.norm(probe.ravel())
        reached = (left <= solver.enough * scale) & forgotten
        derivative = jnp.where(reached, int(Derivative.SMOOTH), int(Derivative.NOT_REACHED))
        return smooth_play.to_scheme(z, used), jnp.where(jnp.isfinite(z).all(), derivative, int(Derivative.NOT_FINITE))


validation.describe(("differentiation",), Unrolled, "em.Implicit() or em.Unrolled()")


def _in_doubt(z, used, system: System, inverse) -> JaxArray:
    """Whether the derivative may be another one within the distance from z at which the root may lie, for F is known
    up to rounding alone. Near a bifurcation both are large, for J changes most along what it is nearly singular in."""
    F, here = jax.linearize(lambda z: residual(z, used, system), z)
    game = system.game
    size = jnp.abs(game.agents).max(-1) / jnp.where(game.mass > 0, game.mass, jnp.inf)
    noise = ROUNDING * jnp.finfo(z.dtype).eps * (size.max() + jnp.abs(system.temperature * z).max())
    off = (inverse @ (F.ravel() + noise * jnp.cos(1.0 + jnp.arange(z.size, dtype=z.dtype)))).reshape(z.shape)
    _, there = jax.linearize(lambda z: residual(z, used, system), z + off)
    change = inverse @ (there(off) - here(off)).ravel()
    far = jnp.abs(off).max()
    return ~((far <= DOUBT) & (jnp.abs(change).max() <= DOUBT * far))


def _faults_unsmoothed(z, used, system: System, J) -> tuple[JaxArray, JaxArray]:
    """(boundary, singular): a message is about to change sides; or payoffs change along a direction in which F does
    not, or F can be pushed where no change of schemes brings it back."""
    scheme = smooth_play.to_scheme(z, used)
    nearly = used & (scheme > NEARLY[0]) & (scheme < NEARLY[1])
    everything = jnp.ones_like(used)
    worth = -residual(
        jnp.where(used, z, smooth_play.FLOOR - 20), everything, system._replace(temperature=0.0 * z[0, 0, 0])
    )
    best = jnp.where(used, worth, -jnp.inf).max(-1, keepdims=True)
    sent = (smooth_play.row_chance(system, z.shape) * scheme).sum(1, keepdims=True) > smooth_play.UNUSED
    tempting = ~used & sent & (worth > best - NEARLY[1] * unit(system))
    U, s, Vt = jnp.linalg.svd(J)
    null = s <= smooth_play.REPEATED * s[0]

    def payoffs(flat):
        paid = system.protocol.payoffs(system.game, smooth_play.to_scheme(flat.reshape(z.shape), used), system.user)
        return jnp.append(paid.agents, paid.user)

    slopes = jax.jacrev(payoffs)(z.ravel())  # [K + 1, n]
    lost = jnp.where(null, slopes @ Vt.T, 0)
    outside = jnp.linalg.norm(lost) > RANGE * jnp.maximum(jnp.linalg.norm(slopes), unit(system))
    # left null directions, all at once with weights that do not cancel
    weights = jnp.where(null, jnp.cos(1.0 + jnp.arange(len(s), dtype=z.dtype)), 0)

    def push(game):
        return residual(z, used, system._replace(game=game)).ravel()

    _, pull = jax.vjp(push, system.game)
    size = lambda tree: jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree)))  # noqa: E731
    usual = size(pull(jnp.ones_like(z).ravel() / math.sqrt(z.size))[0].agents)
    pushed = size(pull(U @ weights)[0].agents) > RANGE * jnp.maximum(usual, 1.0)
    return nearly.any() | tempting.any(), outside | pushed
