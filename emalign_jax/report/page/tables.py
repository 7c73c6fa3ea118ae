"""Tables of text, as the page prints them, and the tables of a run as they are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emalign_jax.experiments.grid import table as search_table
from emalign_jax.experiments.hull import text as texts
from emalign_jax.internal import parquet
from emalign_jax.internal.arguments import MOST

MOST_ROWS = 200


class Table(NamedTuple):
    """cells are text, numbers right-aligned; note: what is left out."""

    caption: str
    heads: list[str]
    rows: list[list[str]]
    note: str = ""


def table(caption: str, frame: pd.DataFrame, heads: dict[str, str]) -> Table:
    """The columns of a frame that it has, under their heads."""
    heads = {name: head for name, head in heads.items() if name in frame}
    shares = {"within_tolerance", "certified", "ok"}
    rows = [
        [share(value) if name in shares else text(value) for name, value in line.items()]
        for line in frame.loc[:, list(heads)].head(MOST_ROWS).to_dict("records")
    ]
    note = f"... and {len(frame) - MOST_ROWS} more" if len(frame) > MOST_ROWS else ""
    return Table(caption, list(heads.values()), rows, note)


def text(value: Any) -> str:
    """Three decimals, or as many digits as say something; "-" for what is not there."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool | int | str) or not isinstance(value, float):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3f}"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def unsolved(rows: pd.DataFrame, tolerance: str, axes: dict[str, str] | None = None) -> list[Table]:
    """tolerance: of the payoff range, in words; axes: further columns that tell rows apart."""
    bad = rows.loc[~rows["ok"].to_numpy(bool)]
    if not len(bad):
        return []
    own = {name: head for name, head in (axes or {}).items() if name not in ("games.family", "games.agents")}
    heads = {"family": "family", "agents": "K"} | own | {"game": "game", "start": "start"}
    heads |= {"relative_gain": "largest gain", "message": "why"}
    return [table(f"Not within {tolerance} of the payoff range", bad, heads)]


def verdicts(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of the certificates before the numbers are quoted."""
    ok = rows.loc[rows["ok"].to_numpy(bool)]
    proved = int(np.sum(ok["certified"].to_numpy(bool))) if "certified" in ok else 0
    notes = [
        f"{len(rows)} profiles, {len(ok)} of them equilibria within the tolerance; in {proved} of those a larger gain "
        "is excluded by proof."
    ]
    if proved < len(ok):
        notes.append(f"In {len(ok) - proved} no larger gain was found, but none is excluded either.")
    if {"certified", "normalised_worst_equilibrium"} <= set(rows):
        short = search_table.below_worst(rows)
        if short.any():
            notes.append(search_table.below_worst_words(int(np.sum(short > 0)), float(short.max())))
    return notes


def read_parquet(path: Path, kinds: dict[str, str]) -> pd.DataFrame:
    """Columns of a table. Raises `ValueError` that names the file if it is damaged or has no rows."""
    rows = parquet.read(path, kinds)
    if not len(rows):
        raise ValueError(f"{path}: has no rows")
    return rows


def read_csv(path: Path, words: list[str], numbers: list[str], whole: list[str]) -> pd.DataFrame:
    """Columns of a table in text: of words, of numbers and of integers. Raises `ValueError` that names the file."""
    source = texts.source(path, "utf-8")
    texts.need(source, {name: name for name in (*words, *numbers, *whole)})
    rows = texts.read(source, words, numbers + whole)
    for name in whole:
        values = rows[name].to_numpy(float)
        if not ((values == np.floor(values)) & (abs(values) < MOST)).all():
            raise ValueError(f"{path}: {name}: expected integers in every row")
        rows[name] = values.astype(int)
    return rows
