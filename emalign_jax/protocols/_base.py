"""What every protocol provides. A new protocol is one file that subclasses `AbstractProtocol`."""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Float

from emalign_jax.game import Array, Game, ReducedGame
from emalign_jax.users import AbstractUser

TINY = 1e-30  # a message of smaller probability is treated as never sent


class Payoffs(NamedTuple):
    """user: [...] the user's value; agents: [..., K] each agent's payoff (ex ante, utility units)."""

    user: Float[Array, "*batch"]
    agents: Float[Array, "*batch K"]


class AbstractProtocol(eqx.Module):
    """How the user talks to the agents. Methods see one game (no batch axes) and are vmapped outside."""

    @abc.abstractmethod
    def payoffs(self, game: ReducedGame, schemes: Float[Array, "K XB M"], user: AbstractUser) -> Payoffs:
        """What everybody gets under `schemes`."""

    @abc.abstractmethod
    def pseudo_gradient(
        self, game: ReducedGame, schemes: Float[Array, "K XB M"], user: AbstractUser
    ) -> Float[Array, "K XB M"]:
        """d U_i / d scheme_i for every agent i, each agent's own derivative of his own payoff."""

    @abc.abstractmethod
    def smoothed(self, temperature: Float[Array, ""]) -> AbstractProtocol:
        """A differentiable stand-in; `self` where the protocol is smooth already."""

    @abc.abstractmethod
    def messages(self, game: Game) -> int:
        """Messages an agent needs so that nothing he may want is out of reach."""

    def check(self, game: Game, messages: int) -> None:
        """Raise `ValueError` before any work if the size cannot be handled."""


def user_scale(game: ReducedGame) -> Float[Array, ""]:
    """Range of the user's conditional mean utilities over (x_A, x_B, a); tolerances are relative to it."""
    mass = game.mass[..., None]
    mean = game.user / jnp.where(mass > TINY, mass, 1)
    top = jnp.where(mass > TINY, mean, -jnp.inf).max()
    return top - jnp.where(mass > TINY, mean, jnp.inf).min()


def posterior_mean(total: Float[Array, "*shape A"], mass: Float[Array, "*shape"]) -> Float[Array, "*shape A"]:
    """total / mass, and 0 for messages that are never sent."""
    sent = mass[..., None] > TINY
    return jnp.where(sent, total / jnp.where(sent, mass[..., None], 1), 0)
