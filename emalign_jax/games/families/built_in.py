"""The families that come with the package: how agents' utilities depart from the user's (docs/model.md, section 8)."""

from __future__ import annotations

import dataclasses

import numpy as np

from emalign_jax.games.families.base import AbstractFamily, knob
from emalign_jax.internal.arguments import SHARE

NOISE = "standard deviation of the agents' own noise"


@dataclasses.dataclass(frozen=True)
class Hull(AbstractFamily):
    """U_i = u + noise whose mean under some random weights is zero: u lies in the hull, eps = 0."""

    name, key = "hull", 0
    noise: float = knob(1.0, NOISE)

    def agent_utilities(self, draws, user_utility, agents):
        own = self.noise * draws.normal(agents, *user_utility.shape[1:])
        weights = draws.simplex(agents)
        return user_utility[:, None] + own - (weights[:, :, None, None] * own).sum(1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Noise(AbstractFamily):
    """U_i = u + independent noise."""

    name, key = "noise", 1
    noise: float = knob(1.0, NOISE)

    def agent_utilities(self, draws, user_utility, agents):
        return user_utility[:, None] + self.noise * draws.normal(agents, *user_utility.shape[1:])


@dataclasses.dataclass(frozen=True)
class SharedBias(AbstractFamily):
    """U_i = u + one bias common to all + own noise, half as large: the hull fails systematically."""

    name, key = "shared_bias", 2
    noise: float = knob(1.0, NOISE)
    bias: float = knob(1.0, "standard deviation of the bias common to all")

    def agent_utilities(self, draws, user_utility, agents):
        common = self.bias * draws.normal(1, *user_utility.shape[1:])
        return user_utility[:, None] + common + 0.5 * self.noise * draws.normal(agents, *user_utility.shape[1:])


@dataclasses.dataclass(frozen=True)
class Goal(AbstractFamily):
    """U_i = alignment * u + (1 - alignment) * margin_i(a): agent i profits from the actions that belong to it."""

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
    """Pairs U = u + b, u - b of opposite biases; with an odd number of agents the bias of the last is unopposed."""

    name, key = "opposed", 4
    bias: float = knob(1.0, "standard deviation of the biases")

    def agent_utilities(self, draws, user_utility, agents):
        half = self.bias * draws.normal((agents + 1) // 2, *user_utility.shape[1:])
        both = np.stack([half, -half], axis=2).reshape(len(user_utility), -1, *user_utility.shape[1:])
        return user_utility[:, None] + both[:, :agents]
