"""Columns of .csv, .tsv, .data and .parquet files; every fault is one line with the file, the row and what is wanted.

Rows are counted as an editor does: the header is row 1. In parquet files the first record is row 1.
"""

from __future__ import annotations

import codecs
import csv
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emalign_jax.games.game import LARGEST_UTILITY
from emalign_jax.internal import parquet
from emalign_jax.internal.arguments import shortened, shown
from emalign_jax.internal.files import MOST_COLUMNS, check_input, check_text

SEPARATORS = {".csv": ",", ".tsv": "\t", ".data": "\t"}
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # apostrophes before count, so that `plain` is exact
BLANK = [
    "",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaN",
    "nan",
    "NULL",
    "null",
    "None",
]  # missing, where a number belongs


class Source(NamedTuple):
    """A file whose columns are known. columns: None where it has no header (MovieLens' u.data)."""

    path: Path
    columns: list[str]
    header: bool
    encoding: str

    @property
    def parquet(self) -> bool:
        return self.path.suffix == ".parquet"

    def row(self, index) -> int:
        return int(index) + (2 if self.header and not self.parquet else 1)


def source(path: Path, encoding: str) -> Source:
    """Look at the columns of a file, not at its contents."""
    check_input(path, "a table")
    if path.suffix == ".parquet":
        with parquet.opened(path) as file:
            return Source(path, _columns(path, list(file.schema_arrow.names)), True, encoding)
    if path.suffix not in SEPARATORS:
        raise ValueError(f"{path}: expected a name that ends in .csv, .tsv, .parquet or .npz, or MovieLens' u.data")
    check_text(path)
    try:
        codecs.lookup(encoding)
        with open(path, encoding=_signed(encoding), newline="") as file:
            first = next(csv.reader(file, delimiter=SEPARATORS[path.suffix]), None)
    except LookupError:
        raise ValueError(f"--encoding: expected a name such as utf-8 or latin-1, got {shown(encoding)}") from None
    except UnicodeError:
        raise _undecodable(path, encoding) from None
    except csv.Error as error:
        raise ValueError(f"{path}: row 1: {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    if not first:
        raise ValueError(f"{path}: is empty, or its first row is; expected a table with the names of its columns")
    if any("\0" in field for field in first):
        raise ValueError(f"{path}: row 1: holds NUL bytes, expected text in {encoding} (perhaps --encoding utf-16)")
    if path.suffix != ".csv" and len(first) == 4 and all(_number(field) for field in first):
        return Source(path, ["user", "item", "rating", "timestamp"], False, encoding)
    if path.suffix == ".data":
        raise ValueError(
            f"{path}: row 1: expected four numbers between tabs as in MovieLens' u.data (user, item, rating, timestamp)"
        )
    if len(first) == 1:
        for separator, name in ((";", "semicolons"), ("\t", "tabs"), (",", "commas"), ("|", "bars")):
            if separator in first[0]:
                wanted = "tabs" if path.suffix == ".tsv" else "commas (or tabs in a file named .tsv)"
                raise ValueError(f"{path}: row 1: the columns are separated by {name}; expected {wanted}")
    return Source(path, _columns(path, first), True, encoding)


def need(source: Source, named: dict[str, str]) -> None:
    """Refuse if a column of {option: column} is not there."""
    for option, column in named.items():
        if column not in source.columns:
            raise ValueError(
                f"{source.path}: {option}: there is no column {shown(column)}; the columns are {listed(source.columns)}"
            )


def read(source: Source, names: list[str], numbers: list[str], hint: str = "") -> pd.DataFrame:
    """Columns `names` as text ("" where missing) and `numbers` as floats (NaN where missing), blank rows left out.

    The index counts rows of the file. hint: added where text stands in place of a number."""
    if source.parquet:
        frame = parquet.read(source.path, dict.fromkeys(names, "any") | dict.fromkeys(numbers, "cell")).reset_index(
            drop=True
        )
    else:
        frame = _csv(source, names, numbers)
    for name in names:
        column = frame[name]
        try:
            frame[name] = column.astype(str).where(column.notna(), "")
        except UnicodeError:
            raise ValueError(f"{source.path}: {shortened(name)}: expected text, got bytes that are not utf-8") from None
    frame = pd.DataFrame({name: frame[name] for name in names} | _numbers(source, frame, numbers, hint), frame.index)
    blank = frame[numbers].isna().to_numpy(bool).all(1)
    for name in names:
        blank &= (frame[name] == "").to_numpy(bool)
    if blank.all():
        found = (
            f"all {len(frame)} rows are empty"
            if len(frame) > 1
            else "its one row is empty"
            if len(frame)
            else "has no rows"
        )
        raise ValueError(f"{source.path}: {found}; expected a table with at least one row of data")
    return frame.loc[~blank]


def _csv(source: Source, names: list[str], numbers: list[str]) -> pd.DataFrame:
    path = source.path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                path,
                sep=SEPARATORS[path.suffix],
                header=0 if source.header else None,
                names=source.columns,
                index_col=False,
                dtype=dict.fromkeys(names, str),  # pyright: ignore[reportArgumentType]
                keep_default_na=False,
                na_values=dict.fromkeys(numbers, BLANK),
                skip_blank_lines=False,
                low_memory=False,
                encoding=_signed(source.encoding),
            )
    except UnicodeError:
        raise _undecodable(path, source.encoding) from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        message = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        if unclosed := re.fullmatch(r"EOF inside string starting at row (\d+)", message):  # counted from 0
            raise ValueError(
                f"{path}: row {int(unclosed[1]) + 1}: a quotation mark is opened and never closed"
            ) from None
        if isinstance(error, pd.errors.ParserWarning):
            message = f"rows have more fields than the {len(source.columns)} columns of the header"
        raise ValueError(f"{path}: {message}; expected {len(source.columns)} fields in every row") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    return frame.loc[:, names + numbers]


