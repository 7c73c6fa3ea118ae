"""How sharply the user selects among agents."""

from __future__ import annotations

import jax.numpy as jnp

from emalign_jax.internal.arguments import FINITE, number
from emalign_jax.internal.validation import setting
from emalign_jax.mechanisms.base import AbstractMechanism, between, check_range, where_between
from emalign_jax.protocols import Selection


class SelectionTemperature(AbstractMechanism):
    """The temperature of Selection, one for all games, in (low, high) and units of utility."""

    name = "temperature"

    start: float = setting("start", 0.3, number, *FINITE)
    low: float = setting("low", 0.03, number, *FINITE)
    high: float = setting("high", 3.0, number, *FINITE)

    def __check_init__(self):
        check_range("temperature", self.start, self.low, self.high)

    def init(self, games):
        return {"temperature": jnp.asarray(where_between(self.start, self.low, self.high))}

    def apply(self, params, games, protocol, user):
        then = protocol.conversation  # that she has with the agent she picks
        return games, Selection(between(params["temperature"], self.low, self.high), then), user

    def describe(self, params):
        return {"temperature": between(params["temperature"], self.low, self.high)}

    def check(self, games, protocol, user):
        if not isinstance(protocol, Selection):
            raise ValueError(f"temperature: tunes Selection, got {type(protocol).__name__}")
