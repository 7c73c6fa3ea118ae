"""The files of a run from its parts, one block in memory at a time."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emalign_jax.experiments.grid.run import GAMES, SCHEMES, TABLE, Block
from emalign_jax.experiments.plan import Plan
from emalign_jax.experiments.run_parts import Parts
from emalign_jax.games.files import GAME_FIELDS, LABEL_FIELDS, agent_names, pad_agents
from emalign_jax.internal import parquet
from emalign_jax.internal.files import atomic
from emalign_jax.internal.npz import unpacked
from emalign_jax.result import columns
from emalign_jax.result.columns import json_entries

LIGHT = (  # columns that are read back for the printed table
    "family", "agents", "game", "start", "user_value", "normalised_value", "normalised_average_monopolist",
    "normalised_worst_equilibrium", "normalised_best_equilibrium", "normalised_best_monopolist", "normalised_guarantee",
    "relative_gain", "result", "message", "ok", "certified", "fallback", "found_by",
    "seconds",
)  # fmt: skip


def merge_rows(plan: Plan, work: Sequence[Block], store: Parts, name: str = TABLE, suffix: str = ".parquet") -> None:
    """games.parquet, or another table `name` from parts of a suffix: a row group a block, with the key of the cell and
    the axes before the columns of the block."""
    with atomic(store.path / name) as temporary, open(temporary, "wb") as file:
        writer = None
        for block in work:
            part = pq.read_table(io.BytesIO(_part(store, block, suffix)))
            own = [("cell", block.cell.key, "text")]
            own += [(name, block.cell.values[name], plan.kind(name)) for name in plan.axes]
            for name, value, kind in reversed(own):
                part = part.add_column(0, name, pa.array([value] * len(part), columns.ARROW[kind]))
            if writer is None:
                writer = pq.ParquetWriter(file, part.schema, **parquet.WRITTEN)
            writer.write_table(part)
        assert writer is not None
        writer.close()


def merge_arrays(work: Sequence[Block], store: Parts) -> None:
    """games.npz and schemes.npz.

    One cell size: `schemes` is [N, K, XB, M], or [S, N, K, XB, M] with several starts. Games of several
    numbers of agents: short ones padded with NaN along K, and `agents` says how many each row has.
    """
    agents = [block.cell.specification.games.agents for block in work]
    most, games, several = max(agents), sum(block.count for block in work), len(set(agents)) > 1

    def pieces(name: str, axis: int | None, start: int | None = None) -> Iterator[np.ndarray]:
        for block in work:
            array = unpacked(_part(store, block, ".npz"), name)[name]
            array = array if start is None else array[start]
            yield pad_agents(array, most, axis) if axis is not None and several else array

    def stored(name: str, axis: int | None = None) -> tuple:
        one = next(pieces(name, axis))
        return (games, *one.shape[1:]), one.dtype, pieces(name, axis)

    def counts() -> dict[str, tuple]:
        each = (np.full(block.count, K) for block, K in zip(work, agents, strict=True))
        return {"agents": ((games,), np.dtype(int), each)} if several else {}

    fields = {name: stored(name, 1 if name == "agent_utilities" else None) for name in GAME_FIELDS}
    _save(store.path / GAMES, fields | counts() | _labels(work, store))
    starts = work[0].cell.specification.solver.starts
    first = next(pieces("schemes", 1, 0))
    shape = (games, *first.shape[1:]) if starts == 1 else (starts, games, *first.shape[1:])
    schemes = (piece for start in range(starts) for piece in pieces("schemes", 1, start))
    _save(store.path / SCHEMES, {"schemes": (shape, first.dtype, schemes)} | counts())


def _labels(work: Sequence[Block], store: Parts) -> dict[str, tuple]:
    """The arrays of the labels that all cells share, as `_save` takes them; cells of fewer agents share the first."""
    held = []
    for block in {block.number: block for block in reversed(work)}.values():
        with np.load(io.BytesIO(_part(store, block, ".npz"))) as archive:
            own = {name: archive[name].tolist() for name in LABEL_FIELDS if name in archive}
        held.append((block.cell.specification.games.agents, own))
    _, whole = max(held, key=lambda one: one[0])

    def shared(name: str) -> bool:
        return all(own.get(name) == whole[name][: K if name == "labels_agents" else None] for K, own in held)

    arrays = {name: np.array(whole[name]) for name in LABEL_FIELDS if name in whole and shared(name)}
    return {name: (array.shape, array.dtype, [array]) for name, array in arrays.items()}


def _part(store: Parts, block: Block, suffix: str) -> bytes:
    found = store.part(block.name, suffix)
    if found is None:
        raise OSError(f"{store.path}: the part {block.name}{suffix} was written but cannot be read back")
    return found


def _save(path: Path, arrays: dict[str, tuple]) -> None:
    """An .npz as `numpy.savez_compressed` writes it, from (shape, dtype, pieces along the first axis) an array."""
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, (shape, dtype, pieces) in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")  # without a date, so that the same run is the same file
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for piece in pieces:
                    file.write(np.ascontiguousarray(piece, dtype).tobytes())


def check_rows(plan: Plan, work: Sequence[Block], directory: Path) -> None:
    """Raise `ValueError` that names the file if games.parquet of a run that is done is not the table of these blocks,
    or damaged; `cells` and `entries` may then be read."""
    path = directory / TABLE
    kinds = columns.kinds((columns.CELL, *columns.GAMES)) | {name: plan.kind(name) for name in plan.axes}
    again = "; with --force the run starts anew"
    with parquet.opened(path) as file:
        parquet.check(path, file, kinds)
        rows = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        if rows != [block.rows for block in work]:
            raise ValueError(f"{path}: expected the rows of {len(work)} blocks, as they were written{again}")
        for n, block in enumerate(work):
            part: pa.Table = file.read_row_group(n, columns=[*kinds])
            part.validate(full=True)
            for name, kind in kinds.items():
                if kind not in ("number", "numbers") and part[name].null_count:
                    raise ValueError(f"{path}: {name}: expected a value in every row{again}")
            if set(part["cell"].to_pylist()) != {block.cell.key}:
                raise ValueError(f"{path}: cell: expected {block.cell.key} in the rows of block {n}{again}")


def cells(directory: Path, work: Sequence[Block]) -> Iterator[pd.DataFrame]:
    """The rows of games.parquet, a family and number of agents at a time, without lists."""
    names = ["family", "result", "message", "found_by"]
    with parquet.opened(directory / TABLE, read_dictionary=names) as file:
        for number in sorted({block.number for block in work}):
            groups = [n for n, block in enumerate(work) if block.number == number]
            yield file.read_row_groups(groups, columns=list(LIGHT)).to_pandas(split_blocks=True, ignore_metadata=True)


def known_agents(directory: Path) -> list[str]:
    """The labels of the agents in a search's games, [] if there are none or no such file."""
    return agent_names(directory / GAMES) if (directory / GAMES).exists() else []


def entries(directory: Path) -> Iterator[dict]:
    """The JSON entry of each row of games.parquet, with the labels of agents where there are some."""
    known = known_agents(directory)
    names = [column.name for column in columns.GAMES if column.json]
    with parquet.opened(directory / TABLE) as file:
        for n in range(file.num_row_groups):
            rows: pa.Table = file.read_row_group(n, columns=names)
            yield from json_entries(columns.GAMES, rows.to_pylist(), known)
