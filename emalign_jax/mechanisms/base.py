"""What every mechanism provides. A new one is one file that subclasses `AbstractMechanism`."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.games.game import Array, Game
from emalign_jax.internal import validation
from emalign_jax.internal.arguments import shown
from emalign_jax.internal.registry import Registry
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users.base import AbstractUser

Setting = tuple[Game, Any, Any]  # games, protocol, user


MECHANISMS: Registry[AbstractMechanism] = Registry("mechanism")


class AbstractMechanism(eqx.Module):
    """A rule of the market with parameters. The fields hold what is not tuned: ranges, budgets, prices.

    name: what configs call it: in `mechanisms` of [tune], and as the section that holds its fields. A class without a
        name of its own is for Python alone.

    Parameters are any tree of real arrays without constraints; `apply` maps them to what they mean, so that every
    value of them is allowed.
    """

    name: ClassVar[str]

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        MECHANISMS.add(cls)

    @abc.abstractmethod
    def init(self, games: Game) -> Any:
        """The parameters to start from."""

    def sample(self, key: jax.Array, games: Game) -> Any:
        """Parameters of another start, drawn at random. Unless overridden logistic: what a sigmoid maps to its range is
        drawn uniformly from it."""
        leaves, tree = jax.tree.flatten(self.init(games))
        keys = jax.random.split(key, len(leaves))
        drawn = [jax.random.logistic(k, jnp.shape(x)) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, drawn)

    @abc.abstractmethod
    def apply(self, params: Any, games: Game, protocol: AbstractProtocol, user: AbstractUser) -> Setting:
        """Games, protocol and user under the mechanism; pure JAX, differentiable, whole batches at once."""

    @abc.abstractmethod
    def describe(self, params: Any) -> dict[str, Float[Array, "..."]]:
        """What the parameters mean, by name."""

    def cost(self, params: Any, games: Game) -> Float[Array, "*batch"]:
        """What it costs to run, in utility of the user, a game; 0 unless overridden."""
        return jnp.zeros(games.batch_shape)

    def arrives(self, params: Any, schemes: Float[Array, "*batch K rows M"]) -> Float[Array, "*batch K rows N"]:
        """What the user is told when agents send `schemes`. To be overridden where messages pass through a channel:
        then certificates are of what arrives, and their upper bounds of gains hold for agents who can do less."""
        return schemes

    def check(self, games: Game, protocol: AbstractProtocol, user: AbstractUser) -> None:
        """Raise `ValueError` before any work where it cannot be used."""
        return

    def check_params(self, params: Any) -> None:
        """Raise `ValueError` for what are no parameters of this mechanism."""
        try:
            for leaf in jax.tree.leaves(params):
                validation.as_float_array("params", leaf)
            self.describe(params)
        except Exception as error:  # whatever `describe` makes of what it was not written for
            raise ValueError(
                f"params: expected parameters as init(games) of {type(self).__name__} gives them, got {shown(params)}"
            ) from error

    @property
    def per_game(self) -> bool:
        """Whether every game has parameters of its own (their leading axes are those of the games)."""
        return False


validation.describe(("mechanism",), AbstractMechanism, "a mechanism such as em.mechanisms.Transfers()")


class Several(AbstractMechanism):
    """Several mechanisms together, applied in turn; parameters are a tuple."""

    mechanisms: tuple[AbstractMechanism, ...]

    def __check_init__(self):
        if not isinstance(self.mechanisms, tuple) or not all(isinstance(m, AbstractMechanism) for m in self.mechanisms):
            raise ValueError(f"mechanisms: expected a tuple of mechanisms, got {shown(self.mechanisms)}")

    def init(self, games):
        return tuple(mechanism.init(games) for mechanism in self.mechanisms)

    def sample(self, key, games):
        keys = jax.random.split(key, len(self.mechanisms))
        return tuple(mechanism.sample(k, games) for mechanism, k in zip(self.mechanisms, keys, strict=True))

    def apply(self, params, games, protocol, user):
        for mechanism, own in zip(self.mechanisms, params, strict=True):
            games, protocol, user = mechanism.apply(own, games, protocol, user)
        return games, protocol, user

    def describe(self, params):
        named = {}
        for mechanism, own in zip(self.mechanisms, params, strict=True):
            named |= mechanism.describe(own)
        return named

    def cost(self, params, games):
        return sum((m.cost(own, games) for m, own in zip(self.mechanisms, params, strict=True)), jnp.zeros(()))

    def arrives(self, params, schemes):
        for mechanism, own in zip(self.mechanisms, params, strict=True):
            schemes = mechanism.arrives(own, schemes)
        return schemes

    def check(self, games, protocol, user):
        channels = [m for m in self.mechanisms if type(m).arrives is not AbstractMechanism.arrives]
        if len(channels) > 1:
            names = " and ".join(type(m).__name__ for m in channels)
            raise ValueError(f"mechanisms: at most one may stand between agents and user, got {names}")
        for mechanism in self.mechanisms:
            mechanism.check(games, protocol, user)

    @property
    def per_game(self):
        return any(m.per_game for m in self.mechanisms)


def between(x, low, high):
    """A real number to (low, high), in equal steps of the logarithm."""
    return low * (high / low) ** jax.nn.sigmoid(x)


def where_between(value: float, low: float, high: float) -> float:
    """The number that `between` maps to `value`."""
    share = np.log(value / low) / np.log(high / low)
    return float(np.log(share / (1 - share)))


def check_range(name: str, start: float, low: float, high: float) -> None:
    if not 0 < low < high < np.inf:
        raise ValueError(f"{name}: expected 0 < low < high < inf, got low = {low}, high = {high}")
    if not low < start < high:
        raise ValueError(f"{name}: expected a start between low = {low} and high = {high}, got {start}")


def check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name}: expected a number strictly between 0 and 1 to start from, got {value}")


def check_not_negative(name: str, value: float) -> None:
    if not 0 <= value < np.inf:
        raise ValueError(f"{name}: expected a finite number >= 0, got {value}")


def logit(share: float) -> float:
    return float(np.log(share / (1 - share)))
