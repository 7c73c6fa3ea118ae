"""Rows that a reader of the page sorts, filters and plots, and how they travel: columns of numbers, compressed.

An array is kept in planes, all first bytes before all second ones, because bytes of one kind compress well.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emalign_jax.result.columns import Column

MOST_ROWS = 20_000  # of one table on a page
FILTER = 60  # values that a filter may offer
KINDS = {"number": "<f4", "whole": "<f8", "flag": "<f8", "text": "<u4"}
# Bits of a float32 that detail is kept with: half a unit in the fourth digit or better.
KEPT = np.uint32(0xFFFFFF00)


class Rows(NamedTuple):
    """A table to explore.

    title, what:   its heading, and what one row is called
    frame:         the rows
    columns:       those that the page knows, with their labels and units
    listed:        names of those in the table; the others are in the detail of a row
    filters:       names of those that rows can be chosen by
    x, y, colour:  what the chart begins with; colour "" is one colour
    chosen:        {name of a filter: value} that rows are chosen by at first
    notes:         what is left out, and why
    details:       further entries for the script, such as the arrays of `details.of_games`
    """

    title: str
    what: str
    frame: pd.DataFrame
    columns: Sequence[Column]
    listed: list[str]
    filters: list[str]
    x: str
    y: str
    colour: str
    chosen: dict[str, float] = {}  # noqa: RUF012
    notes: Sequence[str] = ()
    details: dict[str, Any] = {}  # noqa: RUF012


def document(rows: Rows) -> dict[str, Any]:
    """What the page's script reads of a table, for JSON."""
    frame, notes = rows.frame.head(MOST_ROWS), list(rows.notes)
    if len(rows.frame) > MOST_ROWS:
        notes.append(f"These are the first {MOST_ROWS:,} of {len(rows.frame):,} rows; the files hold all.")
    columns = [_column(column, frame[column.name]) for column in rows.columns if column.name in frame]
    known = {column["name"] for column in columns}
    listed = [name for name in rows.listed if name in known and not (frame[name].astype(str) == "").all()]
    filters = [name for name in rows.filters if name in known and 1 < frame[name].nunique(dropna=False) <= FILTER]
    chosen = {name: value for name, value in rows.chosen.items() if name in filters}
    own = {"columns": columns, "listed": listed, "filters": filters, "chosen": chosen, "notes": notes}
    names = ("title", "what", "x", "y", "colour", "details")
    return own | {"count": len(frame)} | {name: getattr(rows, name) for name in names}


def _column(column: Column, values: Any) -> dict[str, Any]:
    """A column with its data; text is numbers that point into a list of the different words."""
    found = {"name": column.name, "kind": column.kind, "label": column.label or column.name.replace("_", " "),
             "unit": column.unit, "description": column.description}  # fmt: skip
    if column.kind == "text":
        codes, words = pd.factorize(values.astype(object).where(values.notna(), "-").astype(str))
        return found | {"words": words.tolist(), "data": packed(codes, KINDS["text"])}
    return found | {"data": packed(np.asarray(values, float), KINDS[column.kind])}


def packed(array: Any, kind: str = "<f4") -> dict[str, Any]:
    """An array for the script. kind: the type that it travels in."""
    with np.errstate(all="ignore"):  # what is too large for float32 becomes infinite
        data = np.ascontiguousarray(array, kind)
    planes = data.reshape(-1).view(np.uint8).reshape(data.size, data.itemsize).T
    compressed = gzip.compress(planes.tobytes(), 6, mtime=0)
    return {"shape": list(data.shape), "kind": kind[1:], "data": base64.b64encode(compressed).decode("ascii")}


def rounded(array: Any) -> dict[str, Any]:
    """As `packed`, of numbers of which four digits are shown."""
    with np.errstate(all="ignore"):
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    bits = np.where(bits & np.uint32(0x7F800000) == np.uint32(0x7F800000), bits, bits + np.uint32(0x80))
    return packed((bits & KEPT).view(np.float32))
