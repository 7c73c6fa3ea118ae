"""The printed table of a sweep: one line a cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from emalign_jax.experiments.grid.table import number, ruled
from emalign_jax.experiments.plan import Plan
from emalign_jax.result import columns

MEANS = {
    "best_monopolist": "normalised_best_monopolist",
    "worst": "normalised_worst_equilibrium",
    "best": "normalised_best_equilibrium",
    "guarantee": "normalised_guarantee",
    "theorem": "normalised_theorem",
    "eps": "normalised_eps",
    "slack": "normalised_coverage_slack",
}


def labels() -> dict[str, str]:
    """The heads of MEANS."""
    known = {column.name: column.label for column in columns.GAMES}
    return {name: known[column] for name, column in MEANS.items()}


@np.errstate(all="ignore")  # infinite or huge numbers of a file are shown as they are
def summary(plan: Plan, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """One entry a cell, in the order of the grid; the columns of MEANS are means of normalised values."""
    lines = []
    for key, group in rows.groupby("cell", sort=False):
        value = group["normalised_value"]
        lines.append(
            {"cell": key}
            | {name: group[name].iloc[0] for name in plan.axes}
            | {
                "rows": len(group),
                "q10": value.quantile(0.1),
                "median": value.median(),
                "q90": value.quantile(0.9),
                "mean": value.mean(),
            }
            | {name: group[column].mean() for name, column in MEANS.items()}
            | {"ok": group["ok"].mean(), "certified": group["certified"].mean(), "seconds": group["seconds"].sum()}
        )
    return lines


def render(plan: Plan, lines: list[dict[str, Any]]) -> str:
    """The lines as text that lines up."""
    names = [name.split(".")[-1] for name in plan.axes]
    heads = [*names, "rows", "10 %", "median", "90 %", "mean", *("best monopolist", *list(MEANS)[1:]), "ok", "s"]
    shown = ["q10", "median", "q90", "mean", *MEANS]
    table = [heads]
    for line in lines:
        table.append(
            [_axis(line[name]) for name in plan.axes]
            + [str(line["rows"])]
            + [number(line[name]) for name in shown]
            + [f"{line['ok']:.1%}", f"{line['seconds']:.1f}"]
        )
    return ruled(table)


def tolerance(plan: Plan) -> str:
    """In words: one number, or those of which each cell has one."""
    shown = " or ".join(f"{number:g}" for number in plan.tolerances)
    if len(plan.tolerances) == 1:
        return shown
    return f"the tolerance of its cell ({shown})" if shown else "the tolerance of its cell"


def _axis(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
