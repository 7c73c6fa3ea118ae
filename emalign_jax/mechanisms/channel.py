"""A protocol in which what agents send is garbled before the user sees it."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Float

from emalign_jax.games.game import Array
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.base import declares_welfare


class Channel(AbstractProtocol):
    """The protocol `inner` where message m of agent i arrives as n with a known probability, transition[i, m, n].

    transition: [..., K, M, N]
    """

    inner: AbstractProtocol
    transition: Float[Array, "*batch K M N"]

    @property
    def counts_welfare(self):
        return declares_welfare(self.inner)

    @property
    def favours_one(self):
        return self.inner.favours_one

    def arrived(self, schemes):
        return jnp.einsum("irm,imn->irn", schemes, jnp.asarray(self.transition, schemes.dtype))

    def payoffs(self, game, schemes, user):
        return self.inner.payoffs(game, self.arrived(schemes), user)

    def pseudo_gradient(self, game, schemes, user):
        slope = self.inner.pseudo_gradient(game, self.arrived(schemes), user)
        return jnp.einsum("irn,imn->irm", slope, jnp.asarray(self.transition, schemes.dtype))

    @property
    def is_smooth(self):
        return self.inner.is_smooth

    def smoothed(self, temperature) -> Any:
        inner = self.inner.smoothed(temperature)
        return self if inner is self.inner else Channel(inner, self.transition)

    def at_temperature(self, temperature):
        inner = self.inner.at_temperature(temperature)
        return None if inner is None else Channel(inner, self.transition)

    def in_units(self, unit):
        return Channel(self.inner.in_units(unit), self.transition)

    def axes(self):
        return eqx.tree_at(lambda channel: channel.transition, jax.tree.map(lambda _: 0, self), 3)

    def messages(self, game):
        return self.transition.shape[-2]

    def rows(self, game, messages):
        return self.inner.rows(game, messages)

    def cells(self, game, messages):
        return self.inner.cells(game, self.transition.shape[-1])

    def check(self, game, messages):
        if messages != self.transition.shape[-2]:
            raise ValueError(f"messages: the channel takes M = {self.transition.shape[-2]} messages, got {messages}")
        self.inner.check(game, self.transition.shape[-1])


def check_listens(name: str, protocol: AbstractProtocol) -> None:
    """Raise `ValueError` for a conversation, in which histories would have to hold the messages that arrived."""
    if protocol.conversation is not None:
        raise ValueError(f"{name}: needs a protocol in which the user only listens, such as Pooled or Selection")
