"""The work of a sweep: what is on disk is read, what is not there is computed, block by block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from emalign_jax.experiments.sweep import directory
from emalign_jax.experiments.sweep.cell import block_rows, draw_games, named
from emalign_jax.experiments.sweep.config import Cell, Config


class Block(NamedTuple):
    """Games first, ..., first + count - 1 of a cell."""

    cell: Cell
    first: int
    count: int

    @property
    def rows(self) -> int:
        return self.count * self.cell.values["solver.starts"]


def blocks(config: Config, cells: list[Cell]) -> list[Block]:
    """In the order of the table."""
    return [
        Block(cell, first, min(config.block, cell.values["games.count"] - first))
        for cell in cells
        for first in range(0, cell.values["games.count"], config.block)
    ]


def run(
    config: Config,
    work: list[Block],
    path: Path,
    *,
    warn: Callable[[str], None],
    progress: Callable[[Cell | None, int], None],
) -> list[pd.DataFrame]:
    """The rows of every block.

    warn:     called with a sentence about each damaged part.
    progress: called with (cell, 0) when one is begun, with (cell, rows) when a block of it is done, and first of all
              with (None, rows) for what was there.
    """
    rows: list[pd.DataFrame | None] = []
    for block in work:
        part, damaged = directory.read_part(path, block.cell.key, block.first)
        for file in damaged:
            warn(f"{file}: damaged" + (f"; its {block.count} games are computed again" if part is None else ""))
            file.unlink()
        rows.append(part)
    progress(None, sum(len(part) for part in rows if part is not None))
    games: Any = None
    drawn_for = None
    for n, block in enumerate(work):
        if rows[n] is not None:
            continue
        progress(block.cell, 0)
        with named(config, block.cell):
            if drawn_for != block.cell.key:
                games, drawn_for = draw_games(block.cell.values), block.cell.key
            found = block_rows(config, block.cell, games, block.first)
        directory.write_part(path, block.cell.key, block.first, found)
        rows[n], _ = directory.read_part(path, block.cell.key, block.first)  # as any later run will read it
        progress(block.cell, block.rows)
    missing = [block for block, part in zip(work, rows, strict=True) if part is None]
    if missing:
        raise OSError(f"{path}: {len(missing)} parts were written but cannot be read back")
    return [part for part in rows if part is not None]
