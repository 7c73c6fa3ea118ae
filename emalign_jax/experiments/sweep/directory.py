"""A sweep on disk: parts/ (a file a block of games), games.parquet and figures, in a directory of a run.

A part is written atomically and never changed, so whatever is there when a process dies is whole.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from emalign_jax.experiments import columns
from emalign_jax.experiments.run_directory import PART, PARTS, Kind
from emalign_jax.internal import parquet
from emalign_jax.internal.files import atomic, is_regular

TABLE = "games.parquet"
FIGURES, KINDS = ("user_value", "phase"), (".png", ".pdf")
SWEEP = Kind("sweep", (TABLE, *(name + kind for name in FIGURES for kind in KINDS)), parts=True, resumed=True)


def write_part(path: Path, key: str, first: int, rows: pd.DataFrame) -> None:
    """The rows of a block, in a file whose name ends in a digest of what it holds and of whose it is."""
    data = io.BytesIO()
    pq.write_table(columns.arrow(columns.SWEEP, rows), data, **parquet.WRITTEN)
    (path / PARTS).mkdir(exist_ok=True)
    with atomic(path / PARTS / f"{key}-{first:06d}-{_digest(key, first, data)}.parquet") as temporary:
        temporary.write_bytes(data.getbuffer())


def read_part(path: Path, key: str, first: int) -> tuple[pd.DataFrame | None, list[Path]]:
    """The rows of a block, None if they are not there, and the files that should hold them but are damaged."""
    damaged = []
    for part in sorted((path / PARTS).glob(f"{key}-{first:06d}-*.parquet")):
        if not (PART.fullmatch(part.name) and is_regular(part)):
            continue
        with open(part, "rb") as file:
            whole = part.stem.endswith("-" + _digest(key, first, file))
        if whole:
            return parquet.read(part), damaged
        damaged.append(part)
    return None, damaged


def _digest(key: str, first: int, file: io.BufferedIOBase) -> str:
    return hashlib.file_digest(file, lambda: hashlib.sha256(f"{key}-{first}-".encode())).hexdigest()[:16]


def write_table(path: Path, parts: list[pd.DataFrame]) -> pd.DataFrame:
    """games.parquet: the parts one after the other."""
    rows = pd.concat(parts, ignore_index=True)
    with atomic(path / TABLE) as temporary:
        parquet.write(temporary, columns.arrow(columns.SWEEP, rows))
    return rows
