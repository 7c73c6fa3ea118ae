"""Games in standard units, so that no tolerance depends on how utilities are scaled or shifted (section 4.5 of
docs/model.md).

In every cell (x_A, x_B) the best action of the user is worth 0, to the user and to every agent, and utilities are
counted in their unit (`units.unit`). Equilibria do not change. What the user gets and what the user perceives are
counted in units of their own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users.base import AbstractUser

# Division by smaller numbers may overflow.
SMALLEST_DIVISOR = 1e-300


class StandardForm(NamedTuple):
    """game, protocol and user in standard units; a raw payoff is unit * standard + zero.

    user_unit, user_zero: of what the user gets (`ReducedGame.welfare`)
    perceived_unit:       of what the user perceives (`ReducedGame.user`); the same for users who do not misread beliefs
    """

    game: ReducedGame
    protocol: AbstractProtocol
    user: AbstractUser
    user_unit: Float[np.ndarray, "*batch"]
    user_zero: Float[np.ndarray, "*batch"]
    agent_unit: Float[np.ndarray, "*batch K"]
    agent_zero: Float[np.ndarray, "*batch K"]
    perceived_unit: Float[np.ndarray, "*batch"]


def standard_form(game: ReducedGame, protocol: Any, user: Any, *, lossless: bool = False) -> StandardForm:
    """`game` (NumPy float64, any batch axes) in standard units, with the parameters of protocol and user to match.

    lossless: round units to powers of two, so that payoffs are not rounded; an exact answer about the standard game is
        then an exact answer about `game`.
    """
    mass, g, G, welfare = (np.asarray(x) for x in without_tiny_cells(game))
    with np.errstate(invalid="ignore", over="ignore"):
        likely = likely_actions(game, user)
        best = g.argmax(-1)[..., None]
        perceived_best, user_best = (np.take_along_axis(x, best, -1) for x in (g, welfare))
        agent_best = np.take_along_axis(G, np.broadcast_to(best[..., None, :, :, :], (*G.shape[:-1], 1)), -1)
        g, G, welfare = g - perceived_best, G - agent_best, welfare - user_best
        g, perceived_unit = _in_units(g, likely, lossless)
        welfare, user_unit = _in_units(welfare, likely, lossless)
        G, agent_unit = _in_units(G, likely[..., None, :, :, :], lossless)
        standard = ReducedGame(mass, g, G, welfare)
        zeros = user_best[..., 0].sum((-2, -1)), agent_best[..., 0].sum((-2, -1))
    return StandardForm(
        standard, protocol.in_units(user_unit), user.in_units(perceived_unit), user_unit, zeros[0], agent_unit,
        zeros[1], perceived_unit,
    )  # fmt: skip


def _in_units(payoff: np.ndarray, likely: np.ndarray, lossless: bool) -> tuple[np.ndarray, np.ndarray]:
    """Payoffs in their unit, and the unit: 1 where actions do not matter or the game is malformed. A unit too small to
    divide by counts as 0: actions do not matter."""
    unit = units.unit(payoff, likely)
    indifferent = unit <= SMALLEST_DIVISOR
    unit = np.where(np.isfinite(unit) & ~indifferent, unit, 1.0)
    if lossless:
        unit = np.asarray(np.exp2(np.floor(np.log2(unit))))
    return np.where(indifferent[..., None, None, None], 0, payoff / unit[..., None, None, None]), unit


def without_tiny_cells(game: Any) -> ReducedGame:
    """`game` with cells (x_A, x_B) made impossible whose probability is too small to divide by."""
    mass, user, agents, welfare = (np.asarray(x) for x in game)
    tiny = (mass < SMALLEST_DIVISOR) & (mass > 0)
    if not tiny.any():
        return ReducedGame(mass, user, agents, welfare)
    user, welfare = (np.where(tiny[..., None], 0, x) for x in (user, welfare))
    return ReducedGame(np.where(tiny, 0, mass), user, np.where(tiny[..., None, :, :, None], 0, agents), welfare)


def raw_form(game: ReducedGame, protocol: AbstractProtocol, user: AbstractUser) -> StandardForm:
    """One game in the units that it has, as a `StandardForm`."""
    agents = len(game.agents)
    one, zero = np.ones(agents), np.zeros(agents)
    unit = np.asarray(1.0)
    return StandardForm(game, protocol, user, unit, np.asarray(0.0), one, zero, unit)


def user_unit(game: ReducedGame, user: AbstractUser) -> float:
    """The unit of what the user gets (`units.unit`), in NumPy."""
    return float(units.unit(game.welfare, likely_actions(game, user)))


def likely_actions(game: ReducedGame, user: Any) -> Float[np.ndarray, "*batch XA XB A"]:
    """The largest probability with which this user takes each action in a cell (`units.most_likely`)."""
    mass = np.asarray(game.mass).sum(-1)
    forgone = np.asarray(user.most_forgone)[..., None]
    with np.errstate(invalid="ignore"):
        return units.most_likely(np.asarray(game.user), np.where(mass > 0, forgone * mass, 0), user.tie_tolerance)
