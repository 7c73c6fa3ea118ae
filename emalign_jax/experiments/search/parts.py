"""Blocks on disk and their merger: a search of any length holds one block in memory.

A part is two files, rows (.parquet) and arrays (.npz), each written atomically. Merged they are games.parquet (a row
group a block), games.npz and schemes.npz.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emalign_jax.experiments import columns
from emalign_jax.experiments.search.job import GAMES, SCHEMES, TABLE, Block, Cell
from emalign_jax.experiments.search.table import game_rows, json_entries
from emalign_jax.games.files import GAME_FIELDS, pad_agents
from emalign_jax.internal import parquet
from emalign_jax.internal.files import atomic

LIGHT = (  # columns that are read back for the printed table
    "family", "agents", "game", "start", "user_value", "normalised_value", "monopoly_value",
    "normalised_worst_equilibrium", "relative_gain", "result", "message", "ok", "certified", "fallback", "found_by",
    "seconds",
)  # fmt: skip


def write(directory: Path, number: int, cell: Cell) -> None:
    """The part of block `number`."""
    with atomic(_path(directory, number, "npz")) as temporary, open(temporary, "wb") as file:
        arrays = {name: np.asarray(getattr(cell.games, name)) for name in GAME_FIELDS}
        np.savez(file, allow_pickle=False, schemes=cell.solution.schemes, **arrays)
    with atomic(_path(directory, number, "parquet")) as temporary:
        parquet.write(temporary, columns.arrow(columns.SEARCH, game_rows(cell)))


def _path(directory: Path, number: int, kind: str) -> Path:
    return directory / f"part-{number:07d}.{kind}"


def merge(parts: Path, blocks: Sequence[Block], directory: Path) -> None:
    """games.parquet, games.npz and schemes.npz from the parts of all blocks.

    One cell size: `schemes` is [N, K, XB, M], or [S, N, K, XB, M] with several starts. Games of several
    numbers of agents: short ones padded with NaN along K, and `agents` says how many each row has.
    """
    _merge_rows(parts, len(blocks), directory / TABLE)
    most, games = max(block.agents for block in blocks), sum(block.count for block in blocks)
    several = len({block.agents for block in blocks}) > 1

    def pieces(name: str, axis: int | None, start: int | None = None) -> Iterator[np.ndarray]:
        for number in range(len(blocks)):
            with np.load(_path(parts, number, "npz")) as archive:
                array = archive[name] if start is None else archive[name][start]
            if axis is not None and several:
                array = pad_agents(array, most, axis)
            yield array

    def stored(name: str, axis: int | None = None) -> tuple:
        one = next(pieces(name, axis))
        return (games, *one.shape[1:]), one.dtype, pieces(name, axis)

    def counts() -> dict[str, tuple]:
        each = (np.full(block.count, block.agents) for block in blocks)
        return {"agents": ((games,), np.dtype(int), each)} if several else {}

    fields = {name: stored(name, 1 if name == "agent_utilities" else None) for name in GAME_FIELDS}
    _save(directory / GAMES, fields | counts())
    with np.load(_path(parts, 0, "npz")) as archive:
        starts = len(archive["schemes"])
    first = next(pieces("schemes", 1, 0))
    shape = (games, *first.shape[1:]) if starts == 1 else (starts, games, *first.shape[1:])
    schemes = (piece for start in range(starts) for piece in pieces("schemes", 1, start))
    _save(directory / SCHEMES, {"schemes": (shape, first.dtype, schemes)} | counts())


def _merge_rows(parts: Path, count: int, path: Path) -> None:
    with parquet.opened(_path(parts, 0, "parquet")) as first:
        schema = first.schema_arrow
    with open(path, "wb") as file, pq.ParquetWriter(file, schema, **parquet.WRITTEN) as writer:
        for number in range(count):
            with parquet.opened(_path(parts, number, "parquet")) as part:
                writer.write_table(part.read().cast(schema))


def _save(path: Path, arrays: dict[str, tuple]) -> None:
    """An .npz as `numpy.savez_compressed` writes it, from (shape, dtype, pieces along the first axis) an array."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, (shape, dtype, pieces) in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # without a date, so that the same run is the same file
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for piece in pieces:
                    file.write(np.ascontiguousarray(piece, dtype).tobytes())


def cells(directory: Path, blocks: Sequence[Block]) -> Iterator[pd.DataFrame]:
    """The rows of games.parquet, a family and number of agents at a time, without lists."""
    names = ["family", "result", "message", "found_by"]
    with parquet.opened(directory / TABLE, read_dictionary=names) as file:
        for number in sorted({block.cell for block in blocks}):
            groups = [n for n, block in enumerate(blocks) if block.cell == number]
            yield file.read_row_groups(groups, columns=list(LIGHT)).to_pandas(split_blocks=True)


def entries(directory: Path) -> Iterator[dict]:
    """The JSON entry of each row of games.parquet."""
    names = [column.name for column in columns.SEARCH if column.json]
    with parquet.opened(directory / TABLE) as file:
        for n in range(file.num_row_groups):
            rows: pa.Table = file.read_row_group(n, columns=names)
            yield from json_entries(columns.SEARCH, rows.to_pylist())
