"""The main job, block by block: make games, search equilibria, certify them, set monopoly beside them.

What becomes of a game depends on its family, number and seed alone, not on the block it is in.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from emalign_jax.equilibrium.monopolists import monopoly
from emalign_jax.equilibrium.solution import Solution
from emalign_jax.equilibrium.solver import check_sizes, solve
from emalign_jax.exact import Certificate, Stability, stability
from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.exact.checks.base import check_for
from emalign_jax.exact.obedience import frontier
from emalign_jax.experiments.run_directory import Kind
from emalign_jax.games import families
from emalign_jax.games.families import FAMILIES, check_arguments, random_games
from emalign_jax.games.game import Game
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import integer
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.protocols import AbstractProtocol, Comparison, Pooled, Selection
from emalign_jax.protocols.base import declares_revelation
from emalign_jax.protocols.batched_payoffs import payoffs
from emalign_jax.protocols.schemes import full_revelation, no_information
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser

TABLE, GAMES, SCHEMES, FIGURES = "games.parquet", "games.npz", "schemes.npz", ("user_value.png", "user_value.pdf")
SEARCH = Kind("search", (TABLE, GAMES, SCHEMES, *FIGURES))
STATED = "file"  # the family of games that were read, not drawn
SMALLEST, MOST_CHECKED, MOST_PLAYED = 256, 1024, 16384  # games of a block; larger ones are no faster
BYTES_CHECKED, BYTES_PLAYED = 1_000_000, 50_000  # a game of a block, at most: with its LPs, or just played
SHARE = 0.25  # of the free memory that a block may take
COPIES = 4  # of the games and schemes of a block, that solving holds
START_KEYS = 5  # what the keys of random starts begin at, beyond those of the first families
ROW = 500  # bytes of a row of the table


def games_key(seed: int, family: str) -> jax.Array:
    """What the random games of a family are drawn from, whatever is done with them."""
    return jax.random.fold_in(jax.random.key(seed), FAMILIES[family].key)


@dataclasses.dataclass(frozen=True)
class SearchJob:
    """What to search. `games` holds given games, one batch a number of agents; None draws random ones.

    The other fields of games (family, agents, count, knobs) are used for random games only. verify=False plays and
    checks nothing: no gains, no monopoly, no exact equilibria. stability=False leaves out the latter alone, which take
    6 % of the time of many small games and up to half of it where LPs are solved one by one.
    """

    protocol: AbstractProtocol
    user: AbstractUser
    solver: AbstractSolver
    games: dict[int, Game] | None = None
    families: tuple[str, ...] = ("hull", "noise", "shared_bias")
    agents: tuple[int, ...] = (1, 2, 3, 5, 8)
    count: int = 100
    knobs: dict[str, Any] = dataclasses.field(default_factory=dict)
    start: str = "monopolist"
    starts: int = 1
    messages: int | None = None
    seed: int = 0
    verify: bool = True
    stability: bool = True

    def cells(self) -> list[tuple[str, int, int]]:
        """(family, K, number of games), in the order of the table."""
        if self.games is not None:
            return [(STATED, agents, math.prod(games.batch_shape)) for agents, games in self.games.items()]
        return [(family, agents, self.count) for family in self.families for agents in self.agents]

    def blocks(self, most: int) -> list[Block]:
        """All games, in blocks of at most so many."""
        return [
            Block(n, family, agents, first, min(most, count - first))
            for n, (family, agents, count) in enumerate(self.cells())
            for first in range(0, count, most)
        ]

    def draw(self, block: Block) -> Game:
        """The games of a block."""
        if self.games is not None:
            games = self.games[block.agents]
            flat = flatten_games(games, games.batch_shape)
            return jax.tree.map(lambda x: x[block.first : block.first + block.count], flat)
        drawn = random_games(
            games_key(self.seed, block.family), block.count, first=block.first, family=block.family,
            agents=block.agents, **self.knobs,
        )  # fmt: skip
        return jax.device_get(drawn)  # What follows is computed on the host.

    def check(self, most: int = 1) -> int:
        """Raise the `ValueError` of whatever cannot be done: nothing is begun that cannot be ended.

        most: games of a block. Returns about how many bytes the run takes on disk while it is written.
        """
        integer("starts", self.starts, 1)
        written = 0
        for family, agents, count in self.cells():
            at_once = min(most, count)
            if self.games is None:
                check_arguments(count=self.count, family=family, agents=agents, **self.knobs)
                families.require_room(at_once, family=family, agents=agents, **self.knobs)
                games = families.any_game(agents=agents, **self.knobs)
            else:
                games = self.games[agents]
            messages = self.protocol.messages(games) if self.messages is None else self.messages
            integer("messages", messages, 1)
            alone = self.verify or self.start == "monopolist"
            check_sizes(games, self.protocol, self.user, messages, alone=alone, exactly=alone)
            given, schemes = require_room(games, self.protocol, messages, at_once, self.starts)
            written += 2 * count * (8 * (given + self.starts * schemes) + ROW * self.starts)  # as parts, and merged
        return written


def block_size(verify: bool, free: int | None = None) -> int:
    """Games of a block, by the memory at hand."""
    fit = int(SHARE * (memory.free_bytes() if free is None else free)) // (BYTES_CHECKED if verify else BYTES_PLAYED)
    size = SMALLEST
    while 2 * size <= min(fit, MOST_CHECKED if verify else MOST_PLAYED):
        size *= 2
    return size


def require_room(games: Game, protocol: AbstractProtocol, messages: int, count: int, starts: int) -> tuple[int, int]:
    """Numbers of a game of this size and of its schemes. Raises `ValueError` where solving so many games at a time
    would take more memory than is at hand."""
    K, XA, XB, Y, A = games.agents, games.user_features, games.agent_features, games.outcomes, games.actions
    given, schemes = XA * XB * Y + (K + 1) * A * Y, K * protocol.rows(games, messages) * messages
    needed = 8 * COPIES * count * starts * (schemes + given + (K + 1) * XA * XB * A)
    memory.require(needed, f"block, starts: {count} games at a time with {starts} starts each")
    return given, schemes


class Block(NamedTuple):
    """Games first, ..., first + count - 1 of cell number `cell`: one family and number of agents."""

    cell: int
    family: str
    agents: int
    first: int
    count: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """Games of one family and number of agents, searched. Arrays of `solution` are [S, N, ...], S starts."""

    family: str
    agents: int
    games: Game
    solution: Solution
    certificate: Certificate
    monopoly: np.ndarray  # [N, K] user value with each agent alone
    worst: np.ndarray | None  # [N] user value in the worst pure equilibrium, NaN where it is not known; None: no column
    seconds: float
    first: int = 0  # number of the first game


@frontier.reused()
def run(job: SearchJob, block: Block, progress: Callable[[str, int, int], None] | None = None) -> Cell:
    """Search one block. progress(what, done, total) as in `solve`."""
    began = time.perf_counter()
    games, of = job.draw(block), job.cells()[block.cell][2]
    solution = solve(
        games, job.protocol, job.user, job.solver,
        key=jax.random.fold_in(jax.random.key(job.seed), START_KEYS + block.cell), starts=job.starts,
        start=job.start, messages=job.messages, first=block.first, of=of, verify=job.verify, progress=progress,
    )  # fmt: skip
    if job.starts == 1:
        arrays = solution._replace(stats={})
        solution = jax.tree.map(lambda x: x[None], arrays)._replace(stats=solution.stats)
    if job.verify and check_for(job.protocol, job.user).finds_monopolists:
        alone = monopoly(games, job.protocol, job.user, solution.schemes.shape[-1], of=of).user
    else:
        alone = np.full((block.count, block.agents), np.nan)
    exact = all_equilibria(games, job.protocol, job.user, of) if job.verify and job.stability else None
    worst = np.full(block.count, np.nan) if exact is None else exact.worst
    certificate = solution.certificate or _unchecked(games, job.user, solution)
    seconds = time.perf_counter() - began
    return Cell(block.family, block.agents, games, solution, certificate, alone, worst, seconds, block.first)


def all_equilibria(
    games: Game, protocol: AbstractProtocol, user: AbstractUser, of: int | None = None
) -> Stability | None:
    """The user's values in all pure equilibria, where they can be computed: in Selection of one message (or Comparison
    of all agents) with a rational user whose ties go to the selected agent, and two or more agents."""
    exactly = protocol.kind in ((Selection,), (Comparison,)) and type(user) is RationalUser
    known = exactly and declares_revelation(protocol, games.agents) and user.favours
    return stability(games, of=of) if known and games.agents > 1 else None


def _unchecked(games: Game, user: AbstractUser, solution: Solution) -> Certificate:
    """What is known without checks: payoffs, V_none and V_full."""
    one = Game(*(np.asarray(x, np.float64) for x in games.of_one_agent.__dict__.values()), check="shapes")
    XB = games.agent_features
    with jax.enable_x64(True):
        values = [
            np.broadcast_to(
                np.asarray(payoffs(one, scheme(1, XB, XB), Pooled(), user.acting).user), solution.user.shape
            )
            for scheme in (full_revelation, no_information)
        ]
    nan, many = np.full(solution.user.shape, np.nan), np.full(solution.agents.shape, np.nan)
    never = np.zeros(solution.user.shape, bool)
    none, full = values[1], values[0]
    return Certificate(
        solution.user, solution.agents, many, many, never, many, full, none, nan, nan, solution.result, never
    )
