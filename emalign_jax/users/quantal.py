"""The quantal (logit) user."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.internal.validation import Array, float_parameter
from emalign_jax.users.base import AbstractUser


class QuantalUser(AbstractUser):
    """Plays action a with probability proportional to exp(precision * E[u(a)]).

    Args:
        precision: > 0, finite, in units of 1 / utility; a scalar or an array over the batch of games.

    Raises:
        ValueError: for a precision that is not finite and positive.

    Example:
        >>> options = em.Options(jnp.log(jnp.array([1.0, 3.0])), None)
        >>> [round(float(chance), 3) for chance in em.QuantalUser(1.0).respond(options, None)]
        [0.25, 0.75]

    Source: section 3.2 of docs/model.md; McKelvey and Palfrey, Quantal response equilibria for normal form games, 1995.
    """

    name = "quantal"
    precision: Float[Array, "*batch"]

    def __init__(self, precision):
        rule = "a finite number > 0 (a user of infinite precision is RationalUser())"
        self.precision = float_parameter("precision", precision, rule, lambda x: (x > 0) & np.isfinite(x))

    @property
    def title(self):
        return f"quantal user (precision {self.precision:g})" if np.ndim(self.precision) == 0 else "quantal user"

    def respond(self, options, favour):
        return logit(options.value, self.precision)

    @property
    def compares(self):
        return False

    @property
    def most_forgone(self):
        return 1 / (np.e * self.precision)  # the maximum of x exp(-precision x)

    @property
    def logit_precision(self):
        own = all(getattr(type(self), name) is getattr(QuantalUser, name) for name in ("respond", "reply", "plans"))
        return self.precision if own else None

    def in_units(self, unit):
        return QuantalUser(self.precision * unit)


def logit(
    values: Float[Array, "*shape A"], rate: Float[Array, ""], among: Bool[Array, "*some A"] | bool = True
) -> Float[Array, "*more A"]:
    """softmax(rate * values) over the options in `among`, for any rate.

    Values are first subtracted from the best one, whose difference is set to 0 by its index. Compiled code may compute
    the values twice with different rounding, and at a rate beyond 1 / eps the difference of the best value to itself
    would then dominate the result.
    """
    best = jax.nn.one_hot(jnp.where(among, values, -jnp.inf).argmax(-1), values.shape[-1], dtype=bool)
    short = values - jnp.where(best, values, 0).sum(-1, keepdims=True)
    odds = jnp.exp(jnp.asarray(rate, values.dtype) * jnp.where(best | (short > 0), 0, short))
    odds = jnp.where(among, odds, 0)
    return odds / odds.sum(-1, keepdims=True)
