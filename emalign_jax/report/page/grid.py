"""What `emalign search`, `sweep` and `study` leave, on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emalign_jax.experiments import manifests, plan
from emalign_jax.experiments.grid import study, threshold
from emalign_jax.experiments.grid import table as search_table
from emalign_jax.experiments.grid.merge import known_agents
from emalign_jax.experiments.grid.run import TABLE
from emalign_jax.experiments.manifests import MANIFEST
from emalign_jax.experiments.plan import Plan
from emalign_jax.report import study_table, sweep_table
from emalign_jax.report.page import details, reproduce
from emalign_jax.report.page.rows import Rows
from emalign_jax.report.page.tables import Table, read_parquet, table, unsolved, verdicts
from emalign_jax.result import columns
from emalign_jax.result.columns import Column

LISTED = ["family", "agents", "game", "start", "normalised_value", "normalised_worst_equilibrium",
          "normalised_average_monopolist", "normalised_guarantee", "relative_gain", "result"]  # fmt: skip
AXES = ("games.family", "games.agents")  # axes that the columns family and agents hold too


def search(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    grid, rows, axes = _read(directory, manifest, plan)
    lines = search_table.summary(rows)
    number = manifests.number(directory / MANIFEST, manifest["config"], "config.solver.tolerance", 1e-3)
    tolerance = "the tolerance" if number is None else f"{number:g}"
    heads = {
        "family": "family", "agents": "K", "games": "games", "q10": "10 %", "median": "median", "q90": "90 %",
        "mean": "mean", "mean_monopolist": "one agent alone", "within_tolerance": f"gain ≤ {tolerance}",
        "certified": "certified", "largest_gain": "largest gain", "seconds": "seconds",
    }  # fmt: skip
    return {
        "title": manifest.get("title") or "Search: user value",
        "facts": [("agents", ", ".join(names))] if (names := known_agents(directory)) else [],
        "tables": [
            table("User value (0 no information, 1 full information), by family and K", lines, heads),
            *unsolved(rows, tolerance),
        ],
        "rows": [_games(directory, manifest, grid, rows, axes, "agents", {"": grid})],
        "notes": verdicts(rows),
        "failed": int(np.sum(~rows["ok"].to_numpy(bool))),
    }


def sweep(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    grid, rows, axes = _read(directory, manifest, plan)
    lines = pd.DataFrame(sweep_table.summary(grid, rows))
    numbers = [name for name in grid.axes if lines[name].dtype.kind == "f"]
    lines[numbers] = lines[numbers].map("{:g}".format)
    stops = [[stop.family, str(stop.agents), threshold.words(grid, stop)] for stop in threshold.thresholds(grid, rows)]
    heads = {name: "K" if name == "games.agents" else name.split(".")[-1] for name in grid.axes}
    lined = heads | {
        "rows": "rows", "q10": "10 %", "median": "median", "q90": "90 %", "mean": "mean",
        **sweep_table.labels(),
        "ok": "within tolerance", "certified": "certified", "seconds": "seconds",
    }  # fmt: skip
    own = [name for name in axes if name not in AXES]
    return {
        "title": grid.title,
        "tables": [
            table("User value (0 no information, 1 full information), a line a cell", lines, lined),
            *([Table(threshold.explain(grid), ["family", "K", "beyond"], stops)] if stops else []),
            *unsolved(rows, sweep_table.tolerance(grid), heads),
        ],
        "rows": [_games(directory, manifest, grid, rows, axes, [*own, "agents"][0], {"": grid})],
        "notes": verdicts(rows),
        "failed": int(np.sum(~rows["ok"].to_numpy(bool))),
    }


def of_study(directory: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    made, rows, axes = _read(directory, manifest, study)
    games = study.by_game(made, rows)
    stops = [[study.name_of(stop), study.words(made, stop)] for stop in study.thresholds(made, games)]
    unproved = study.unproved(games)
    return {
        "title": made.title,
        "tables": [
            Table(study_table.NOTE, study_table.heads(made), study_table.cells(made, study.summary(made, games))),
            *([Table(study.EXPLANATION, ["users", "beyond"], stops)] if stops else []),
            *unsolved(rows, "the tolerance", {name: name for name in (study.USERS, study.STRENGTH)}),
        ],
        "rows": [_games(directory, manifest, made, rows, axes, study.USERS, made.kinds)],
        "notes": [f"In {unproved} of {len(games)} games not all values are certified; they are in the means."]
        * bool(unproved),
        "failed": int(np.sum(~rows["ok"].to_numpy(bool))),
    }


def _read(directory: Path, manifest: dict[str, Any], kind: Any) -> tuple[Any, pd.DataFrame, list[str]]:
    """The grid of a manifest, the table, and the names of its axes. kind: the module that makes the grid."""
    grid = kind.from_manifest(manifest["config"], str(directory / MANIFEST))
    known = columns.kinds((columns.CELL, *columns.GAMES)) | {name: grid.kind(name) for name in grid.axes}
    rows = read_parquet(directory / TABLE, known)
    if rows["cell"].isna().any():
        raise ValueError(f"{directory / TABLE}: cell: expected the key of a cell in every row")
    return grid, rows, list(grid.axes)


def _games(
    directory: Path, manifest: dict[str, Any], grid: Plan, rows: pd.DataFrame, axes: list[str], x: str,
    plans: dict[str, Plan],
) -> Rows:  # fmt: skip
    """The games, with what their details show. plans: the grid of each kind of user, "" if there are no kinds."""
    own = [name for name in axes if name not in AXES]
    known = [Column(name, grid.kind(name), "axis of the grid", label=name.split(".")[-1]) for name in own]
    shown = [column for column in columns.GAMES if column.name not in details.LISTS]
    listed = [name for name in (*own, *LISTED) if name in own or _varies(rows, name)]
    notes, more = details.of_games(directory, manifest, rows)
    return Rows(
        "Games", "game", rows, (*known, *shown), listed, ["family", "agents", *own, "result", "found_by"], x,
        "normalised_value", "family" if rows["family"].nunique() > 1 else "result", {}, notes,
        more | reproduce.lines(directory, manifest, rows, axes, plans, "schemes" in more),
    )  # fmt: skip


def _varies(rows: pd.DataFrame, name: str) -> bool:
    """Whether a column says something: starts only if there are several, numbers only if some are known."""
    return bool(rows[name].nunique() > 1) if name == "start" else bool(rows[name].notna().any())
