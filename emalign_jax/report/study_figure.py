"""The figure of a study: what each kind of user gets from whom, against how far it departs from the textbook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emalign_jax.experiments.grid.run import KINDS
from emalign_jax.experiments.grid.study import STRENGTH, USERS, Study, Threshold, summary, thresholds
from emalign_jax.report.drawing import save, shown
from emalign_jax.report.search_figure import NAMES

WIDE, TALL, ACROSS = 2.33, 1.9, 3  # inches of a panel, and panels in a row: three are as wide as the text of a page
LINES: dict[str, dict[str, Any]] = {
    "aligned": {"label": "one aligned agent", "color": "#009E73", "marker": "s", "ms": 3, "lw": 1.2},
    "competition": {"label": "competition of K", "color": "#0072B2", "marker": "o", "ms": 4, "lw": 2},
    "best": {"label": "best single agent", "color": "#D55E00", "marker": "v", "ms": 3.5, "lw": 1.2, "ls": "--"},
    "average": {"label": "average single agent", "color": "0.5", "marker": ".", "ms": 4, "lw": 1, "ls": ":"},
}
DIFFERENCE = "competition less best single (95 %)"
LABELS = {
    "user.precision": "precision",
    "protocol.temperature": "temperature of the choice",
    "protocol.compare": "agents compared",
    "user.weight": "weight of messages",
    "user.neglect": "neglect of base rates",
}


def draw(study: Study, games: pd.DataFrame, directory: Path) -> list[str]:
    """Write the figure of the games of `study.by_game`; returns the names of the files."""
    return save(figure(study, games), [directory / f"study{kind}" for kind in KINDS])


def figure(study: Study, games: pd.DataFrame) -> Figure:
    """A panel a combination of games and kind of user; bars are intervals of competition less the best single agent."""
    lines, stops = pd.DataFrame(summary(study, games)), thresholds(study, games)
    shared = ["family", "K", *study.shared]
    panels = list(lines.groupby([*shared, USERS], sort=False))
    across = min(ACROSS, len(panels))
    down = -(-len(panels) // across)
    whole = Figure(figsize=(max(WIDE * across, 2 * WIDE), TALL * down + 1), layout="constrained")
    axes = whole.subplots(down, across, sharey=True, squeeze=False).ravel()
    several = len(lines.groupby(shared, sort=False)) > 1
    point: Any
    for axis, (point, part) in zip(axes, panels, strict=False):
        users = str(point[-1])
        stop = next((x for x in stops if x.users == users and tuple(x.point.values()) == tuple(point[:-1])), None)
        _panel(axis, study, users, part, stop)
        named = {name.split(".")[-1]: x for name, x in zip(shared, point, strict=False)}
        games_of = ", ".join(f"{name} = {x}" for name, x in named.items() if name not in ("family", "agents"))
        axis.set_title(f"{users}\n{str(point[0]).replace('_', ' ')}, {games_of}" if several else users, fontsize=8.5)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for row in range(down):
        axes[row * across].set_ylabel("user value, mean", fontsize=8)
    handles = {}  # the first of each label
    for axis in axes[len(panels) - 1 :: -1]:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    look: dict[str, Any] = {"ncols": across if across > 1 else 2, "frameon": False, "fontsize": 7.5}
    whole.legend([*handles.values()], [*handles], loc="outside lower center", **look)
    title, first = shown(study.title), lines.iloc[0]
    if not several:
        title += f"\n{NAMES.get(first['family'], first['family'])}; K = {first['K']}, {first['games']} games"
    whole.suptitle(title, fontsize=9.5)
    return whole


def _panel(axis: Axes, study: Study, users: str, part: pd.DataFrame, stop: Threshold | None) -> None:
    at = np.arange(len(part))
    for arm, look in LINES.items():
        axis.plot(at, part[arm], zorder=4 if arm == "competition" else 3, clip_on=False, **look)
    best = part["best"].to_numpy(float)
    low, high = (best + part[f"over_best_{end}"].to_numpy(float) for end in ("low", "high"))
    axis.vlines(at, low, high, color=LINES["competition"]["color"], lw=1, alpha=0.6, label=DIFFERENCE)
    if stop is not None and np.isfinite(stop.place):
        axis.axvline(stop.place, color="0.25", lw=0.9, label="competition stops helping (95 %)")
        axis.axvspan(*np.clip([stop.low, stop.high], 0, len(at) - 1), color="0.9", lw=0, zorder=0)
    for level in (0, 1):
        axis.axhline(level, color="0.8", lw=0.7, zorder=0)
    key = study.departure(users)
    axis.set_xticks(at, ["rational" if key == "user.precision" and np.isinf(x) else f"{x:g}" for x in part[STRENGTH]]
                    if key else [users])  # fmt: skip
    axis.set_xlabel("" if key is None else LABELS.get(key, key.split(".")[-1].replace("_", " ")), fontsize=8)
    axis.tick_params(labelsize=7.5)
    axis.spines[["top", "right"]].set_visible(False)
