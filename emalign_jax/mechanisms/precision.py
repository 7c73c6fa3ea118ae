"""The precision of the user."""

from __future__ import annotations

import jax.numpy as jnp

from emalign_jax.internal.arguments import FINITE, number
from emalign_jax.internal.validation import setting
from emalign_jax.mechanisms.base import AbstractMechanism, between, check_range, inverse_between
from emalign_jax.users.quantal import QuantalUser


class UserPrecision(AbstractMechanism):
    """The precision of a quantal user, the same for all games.

    A user that commits to a lower precision can make agents reveal more, or less.

    Args:
        start: the precision to start from, in units of 1 / utility.
        low, high: bounds of the precision.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> mechanism = em.mechanisms.UserPrecision(start=5.0)
        >>> round(float(mechanism.describe(mechanism.init(em.catalog.two_users()))["precision"]), 3)
        5.0

    Source: section 6.8 of docs/model.md.
    """

    name = "precision"

    start: float = setting("start", 5.0, number, *FINITE)
    low: float = setting("low", 0.5, number, *FINITE)
    high: float = setting("high", 50.0, number, *FINITE)

    def __check_init__(self):
        check_range("precision", self.start, self.low, self.high)

    def init(self, games):
        return {"precision": jnp.asarray(inverse_between(self.start, self.low, self.high))}

    def apply(self, params, games, protocol, user):
        return games, protocol, QuantalUser(between(params["precision"], self.low, self.high))

    def describe(self, params):
        return {"precision": between(params["precision"], self.low, self.high)}

    def check(self, games, protocol, user):
        if user.logit_precision is None:
            raise ValueError(f"precision: tunes a QuantalUser, got {type(user).__name__}")
