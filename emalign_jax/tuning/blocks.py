"""Smoothed equilibria of many games, block by block: one size is compiled, and memory is that of a block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.equilibrium.solver import solve
from emalign_jax.games.game import Game
from emalign_jax.play import Implicit, SmoothPlay
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users.base import AbstractUser

BLOCK = 64
Setting = tuple[Game, AbstractProtocol, AbstractUser, SmoothPlay, Float[np.ndarray, "block K rows M"]]


def equilibria(
    count: int, take: Callable[[Int[np.ndarray, "block"]], Setting]
) -> tuple[Float[np.ndarray, "n K rows M"], Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Schemes, user values and results of games 0 .. count - 1.

    take: given numbers of games, returns these games, what is theirs of protocol, user and solver, and their schemes to
        start from, all with one leading axis.
    """
    found = []
    for at in range(0, count, BLOCK):
        which = np.arange(at, min(at + BLOCK, count))
        games, protocol, user, solver, start = take(np.resize(which, BLOCK))
        block = solve(games, protocol, user, solver, start=start, differentiation=Implicit())
        found.append([np.asarray(x)[: len(which)] for x in (block.schemes, block.user, block.derivative)])
    schemes, user, derivative = map(np.concatenate, zip(*found, strict=True))
    return schemes, user, derivative
