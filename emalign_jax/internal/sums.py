"""Short sums written out as additions: XLA on a CPU compiles them into loops along whole rows, ten times as fast as its
own sums of short axes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from emalign_jax.internal.validation import Array

UNROLLED = 16  # additions written out, at most


def dot(x: Float[Array, "*x"], y: Float[Array, "*y"], axis: int) -> Float[Array, "*rest"]:
    """(x * y).sum(axis) of arrays of as many axes, written out as `add_up` does."""
    if x.shape[axis] > UNROLLED:
        return (x * y).sum(axis)
    part = functools.partial(jax.lax.index_in_dim, axis=axis, keepdims=False)
    return functools.reduce(jnp.add, (part(x, i) * part(y, i) for i in range(x.shape[axis])))


def softmax(x: Float[Array, "*shape"], axis: int) -> Float[jax.Array, "*shape"]:
    """Over an axis that is not the last, written out as `add_up` does."""
    if x.shape[axis] > UNROLLED:
        return jax.nn.softmax(x, axis)
    parts = [jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]
    most = jax.lax.stop_gradient(functools.reduce(jnp.maximum, parts))
    odds = jnp.exp(x - jnp.expand_dims(most, axis))
    return odds / jnp.expand_dims(add_up(odds, axis), axis)


def add_up(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*rest"]:
    """x.sum(axis), as additions where the axis is short: XLA on a CPU then runs along whole rows, instead of computing
    what feeds the sum anew, one number at a time (ten times as slow)."""
    if x.shape[axis] > UNROLLED:
        return x.sum(axis)
    return functools.reduce(jnp.add, (jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])))
