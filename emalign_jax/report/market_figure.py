"""The figure of a market: competition against n beside the hull's error against n, and the agents one by one.

It is as wide as a column of a paper.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from emalign_jax.experiments.market import summary
from emalign_jax.experiments.market.experiment import FIGURES, Found
from emalign_jax.report.drawing import save, shown
from emalign_jax.report.search_figure import COLOURS

WIDTH = 3.5  # inches
NAMED = 14  # agents that have a line with their name
SMALL = 7  # points


def draw(found: Found) -> list[str]:
    """Write the figure into the directory of the run, as PNG and PDF; their names."""
    return save(figure(found), [found.path / name for name in FIGURES])


def figure(found: Found) -> Figure:
    lines, people = summary.curves(found.rows), summary.agents(found)
    named = len(people) <= NAMED
    rows = len(people) if named else 8
    below = 0.85 + 0.16 * max(rows, 4)
    made = Figure(figsize=(WIDTH, 2.55 + below), layout="constrained")
    above, under = made.subfigures(2, 1, height_ratios=[2.2, below])
    left, right = above.subplots(1, 2)
    _values(left, lines)
    _errors(right, lines)
    axis = under.subplots()
    _agents(axis, found, people, named)
    for one in (left, right, axis):
        one.tick_params(labelsize=SMALL)
        one.spines[["top", "right"]].set_visible(False)
    facts = found.facts
    title = f"{shown(str(facts['target']))}: {facts['prompts']} {facts['items']}, {facts['agents']} agents"
    made.suptitle(title, fontsize=SMALL + 1.5)
    return made


def _band(axis, lines: pd.DataFrame, name: str, colour: str, marker: str, label: str, style="-", at=None) -> None:
    n = lines["agents"].to_numpy(float)
    low, high = (lines[f"{name}_{end}"].to_numpy(float) for end in ("low", "high"))
    axis.fill_between(n, low, high, color=colour, alpha=0.2, lw=0)
    if len(n) == 1:  # an interval of one n is no band
        axis.vlines(n, low, high, color=colour, alpha=0.4, lw=3)
    axis.plot(n, lines[name], color=colour, marker=marker, ms=3.2, lw=1.3, ls=style, label=label)


def _values(axis, lines: pd.DataFrame) -> None:
    axis.axhline(1, color="0.75", lw=0.7, zorder=0)
    axis.axhline(0, color="0.75", lw=0.7, zorder=0)
    _band(axis, lines, "normalised_worst", COLOURS[0], "o", "worst equilibrium")
    _band(axis, lines, "normalised_best_monopolist", COLOURS[4], "s", "best single agent", "--")
    _band(axis, lines, "normalised_guarantee", COLOURS[2], "^", "guarantee", ":")
    if not np.isfinite(lines["normalised_worst"].to_numpy(float)).any():
        axis.text(0.5, 0.5, "information is\nworth nothing", ha="center", fontsize=SMALL, transform=axis.transAxes)
    axis.set_ylim(-0.08, 1.08)
    axis.set_title("user value, 0 to 1", fontsize=SMALL + 1)
    _n(axis, lines)


def _errors(axis, lines: pd.DataFrame) -> None:
    _band(axis, lines, "hull_error", COLOURS[1], "D", "weighted agents")
    _band(axis, lines, "no_agent_error", "0.45", "_", "no agent", ":")
    axis.set_ylim(bottom=0)
    axis.set_title("hull error, held out", fontsize=SMALL + 1)
    _n(axis, lines)


def _n(axis, lines: pd.DataFrame) -> None:
    n = lines["agents"].to_numpy(int)
    axis.set_xscale("log")
    room = (1.5 * n[-1] / n[0]) ** 0.11  # that a number takes on the axis
    following = [*n[1:], np.inf]
    axis.set_xticks(n, [str(k) if after > room * k else "" for k, after in zip(n, following, strict=True)])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(n[0] / 1.25, n[-1] * 1.25)
    axis.set_xlabel("agents n", fontsize=SMALL)
    axis.legend(frameon=False, fontsize=SMALL - 1, loc="upper center", bbox_to_anchor=(0.5, -0.3), handlelength=1.8)


def _agents(axis, found: Found, people: pd.DataFrame, named: bool) -> None:
    """Each agent alone, and the worst equilibrium without it, beside that with all."""
    whole = summary.whole(found.rows)
    people = people.sort_values("normalised_monopoly", ascending=False, kind="stable")
    y = np.arange(len(people))
    low, high = people["normalised_monopoly_low"], people["normalised_monopoly_high"]
    axis.hlines(y, low, high, color=COLOURS[4], alpha=0.45, lw=2.2 if named else 1)
    axis.plot(
        people["normalised_monopoly"], y, "s", color=COLOURS[4], ms=3.5 if named else 2.5, label="as the only agent"
    )
    if np.isfinite(people["normalised_without"].to_numpy(float)).any():
        label = "worst equilibrium without it"
        axis.plot(people["normalised_without"], y, "x", color=COLOURS[3], ms=4 if named else 3, label=label)
    axis.axvline(whole["normalised_worst"], color=COLOURS[0], lw=1.3, label="worst equilibrium of all")
    for value, words, side in ((0, "nobody", "center"), (1, "all known", "right")):
        axis.axvline(value, color="0.6", lw=0.7, ls=":", zorder=0)
        axis.annotate(
            words, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 1.5), textcoords="offset points",
            ha=side, fontsize=SMALL - 1, color="0.4",
        )  # fmt: skip
    axis.set_ylim(len(y) - 0.5, -0.5)
    axis.set_yticks(y if named else [], [_name(name) for name in people["name"]] if named else [])
    axis.set_ylabel("" if named else f"{len(people)} agents", fontsize=SMALL)
    axis.set_xlim(-0.08, 1.08)
    axis.set_xlabel("user value, 0 to 1", fontsize=SMALL)
    axis.figure.legend(frameon=False, fontsize=SMALL - 1, loc="outside lower center", ncols=2, handlelength=1.6)


def _name(name: str) -> str:
    line = shown(name)
    return line if len(line) <= 18 else line[:16] + "..."
