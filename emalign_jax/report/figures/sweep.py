"""The figures of a sweep that fit its axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from emalign_jax.experiments.grid.table import means
from emalign_jax.experiments.grid.threshold import thresholds
from emalign_jax.experiments.plan import Plan
from emalign_jax.report import style
from emalign_jax.report.figures import phase, values
from emalign_jax.report.figures.values import AGENTS, FAMILY, column
from emalign_jax.report.look import Look


@style.styled
def draw(plan: Plan, rows: pd.DataFrame, directory: Path, look: Look) -> list[str]:
    """Write the figures; returns their names. Axes of numbers make curves (without one, points over K), two of them a
    map too."""
    numeric = [name for name in plan.axes if name != "seed" and plan.kind(name) in ("whole", "number")]
    title, off = style.shown(plan.title), int(np.sum(~rows["ok"].to_numpy(bool)))
    if off:
        title += f"\n{off} of {len(rows)} profiles, in the means too, are no equilibria within the tolerance"
    x = AGENTS
    if not (AGENTS in plan.axes and set(plan.axes) <= {AGENTS, FAMILY}):
        x = min(numeric, key=lambda name: (name == AGENTS, not name.startswith("protocol.")), default=AGENTS)
    by = [axis for axis in plan.axes if axis not in (x, FAMILY)]
    lines = means(rows, list(dict.fromkeys(["family", *(column(rows, name) for name in (*by, x))])))
    figures = {"user_value": values.figure(lines, x, by, title, look)}
    if len(numeric) == 2 and set(plan.axes) <= {*numeric, FAMILY}:
        other = next(name for name in reversed(numeric) if name != x)
        stops = thresholds(plan, rows) if other == AGENTS else []
        figures["phase"] = phase.figure(rows, x, other, title, look, stops)
    return [written for name, made in figures.items() for written in style.save(made, *look.paths(directory, name))]


@style.styled
def draw_search(lines: pd.DataFrame, spread: pd.DataFrame, directory: Path, title: str, look: Look) -> list[str]:
    """Write the figure of a search: value against K, or with one K over games. lines, spread: of a `Tally`."""
    if lines["agents"].nunique() > 1:
        made = values.figure(lines, AGENTS, [], title, look)
    else:
        made = values.over_games(spread, f"{title}, K = {lines['agents'].iloc[0]}", look)
    return style.save(made, *look.paths(directory, "user_value"))
