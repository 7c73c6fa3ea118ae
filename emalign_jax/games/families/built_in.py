"""The families that come with the package: how agents' utilities depart from the user's (docs/model.md, section 8)."""

from __future__ import annotations

import dataclasses

import numpy as np

from emalign_jax.games.families.base import AbstractFamily, knob
from emalign_jax.internal.arguments import SHARE

NOISE = "standard deviation of the agents' own noise"


@dataclasses.dataclass(frozen=True)
class Hull(AbstractFamily):
    """U_i = u + noise whose mean under some random weights is zero: u lies in the hull, eps = 0.

    Args:
        noise: standard deviation of the agents' own noise.

    Example:
        >>> game = em.random_games(0, 2, family=em.families.Hull(noise=2.0))[0]
        >>> float(em.align(game.user_utility, game.agent_utilities).error) < 1e-5
        True

    Source: section 8 of docs/model.md.
    """

    name, key = "hull", 0
    noise: float = knob(1.0, NOISE)

    def agent_utilities(self, draws, user_utility, agents):
        own = self.noise * draws.normal(agents, *user_utility.shape[1:])
        weights = draws.simplex(agents)
        return user_utility[:, None] + own - (weights[:, :, None, None] * own).sum(1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Noise(AbstractFamily):
    """U_i = u + independent noise.

    Args:
        noise: standard deviation of the agents' own noise.

    Example:
        >>> games = em.random_games(0, 2, family=em.families.Noise(noise=0.0))  # agents who want what the user wants
        >>> bool((games.agent_utilities == games.user_utility[:, None]).all())
        True

    Source: section 8 of docs/model.md.
    """

    name, key = "noise", 1
    noise: float = knob(1.0, NOISE)

    def agent_utilities(self, draws, user_utility, agents):
        return user_utility[:, None] + self.noise * draws.normal(agents, *user_utility.shape[1:])


@dataclasses.dataclass(frozen=True)
class SharedBias(AbstractFamily):
    """U_i = u + one bias common to all + own noise, half as large: u is outside of the hull for any number of agents.

    Args:
        noise: twice the standard deviation of the agents' own noise.
        bias: standard deviation of the bias common to all.

    Example:
        >>> games = em.random_games(0, 2, family=em.families.SharedBias(noise=0.0))  # agents who all want the same
        >>> bool((games.agent_utilities == games.agent_utilities[:, :1]).all())
        True

    Source: section 8 of docs/model.md.
    """

    name, key = "shared_bias", 2
    noise: float = knob(1.0, NOISE)
    bias: float = knob(1.0, "standard deviation of the bias common to all")

    def agent_utilities(self, draws, user_utility, agents):
        common = self.bias * draws.normal(1, *user_utility.shape[1:])
        return user_utility[:, None] + common + 0.5 * self.noise * draws.normal(agents, *user_utility.shape[1:])


@dataclasses.dataclass(frozen=True)
class Goal(AbstractFamily):
    """U_i = alignment * u + (1 - alignment) * margin_i(a): agent i profits from the actions that belong to it.

    Args:
        bias: mean of the margins.
        alignment: the weight of the user's utility, in [0, 1].

    Example:
        >>> em.random_games(0, 2, family=em.families.Goal(alignment=0.3), agents=3).agents
        3

    Source: section 8 of docs/model.md.
    """

    name, key = "goal", 3
    bias: float = knob(1.0, "mean of the margins")
    alignment: float = knob(0.5, "share of the user's utility", SHARE)

    def agent_utilities(self, draws, user_utility, agents):
        actions = user_utility.shape[1]
        owner = np.floor(agents * draws.uniform(1, actions))
        margin = self.bias * draws.exponential(1, actions)
        profit = np.where(owner == np.arange(agents)[:, None], margin, 0)  # [N, K, A]
        return self.alignment * user_utility[:, None] + (1 - self.alignment) * profit[..., None]


@dataclasses.dataclass(frozen=True)
class Opposed(AbstractFamily):
    """Pairs U = u + b, u - b of opposite biases; with an odd number of agents the bias of the last is unopposed.

    Args:
        bias: standard deviation of the biases.

    Example:
        >>> games = em.random_games(0, 2, family="opposed", agents=4)
        >>> bool((abs(games.agent_utilities.mean(1) - games.user_utility) < 1e-5).all())
        True

    Source: section 8 of docs/model.md.
    """

    name, key = "opposed", 4
    bias: float = knob(1.0, "standard deviation of the biases")

    def agent_utilities(self, draws, user_utility, agents):
        half = self.bias * draws.normal((agents + 1) // 2, *user_utility.shape[1:])
        both = np.stack([half, -half], axis=2).reshape(len(user_utility), -1, *user_utility.shape[1:])
        return user_utility[:, None] + both[:, :agents]
