"""The work of a search or sweep: blocks that are on disk are kept, the others computed, and all of them merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from emalign_jax.experiments import engine
from emalign_jax.experiments.grid import block as blocks_of
from emalign_jax.experiments.plan import Cell, Plan
from emalign_jax.experiments.run_parts import Parts
from emalign_jax.experiments.run_store import Kind, figures
from emalign_jax.games.game import Game
from emalign_jax.internal import ending, processors

TABLE, GAMES, SCHEMES, STEPS = "games.parquet", "games.npz", "schemes.npz", "trajectories.parquet"
STUDY = Kind("study", (TABLE, *figures("study")))
SEARCH = Kind("search", (TABLE, GAMES, SCHEMES, STEPS, *figures("user_value")))
SWEEP = Kind("sweep", (TABLE, STEPS, *figures("user_value", "phase")))


class Block(NamedTuple):
    """Games first, ..., first + count - 1 of a cell, which is the `number`th of the grid."""

    number: int
    cell: Cell
    first: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.cell.key}-{self.first:07d}-{self.count}"

    @property
    def rows(self) -> int:
        return self.count * self.cell.specification.solver.starts

    def suffixes(self, arrays: bool) -> list[str]:
        """Of its part's files; rows are written last."""
        asked = {".npz": arrays, ".trajectories": self.cell.specification.measure.trajectory, ".parquet": True}
        return [suffix for suffix, wanted in asked.items() if wanted]


class Progress(NamedTuple):
    """What is done: games (with their starts), of all, and how many of those done in this run are certified.

    cell, stage: at work, "" if other processes work; workers: how many there are, None in this process
    """

    cell: str
    stage: str
    done: int
    total: int
    certified: int
    workers: int | None


def blocks(cells: Sequence[Cell], size: int) -> list[Block]:
    """All games in blocks of at most so many, in the order of the table."""
    return [
        Block(n, cell, first, min(size, cell.specification.games.count - first))
        for n, cell in enumerate(cells)
        for first in range(0, cell.specification.games.count, size)
    ]


def compute(
    plan: Plan,
    work: Sequence[Block],
    store: Parts,
    given: Mapping[int, Game] | None = None,
    executors: engine.Executors | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    arrays: bool = True,
) -> None:
    """Compute the blocks whose parts are not in the store, and keep them there.

    given:     the games of a file [N], by number of agents
    executors: where; None is in this process
    arrays:    whether to keep games and schemes too
    Raises the `ValueError` of a block with the file and the point of the grid.
    """
    left = {
        block.name: block
        for block in work
        if not all(store.kept(block.name, suffix) for suffix in block.suffixes(arrays))
    }
    rows = Counter()  # of names: cells of a study may be the same
    for block in work:
        rows[block.name] += block.rows
    total, certified, cell = rows.total(), 0, ""
    done = total - sum(rows[name] for name in left)

    def tell(stage: str = "", *_: int) -> None:
        workers = None if executors is None else executors.workers()
        progress(Progress(cell if stage else "", stage, done, total, certified, workers))

    def keep(task: engine.Task, found: dict[str, Any]) -> None:
        nonlocal done, certified
        for suffix in left[task.name].suffixes(arrays):
            store.keep(task.name, suffix, found[suffix])
        done += rows[task.name]
        certified += found["certified"]

    stop, telling = processors.stoppable(tell)

    def here(*arguments) -> dict[str, Any]:
        nonlocal cell  # of the block that has begun last
        own = blocks_of.specification_of(arguments[0]).games
        cell = f"{blocks_of.FILE if own.file else own.family} K={own.agents}"
        return blocks_of.compute(*arguments, progress=telling)

    def kept() -> str:
        where = f"kept in {store.path}; the same command goes on from there"
        return f"{done} of {total} games are done and {where}" if done else ending.CLEAN

    def task(block: Block) -> engine.Task:
        games, some = None, slice(block.first, block.first + block.count)
        if given is not None:
            whole = given[block.cell.specification.games.agents]
            games = blocks_of.write_games(jax.tree.map(lambda x: x[some], whole))
        place = plan.place(block.cell.values)
        return engine.Task(block.name, (block.cell.text, block.first, block.count, games, place))

    function, tasks = here if executors is None else blocks_of.compute, [*map(task, left.values())]
    with ending.interrupt_message(kept):
        engine.run(
            function, tasks, keep, executors=executors, progress=lambda *_: telling(),
            threads=1 if executors else processors.side_by_side(), stop=stop,
        )  # fmt: skip
