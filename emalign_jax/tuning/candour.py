"""A market in which agents are candid now and then: a way to equilibria in which messages have a meaning.

Where agents say nothing, the user's value has derivative 0 by everything she might pay them. With probability `share`
every agent says x_B plainly, whatever he wants, and everybody knows it: messages then mean something whatever the
agents do, so that what they want matters. Tuning lowers the share to 0 on its way.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from emalign_jax.game import Array
from emalign_jax.protocols import AbstractProtocol


class Candid(AbstractProtocol):
    """`inner`, when each agent sends message x_B with probability `share`, independently, and follows his scheme else."""

    inner: AbstractProtocol
    share: Float[Array, "*batch"]

    def arrived(self, schemes):
        plain = jnp.eye(*schemes.shape[-2:], dtype=schemes.dtype)
        return schemes + self.share * (plain - schemes)

    def payoffs(self, game, schemes, user):
        return self.inner.payoffs(game, self.arrived(schemes), user)

    def pseudo_gradient(self, game, schemes, user):
        return (1 - self.share) * self.inner.pseudo_gradient(game, self.arrived(schemes), user)

    def smoothed(self, temperature) -> Any:
        inner = self.inner.smoothed(temperature)
        return self if inner is self.inner else Candid(inner, self.share)

    def messages(self, game):
        return self.inner.messages(game)

    def cells(self, game, messages):
        return self.inner.cells(game, messages)

    def check(self, game, messages):
        self.inner.check(game, messages)
