"""Rows and tables of a search: one row a game and start, one line a family and number of agents."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd

from emalign_jax.result import FoundBy, Result
from emalign_jax.tuning.objectives import confidence

JSON_SCHEMA = 1
VALUE_ROUNDING = 1e-6  # of V_full - V_none: by so much the values of two methods may differ
# What is drawn of a table of games; all are normalised.
MEASURES = {
    "found": "normalised_value", "best": "normalised_best_equilibrium", "worst": "normalised_worst_equilibrium",
    "guarantee": "normalised_guarantee", "alone": "normalised_best_monopolist",
}  # fmt: skip
LISTED = 20  # games that failed are printed one by one up to this many


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a family and number of agents."""
    rows = rows.assign(
        unchecked=rows["result"] == Result.UNCHECKED.name,
        by_start=rows["found_by"] == FoundBy.START.name,
        by_play=rows["found_by"] == FoundBy.PLAY.name,
    )
    groups = rows.groupby(["family", "agents"], sort=False, observed=True)
    value = groups["normalised_value"]
    found = {"games": groups.size(), "q10": value.quantile(0.1), "median": value.median(), "q90": value.quantile(0.9)}
    found |= {
        "mean": value.mean(),
        "mean_monopolist": groups["normalised_average_monopolist"].mean(),
        "within_tolerance": groups["ok"].mean(),
    }
    found |= {name: groups[name].mean() for name in ("certified", "unchecked", "by_start", "by_play")}
    found |= {"largest_gain": groups["relative_gain"].max(), "seconds": groups["seconds"].sum()}
    return pd.DataFrame(found).reset_index().astype({"family": str})


def means(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """A line a value of the columns `by`: the number of `games`, the mean of each of MEASURES that the table has, and
    the ends "low" and "high" of the 95 % interval of the mean of what was found, over games (of which starts are
    averaged)."""
    there = {name: column for name, column in MEASURES.items() if column in rows}
    if {"game", "start"} <= set(rows):
        keys = list(dict.fromkeys([*by, *({"family", "agents"} & set(rows)), "game"]))
        averages: Any = rows.groupby(keys, sort=False, observed=True)[[*there.values()]].mean()
        rows = averages.reset_index()
    lines: list[dict[str, Any]] = []
    key: Any
    for key, group in rows.groupby(by, sort=False, observed=True):
        found = group[MEASURES["found"]].to_numpy(float)
        line: dict[str, Any] = dict(zip(by, key, strict=True)) | {"games": int(np.isfinite(found).sum())}
        line |= {name: group[column].mean() for name, column in there.items()}
        lines.append(line | dict(zip(("low", "high"), confidence(found)[1:], strict=True)))
    return pd.DataFrame(lines)


def below_worst(rows: pd.DataFrame) -> np.ndarray:
    """By how much, as a share of V_full - V_none, each certified profile is worth less to the user than the worst exact
    equilibrium of its game; 0 where it is not, or nothing is known of that."""
    short = rows["normalised_worst_equilibrium"].to_numpy(float) - rows["normalised_value"].to_numpy(float)
    return np.where(rows["certified"].to_numpy(bool) & (short > VALUE_ROUNDING), short, 0.0)


def below_worst_words(count: int, most: float) -> str:
    """The sentence on `count` such profiles; `most`: the largest number of `below_worst`."""
    profiles = "1 certified profile is" if count == 1 else f"{count} certified profiles are"
    return (
        f"{profiles} worth less to the user than the game's worst exact equilibrium (by at most {most:.2g} of V_full - "
        "V_none): epsilon-equilibria with a value that no exact equilibrium has."
    )


def render(lines: pd.DataFrame, tolerance: float) -> str:
    """The summary as text that lines up."""
    heads = ["family", "K", "games", "user value: 10 %", "median", "90 %", "mean", "monopolist"]
    table, previous = [[*heads, f"gain <= {tolerance:g}", "largest", "seconds"]], None
    for line in lines.to_dict("records"):
        sizes = ["" if line["family"] == previous else line["family"], str(line["agents"]), str(line["games"])]
        values = [number(line[name]) for name in ("q10", "median", "q90", "mean", "mean_monopolist")]
        gains = [f"{line['within_tolerance']:.1%}", f"{line['largest_gain']:.1e}"]
        checked = line["unchecked"] < 1
        table.append([*sizes, *values, *(gains if checked else ["not checked", ""]), f"{line['seconds']:.1f}"])
        previous = line["family"]
    return ruled(table, left=1)


def lined_up(table: list[list[str]], left: int = 0) -> list[str]:
    """Lines of cells as text, in columns; left: so many columns begin, the others end at the same place."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    cells = ([f"{cell:{'<' if n < left else '>'}{widths[n]}}" for n, cell in enumerate(line)] for line in table)
    return ["  ".join(line) for line in cells]


def ruled(table: list[list[str]], left: int = 0) -> str:
    """`lined_up`, with a rule below the heads."""
    head, *lines = lined_up(table, left)
    return "\n".join([head, "-" * len(head), *lines])


def number(value: float) -> str:
    """Three decimals; "-" for what is not finite."""
    return f"{value:.3f}" if math.isfinite(value) else "-"


def failures(rows: pd.DataFrame, axes: tuple[str, ...] = (), count: int | None = None) -> str:
    """The games that failed or did not certify, with the sentence that says why; "" if there are none.

    axes: further columns that tell rows apart; count: how many there are, where `rows` has only the first of them."""
    bad = rows.query("not ok")
    text = [
        f"  {row['family']} K={row['agents']} "
        + "".join(f"{name.split('.')[-1]}={row[name]} " for name in axes)
        + f"game {row['game']} start {row['start']}: {row['message']}"
        + (f" (largest gain {row['relative_gain']:.2e} of the range)" if math.isfinite(row["relative_gain"]) else "")
        for row in bad.head(LISTED).to_dict(orient="records")
    ]
    count = len(bad) if count is None else count
    if count > LISTED:
        text.append(f"  ... and {count - LISTED} more")
    return "\n".join(text)


def document(**parts: Any) -> str:
    """The one JSON document; numbers that are not finite become null."""
    return json.dumps(plain({"schema": JSON_SCHEMA} | parts), allow_nan=False)


def plain(value) -> Any:
    """`value` as JSON takes it; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
