"""Non-negative least squares for many targets that share their columns, in pure JAX (float64 in its own context).

    minimise  w G w / 2 - h w   subject to   w >= 0   and, on the simplex,  sum w = 1

The Gram matrix G is the same for all targets, so that a product with it is one matrix product for all. First,
accelerated projected gradients find roughly which weights are positive. Then follow rounds of block principal pivoting:
a few steps of conjugate gradients on the positive weights, and an exchange of the weights with a wrong sign, until no
weight changes sign and the gradient vanishes. Steps are float32; the gradients at the start and end of a round are
float64 (iterative refinement). The answer is not proved here: the caller bounds its error by duality.

Source: Portugal, Judice, Vicente (1994), block pivoting; Beck and Teboulle (2009), restarts of O'Donoghue, Candes.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.internal.transfers import fetch
from emalign_jax.internal.xla import jit

# Accelerated projected gradient steps.
PROJECTED = 20
# Conjugate gradient steps per round, on the simplex and on the cone.
CONJUGATE = {True: 12, False: 8}
# Rounds per call, and the largest number of calls.
ROUNDS = 1
CALLS = 20
# Relative to the terms of the gradient: its tolerance on the positive weights, and that of its sign on the others.
EXACT = 1e-14
SIGN = 1e-12
# Conjugate gradients end where the squared float32 residual has fallen by this factor.
SOLVED = 1e-12
# The numbers of targets of a call; few, so that little is compiled.
SIZES = (64, 512)


class Problem(NamedTuple):
    """The common part of all targets.

    gram: [K, K] in units of its largest diagonal entry, `unit`
    rate: the length of gradient steps
    """

    gram: Float[np.ndarray, "K K"]
    unit: float
    rate: float
    simplex: bool


def prepare(gram: Float[np.ndarray, "K K"], simplex: bool) -> Problem:
    """The problem with Gram matrix `gram`."""
    unit = max(float(np.diagonal(gram).max(initial=0.0)), 1e-300)
    gram = gram / unit  # Squares of the scaled numbers do not overflow in float32.
    return Problem(gram, unit, 1 / max(float(np.linalg.eigvalsh(gram)[-1]), 1e-300), simplex)


def solve(problem: Problem, cross: Float[np.ndarray, "T K"]) -> Float[np.ndarray, "T K"]:
    """The weights w [T, K] of T targets with h = cross [T, K]."""
    gram, unit, rate, simplex = problem
    cross = cross / unit
    scale = np.ones((len(cross), 1)) if simplex else np.maximum(np.abs(cross).max(1, keepdims=True), 1e-300)
    cross = cross / scale
    out = np.zeros(cross.shape)
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        shared = jnp.asarray(gram)
        for at in range(0, len(cross), SIZES[-1]):
            left = np.arange(at, min(at + SIZES[-1], len(cross)))
            start = None
            for _ in range(CALLS):
                size = next(s for s in SIZES if s >= len(left))
                rows = np.pad(left, (0, size - len(left)), mode="edge")
                h = cross[rows]
                w = _project(shared, h, rate, simplex) if start is None else out[rows]
                start, done = fetch(_pivot(shared, h, w, simplex))
                out[left] = start[: len(left)]
                left = left[~done[: len(left)]]
                if not len(left):
                    break
    return out * scale


@functools.partial(jit, static_argnames="simplex")
def _project(gram, h, rate, simplex: bool):
    """Accelerated projected gradients, restarted where the momentum increases the objective."""
    gram, h = (x.astype(jnp.float32) for x in (gram, h))
    rate = jnp.asarray(rate, jnp.float32)
    K = h.shape[1]
    w = jnp.full_like(h, 1 / K) if simplex else jnp.zeros_like(h)

    def step(state, _):
        w, ahead, t, level = state
        slope = ahead @ gram - h
        moved = ahead - rate * slope
        if simplex:  # Each step has one Newton step towards the level at which the sum is 1.
            above = moved > level
            level = (jnp.where(above, moved, 0).sum(1, keepdims=True) - 1) / jnp.maximum(
                above.sum(1, keepdims=True, dtype=h.dtype), 1
            )
            moved = moved - level
        new = jnp.maximum(moved, 0)
        uphill = ((ahead - new) * (new - w)).sum(1, keepdims=True) > 0
        t = jnp.where(uphill, 1.0, t)
        following = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
        ahead = new + jnp.where(uphill, 0, (t - 1) / following) * (new - w)
        return (new, ahead, following, level), None

    one = jnp.ones((len(h), 1), h.dtype)
    (w, *_), _ = jax.lax.scan(step, (w, w, one, 0 * one), length=PROJECTED)
    return w.astype(jnp.float64)


@functools.partial(jit, static_argnames="simplex")
def _pivot(gram, h, w, simplex: bool):
    """`ROUNDS` rounds; the weights, and whether they satisfy the optimality conditions."""
    size = jnp.sqrt(jnp.diagonal(gram))
    short = gram.astype(jnp.float32)

    def centred(x, used):
        """The part of x that keeps the sum of the weights in use."""
        x = jnp.where(used, x, 0)
        if not simplex:
            return x
        return jnp.where(
            used, x - x.sum(1, keepdims=True) / jnp.maximum(used.sum(1, keepdims=True, dtype=w.dtype), 1), 0
        )

    def round_(state, _):
        w, used, _ = state
        w = jnp.where(used, w, 0)
        if simplex:
            w = w + jnp.where(
                used, (1 - w.sum(1, keepdims=True)) / jnp.maximum(used.sum(1, keepdims=True, dtype=w.dtype), 1), 0
            )
        residual = centred(centred(h - w @ gram, used), used)  # Twice, against rounding.
        left = jnp.maximum(jnp.abs(residual).max(1, keepdims=True), 1e-300)
        residual = (residual / left).astype(jnp.float32)
        first = (residual**2).sum(1, keepdims=True)

        mask = used.astype(jnp.float32)
        share = mask / jnp.maximum(mask.sum(1, keepdims=True), 1)

        def conjugate(inner, _):
            w, residual, direction, rho = inner
            image = mask * (direction @ short)
            if simplex:
                image = image - share * image.sum(1, keepdims=True)
            curvature = (direction * image).sum(1, keepdims=True)
            going = (rho > SOLVED * first) & (curvature > 0)  # Smaller residuals are noise.
            step = jnp.where(going, rho / jnp.where(going, curvature, 1), 0)
            w, residual = w + step * direction, residual - step * image
            new = (residual**2).sum(1, keepdims=True)
            direction = residual + jnp.where(rho > 0, new / jnp.where(rho > 0, rho, 1), 0) * direction
            return (w, residual, direction, new), None

        start = (jnp.zeros_like(residual), residual, residual, first)
        (change, *_), _ = jax.lax.scan(conjugate, start, length=CONJUGATE[simplex])
        w = w + left * centred(change.astype(w.dtype), used)  # float32 steps change the sum.
        slope = w @ gram - h
        level = jnp.where(used, slope, 0).sum(1, keepdims=True) / jnp.maximum(
            used.sum(1, keepdims=True, dtype=w.dtype), 1
        )
        slope = slope - level if simplex else slope
        unit = size * (jnp.abs(w) @ size + jnp.abs(h / jnp.where(size > 0, size, 1)).max(1))[:, None]
        wrong_in, wrong_out = used & (w < 0), ~used & (slope < -SIGN * unit)
        exact = (jnp.where(used, jnp.abs(slope), 0) <= EXACT * unit * 100).all(1)
        now = ~(wrong_in | wrong_out).any(1) & exact
        return (jnp.where(used, w, 0), (used & ~wrong_in) | wrong_out, now), None

    start = (w, w > 0, jnp.zeros(len(h), bool))
    (w, used, done), _ = jax.lax.scan(round_, start, length=ROUNDS)
    # Only the weights are kept between calls, so that a tiny weight marks the ones that become positive next.
    return jnp.where(done[:, None], w, jnp.where(used, jnp.maximum(w, 1e-300), 0)), done
