"""The temperature of the user's choice of an agent."""

from __future__ import annotations

import jax.numpy as jnp

from emalign_jax.internal.arguments import FINITE, number
from emalign_jax.internal.validation import setting
from emalign_jax.mechanisms.base import AbstractMechanism, between, check_range, inverse_between


class SelectionTemperature(AbstractMechanism):
    """The temperature of Selection or Comparison, the same for all games.

    Args:
        start: the temperature to start from, in units of utility.
        low, high: bounds of the temperature.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> mechanism = em.mechanisms.SelectionTemperature(start=0.3)
        >>> round(float(mechanism.describe(mechanism.init(em.catalog.two_users()))["temperature"]), 3)
        0.3

    Source: section 6.8 of docs/model.md.
    """

    name = "temperature"

    start: float = setting("start", 0.3, number, *FINITE)
    low: float = setting("low", 0.03, number, *FINITE)
    high: float = setting("high", 3.0, number, *FINITE)

    def __check_init__(self):
        check_range("temperature", self.start, self.low, self.high)

    def init(self, games):
        return {"temperature": jnp.asarray(inverse_between(self.start, self.low, self.high))}

    def apply(self, params, games, protocol, user):
        return games, protocol.at_temperature(between(params["temperature"], self.low, self.high)), user

    def describe(self, params):
        return {"temperature": between(params["temperature"], self.low, self.high)}

    def check(self, games, protocol, user):
        if protocol.at_temperature(self.start) is None:
            raise ValueError(f"temperature: tunes Selection, got {type(protocol).__name__}")
