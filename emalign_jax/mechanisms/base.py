"""What every mechanism provides. A new mechanism is one file that subclasses `AbstractMechanism`."""

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
from emalign_jax.result import display
from emalign_jax.users.base import AbstractUser

# Games, protocol and user.
Setting = tuple[Game, Any, Any]


#: The mechanisms by name, those of plugins too.
MECHANISMS: Registry[AbstractMechanism] = Registry("mechanism", ("games", "protocol", "user", "objective", "tune"))


class AbstractMechanism(eqx.Module):
    """A map from parameters to another game, protocol or user.

    Fields hold what is not tuned: ranges, budgets, prices. Parameters are any tree of unconstrained real arrays;
    `apply` maps every value of them to something that is allowed. A class may declare `name`: what configs call the
    mechanism, in `mechanisms` of [tune], and as the section that holds its fields. A class without a name of its own
    can be used from Python only.

    Example:
        >>> class Tax(em.AbstractMechanism):
        ...     def init(self, games):
        ...         return jnp.zeros(())
        ...     def describe(self, params):
        ...         return {"tax": jax.nn.sigmoid(params)}
        ...     def apply(self, params, games, protocol, user):
        ...         left = (1 - jax.nn.sigmoid(params)) * games.agent_utilities
        ...         return em.Game(games.prior, games.user_utility, left), protocol, user
        >>> games = em.catalog.two_users()
        >>> Tax().apply(0.0, games, em.Selection(), em.RationalUser())[0].agent_utilities[0, 0].tolist()
        [[0.5, 0.0], [0.0, 0.5]]

    Source: section 6.8 of docs/model.md.
    """

    name: ClassVar[str]
    __repr__ = display.written

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        MECHANISMS.add(cls)

    @abc.abstractmethod
    def init(self, games: Game) -> Any:
        """The parameters to start from."""

    def sample(self, key: jax.Array, games: Game) -> Any:
        """Random parameters of another start.

        By default they are logistic, so that the image under a sigmoid is uniform.
        """
        leaves, tree = jax.tree.flatten(self.init(games))
        keys = jax.random.split(key, len(leaves))
        drawn = [jax.random.logistic(k, jnp.shape(x)) for k, x in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(tree, drawn)

    @abc.abstractmethod
    def apply(self, params: Any, games: Game, protocol: AbstractProtocol, user: AbstractUser) -> Setting:
        """Games, protocol and user under the mechanism, for the whole batch; pure JAX and differentiable.

        Args:
            params: the parameters.
            games: [N] games.
            protocol: how the user talks to the agents.
            user: how the user acts.
        """

    @abc.abstractmethod
    def describe(self, params: Any) -> dict[str, Float[Array, "..."]]:
        """The quantities that the parameters stand for, by name."""

    def cost(self, params: Any, games: Game) -> Float[Array, "*batch"]:
        """The cost of the mechanism in each game, in units of the user's utility; 0 by default."""
        return jnp.zeros(games.batch_shape)

    def arrives(self, params: Any, schemes: Float[Array, "*batch K rows M"]) -> Float[Array, "*batch K rows N"]:
        """The schemes of the messages that arrive at the user.

        To be overridden where messages pass through a channel: certificates are then of what arrives, and their upper
        bounds of gains hold because agents can do less.
        """
        return schemes

    @property
    def has_channel(self) -> bool:
        """Whether messages pass through a channel (`arrives`)."""
        return type(self).arrives is not AbstractMechanism.arrives

    def check(self, games: Game, protocol: AbstractProtocol, user: AbstractUser) -> None:
        """Raise `ValueError` before any work if the mechanism cannot be used with these."""
        return

    def check_params(self, params: Any) -> None:
        """Raise `ValueError` if `params` are not parameters of this mechanism."""
        try:
            for leaf in jax.tree.leaves(params):
                validation.as_float_array("params", leaf)
            self.describe(params)
        except Exception as error:  # `describe` may raise anything for a tree of another structure
            raise ValueError(
                f"params: expected parameters as init(games) of {type(self).__name__} gives them, got {shown(params)}"
            ) from error

    @property
    def per_game(self) -> bool:
        """Whether some parameters belong to one game each; their leading axes are those of the games."""
        return False

    @property
    def all_per_game(self) -> bool:
        """Whether all parameters belong to one game each, so that the best can be chosen game by game."""
        return self.per_game


validation.describe(("mechanism",), AbstractMechanism, "a mechanism such as em.mechanisms.Transfers()")


class Several(AbstractMechanism):
    """Several mechanisms together, applied in turn; parameters are a tuple.

    Args:
        mechanisms: a tuple of mechanisms, at most one of which is a channel of messages.

    Raises:
        ValueError: for anything else.

    Example:
        >>> both = em.mechanisms.Several((em.mechanisms.Transfers(), em.mechanisms.UserPrecision()))
        >>> both.per_game, both.all_per_game
        (True, False)
    """

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

    @property
    def has_channel(self):
        return any(mechanism.has_channel for mechanism in self.mechanisms)

    def arrives(self, params, schemes):
        for mechanism, own in zip(self.mechanisms, params, strict=True):
            schemes = mechanism.arrives(own, schemes)
        return schemes

    def check(self, games, protocol, user):
        channels = [m for m in self.mechanisms if m.has_channel]
        if len(channels) > 1:
            names = " and ".join(type(m).__name__ for m in channels)
            raise ValueError(f"mechanisms: expected at most one with a channel of messages, got {names}")
        for mechanism in self.mechanisms:
            mechanism.check(games, protocol, user)

    @property
    def per_game(self):
        return any(m.per_game for m in self.mechanisms)

    @property
    def all_per_game(self):
        return bool(self.mechanisms) and all(m.all_per_game for m in self.mechanisms)


def between(x, low, high):
    """`x` mapped to (low, high) by a sigmoid, on the scale of logarithms."""
    return low * (high / low) ** jax.nn.sigmoid(x)


def inverse_between(value: float, low: float, high: float) -> float:
    """The inverse of `between`."""
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
