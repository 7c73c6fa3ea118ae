"""Families of continuous choices: options with attributes, and quadratic losses on a line.

Sections 8.1 and 8.2 of docs/model.md.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from emalign_jax.games.families.base import AbstractFamily, Draws, knob
from emalign_jax.games.labels import Labels
from emalign_jax.internal.arguments import FINITE

MOST_ATTRIBUTES = 100
A_FEW = f"an integer from 1 to {MOST_ATTRIBUTES}", lambda x: x in range(1, MOST_ATTRIBUTES + 1)


@dataclasses.dataclass(frozen=True)
class Attributes(AbstractFamily):
    """Each option has attributes, which the user and the agents weigh differently.

    Attributes are standard normal for each outcome; u = w . attributes and U_i = w_i . attributes, and agent i gets
    `bias` more if the user takes one of its own options. The weights w and w_i are uniform on the simplex, and all
    utilities are divided by the length of w, so that u is standard normal, too. Without a bias u is in the hull of the
    agents', or in their cone, iff w is in the convex hull of the w_i. "Only if" takes options that tell all attributes
    apart: at least as many as there are attributes, A Y of them (with a constant offset A Y - 1, with an offset for
    each outcome (A - 1) Y).

    Args:
        attributes: their number, from 1 to 100.
        bias: what an agent gains if the user takes its option.

    Example:
        >>> em.random_games(0, 2, family=em.families.Attributes(attributes=2.0)).names("actions")
        ('option 0', 'option 1', 'option 2', 'option 3')

    Source: section 8.1 of docs/model.md.
    """

    name = "attributes"
    attributes: float = knob(3.0, "number of attributes", A_FEW)
    bias: float = knob(0.0, "what an agent gains if the user takes its option")

    def weights(self, draws: Draws, agents: int) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "N K D"]]:
        """What attributes are worth to the user and to the agents."""
        D = int(self.attributes)
        return draws.simplex(D), draws.simplex(agents, D)

    def agent_utilities(self, draws, user_utility, agents):
        weights, own = self.weights(draws, agents)
        length = np.linalg.norm(weights, axis=-1, keepdims=True)
        along = weights / length
        # Standard normal attributes, given their sum u along w: what is orthogonal to w is independent of it.
        free = draws.normal(int(self.attributes), *user_utility.shape[1:])
        missing = user_utility - np.einsum("nd,nday->nay", along, free)
        attributes = free + along[:, :, None, None] * missing[:, None]
        owner = np.floor(agents * draws.uniform(1, user_utility.shape[1]))
        profit = np.where(owner == np.arange(agents)[:, None], self.bias, 0)
        return np.einsum("nkd,nday->nkay", own / length[:, None], attributes) + profit[..., None]

    def numbers(self, agents, actions, states):
        return int(self.attributes) * (1 + agents + actions * states) + actions

    def labels(self, agents, actions, states):
        return Labels(actions=[f"option {a}" for a in range(actions)])


@dataclasses.dataclass(frozen=True)
class Quadratic(AbstractFamily):
    """The user wants a = y, agent i wants a = (1 + b_i) y, with quadratic losses; y is uniform on [0, 1].

    u = -(a - y)^2, U_i = -(a - (1 + b_i) y)^2; outcomes and actions are the midpoints of Y and A equal cells of [0, 1],
    and b_i is normal. The finer the cells, the nearer to the closed forms: an agent alone reveals y if b_i > -1/2 and
    nothing if b_i < -1/2; in Selection of two or more agents full information is the value of all equilibria if some
    b_i > -1/2, and otherwise silence is an equilibrium, too. With one offset for each outcome u is in the hull of the
    agents' iff 0 is between the least and the largest b_i.

    Args:
        bias: standard deviation of the b_i.
        tilt: mean of the b_i.

    Example:
        >>> games = em.random_games(0, 2, family=em.families.Quadratic(bias=0.0), agents=1)  # an aligned agent
        >>> bool((games.agent_utilities[:, 0] == games.user_utility).all())
        True

    Source: section 8.2 of docs/model.md.
    """

    name = "quadratic"
    bias: float = knob(1.0, "standard deviation of the b_i")
    tilt: float = knob(0.0, "mean of the b_i", FINITE)

    def user_utility(self, draws, actions, states):
        return -((midpoints(actions)[:, None] - midpoints(states)) ** 2)[None]

    def outcome_distribution(self, draws, states):
        return np.full((1, states), 1 / states)

    def agent_utilities(self, draws, user_utility, agents):
        actions, states = user_utility.shape[1:]
        b = self.tilt + self.bias * draws.normal(agents, 1, 1)
        return -((midpoints(actions)[:, None] - (1 + b) * midpoints(states)) ** 2)

    def labels(self, agents, actions, states):
        of = {"actions": actions, "outcomes": states}
        return Labels(**{name: [f"{x:.4g}" for x in midpoints(size)] for name, size in of.items()})


def midpoints(cells: int) -> np.ndarray:
    """The midpoints of equal cells of [0, 1].

    Args:
        cells: their number.

    Example:
        >>> em.families.midpoints(4).tolist()
        [0.125, 0.375, 0.625, 0.875]
    """
    return (np.arange(cells) + 0.5) / cells
