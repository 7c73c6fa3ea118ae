"""The figure of a search: the user's value against the number of agents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from emalign_jax.report.drawing import save

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, safe for colour blindness
NAMES = {
    "hull": "hull: user utility is a mean of theirs",
    "noise": "noise: independent errors",
    "shared_bias": "shared bias: all err alike",
    "goal": "goal: profit on own products",
    "opposed": "opposed: biases in pairs",
    "file": "games of the file",
}


def draw(rows: pd.DataFrame, lines: pd.DataFrame, directory: Path, title: str) -> list[str]:
    """The figure that fits, value against K or with one K the spread over games, as PNG and PDF; their names."""
    several = lines["agents"].nunique() > 1
    figure = value_against_agents(lines, title) if several else value_over_games(rows, title)
    return save(figure, [directory / f"user_value{kind}" for kind in (".png", ".pdf")])


def value_over_games(rows: pd.DataFrame, title: str) -> Figure:
    """Share of games in which the user gets at most so much, in competition and with one agent alone."""
    families = list(dict.fromkeys(rows["family"]))
    figure = Figure(figsize=(5.4, 3.9), layout="constrained")
    axis = figure.subplots()
    for family, colour in zip(families, COLOURS * len(families), strict=False):
        part = rows.query("family == @family")
        for column, style, what in (
            ("normalised_value", "-", "competition"),
            ("monopoly_value", "--", "one agent alone"),
        ):
            values = part[column].to_numpy(float)
            values = values[np.isfinite(values)]
            if len(values):
                axis.ecdf(values, color=colour, ls=style, lw=1.8, label=f"{NAMES.get(family, family)}, {what}")
    axis.set_xlabel("user value (0 no information, 1 full information)")
    axis.set_ylabel("share of games at or below")
    axis.spines[["top", "right"]].set_visible(False)
    if axis.lines:
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    else:
        axis.text(0.5, 0.5, "information is worth nothing in these games", ha="center", transform=axis.transAxes)
    figure.suptitle(f"{title}, K = {', '.join(map(str, rows['agents'].unique()))}", fontsize=10.5)
    return figure


def value_against_agents(lines: pd.DataFrame, title: str) -> Figure:
    """One panel a family: median with the band of 10 to 90 %, mean, and the mean under monopoly."""
    families = list(dict.fromkeys(lines["family"]))
    figure = Figure(figsize=(3.4 * len(families) + 0.6, 3.9), layout="constrained")
    axes = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    for axis, family, colour in zip(axes, families, COLOURS * len(families), strict=False):
        part = lines.query("family == @family").sort_values(by="agents")
        x = range(len(part))
        axis.axhline(1, color="0.75", lw=0.8, zorder=0)
        axis.axhline(0, color="0.75", lw=0.8, zorder=0)
        axis.fill_between(x, part["q10"], part["q90"], color=colour, alpha=0.18, lw=0, label="10 to 90 % of games")
        axis.plot(x, part["median"], color=colour, marker="o", ms=5, lw=2, label="median")
        axis.plot(x, part["mean"], color=colour, ls=(0, (1, 1.2)), lw=1.5, label="mean")
        axis.plot(x, part["monopoly"], color="0.35", marker="s", ms=3.5, ls="--", lw=1.2, label="mean, one agent alone")
        axis.set_xticks(list(x), part["agents"].astype(str))
        axis.set_title(NAMES.get(family, family), fontsize=9.5)
        axis.set_xlabel("agents K")
        axis.set_ylim(-0.06, 1.08)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8, loc=(0.3, 0.08))
    axes[0].set_ylabel("user value\n(0 no information, 1 full information)")
    figure.suptitle(title, fontsize=10.5)
    return figure
