"""Smoothed equilibria of many games, in blocks of one size, so that one size is compiled and memory is bounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from emalign_jax.equilibrium.solver import solve
from emalign_jax.games.game import Game
from emalign_jax.play import Implicit, SmoothPlay
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users.base import AbstractUser

BLOCK_GAMES = 64
Setting = tuple[Game, AbstractProtocol, AbstractUser, SmoothPlay, Float[np.ndarray, "block K rows M"]]


def equilibria(
    count: int, take: Callable[[Int[np.ndarray, "block"]], Setting]
) -> tuple[Float[np.ndarray, "n K rows M"], Float[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Schemes, the user's values and results of games 0, ..., count - 1.

    take: a function of game numbers that returns these games, their protocols, users and solvers, and the schemes to
        start from, all with one leading axis.
    """
    found = []
    for at in range(0, count, BLOCK_GAMES):
        which = np.arange(at, min(at + BLOCK_GAMES, count))
        games, protocol, user, solver, start = take(np.resize(which, BLOCK_GAMES))
        block = solve(games, protocol, user, solver, start=start, differentiation=Implicit())
        found.append([np.asarray(x)[: len(which)] for x in (block.schemes, block.user, block.derivative)])
    schemes, user, derivative = map(np.concatenate, zip(*found, strict=True))
    return schemes, user, derivative
