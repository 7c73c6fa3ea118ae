"""What each kind of user gets from whom, against how far it departs from the textbook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emalign_jax.experiments.grid.study import STRENGTH, USERS, Study, Threshold, summary, thresholds
from emalign_jax.internal.arguments import shown
from emalign_jax.report import style
from emalign_jax.report.figures.values import LABELS, number
from emalign_jax.report.look import Look
from emalign_jax.report.style import ROLES, WORDS

# Arms of a study, and what they are in other figures.
ARMS = {"aligned": "aligned", "best": "alone", "average": "average", "competition": "found"}
NAMES = {"competition": "competition of K", "aligned": WORDS["aligned"], "best": WORDS["alone"],
         "average": WORDS["average"]}  # fmt: skip
DIFFERENCE = "competition less best single (95 %)"


@style.styled
def study(lines: pd.DataFrame, *, departure: str | None = None, stop: Threshold | None = None, ax: Any = None) -> Axes:
    """The value of competition and of single agents to one kind of user, against the strength of its departure.

    Lines: competition, the best and the average single agent, and one aligned agent; bars are 95 % intervals of
    competition less the best single agent.

    Args:
        lines: those of one kind of user, of `experiments.grid.study.summary`.
        departure: the key whose values are the strengths, such as "user.precision".
        stop: where competition stops helping (`experiments.grid.study.thresholds`).
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> import pandas as pd
        >>> lines = pd.DataFrame({"competition": [0.9, 0.7], "best": [0.6, 0.5], "average": [0.4, 0.3], "aligned": 1.0})
        >>> lines = lines.assign(over_best_low=[0.2, 0.1], over_best_high=[0.4, 0.3], strength=[np.inf, 5.0])
        >>> type(em.plot.study(lines, departure="user.precision")).__name__
        'Axes'

    Source: docs/guides/study.md.
    """
    ends = [f"over_best_{end}" for end in ("low", "high")]
    lines = style.frame("lines", lines, (*ARMS, *ends, STRENGTH))
    if departure is not None and not (isinstance(departure, str) and "." in departure):
        raise ValueError(f"departure: expected a key such as user.precision, got {shown(departure)}")
    if stop is not None and not isinstance(stop, Threshold):
        raise ValueError(f"stop: expected a threshold of a study, got {shown(stop)}")
    own = style.axes_of(ax)
    _draw(own, lines, departure, stop)
    own.set_ylabel(style.MEAN)
    return style.key(own, ax)


@style.styled
def figure(made: Study, games: pd.DataFrame, look: Look) -> Figure:
    """A panel a combination of games and kind of user. games: of `study.by_game`"""
    lines, stops = pd.DataFrame(summary(made, games)), thresholds(made, games)
    shared = ["family", "K", *made.shared]
    panels = list(lines.groupby([*shared, USERS], sort=False))
    whole, axes = style.blank(len(panels), width=look.width, height=1.75, least=1.6, share=True)
    limits = []
    several = len(lines.groupby(shared, sort=False)) > 1
    point: Any
    for ax, (point, part) in zip(axes, panels, strict=True):
        users = str(point[-1])
        stop = next((x for x in stops if x.users == users and tuple(x.point.values()) == tuple(point[:-1])), None)
        _draw(ax, part, made.departure(users), stop)
        limits.append(ax.get_ylim())
        named = {name.split(".")[-1]: x for name, x in zip(shared, point, strict=False)}
        games_of = ", ".join(f"{name} = {x}" for name, x in named.items() if name not in ("family", "agents"))
        words = f"{users}: {str(point[0]).replace('_', ' ')}, {games_of}" if several else users
        ax.set_title(style.wrapped(words, style.inches(ax)[0]))
    axes[0].set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    style.left_label(axes, style.MEAN)
    title, first = style.shown(made.title), lines.iloc[0]
    if not several:
        title += f"\n{style.family(first['family'])}; K = {first['K']}, {first['games']} games"
    if any(np.isfinite(stop.place) for stop in stops):
        title += "\nvertical lines: where competition stops helping, grey: 95 %"
    style.legend(whole, axes)
    style.title(whole, title)
    return whole


@style.styled
def draw(made: Study, games: pd.DataFrame, directory: Path, look: Look) -> list[str]:
    """Write the figure of the games of `study.by_game`; returns the names of the files."""
    return style.save(figure(made, games, look), *look.paths(directory, "study"))


def _draw(ax: Axes, lines: pd.DataFrame, departure: str | None, stop: Threshold | None) -> None:
    at = np.arange(len(lines))
    values = {arm: lines[arm].to_numpy(float) for arm in ARMS}
    for arm, role in ARMS.items():
        ax.plot(at, values[arm], label=NAMES[arm], zorder=3, **ROLES[role])
    low, high = (values["best"] + lines[f"over_best_{end}"].to_numpy(float) for end in ("low", "high"))
    ax.vlines(at, low, high, color=ROLES["found"]["color"], lw=4, alpha=0.25, label=DIFFERENCE)
    style.levels(ax)
    style.value_limits(ax, [*values.values(), low, high])
    labels = [number(x) for x in lines[STRENGTH]] if departure else ["-"] * len(lines)
    style.categories(ax, labels)
    if stop is not None and np.isfinite(stop.place):
        ax.axvline(stop.place, color=style.GREY, lw=0.9, zorder=0.5)
        ax.axvspan(*np.clip([stop.low, stop.high], 0, len(at) - 1), color="0.92", lw=0, zorder=0)
    words = "" if departure is None else LABELS.get(departure, departure.split(".")[-1].replace("_", " "))
    ax.set_xlabel(style.wrapped(words, style.inches(ax)[0]) if words else "")
