"""The main job: make games, search equilibria, certify them, set monopoly beside them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from emalign_jax.exact import Certificate
from emalign_jax.exact.certificate import flatten_games
from emalign_jax.families import FAMILIES, random_games
from emalign_jax.game import Game
from emalign_jax.monopoly import monopoly
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.solve import Solution, Solver, check_sizes, solve
from emalign_jax.users import AbstractUser

STATED = "file"  # the family of games that were read, not drawn


def games_key(seed: int, family: str) -> jax.Array:
    """What the random games of a family are drawn from, whatever is done with them."""
    return jax.random.fold_in(jax.random.key(seed), list(FAMILIES).index(family))


@dataclasses.dataclass(frozen=True)
class SearchJob:
    """What to search. `games` holds given games, one batch a number of agents; None draws random ones.

    The other fields of games (family, agents, count, knobs) are used for random games only.
    """

    protocol: AbstractProtocol
    user: AbstractUser
    solver: Solver
    games: dict[int, Game] | None = None
    families: tuple[str, ...] = ("hull", "noise", "shared_bias")
    agents: tuple[int, ...] = (1, 2, 3, 5, 8)
    count: int = 100
    knobs: dict[str, Any] = dataclasses.field(default_factory=dict)
    start: str = "monopolist"
    starts: int = 1
    messages: int | None = None
    seed: int = 0

    def cells(self) -> Iterator[tuple[str, int, Game]]:
        """(family, K, games), in the order of the table."""
        if self.games is not None:
            for agents, games in self.games.items():
                yield STATED, agents, flatten_games(games, games.batch_shape)
            return
        for family in self.families:
            for agents in self.agents:
                key = games_key(self.seed, family)
                yield family, agents, random_games(key, self.count, family=family, agents=agents, **self.knobs)

    def __len__(self) -> int:
        return len(self.games) if self.games is not None else len(self.families) * len(self.agents)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One family and number of agents, searched. Arrays of `solution` are [S, N, ...], S starts."""

    family: str
    agents: int
    games: Game
    solution: Solution
    monopoly: np.ndarray  # [N, K] user value with each agent alone
    seconds: float

    @property
    def certificate(self) -> Certificate:
        if self.solution.certificate is None:
            raise ValueError("solution: this one was not certified (verify=False)")
        return self.solution.certificate


def run(job: SearchJob, progress: Callable[[str, int, int], None] | None = None) -> list[Cell]:
    """Search every cell. progress(what, done, total) as in `solve`."""
    cells, drawn = [], list(job.cells())
    for _, _, games in drawn:  # nothing is begun that cannot be ended
        messages = job.messages or job.protocol.messages(games)
        check_sizes(games, job.protocol, job.user, messages, alone=True, exactly=True)
    for n, (family, agents, games) in enumerate(drawn):
        began = time.perf_counter()

        def tell(stage, done, total, n=n, family=family, agents=agents):
            if progress is not None:
                progress(f"{n + 1}/{len(job)} {family} K={agents} {stage}", done, total)

        tell("games", 0, 1)
        solution = solve(
            games, job.protocol, job.user, job.solver,
            key=jax.random.fold_in(jax.random.key(job.seed), len(FAMILIES) + n), starts=job.starts, start=job.start,
            messages=job.messages, progress=tell,
        )  # fmt: skip
        if job.starts == 1:
            arrays = solution._replace(stats={})
            solution = jax.tree.map(lambda x: x[None], arrays)._replace(stats=solution.stats)
        alone = monopoly(games, job.protocol, job.user, solution.schemes.shape[-1]).user
        cells.append(Cell(family, agents, games, solution, alone, time.perf_counter() - began))
    return cells
