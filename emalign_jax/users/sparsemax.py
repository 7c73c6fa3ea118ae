"""The sparsemax user, which never takes actions that are clearly worse than the best."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.internal.validation import Array, float_parameter
from emalign_jax.users.base import AbstractUser


class SparsemaxUser(AbstractUser):
    """Plays the distribution that is nearest to precision * E[u(a)]: sparsemax.

    It is the regularised best response with a quadratic cost, the p that maximises
    `<p, E[u]> - |p|^2 / (2 precision)`.

    Args:
        precision: > 0, in units of 1 / utility; a scalar or an array over the batch of games. Actions that fall short
            of the best by 1 / precision or more are never taken.

    Raises:
        ValueError: for a precision that is not finite and positive.

    Example:
        >>> options = em.Options(jnp.array([0.0, 0.5]), None)
        >>> [round(float(chance), 3) for chance in em.SparsemaxUser(2.0).respond(options, None)]
        [0.0, 1.0]

    Source: Martins and Astudillo, From softmax to sparsemax, ICML 2016.
    """

    name = "sparsemax"
    precision: Float[Array, "*batch"]

    def __init__(self, precision: Any):
        self.precision = float_parameter(
            "precision", precision, "a finite number > 0", lambda x: (x > 0) & np.isfinite(x)
        )

    def respond(self, options, favour):
        return sparsemax(jnp.asarray(self.precision, options.value.dtype) * options.value)

    @property
    def compares(self):
        return False

    @property
    def most_forgone(self):
        return 0.125 / self.precision  # the maximum of x (1 - precision x) / 2, with P(a) <= (1 - precision x) / 2

    def in_units(self, unit):
        return SparsemaxUser(self.precision * unit)


@jax.custom_jvp
def sparsemax(x: Float[Array, "*shape A"]) -> Float[Array, "*shape A"]:
    """The point of the simplex that is nearest to x."""
    above = -jnp.sort(-x, -1)
    count = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    threshold = ((jnp.cumsum(above, -1) - 1) / count).max(-1, keepdims=True)
    return jnp.maximum(x - threshold, 0)


@sparsemax.defjvp
def _sparsemax_jvp(primals, tangents):
    """The tangent less its mean, both over the actions that are taken."""
    (x,), (dx,) = primals, tangents
    p = sparsemax(x)
    taken = (p > 0).astype(x.dtype)
    return p, taken * (dx - (taken * dx).sum(-1, keepdims=True) / taken.sum(-1, keepdims=True))
