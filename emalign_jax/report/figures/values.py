"""The user's value against the number of agents or another axis, and over games."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emalign_jax.experiments.grid.table import MEASURES, means
from emalign_jax.internal.arguments import shown
from emalign_jax.report import style
from emalign_jax.report.look import Look
from emalign_jax.report.style import DOTTED, ROLES, WORDS
from emalign_jax.result.batched import Batched

AGENTS, FAMILY = "games.agents", "games.family"
LABELS = {
    AGENTS: "agents K",
    "agents": "agents K",
    "games.bias": "size of the bias",
    "games.alignment": "share of the user's utility in theirs",
    "games.noise": "standard deviation of the noise",
    "user.precision": "precision (\N{INFINITY}: rational)",
    "user.weight": "weight of messages",
    "user.neglect": "neglect of base rates",
    "protocol.temperature": "temperature of the choice of an agent",
    "protocol.compare": "agents compared",
    "protocol.rounds": "rounds",
    "protocol.messages": "messages a round",
}
ROWS = 30  # groups of which the spread is drawn in a row each


@style.styled
def value_against_agents(rows: pd.DataFrame | Batched, *, family: str | None = None, ax: Any = None) -> Axes:
    """The user's value against the number of agents K, as means over games.

    Lines, as far as their columns are there: what was found, with the 95 % interval of its mean, the worst and the best
    equilibrium, the best single agent and what every equilibrium guarantees.

    Args:
        rows: a table of games such as `found.rows` of a search or sweep, or what `em.solve` returned: columns `agents`
            and `normalised_value`, and as far as they are known the others of docs/columns.md.
        family: games of this family alone; by default all, and several families have a line each, with its name.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> import pandas as pd  # in earnest em.experiments.run("competition").rows
        >>> rows = pd.DataFrame({"agents": [1, 1, 2, 2], "normalised_value": [0.3, 0.5, 0.9, 1.0]})
        >>> type(em.plot.value_against_agents(rows)).__name__
        'Axes'
    """
    games = style.frame("rows", rows, ("agents", "normalised_value"))
    if family is not None:
        known = sorted(games["family"].astype(str).unique()) if "family" in games else []
        if not isinstance(family, str) or family not in known:
            raise ValueError(f"family: expected one of {style.shown(', '.join(known))}, got {shown(family)}")
        games = games.loc[games["family"] == family]
    several = "family" in games and games["family"].nunique() > 1
    return value_against(games, "agents", by=["family"] if several else (), ax=ax)


@style.styled
def value_against(rows: pd.DataFrame | Batched, x: str, *, by: Sequence[str] = (), ax: Any = None) -> Axes:
    """The user's value against one axis of a sweep, such as "games.bias"; as `value_against_agents` without `by`.

    Args:
        rows: a table of games.
        x: the column of the axis, or "agents".
        by: columns whose combinations have a line each, with its name: the mean of what was found, and dotted that of
            the worst equilibrium.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> import pandas as pd  # in earnest em.experiments.run("bias").rows
        >>> rows = pd.DataFrame({"games.bias": [0.0, 0.0, 1.0, 1.0], "normalised_value": [0.9, 1.0, 0.3, 0.8]})
        >>> type(em.plot.value_against(rows, "games.bias")).__name__
        'Axes'
    """
    if not isinstance(x, str):
        raise ValueError(f"x: expected the name of a column, got {shown(x)}")
    if not (isinstance(by, list | tuple) and all(isinstance(name, str) for name in by)):
        raise ValueError(f"by: expected a list of names of columns, got {shown(by)}")
    given = style.frame("rows", rows, ("normalised_value",))
    names = {"x": [x], "by": by}
    for argument, wanted in names.items():
        for name in wanted:
            if column(given, name) not in given:
                raise ValueError(f"{argument}: expected a column of rows, got {shown(name)}")
    own = style.axes_of(ax)
    lines = means(given, [*dict.fromkeys(column(given, name) for name in (*by, x))])
    named = _draw(own, lines, x, list(by))
    style.beside(own, named)
    own.set_ylabel(style.MEAN)
    return style.key(own, ax)


@style.styled
def value_over_games(rows: pd.DataFrame | Batched, *, by: str = "family", ax: Any = None) -> Axes:
    """The share of games in which the user gets at most so much, a line a family.

    Of more than five families their 10 to 90 % range and median are drawn, in a row each.

    Args:
        rows: a table of games with the column `normalised_value`.
        by: the column that tells the lines apart; games without such a column are one line.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> import pandas as pd
        >>> type(em.plot.value_over_games(pd.DataFrame({"normalised_value": [0.3, 0.5, 1.0]}))).__name__
        'Axes'
    """
    games = style.frame("rows", rows, ("normalised_value",))
    if not isinstance(by, str) or by not in (*games, "family"):
        raise ValueError(f"by: expected the name of a column, got {shown(by)}")
    groups = games.groupby(by, sort=False, observed=True) if by in games else [("games", games)]
    own = style.axes_of(ax)
    distribution(own, {_word(by, key): group["normalised_value"].to_numpy(float) for key, group in groups})
    return style.key(own, ax)


def column(rows: pd.DataFrame, name: str) -> str:
    """Where the table has the values of an axis; `agents` where K is none."""
    return name if name in rows else name.partition(".")[2] or name


def distribution(ax: Axes, groups: Mapping[str, np.ndarray]) -> None:
    """Shares of values at or below, a line a group, or of many groups their ranges in rows; NaN are left out."""
    known = {name: values[np.isfinite(values)] for name, values in groups.items()}
    known, words = {name: values for name, values in known.items() if len(values)}, style.VALUE
    if not known:
        ax.text(0.5, 0.5, "information is worth nothing\nin these games", ha="center", transform=ax.transAxes)
    elif len(known) <= style.MOST:
        for (name, values), colour in zip(known.items(), style.COLOURS, strict=False):
            ax.ecdf(values, color=colour, label=style.shown(name, 40))
        ax.set_ylabel("share of games\nat or below")
    else:
        names, more = list(known)[:ROWS], len(known) - ROWS
        low, middle, high = np.array([np.quantile(known[name], [0.1, 0.5, 0.9]) for name in names]).T
        ax.hlines(range(len(names)), low, high, color=ROLES["found"]["color"], lw=3, alpha=0.35)
        ax.plot(middle, range(len(names)), "o", color=ROLES["found"]["color"], ms=3.5)
        ax.set_yticks(range(len(names)), [style.shown(name, 24) for name in names])
        ax.set_ylim(len(names) - 0.5, -0.5)
        words += "; dots: median, bars: 10 to 90 % of games" + f"; {more} more rows" * (more > 0)
    reach = [end for values in known.values() for end in (values.min(), values.max())]
    ax.set_xlim(min([-0.03, *reach]), max([1.03, *reach]))
    ax.set_xlabel(style.wrapped(words, 0.8 * style.inches(ax)[0], lines=5))


@style.styled
def figure(lines: pd.DataFrame, x: str, by: list[str], title: str, look: Look) -> Figure:
    """Value against `x`, a panel a family. lines: of `means`, by family, `by` and `x`."""
    families = list(lines.groupby("family", sort=False))
    # Labels beside the lines take room.
    least = 2.6 if by else 1.6
    whole, axes = style.blank(len(families), width=look.width, least=least, share=True)
    named, limits = [], []
    for ax, (name, part) in zip(axes, families, strict=True):
        named.append(_draw(ax, part, x, by))
        limits.append(ax.get_ylim())
        ax.set_title(style.wrapped(style.family(name), style.inches(ax)[0]))
    axes[0].set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    for ax, entries in zip(axes, named, strict=True):
        style.beside(ax, entries)
    style.left_label(axes, style.MEAN)
    style.legend(whole, axes)
    style.title(whole, title)
    return whole


@style.styled
def over_games(spread: pd.DataFrame, title: str, look: Look) -> Figure:
    """Games with one number of agents: of each family the share in which the user gets at most so much, in competition
    and with the best single agent."""
    families = list(spread.groupby("family", sort=False))
    if len(families) > 1:
        whole, axes = style.blank(2, width=look.width, height=max(2.1, 0.15 * len(families) + 0.7), share=True)
        for ax, name, words in zip(axes, (MEASURES["found"], MEASURES["alone"]), ("found", "alone"), strict=True):
            distribution(ax, {style.family(family): part[name].to_numpy(float) for family, part in families})
            ax.set_title(WORDS[words])
        if axes[1].get_subplotspec().colspan.start:  # pyright: ignore[reportOptionalMemberAccess]
            axes[1].set_ylabel("")
    else:
        whole, axes = style.blank(1, width=look.width, height=2.4)
        distribution(axes[0], {WORDS[name]: spread[MEASURES[name]].to_numpy(float) for name in ("found", "alone")})
    style.legend(whole, axes)
    style.title(whole, title)
    return whole


def _draw(ax: Axes, lines: pd.DataFrame, x: str, by: list[str]) -> list[tuple[float, str, Any]]:
    """Means against x; lines: of `table.means`. Returns the names of lines, as `style.beside` takes them."""
    at_column = column(lines, x)
    xs = sorted(lines[at_column].unique())
    keys = [column(lines, name) for name in by]
    groups: list[Any] = list(lines.groupby(keys, sort=False)) if by else [((), lines)]
    drawn, named = [], []
    for (key, part), colour in zip(groups, style.shades(len(groups)), strict=True):
        part = part.sort_values(at_column)
        at = np.array([xs.index(value) for value in part[at_column]], float)
        if not by:
            drawn += _roles(ax, at, part)
            continue
        found = part["found"].to_numpy(float)
        worst = part["worst"].to_numpy(float) if "worst" in part else np.full(len(part), np.nan)
        ax.plot(at, found, color=colour, marker="o", ms=3, lw=1.4, zorder=3)
        ax.plot(at, worst, color=colour, ls=DOTTED, lw=1.1, zorder=2)
        drawn += [found, worst]
        last = found[np.isfinite(found)]
        named.append((float(last[-1]) if len(last) else math.nan, _joined(by, key), colour))
    style.levels(ax)
    style.value_limits(ax, drawn)
    games = sorted({*lines["games"].tolist()})
    style.categories(ax, [number(value) for value in xs])
    count = f" (n = {games[0]})" if len(games) == 1 else f" (n = {games[0]} to {games[-1]})"
    ax.set_xlabel(style.wrapped(LABELS.get(x, style.shown(x)) + ("" if by else count), style.inches(ax)[0]))
    if by:
        ax.plot([], [], color=style.GREY, marker="o", ms=3, label="equilibrium found")
        ax.plot([], [], color=style.GREY, ls=DOTTED, label="worst equilibrium (exact)")
    return named


def _roles(ax: Axes, at: np.ndarray, part: pd.DataFrame) -> list[np.ndarray]:
    """The lines of one group; the found one below the others, so that those it lies on are seen."""
    drawn = []
    for name in ("found", "best", "worst", "alone", "guarantee"):
        values = part[name].to_numpy(float) if name in part else np.full(len(part), np.nan)
        if not np.isfinite(values).any():
            continue
        if name == "found":
            low, high = part["low"].to_numpy(float), part["high"].to_numpy(float)
            ax.vlines(at, low, high, color=ROLES[name]["color"], lw=4.5, alpha=0.25, zorder=1.5)
            drawn += [low, high]
        ax.plot(at, values, label=WORDS[name] + ", 95 % interval" * (name == "found"), **ROLES[name])
        if name != "guarantee":  # which may lie far below all that can be told apart
            drawn.append(values)
    return drawn


def _joined(by: Sequence[str], key: tuple) -> str:
    return ", ".join(_word(name, value) for name, value in zip(by, key, strict=True))


def _word(name: str, value: Any) -> str:
    if name.endswith("family"):
        return style.family(value)
    if isinstance(value, str):
        return value.replace("_", " ")
    short = "K" if name.endswith("agents") else name.split(".")[-1]
    return f"{short} = {number(value)}"


def number(value: Any) -> str:
    """A value on an axis."""
    if isinstance(value, str):
        return style.shown(value, 20)
    return f"{value:g}" if math.isfinite(value) else "\N{INFINITY}"
