"""The work of a sweep: what is on disk is read, what is not there is computed, block by block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from emalign_jax.sweep import directory
from emalign_jax.sweep.cell import block_rows, draw_games
from emalign_jax.sweep.config import Cell, Config


class Block(NamedTuple):
    """games first, ... of a cell; rows is None until they are done."""

    cell: Cell
    first: int
    count: int
    path: Path

    @property
    def rows(self) -> int:
        return self.count * self.cell.values["solver.starts"]


def blocks(config: Config, cells: list[Cell], path: Path) -> list[Block]:
    """In the order of the table."""
    found = []
    for cell in cells:
        count = cell.values["games.count"]
        for first in range(0, count, config.block):
            own = directory.part_path(path, cell.key, first)
            found.append(Block(cell, first, min(config.block, count - first), own))
    return found


def run(
    config: Config,
    work: list[Block],
    *,
    warn: Callable[[str], None],
    progress: Callable[[Cell | None, int], None],
) -> list[pd.DataFrame]:
    """The rows of every block.

    warn:     called with a sentence about each damaged part.
    progress: called with (cell, 0) when one is begun, with (cell, rows) when a block of it is done, and first of all
              with (None, rows) for what was there.
    """
    rows: dict[Path, pd.DataFrame] = {}
    for block in work:
        if block.path.exists():
            part = directory.read_part(block.path, block.cell.key, block.rows)
            if part is None:
                warn(f"{block.path}: damaged; its {block.count} games are computed again")
                block.path.unlink()
            else:
                rows[block.path] = part
    progress(None, sum(map(len, rows.values())))
    games: Any = None
    drawn_for = None
    for block in work:
        if block.path in rows:
            continue
        progress(block.cell, 0)
        if drawn_for != block.cell.key:
            games, drawn_for = draw_games(block.cell.values), block.cell.key
        directory.write_part(block.path, block_rows(config, block.cell, games, block.first))
        part = directory.read_part(block.path, block.cell.key, block.rows)  # as any later run will read it
        if part is None:
            raise OSError(f"{block.path}: was written but cannot be read back")
        rows[block.path] = part
        progress(block.cell, len(part))
    return [rows[block.path] for block in work]
