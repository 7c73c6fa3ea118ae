"""Sums over short axes, written out as additions.

XLA on a CPU compiles additions into loops along whole rows. In its own sums over a short axis it would compute the
summands anew, one number at a time, which is ten times as slow.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from emalign_jax.internal.validation import Array

# Longest axis over which sums are written out.
UNROLLED = 16


def dot(x: Float[Array, "*x"], y: Float[Array, "*y"], axis: int) -> Float[Array, "*rest"]:
    """(x * y).sum(axis) of arrays with equally many axes, written out as in `add_up`."""
    if x.shape[axis] > UNROLLED:
        return (x * y).sum(axis)
    part = functools.partial(jax.lax.index_in_dim, axis=axis, keepdims=False)
    return functools.reduce(jnp.add, (part(x, i) * part(y, i) for i in range(x.shape[axis])))


def softmax(x: Float[Array, "*shape"], axis: int) -> Float[jax.Array, "*shape"]:
    """jax.nn.softmax over an axis that is not the last, written out as in `add_up`."""
    if x.shape[axis] > UNROLLED:
        return jax.nn.softmax(x, axis)
    parts = [jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]
    most = jax.lax.stop_gradient(functools.reduce(jnp.maximum, parts))
    odds = jnp.exp(x - jnp.expand_dims(most, axis))
    return odds / jnp.expand_dims(add_up(odds, axis), axis)


def add_up(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*rest"]:
    """x.sum(axis), written out as additions if the axis is short."""
    if x.shape[axis] > UNROLLED:
        return x.sum(axis)
    return functools.reduce(jnp.add, (jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])))