def _numbers(source: Source, frame: pd.DataFrame, names: list[str], hint: str) -> dict[str, Any]:
    """Columns of floats: those that are numbers already together, for there may be thousands."""
    kinds = frame.dtypes.to_dict()
    plain = [name for name in names if isinstance(kinds[name], np.dtype) and kinds[name].kind in "iuf"]
    values = frame[plain].to_numpy(float)
    good = np.all(np.isnan(values) | (abs(values) < LARGEST_UTILITY), axis=0)
    ready = {plain[k]: values[:, k] for k in np.flatnonzero(good)}
    return {name: ready[name] if name in ready else _floats(source, frame.loc[:, name], hint) for name in names}


def _floats(source: Source, column: pd.Series, hint: str) -> pd.Series:
    kinds = pd.api.types
    if not (kinds.is_numeric_dtype(column) or kinds.is_object_dtype(column) or kinds.is_string_dtype(column)):
        raise ValueError(f"{source.path}: {shortened(column.name)}: expected numbers, got {shortened(column.dtype)}")
    values = pd.Series(pd.to_numeric(column, errors="coerce"), column.index, float)
    text = values.isna() & column.notna()
    if not kinds.is_numeric_dtype(column):
        text &= ~column.astype(str).str.strip().isin(BLANK)
    for bad, what in (
        (text, "a number"),
        (values.abs() == np.inf, "a finite number"),
        (values.abs() >= LARGEST_UTILITY, f"a number below {LARGEST_UTILITY:g}"),
    ):
        if bad.any():
            at = bad.idxmax()
            count = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
            found = column[at]
            found = shown(found) if isinstance(found, str) else shortened(found)
            raise ValueError(
                f"{source.path}: {shortened(column.name)}: row {source.row(at)}: expected {what}, "
                f"got {found}{count}{hint}"
            )
    return values


def write(path: Path, rows: pd.DataFrame) -> None:
    """A .csv whose texts no spreadsheet takes for formulas: an apostrophe stands before those that it would."""
    words = rows.select_dtypes(exclude="number").columns
    safe = {name: rows[name].map(lambda x: f"'{x}" if FORMULA.match(str(x)) else x) for name in words}
    rows.assign(**safe).to_csv(path, index=False)


def plain(word: str) -> str:
    """What `write` was given."""
    return word[1:] if word.startswith("'") and FORMULA.match(word) else word


def listed(names: list[str], most: int = 12) -> str:
    some = ", ".join(shortened(name, 40) for name in names[:most])
    return some + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _columns(path: Path, names: list[str]) -> list[str]:
    if len(names) > MOST_COLUMNS:
        raise ValueError(
            f"{path}: row 1: expected at most {MOST_COLUMNS} columns, got {len(names)}; write a row for each "
            "(user, item, rating)"
        )
    name, count = Counter(names).most_common(1)[0] if names else ("", 1)
    if count > 1:
        raise ValueError(f"{path}: row 1: the column {shown(name)} is there {count} times; expected distinct")
    return names


def _signed(encoding: str) -> str:
    """utf-8 may begin with the mark that Excel writes."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _undecodable(path: Path, encoding: str) -> ValueError:
    """Which byte in which row is not of the encoding."""
    start = b""
    with open(path, "rb") as file:
        for row, line in enumerate(file, 1):
            start = start or line[:2]
            try:
                line.decode(encoding)
            except UnicodeError as error:
                at = getattr(error, "start", 0)
                hint = "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin-1 or cp1252"
                return ValueError(
                    f"{path}: row {row}: byte {at + 1} (0x{line[at]:02x}) is not {encoding}; save the table as UTF-8, "
                    f"or say what it is: --encoding {hint}"
                )
    return ValueError(f"{path}: is not {encoding}; save it as UTF-8 or name its --encoding")
