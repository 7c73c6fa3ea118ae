"""Comparison: the user compares only some of the agents, and talks to the best of them (section 2.3 of docs/model.md).

The user meets a uniformly random subset of m of the K agents; the agents commit to schemes without knowing the subset.
With V_j and O[i, j] as in `Selection`, the agent of rank r (0 is the best of all K) is picked with probability
C(K - 1 - r, m - 1) / C(K, m). With m = K this is Selection, with m = 1 a random agent.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.games.game import Array, Game
from emalign_jax.internal.arguments import integer, subsets
from emalign_jax.protocols.selection import Selection
from emalign_jax.users.quantal import logit

# A choice at a temperature averages over all subsets.
MOST_SUBSETS = 5000


class Comparison(Selection):
    """The user picks the best of a random subset of the agents.

    Args:
        compared: the size m of the subset, from 1 to K.
        temperature: of the choice among the agents of the subset, as in `Selection`.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> game = em.catalog.judge(prosecutors=2)
        >>> schemes = np.stack([em.full_revelation(1, 2, 2)[0], em.no_information(1, 2, 2)[0]])
        >>> values = [em.certify(game, schemes, em.Comparison(m), em.RationalUser()).user for m in (1, 2)]
        >>> [round(float(value), 3) for value in values]  # the revealing agent is picked half of the time, or always
        [0.85, 1.0]

    Source: section 2.3 of docs/model.md.
    """

    counts_welfare = True

    compared: int = eqx.field(static=True)

    def __init__(self, compared: Any, temperature: Any = 0.0):
        self.compared = integer("compared", compared, 1)
        super().__init__(temperature)

    @property
    def title(self):
        return f"{type(self).__name__} of {self.compared} agents"

    def choose(self, values: Float[Array, "K"], scale: Float[Array, ""]) -> Float[Array, "K"]:
        if not self.sharp:
            return self._choice_in_subsets(values).mean(0)
        chosen, left = jnp.zeros_like(values), values
        for chance in self._rank_probabilities(len(values)):
            best = super().choose(left, scale)
            chosen, left = chosen + chance * best, jnp.where(best > 0, -jnp.inf, left)
        return chosen

    def _choice(self, values, table):
        chosen = self._choice_in_subsets(values)
        value_weight = (chosen * (jnp.diagonal(table) - chosen @ table.T)).mean(0) / self.temperature
        return chosen.mean(0), value_weight

    def _choice_in_subsets(self, values) -> Float[Array, "subsets K"]:
        """The distribution over agents within each subset."""
        return logit(values, self.inverse_temperature(values.dtype), jnp.asarray(self._subsets(len(values))))

    def _subsets(self, agents: int) -> Bool[np.ndarray, "subsets K"]:
        self._check_subsets(agents)
        subsets = np.array(list(itertools.combinations(range(agents), self.compared)))
        return (subsets[:, :, None] == np.arange(agents)).any(1)

    def _check_subsets(self, agents: int) -> None:
        many = subsets(agents, self.compared)
        if many > MOST_SUBSETS:
            raise ValueError(
                f"compared: a soft choice, which gradients need, averages over all subsets; {self.compared} of "
                f"{agents} agents have {many}, the limit is {MOST_SUBSETS}: take fewer agents, or temperature 0 and "
                "BestResponseDynamics"
            )

    def _rank_probabilities(self, agents: int) -> list[float]:
        """The probability of being picked, by rank; ranks of probability 0 are left out."""
        m = self.compared
        return [math.comb(agents - 1 - r, m - 1) / math.comb(agents, m) for r in range(agents - m + 1)]

    def full_revelation_is_heard(self, agents):
        return self.sharp and self.compared >= agents

    def why_unheard(self, agents):
        if not self.sharp or self.compared >= agents:
            return super().why_unheard(agents)
        return (
            f"the guarantee needs an agent that reveals x_B to be picked; with compared = {self.compared} of K = "
            f"{agents} agents it may not be met: take Selection(), or compared = {agents}"
        )

    @property
    def with_one_agent(self):
        return Comparison(1, self.temperature)

    @property
    def kind(self):
        return (type(self),)

    def check(self, game: Game, messages: int) -> None:
        if self.compared > game.agents:
            raise ValueError(
                f"compared: expected at most K = {game.agents}, the agents of the games, got {self.compared}"
            )
        if not self.sharp:
            self._check_subsets(game.agents)
        super().check(game, messages)

    def cells(self, game: Game, messages: int) -> int:
        return max(super().cells(game, messages), game.agents * min(subsets(game.agents, self.compared), MOST_SUBSETS))
