"""Figures of a sweep, from its table: value against the number of agents, against a knob, and over two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from emalign_jax.experiments.grid.run import KINDS
from emalign_jax.experiments.grid.threshold import Threshold, thresholds
from emalign_jax.experiments.plan import Plan
from emalign_jax.report.drawing import save, shown
from emalign_jax.report.search_figure import COLOURS, NAMES

AGENTS, FAMILY = "games.agents", "games.family"
LABELS = {
    AGENTS: "agents K",
    "games.bias": "size of the bias",
    "games.alignment": "share of the user's utility in theirs",
    "games.noise": "standard deviation of the noise",
    "user.precision": "precision of the user",
    "protocol.temperature": "temperature of the choice of an agent",
    "protocol.compare": "agents compared",
    "protocol.rounds": "rounds",
    "protocol.messages": "messages a round",
}
VALUE_LABEL = "user value\n(0 no information, 1 full information)"
MEAN_LABEL = VALUE_LABEL.replace("value", "value, mean")
LEVEL = 1e-6  # a guarantee of at most this is vacuous: no information gives as much
WIDE = 3.4  # inches a panel
DOTTED = (0, (1, 1.4))
EXACT = "#222222"


class Spread(NamedTuple):
    """10, 50 and 90 % quantile and mean of a column [X] at each value of another."""

    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    mean: np.ndarray


def draw(plan: Plan, rows: pd.DataFrame, directory: Path) -> list[str]:
    """Write the figures that fit the axes; returns their names. Axes of numbers make curves (without one, points over
    K), two of them a map too."""
    numeric = [name for name in plan.axes if name != "seed" and plan.kind(name) in ("whole", "number")]
    figures = {}
    title, off = shown(plan.title), int(np.sum(~rows["ok"].to_numpy(bool)))
    if off:
        title += f"\n{off} of {len(rows)} profiles, in the means too, are no equilibria within the tolerance"
    if AGENTS in plan.axes and set(plan.axes) <= {AGENTS, FAMILY}:
        figures["user_value"] = competition(rows, title)
    else:
        x = min(numeric, key=lambda name: (name == AGENTS, not name.startswith("protocol.")), default=AGENTS)
        figures["user_value"] = curves(rows, x, [a for a in plan.axes if a not in (x, FAMILY)], title)
        if len(numeric) == 2 and set(plan.axes) <= {*numeric, FAMILY}:
            other = next(name for name in reversed(numeric) if name != x)
            figures["phase"] = phase(rows, x, other, title, thresholds(plan, rows) if other == AGENTS else [])
    written = []
    for name, figure in figures.items():
        written += save(figure, [directory / f"{name}{kind}" for kind in KINDS])
    return written


def competition(rows: pd.DataFrame, title: str) -> Figure:
    """One panel a family: what play finds, the exact set of equilibria, the best monopolist and the guarantee."""
    panels = _panels(rows)
    numbers = sorted(rows["agents"].unique())
    figure, axes = _figure(len(panels))
    at = range(len(numbers))
    for axis, (family, part), colour in zip(axes, panels, COLOURS * len(panels), strict=False):
        value, alone, worst, best, guarantee = (
            _spread(part, "agents", numbers, name)
            for name in ("value", "best_monopolist", "worst_equilibrium", "best_equilibrium", "guarantee")
        )
        top: dict[str, Any] = {"clip_on": False, "zorder": 3}
        axis.fill_between(at, value.low, value.high, color=colour, alpha=0.2, lw=0, label="found, 10 to 90 % of games")
        axis.plot(at, value.middle, color=colour, marker="o", ms=6, lw=2.6, label="found, median", **top)
        axis.plot(at, best.middle, color=EXACT, marker="^", ms=3.5, lw=0.9, label="best equilibrium, median", **top)
        axis.plot(at, worst.middle, color=EXACT, marker="v", ms=3.5, lw=0.9, label="worst equilibrium, median", **top)
        axis.plot(at, worst.low, color=EXACT, ls=DOTTED, lw=1.3, label="worst equilibrium, 10 % of games", zorder=3)
        axis.plot(at, alone.middle, color="0.5", marker="s", ms=3.5, ls="--", lw=1.2, label="best monopolist, median")
        axis.plot(at, guarantee.middle, color="0.5", ls="-.", lw=1.2, label="guarantee (sharp), median")
        _ticks(axis, AGENTS, numbers, family)
    return _finish(figure, axes, title)


def curves(rows: pd.DataFrame, x: str, lines: list[str], title: str) -> Figure:
    """One panel a family: means against `x`, a colour a combination of `lines`; dotted, the exact worst. Later lines
    are thinner, so that those they lie on are seen."""
    panels = _panels(rows)
    column = _column(rows, x)
    xs = sorted(rows[column].unique())
    at = range(len(xs))
    figure, axes = _figure(len(panels), legend=2.4)
    for axis, (family, part) in zip(axes, panels, strict=True):
        groups = list(part.groupby([_column(rows, name) for name in lines], sort=False)) if lines else [((), part)]
        shades = [colormaps["viridis"](share) for share in np.linspace(0, 0.9, len(groups))]
        colours = COLOURS if len(groups) <= len(COLOURS) else shades
        widths = np.linspace(4.5 if len(groups) > 1 else 2, 1.4, len(groups))
        exact = False
        for (key, group), colour, width in zip(groups, colours, widths, strict=False):
            value = _spread(group, column, xs, "value")
            worst = _spread(group, column, xs, "worst_equilibrium")
            label = ", ".join(_word(name, k) for name, k in zip(lines, key, strict=True)) or "found, mean"
            if len(groups) == 1:
                axis.fill_between(
                    at, value.low, value.high, color=colour, alpha=0.15, lw=0, label="found, 10 to 90 % of games"
                )
            top: dict[str, Any] = {"color": colour, "zorder": 3, "clip_on": False}
            axis.plot(at, value.mean, marker="o", ms=3 + width / 2, lw=width, label=label, **top)
            axis.plot(at, worst.mean, marker="v", ms=3.5, ls=DOTTED, lw=1.2, **top)
            exact |= bool(np.isfinite(worst.mean).any())
            if len(groups) == 1:
                guarantee = _spread(group, column, xs, "guarantee").mean
                if np.isfinite(guarantee).sum() > 1:
                    axis.plot(at, guarantee, color="0.5", ls="-.", lw=1.2, label="guarantee (sharp), mean")
        if exact:
            axis.plot([], [], color="0.3", marker="v", ms=3.5, ls=DOTTED, label="worst equilibrium (exact), mean")
        _ticks(axis, x, xs, family)
    return _finish(figure, axes, title, MEAN_LABEL, legend="outside right center")


def phase(rows: pd.DataFrame, x: str, y: str, title: str, stops: Sequence[Threshold] = ()) -> Figure:
    """One map a family, coloured by the mean worst equilibrium (by what was found, where that is not known). The lines:
    on one side of them the guarantees say nothing, no more than no information gives, in half of the games. stops:
    where competition stops helping, with y the number of agents."""
    panels = _panels(rows)
    several = rows.query("agents > 1 and normalised_value.notna()")["normalised_worst_equilibrium"]
    exact = len(several) > 0 and bool(several.notna().all())
    shown = rows.query("normalised_worst_equilibrium.notna()") if exact else rows
    column, row = _column(rows, x), _column(rows, y)
    xs, ys = sorted(shown[column].unique()), sorted(shown[row].unique())
    figure, axes = _figure(len(panels), width=5.2)
    for axis, (family, part) in zip(axes, panels, strict=True):
        maps = {}
        for name in ("worst_equilibrium" if exact else "value", "guarantee", "theorem"):
            levels = [_spread(part[part[row] == level], column, xs, name) for level in ys]
            maps[name] = np.array([x.middle if name in ("guarantee", "theorem") else x.mean for x in levels])
        colour, sharp, theorem = maps.values()
        axis.imshow(colour, origin="lower", aspect="auto", cmap="viridis", vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(colour):
            if np.isfinite(value):
                ink = "white" if value < 0.6 else "black"
                axis.text(j, i, f"{abs(value):.2f}", ha="center", va="center", fontsize=7.5, color=ink)
        _boundary(axis, sharp > LEVEL, COLOURS[1], "-", "sharp guarantee")
        _boundary(axis, theorem > LEVEL, EXACT, (0, (3, 1.5)), "2 eps guarantee")
        _stops(axis, [stop for stop in stops if stop.family == family], xs, ys)
        _ticks(axis, x, xs, family)
        axis.set_yticks(range(len(ys)), [_number(v) for v in ys])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), "viridis"), ax=axes, fraction=0.05)
    bar.set_label("worst equilibrium (exact), mean" if exact else "user value, mean", fontsize=8.5)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return _finish(figure, axes, title, LABELS.get(y, y))


def _boundary(axis: Axes, holds: np.ndarray, colour: str, style: Any, what: str) -> None:
    """The edges between the cells in which it holds and those in which it does not; the label says on which side."""
    edges, sides = [], set()
    for (i, j), own in np.ndenumerate(holds):
        if j + 1 < holds.shape[1] and holds[i, j + 1] != own:
            edges.append(((j + 0.5, j + 0.5), (i - 0.5, i + 0.5)))
            sides.add("right" if own else "left")
        if i + 1 < holds.shape[0] and holds[i + 1, j] != own:
            edges.append(((j - 0.5, j + 0.5), (i + 0.5, i + 0.5)))
            sides.add("above" if own else "below")
    order = ("left", "right", "above", "below")
    where = " and ".join(side for side in order if side in sides) if len(sides) < 3 else "beyond"
    label = f"{where}: {what} vacuous in half of the games"
    for n, (xs, ys) in enumerate(edges):
        axis.plot(xs, ys, color=colour, ls=style, lw=2.4, label=None if n else label, clip_on=False)


def _stops(axis: Axes, stops: Sequence[Threshold], xs: list, ys: list) -> None:
    """Diamonds, with their intervals, in the upper part of the rows."""
    ends = (-0.5, len(xs) - 0.5)  # what lies outside the values tried ends at the edge
    for n, stop in enumerate(stops):
        at = np.interp(stop[2:], [-np.inf, *xs, np.inf], [ends[0], *range(len(xs)), ends[1]])
        level = ys.index(stop.agents) + 0.3
        axis.plot(at[1:], [level] * 2, color=EXACT, lw=1.1)
        if np.isfinite(stop.value):
            label = (
                None
                if n
                else "right: the worst equilibrium regains under half of the best monopolist's shortfall (95 %)"
            )
            diamond: dict[str, Any] = {"marker": "D", "color": "white", "mec": EXACT, "ms": 6, "ls": "none"}
            axis.plot(at[:1], [level], label=label, clip_on=False, zorder=4, **diamond)


def _panels(rows: pd.DataFrame) -> list[tuple[str, Any]]:
    return [(str(family), part) for family, part in rows.groupby("family", sort=False)]


def _column(rows: pd.DataFrame, name: str) -> str:
    """Where the table has the values of an axis; `agents` where K is none."""
    return name if name in rows else name.partition(".")[2]


def _spread(rows: pd.DataFrame, by: str, values: list, name: str) -> Spread:
    found = []
    for value in values:
        numbers = rows.loc[rows[by] == value, f"normalised_{name}"].to_numpy(float)
        numbers = numbers[np.isfinite(numbers)]
        found.append([*np.quantile(numbers, [0.1, 0.5, 0.9]), numbers.mean()] if len(numbers) else np.full(4, np.nan))
    return Spread(*np.array(found).T)


def _figure(panels: int, width: float | None = None, legend: float = 0.0) -> tuple[Figure, list[Axes]]:
    """legend: inches beside the panels."""
    wide = (width or WIDE * (0.8 if panels > 3 else 1 if panels > 1 else 1.4)) * panels + 0.8 + legend
    figure = Figure(figsize=(wide, 4.3), layout="constrained")
    return figure, list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])


def _ticks(axis: Axes, x: str, values: list, family: str) -> None:
    axis.set_xticks(range(len(values)), [_number(v) for v in values])
    axis.set_xlabel(LABELS.get(x, x))
    axis.set_title(NAMES.get(family, family), fontsize=9)


def _finish(
    figure: Figure, axes: list[Axes], title: str, label: str = VALUE_LABEL, legend: Any = "outside lower center"
) -> Figure:
    axes[0].set_ylabel(label)
    if label in (VALUE_LABEL, MEAN_LABEL):
        # Information may harm a quantal user, and talking may cost more than it is worth: then values lie below 0.
        whole = [np.asarray(line.get_ydata(), float) for axis in axes for line in axis.lines if not line.get_clip_on()]
        lowest = min((float(np.nanmin(y)) for y in whole if np.isfinite(y).any()), default=0.0)
        low = -0.06 if lowest >= -0.06 else 1.06 * lowest
        for axis in axes:
            for level in (0, 1):
                axis.axhline(level, color="0.75", lw=0.8, zorder=0)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_ylim(low, max(1.08, axis.get_ylim()[1]))
    handles = {}  # the first of each label
    for axis in reversed(axes):
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        across = 1 if "right" in legend or len(axes) == 1 else len(handles)
        figure.legend(list(handles.values()), list(handles), loc=legend, ncols=across, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10.5)
    return figure


def _number(value: Any) -> str:
    return f"{value:g}" if math.isfinite(value) else "rational"


def _word(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value.replace("_", " ")
    return f"K = {value}" if name == AGENTS else f"{name.split('.')[-1]} {value:g}"
