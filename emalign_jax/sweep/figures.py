"""Figures of a sweep, from its table: value against the number of agents, against a knob, and over two of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from emalign_jax.files import atomic
from emalign_jax.search.figure import COLOURS, NAMES
from emalign_jax.sweep.config import OPTIONS, Config
from emalign_jax.sweep.directory import KINDS

AGENTS, FAMILY = "games.agents", "games.family"
LABELS = {
    AGENTS: "agents K",
    "games.bias": "size of the bias",
    "games.alignment": "share of her utility in theirs",
    "games.noise": "standard deviation of the agents' noise",
    "user.precision": "precision of the user",
    "protocol.temperature": "temperature of her choice of an agent",
    "protocol.rounds": "rounds",
    "protocol.messages": "messages a round",
}
VALUE_LABEL = "user value\n(0 no information, 1 full information)"
FLOOR = -0.25  # the least value drawn: guarantees below say nothing
LEVEL = 0.0  # a guarantee of at most this is vacuous: no information gives as much
WIDE = 3.4  # inches a panel


def draw(config: Config, rows: pd.DataFrame, directory: Path) -> list[str]:
    """Write the figures that fit the axes; returns their names. Numbers on axes make curves, two of them a map too."""
    numeric = [name for name in config.axes if OPTIONS[name].kind in ("whole", "number") and name != "seed"]
    if not numeric:
        return []
    figures = {}
    if numeric == [AGENTS] and set(config.axes) <= {AGENTS, FAMILY}:
        figures["user_value"] = competition(rows, config.title)
    else:
        x = next((name for name in numeric if name != AGENTS), AGENTS)
        lines = [name for name in config.axes if name not in (x, FAMILY)]
        figures["user_value"] = curves(rows, x, lines, config.title)
        if len(numeric) == 2 and set(config.axes) <= {*numeric, FAMILY}:
            figures["phase"] = phase(rows, *sorted(numeric, key=lambda name: name == AGENTS), config.title)
    written = []
    for name, figure in figures.items():
        for kind in KINDS:
            with atomic(directory / f"{name}{kind}") as temporary:
                figure.savefig(
                    temporary, dpi=160, format=kind[1:], metadata={"CreationDate": None} if kind == ".pdf" else None
                )
            written.append(f"{name}{kind}")
    return written


def competition(rows: pd.DataFrame, title: str) -> Figure:
    """One panel a family: what play finds, the exact set of equilibria, the best monopolist and the guarantee."""
    panels = _panels(rows)
    figure, axes = _figure(len(panels))
    for axis, (family, part), colour in zip(axes, panels, COLOURS * len(panels), strict=False):
        found = {name: _quantiles(part, AGENTS, f"normalised_{name}") for name in (
            "value", "best_monopolist", "worst_equilibrium", "best_equilibrium", "guarantee",
        )}  # fmt: skip
        value = found["value"]
        at = range(len(value))
        _frame(axis)
        axis.fill_between(at, value["low"], value["high"], color=colour, alpha=0.18, lw=0, label="10 to 90 % of games")
        style: dict[str, Any] = {"clip_on": False, "zorder": 3}
        axis.plot(at, value["middle"], color=colour, marker="o", ms=5, lw=2.2, label="found, median", **style)
        for name, label, marker in (
            ("best_equilibrium", "best equilibrium (exact)", "^"),
            ("worst_equilibrium", "worst equilibrium (exact)", "v"),
        ):
            middle = found[name]["middle"]
            axis.plot(at, middle, color="0.15", marker=marker, ms=4, lw=1, label=label, zorder=4, clip_on=False)
        alone = found["best_monopolist"]["middle"]
        axis.plot(at, alone, color="0.45", marker="s", ms=3.5, ls="--", lw=1.2, label="best single monopolist")
        _guarantee(axis, at, found["guarantee"]["middle"])
        axis.set_xticks(list(at), [f"{x:g}" for x in value.index])
        axis.set_title(NAMES.get(family, family), fontsize=9)
        axis.set_xlabel(LABELS[AGENTS])
    return _finish(figure, axes, title)


def curves(rows: pd.DataFrame, x: str, lines: list[str], title: str) -> Figure:
    """One panel a family: medians and bands against `x`, a colour a combination of `lines`; dotted, the exact worst."""
    panels = _panels(rows)
    figure, axes = _figure(len(panels))
    column = x if x in rows else x.partition(".")[2]
    for axis, (family, part) in zip(axes, panels, strict=True):
        _frame(axis)
        groups = list(part.groupby(lines, sort=False)) if lines else [((), part)]
        colours = (
            COLOURS
            if len(groups) <= len(COLOURS)
            else [colormaps["viridis"](c) for c in np.linspace(0, 0.9, len(groups))]
        )
        xs = sorted(part[column].unique())
        for (key, group), colour in zip(groups, colours, strict=False):
            value = _quantiles(group, column, "normalised_value")
            worst = _quantiles(group, column, "normalised_worst_equilibrium")["middle"]
            label = ", ".join(_word(name, k) for name, k in zip(lines, key, strict=True)) or "found, median"
            at = [xs.index(v) for v in value.index]
            if len(groups) <= 3:
                axis.fill_between(at, value["low"], value["high"], color=colour, alpha=0.15, lw=0)
            axis.plot(at, value["middle"], color=colour, marker="o", ms=4.5, lw=2, label=label, zorder=3, clip_on=False)
            if worst.notna().any():
                axis.plot(at, worst, color=colour, ls=(0, (1, 1.4)), lw=1.6, zorder=3)
            if len(groups) == 1:
                _guarantee(axis, at, _quantiles(group, column, "normalised_guarantee")["middle"])
        if part["normalised_worst_equilibrium"].notna().any():
            axis.plot([], [], color="0.3", ls=(0, (1, 1.4)), lw=1.6, label="worst equilibrium (exact)")
        axis.set_xticks(range(len(xs)), [f"{v:g}" if math.isfinite(v) else "rational" for v in xs])
        axis.set_xlabel(LABELS.get(x, x))
        axis.set_title(NAMES.get(family, family), fontsize=9)
    return _finish(figure, axes, title)


def phase(rows: pd.DataFrame, x: str, y: str, title: str) -> Figure:
    """One map a family, coloured by the median of the worst equilibrium (of what was found, where that is not known);
    the lines are where the median guarantees fall to the level of no information."""
    panels = _panels(rows)
    columns = [name if name in rows else name.partition(".")[2] for name in (x, y)]
    exact = rows["normalised_worst_equilibrium"].notna().any()
    shown = "normalised_worst_equilibrium" if exact else "normalised_value"
    figure = Figure(figsize=(WIDE * len(panels) + 1.4, 3.9), layout="constrained")
    axes = list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])
    image = None
    for axis, (family, part) in zip(axes, panels, strict=True):
        medians = part.groupby(columns[::-1])[[shown, "normalised_guarantee", "normalised_theorem"]].median()
        grid = medians[shown].unstack().dropna(how="all")
        image = axis.imshow(grid, origin="lower", aspect="auto", cmap="viridis", vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(grid.to_numpy()):
            if np.isfinite(value):
                axis.text(
                    j,
                    i,
                    f"{max(value, 0):.2f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="w" if value < 0.6 else "k",
                )
        for name, style, label in (
            ("normalised_guarantee", "-", "sharp guarantee says nothing beyond"),
            ("normalised_theorem", (0, (4, 2)), "2 eps guarantee says nothing beyond"),
        ):
            holds = medians[name].unstack().loc[grid.index].to_numpy() > LEVEL
            _boundary(axis, holds, style, label)
        axis.set_xticks(range(grid.shape[1]), [f"{v:g}" for v in grid.columns])
        axis.set_yticks(range(grid.shape[0]), [f"{v:g}" for v in grid.index])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_xlabel(LABELS.get(x, x))
        axis.set_title(NAMES.get(family, family), fontsize=9)
    axes[0].set_ylabel(LABELS.get(y, y))
    bar = figure.colorbar(image, ax=axes, fraction=0.046)
    bar.set_label("worst equilibrium (exact), median" if exact else "user value, median", fontsize=8.5)
    bar.outline.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10.5)
    return figure


def _boundary(axis: Axes, holds: np.ndarray, style, label: str) -> None:
    """The edges of the cells between those in which it holds and those in which it does not."""
    edges = []
    for (i, j), own in np.ndenumerate(holds):
        if j + 1 < holds.shape[1] and holds[i, j + 1] != own:
            edges.append(((j + 0.5, j + 0.5), (i - 0.5, i + 0.5)))
        if i + 1 < holds.shape[0] and holds[i + 1, j] != own:
            edges.append(((j - 0.5, j + 0.5), (i + 0.5, i + 0.5)))
    for n, (xs, ys) in enumerate(edges):
        axis.plot(xs, ys, color="#D55E00", ls=style, lw=2.2, label=label if n == 0 else None, solid_capstyle="round")


def _guarantee(axis: Axes, at, middle: pd.Series) -> None:
    axis.plot(
        at, middle.clip(lower=FLOOR), color="#0072B2", ls=":", lw=1.6, label="guarantee (sharp), median", zorder=2
    )


def _panels(rows: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    return list(rows.groupby("family", sort=False))


def _quantiles(rows: pd.DataFrame, by: str, column: str) -> pd.DataFrame:
    found = rows.groupby(by)[column].quantile([0.1, 0.5, 0.9]).unstack()
    return found.set_axis(["low", "middle", "high"], axis=1)


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDE * max(panels, 1) * (0.8 if panels > 3 else 1) + 0.8, 4.2), layout="constrained")
    return figure, list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])


def _frame(axis: Axes) -> None:
    for level in (0, 1):
        axis.axhline(level, color="0.75", lw=0.8, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_ylim(FLOOR, 1.08)


def _finish(figure: Figure, axes: list[Axes], title: str) -> Figure:
    axes[0].set_ylabel(VALUE_LABEL)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 3 * len(axes)), frameon=False, fontsize=8
    )
    figure.suptitle(title, fontsize=10.5)
    return figure


def _word(name: str, value: Any) -> str:
    return (
        f"K = {value}"
        if name == AGENTS
        else str(value).replace("_", " ")
        if isinstance(value, str)
        else f"{name.split('.')[-1]} {value:g}"
    )
