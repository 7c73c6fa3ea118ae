"""What every family of random games provides. A new family is one class that subclasses `AbstractFamily`."""

from __future__ import annotations

import abc
import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from emalign_jax.games.labels import Labels
from emalign_jax.internal.arguments import FINITE, NOT_NEGATIVE, number
from emalign_jax.internal.registry import Registry

#: The families of random games by name, those of plugins too.
FAMILIES: Registry[AbstractFamily] = Registry("family")


class Draws:
    """Random numbers [N, ...] of several distributions for N games, from one row of uniform draws for each game.

    jax draws the uniform numbers alone, in one array, because it would compile code for each distribution and shape;
    everything else is NumPy in float64.
    """

    def __init__(self, uniforms: Float[np.ndarray, "N numbers"]):
        self._uniforms, self._used = uniforms.astype(np.float64), 0

    def uniform(self, *shape: int) -> np.ndarray:
        size = math.prod(shape)
        self._used += size
        if self._used > self._uniforms.shape[1]:
            raise ValueError(
                f"numbers: a game takes more than the {self._uniforms.shape[1]} draws that `numbers` of its family "
                "returns; return as many as it takes"
            )
        return self._uniforms[:, self._used - size : self._used].reshape(-1, *shape)

    def normal(self, *shape: int) -> np.ndarray:
        from scipy.special import ndtri

        return ndtri(self.uniform(*shape))

    def exponential(self, *shape: int) -> np.ndarray:
        return -np.log(self.uniform(*shape))

    def simplex(self, *shape: int) -> np.ndarray:
        """Uniform on the simplex of the last axis."""
        draws = self.exponential(*shape)
        return draws / draws.sum(-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class AbstractFamily(abc.ABC):
    """A distribution of games: of agents' utilities given the user's and, where overridden, of the rest.

    By default the user's utilities are standard normal and the distribution of outcomes is uniform on the simplex.

    A subclass is a frozen dataclass whose fields are its knobs: numbers with defaults, each declared by `knob`. Its
    definition registers it under its `name`, which can be used in `em.random_games(family=name, **knobs)` and, if it is
    imported before the config is read, in the [games] table of TOML files.

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass(frozen=True)
        ... class Stretched(em.AbstractFamily):
        ...     name = "stretched"
        ...     most: float = em.knob(2.0, "the largest factor")
        ...     def agent_utilities(self, draws, user_utility, agents):  # U_i = factor_i * u
        ...         return self.most * draws.uniform(agents, 1, 1) * user_utility[:, None]
        >>> em.random_games(0, 2, family="stretched", most=3.0, agents=3).agent_utilities.shape
        (2, 3, 4, 4)

    Source: section 8 of docs/model.md.
    """

    name: ClassVar[str]
    # Random numbers depend on it; a hash of the name, so that other families do not change it.
    key: ClassVar[int]

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        FAMILIES.add(cls)
        if "name" in vars(cls) and "key" not in vars(cls):
            cls.key = zlib.crc32(cls.name.encode())

    @abc.abstractmethod
    def agent_utilities(
        self, draws: Draws, user_utility: Float[np.ndarray, "N A Y"], agents: int
    ) -> Float[np.ndarray, "N K A Y"]:
        """The agents' utilities in N games.

        Args:
            draws: random numbers, [N, ...] of a distribution, such as `draws.normal(agents, 1, 1)`.
            user_utility: [N, A, Y].
            agents: their number K.
        """

    def user_utility(self, draws: Draws, actions: int, states: int) -> Float[np.ndarray, "#N A Y"]:
        """The user's utility in N games, or [1, A, Y] one for all."""
        return draws.normal(actions, states)

    def outcome_distribution(self, draws: Draws, states: int) -> Float[np.ndarray, "#N Y"]:
        """The probabilities of outcomes in N games, or [1, Y] one for all."""
        return draws.simplex(states)

    def labels(self, agents: int, actions: int, states: int) -> Labels | None:
        """The labels of all games of this size that the family has; None: there are none."""
        return None

    def numbers(self, agents: int, actions: int, states: int) -> int:
        """The number of draws that a game takes, at most."""
        return (agents + 1) * actions * states + agents + 2 * actions

    @classmethod
    def knobs(cls) -> dict[str, dataclasses.Field]:
        """The knobs of the family by name, as fields of its dataclass."""
        return {field.name: field for field in dataclasses.fields(cls)}

    @classmethod
    def checked(cls, name: str, value: Any) -> float:
        """The checked value of a knob; raises `ValueError` that names the knob and the rule."""
        return number(name, value, *cls.knobs()[name].metadata.get("rule", FINITE))

    def __post_init__(self):
        for name in self.knobs():
            object.__setattr__(self, name, self.checked(name, getattr(self, name)))


def knob(default: float, words: str, rule: tuple[str, Callable[[float], bool]] = NOT_NEGATIVE) -> Any:
    """A parameter of a family, as a field of its dataclass.

    Args:
        default: its value where none is given.
        words: a description for help texts.
        rule: (words, function): what a value must be, and whether a value is that.

    Example:
        >>> field = em.knob(0.5, "share of the user's utility", ("a number in [0, 1]", lambda x: 0 <= x <= 1))
        >>> field.default, field.metadata["words"]
        (0.5, "share of the user's utility")
    """
    return dataclasses.field(default=default, metadata={"words": words, "rule": rule})


def all_knobs() -> dict[str, dataclasses.Field]:
    """The knobs of all families by name; if families share a name, the knob of the first.

    Example:
        >>> em.families.all_knobs()["noise"].default
        1.0
    """
    found: dict[str, dataclasses.Field] = {}
    for family in FAMILIES.values():
        found = family.knobs() | found
    return found
