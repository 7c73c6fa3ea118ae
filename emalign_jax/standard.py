"""Games in standard units, so that no tolerance depends on how utilities are scaled or shifted.

What matters to a choice of action is differences between actions: in every cell (x_A, x_B) the best action of
the user is worth 0 and the worst of an agent 0, and the largest difference in any cell is 1. The law of the
cells is the same whatever anyone does, so equilibria and gains (in these units) do not change.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.game import ReducedGame
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users import AbstractUser


class StandardForm(NamedTuple):
    """game, protocol and user in standard units; a raw payoff is unit * standard + zero."""

    game: ReducedGame
    protocol: AbstractProtocol
    user: AbstractUser
    user_unit: Float[np.ndarray, "*batch"]
    user_zero: Float[np.ndarray, "*batch"]
    agent_unit: Float[np.ndarray, "*batch K"]
    agent_zero: Float[np.ndarray, "*batch K"]


def standard_form(game: ReducedGame, protocol: Any, user: Any) -> StandardForm:
    """`game` (NumPy float64, any batch axes) in standard units; parameters of protocol and user follow."""
    mass, g, G = (np.asarray(x) for x in game)
    with np.errstate(invalid="ignore", over="ignore"):
        best = g.max(-1, keepdims=True)
        worst = G.min(-1, keepdims=True)
        user_unit = _largest_spread(g, mass)
        agent_unit = _largest_spread(G, mass[..., None, :, :])
        standard = ReducedGame(
            mass, (g - best) / user_unit[..., None, None, None], (G - worst) / agent_unit[..., None, None, None]
        )
        zeros = best[..., 0].sum((-2, -1)), worst[..., 0].sum((-2, -1))
    return StandardForm(
        standard, protocol.in_units(user_unit), user.in_units(user_unit), user_unit, zeros[0], agent_unit, zeros[1]
    )


def raw_form(game: ReducedGame, protocol: AbstractProtocol, user: AbstractUser) -> StandardForm:
    """One game left in the units that it has."""
    agents = len(game.agents)
    one, zero = np.ones(agents), np.zeros(agents)
    return StandardForm(game, protocol, user, np.asarray(1.0), np.asarray(0.0), one, zero)


def _largest_spread(payoff: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Largest difference between two actions in any cell that can happen; 1 where there is none."""
    spread = np.ptp(payoff, axis=-1)
    largest = np.where(mass > 0, spread / np.where(mass > 0, mass, 1), 0).max((-2, -1))
    return np.where(np.isfinite(largest) & (largest > 0), largest, 1.0)
