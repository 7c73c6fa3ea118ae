"""Tables in parquet: pages carry checksums, which are verified, and what would not fit into memory is not read.

Files are opened here, for pyarrow takes no names that are not UTF-8. Not imported by the package.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emalign_jax.internal import memory
from emalign_jax.internal.files import MOST_COLUMNS, check_input

WRITTEN: dict[str, Any] = {"write_page_checksum": True}
TEXT, NUMBER = 100, 60  # bytes that a value takes while it is read


def write(path: Path, rows: pd.DataFrame | pa.Table) -> None:
    """Write a table, without the index of a frame."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
    with open(path, "wb") as file:
        pq.write_table(table, file, **WRITTEN)


def read(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """The table, or these columns of it. Raises `ValueError` that names the file where it is damaged or too large."""
    with opened(path) as file:
        memory.require(_needed(file.metadata, columns), f"{path}: a table of {file.metadata.num_rows} rows")
        return file.read(columns=columns).to_pandas(ignore_metadata=True)  # what pandas made an index, too


@contextlib.contextmanager
def opened(path: Path, **options) -> Iterator[pq.ParquetFile]:
    """The file, to read piece by piece; whatever is wrong with it is a `ValueError` that names it."""
    check_input(path, "a .parquet file")
    try:
        with open(path, "rb") as handle, pq.ParquetFile(handle, page_checksum_verification=True, **options) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError) as error:
        if str(error).startswith(str(path)):
            raise
        why = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as parquet, the file is damaged or cut short ({why})") from None


def _needed(facts: pq.FileMetaData, columns: list[str] | None) -> int:
    """Bytes that reading takes, by what the file itself says that it holds."""
    needed = 0
    for group in range(facts.num_row_groups if facts.num_columns <= MOST_COLUMNS else 0):
        held = facts.row_group(group)
        for number in range(held.num_columns):
            column = held.column(number)
            if columns is None or {column.path_in_schema, column.path_in_schema.split(".")[0]} & {*columns}:
                each = TEXT if column.physical_type == "BYTE_ARRAY" else NUMBER
                needed += 2 * column.total_uncompressed_size + each * column.num_values
    return needed
