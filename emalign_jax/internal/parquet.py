"""Tables in parquet: checksums of pages are verified, and tables that would not fit into memory are refused.

Files are opened here, because pyarrow takes no names that are not UTF-8. `import emalign_jax` does not import this.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emalign_jax.internal import memory
from emalign_jax.internal.arguments import shortened
from emalign_jax.internal.files import MOST_COLUMNS, check_input

WRITTEN: dict[str, Any] = {"write_page_checksum": True}
WORDS = {"text": "text", "whole": "integers", "number": "numbers", "flag": "true or false", "any": "a value a row",
         "cell": "a number a row", "numbers": "a list of numbers a row"}  # fmt: skip
TYPES: dict[str, Callable[[pa.DataType], bool]] = {
    "text": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "whole": pa.types.is_integer,
    "number": lambda kind: pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind),
    "numbers": lambda kind: pa.types.is_list(kind) and pa.types.is_float64(kind.value_type),
    "flag": pa.types.is_boolean,
    "cell": lambda kind: not (pa.types.is_nested(kind) or _is_bytes(kind)),
    "any": lambda kind: not pa.types.is_nested(kind),
}
# Bytes that a value takes while it is read.
TEXT_BYTES, NUMBER_BYTES = 100, 60


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def packed(table: pa.Table) -> bytes:
    """The file of a table, for parts."""
    file = io.BytesIO()
    pq.write_table(table, file, **WRITTEN)
    return file.getvalue()


def write(path: Path, rows: pd.DataFrame | pa.Table) -> None:
    """Write a table, without the index of a frame."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
    with open(path, "wb") as file:
        pq.write_table(table, file, **WRITTEN)


def read(path: Path, columns: dict[str, str] | None = None) -> pd.DataFrame:
    """The table, or the given columns of it, {name: type} with types of TYPES.

    Raises `ValueError` that names the file, and the column, if it is damaged or too large.
    """
    with opened(path) as file:
        memory.require(_needed(path, file, columns), f"{path}: a table of {file.metadata.num_rows} rows")
        table = file.read(columns=None if columns is None else [*columns])
        table.validate(full=True)  # among others, that text is UTF-8
        return table.to_pandas(ignore_metadata=True)  # index columns of pandas become columns


def check(path: Path, file: pq.ParquetFile, columns: dict[str, str]) -> None:
    """Raise `ValueError` that names the file and a column if it is not there once, and of its type of TYPES."""
    _needed(path, file, columns)


@contextlib.contextmanager
def opened(path: Path, **options) -> Iterator[pq.ParquetFile]:
    """The file, to read piece by piece. Raises `ValueError` that names the file if it is damaged."""
    check_input(path, "a .parquet file")
    try:
        with open(path, "rb") as handle, pq.ParquetFile(handle, page_checksum_verification=True, **options) as file:
            yield file
    except (pa.ArrowException, OSError, ValueError) as error:
        if str(error).startswith(str(path)):
            raise
        why = shortened(error, 200)
        raise ValueError(f"{path}: cannot be read as parquet, the file is damaged or cut short ({why})") from None


def _needed(path: Path, file: pq.ParquetFile, columns: dict[str, str] | None) -> int:
    """Bytes that reading takes, by the metadata of the file.

    Only names and types of columns are read from it: if other metadata of columns is damaged, pyarrow ends the process.
    """
    facts, fields = file.metadata, list(file.schema_arrow)
    if facts.num_columns > MOST_COLUMNS:
        return 0
    wanted = [field for field in fields if columns is None or field.name in columns]
    found: dict[str, list[pa.DataType]] = {}
    for field in wanted:
        found.setdefault(field.name, []).append(field.type)
    for name, kind in (columns or {}).items():
        types = found.get(name, [])
        if len(types) != 1:
            raise ValueError(f"{path}: {shortened(name)}: expected one such column, got {len(types)}")
        if not TYPES[kind](types[0]):
            raise ValueError(f"{path}: {shortened(name)}: expected {WORDS[kind]}, got {shortened(types[0])}")
    fixed = [pa.types.is_primitive(field.type) for field in wanted]
    unpacked = 0 if all(fixed) else sum(facts.row_group(n).total_byte_size for n in range(facts.num_row_groups))
    return 2 * unpacked + facts.num_rows * sum(NUMBER_BYTES if plain else TEXT_BYTES for plain in fixed)
