"""The phase diagram of a sweep: the user's value over two axes, and where guarantees begin to say something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from emalign_jax.experiments.grid.threshold import Threshold
from emalign_jax.internal.arguments import boolean, shown
from emalign_jax.report import style
from emalign_jax.report.figures.values import LABELS, column, number
from emalign_jax.report.look import Look

LEVEL = 1e-6  # a guarantee of at most this is vacuous: no information gives as much
BOUNDS = {"guarantee": ("sharp guarantee", "-"), "theorem": ("2 eps guarantee", (0, (3, 1.5)))}
SHADES = Normalize(0, 1)


class Maps(NamedTuple):
    """Of one family: the values of the axes, the mean value [y, x], and the medians of the guarantees [y, x]."""

    xs: list[Any]
    ys: list[Any]
    value: np.ndarray
    bounds: dict[str, np.ndarray]


@style.styled
def phase_diagram(
    rows: pd.DataFrame, x: str, y: str, *, stops: Sequence[Threshold] = (), bar: bool = True, ax: Any = None
) -> Axes:
    """A map of the user's mean value in the worst equilibrium (of what was found, where that is not known).

    On one side of each line a guarantee says nothing, no more than no information gives, in half of the games.

    Args:
        rows: a table of games of one family, with the columns of docs/columns.md.
        x, y: columns of the axes, such as "games.bias" and "games.agents".
        stops: where competition stops helping (`experiments.grid.threshold.thresholds`), with y the number of agents.
        bar: whether to draw the scale of colours beside it.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> import pandas as pd  # in earnest em.experiments.run("bias").rows
        >>> rows = pd.DataFrame({"games.bias": [0.0, 0.0, 1.0, 1.0], "agents": [1, 2, 1, 2]})
        >>> rows = rows.assign(family="hull", normalised_value=[0.5, 1.0, 0.3, 0.8])
        >>> type(em.plot.phase_diagram(rows, "games.bias", "agents")).__name__
        'Axes'
    """
    given = style.frame("rows", rows, ("normalised_value",))
    for name, wanted in {"x": x, "y": y}.items():
        if not isinstance(wanted, str) or column(given, wanted) not in given:
            raise ValueError(f"{name}: expected a column of rows, got {shown(wanted)}")
    if column(given, x) == column(given, y):
        raise ValueError(f"y: expected another column than x, got {shown(y)}")
    boolean("bar", bar)
    if not (isinstance(stops, list | tuple) and all(isinstance(stop, Threshold) for stop in stops)):
        raise ValueError(f"stops: expected a list of thresholds, got {shown(stops)}")
    own, exact = style.axes_of(ax), is_exact(given)
    _draw(own, maps(given, x, y, exact), x, y, stops)
    if bar:
        _bar(own.figure, own, exact)
    return style.key(own, ax)


def is_exact(rows: pd.DataFrame) -> bool:
    """Whether the worst equilibrium of all games of several agents is known."""
    if not {"normalised_worst_equilibrium", "agents"} <= set(rows):
        return False
    known = rows["normalised_value"].notna() & (rows["agents"] > 1)
    worst = rows.loc[known, "normalised_worst_equilibrium"]
    return len(worst) > 0 and bool(worst.notna().all())


def maps(rows: pd.DataFrame, x: str, y: str, exact: bool) -> Maps:
    if exact:
        rows = rows.loc[rows["normalised_worst_equilibrium"].notna()]
    value = "normalised_worst_equilibrium" if exact else "normalised_value"
    across, up = column(rows, x), column(rows, y)

    def table(name: str, how: Any) -> np.ndarray:
        if name not in rows:
            return np.full(whole.shape, np.nan)
        found = rows.pivot_table(index=up, columns=across, values=name, aggfunc=how, dropna=False)
        return found.reindex(index=whole.index, columns=whole.columns).to_numpy(float)

    whole = rows.pivot_table(index=up, columns=across, values=value, aggfunc="mean", dropna=False)
    bounds = {name: table(f"normalised_{name}", "median") for name in BOUNDS}
    return Maps(list(whole.columns), list(whole.index), table(value, "mean"), bounds)


@style.styled
def figure(rows: pd.DataFrame, x: str, y: str, title: str, look: Look, stops: Sequence[Threshold] = ()) -> Figure:
    """A map a family, with one scale."""
    families = list(rows.groupby("family", sort=False))
    exact = is_exact(rows)
    height = min(0.9 + 0.24 * len(rows[column(rows, y)].unique()), 4.0)
    whole, axes = style.blank(len(families), width=look.width, height=height, share=True)
    for ax, (name, part) in zip(axes, families, strict=True):
        _draw(ax, maps(part, x, y, exact), x, y, [stop for stop in stops if stop.family == name])
        ax.set_title(style.wrapped(style.family(name), style.inches(ax)[0]))
        ax.set_ylabel("")
    style.left_label(axes, LABELS.get(y, style.shown(y)))
    _bar(whole, axes, exact)
    style.legend(whole, axes)
    style.title(whole, title)
    return whole


def _draw(ax: Axes, found: Maps, x: str, y: str, stops: Sequence[Threshold]) -> None:
    ax.set_facecolor("0.92")  # where nothing is known
    colours = style.mpl.colormaps[style.MAP]
    ax.imshow(found.value, origin="lower", aspect="auto", cmap=colours, norm=SHADES)
    style.categories(ax, [number(v) for v in found.xs])
    ax.set_xlim(-0.5, len(found.xs) - 0.5)
    wide, high = style.inches(ax)
    if wide / len(found.xs) > 0.26 and high / len(found.ys) > 0.12:
        for (i, j), value in np.ndenumerate(found.value):
            if np.isfinite(value):
                words = f"{abs(value):.2f}"[int(value < 0.995) :]
                ink = style.ink(colours(SHADES(value)))
                at = i - 0.1 * bool(stops)
                ax.text(j, at, words, fontsize=style.SMALL, color=ink, ha="center", va="center")
    for (name, (what, dash)), colour in zip(BOUNDS.items(), (style.COLOURS[1], style.INK), strict=True):
        _boundary(ax, found.bounds[name] > LEVEL, colour, dash, what)
    _stops(ax, stops, found)
    step = -(-len(found.ys) // max(2, int(high / 0.13)))
    ax.set_yticks(range(0, len(found.ys), step), [number(v) for v in found.ys[::step]])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(LABELS.get(x, style.shown(x)))
    ax.set_ylabel(LABELS.get(y, style.shown(y)))


def _bar(whole: Any, axes: Any, exact: bool) -> None:
    bar = whole.colorbar(ScalarMappable(SHADES, style.MAP), ax=axes, fraction=0.05, aspect=30, pad=0.02)
    bar.set_label("worst equilibrium, mean" if exact else "user value, mean", fontsize=style.SMALL)
    bar.outline.set_visible(False)


def _boundary(ax: Axes, holds: np.ndarray, colour: str, dash: Any, what: str) -> None:
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
    for n, (xs, ys) in enumerate(edges):
        label = None if n else f"{where}: {what} vacuous in half of the games"
        ax.plot(xs, ys, color="white", lw=3, clip_on=False, zorder=2.4)  # so that it is seen on dark cells too
        ax.plot(xs, ys, color=colour, ls=dash, lw=1.7, label=label, clip_on=False, zorder=2.5)


def _stops(ax: Axes, stops: Sequence[Threshold], found: Maps) -> None:
    """Diamonds, with their intervals, in the upper part of the rows."""
    ends = (-0.5, len(found.xs) - 0.5)  # what lies outside the values tried ends at the edge
    label = "right: the worst equilibrium regains under half of the best single agent's shortfall (95 %)"
    for stop in (stop for stop in stops if stop.agents in found.ys):
        at = np.interp(stop[2:], [-np.inf, *found.xs, np.inf], [ends[0], *range(len(found.xs)), ends[1]])
        level = found.ys.index(stop.agents) + 0.36
        ax.plot(at[1:], [level] * 2, color="white", lw=2.2, zorder=3)
        ax.plot(at[1:], [level] * 2, color=style.INK, lw=1, zorder=3)
        if np.isfinite(stop.value):
            diamond: dict[str, Any] = {"marker": "D", "color": "white", "mec": style.INK, "mew": 0.8, "ms": 4}
            ax.plot(at[:1], [level], label=label, clip_on=False, zorder=4, ls="none", **diamond)
            label = None
