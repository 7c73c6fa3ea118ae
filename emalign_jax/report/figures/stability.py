"""The equilibrium set: stability profiles of a few games, or their spread over many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emalign_jax.exact.guarantees.equilibrium_set import Stability, intervals
from emalign_jax.internal.arguments import shown
from emalign_jax.report import style
from emalign_jax.report.figures.values import distribution
from emalign_jax.report.look import Look

FEW = len(style.COLOURS)  # so many games are drawn one by one
GRID = 501
TITLE = "Stability profiles: Selection, rational user"
GAP = "least total deviation gain\n(share of payoff ranges)"


class Profile(NamedTuple):
    """One game's profile, unpadded; value is normalised, gap a share of the sum of payoff ranges."""

    agents: int
    name: str
    value: Float[np.ndarray, "P"]
    gap: Float[np.ndarray, "P"]
    zero: Bool[np.ndarray, "P"]

    @property
    def worst(self) -> float:
        return float(self.value[self.zero][0])

    @property
    def end(self) -> int | None:
        """Where the line ends: before a jump to 0 at V_full."""
        return -1 if self.value[-1] == self.value[-2] else None


def profiles(found: Stability, names: Sequence[str] | None = None) -> list[Profile]:
    """Those of all games that have one: neither failed nor such that information is worth nothing."""
    rows, agents = [], found.payoff_range.shape[-1]
    relative = found.replace(gap=found.relative_gap, value=found.normalise(found.value))
    for n, index in enumerate(np.ndindex(found.worst.shape)):
        value, gap, zero = relative.profile(index)
        if np.isfinite(value).all() and len(value) > 1:
            default = f"game {','.join(map(str, index))}" if index else ""
            rows.append(Profile(agents, names[n] if names else default, value, gap, zero))
    return rows


@style.styled
def stability_profile(found: Stability, *, names: Sequence[str] | None = None, ax: Any = None) -> Axes:
    """Stability profiles: the least total gain that deviations offer where the user is left with a value.

    Below the axis stand the equilibrium values of each game, where its profile is 0: bars, and dots where isolated. Of
    more than six games the median and the range of 10 to 90 % are drawn. Games in which information is worth nothing
    have no profile.

    Args:
        found: what `em.stability` returned, of one game or a batch.
        names: of the games, in order; by default their numbers.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> type(em.plot.stability_profile(em.stability(em.catalog.two_prosecutors()))).__name__
        'Axes'

    Source: section 6.5 of docs/model.md.
    """
    own, rows = style.axes_of(ax), _checked(found, names)
    if len(rows) <= FEW:
        few(own, rows)
    else:
        many(own, rows)
    return own


@style.styled
def worst_equilibria(found: Stability, *, ax: Any = None) -> Axes:
    """The share of games in which the user's worst equilibrium is worth at most so much.

    Args:
        found: what `em.stability` returned of a batch.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> type(em.plot.worst_equilibria(em.stability(em.random_games(0, 2, agents=2)))).__name__
        'Axes'
    """
    own, rows = style.axes_of(ax), _checked(found, None)
    distribution(own, {"worst equilibrium": np.array([row.worst for row in rows])})
    return own


def _checked(found: Any, names: Any) -> list[Profile]:
    if not isinstance(found, Stability):
        raise ValueError(f"found: expected what em.stability returns, got {shown(found)}")
    count = int(np.prod(found.worst.shape))
    if names is not None and not (
        isinstance(names, list | tuple) and len(names) == count and all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"names: expected a list of {count} words, one a game, got {shown(names)}")
    return profiles(found, names)


@style.styled
def figure(rows: list[Profile], look: Look) -> Figure:
    """The figure that fits: profiles one by one, or their spread and the worst equilibria, by number of agents."""
    if len(rows) <= FEW:
        whole, axes = style.blank(1, width=look.width, height=2.3 + 0.14 * len(rows))
        few(axes[0], rows)
    else:
        whole, axes = style.blank(2, width=look.width, height=2.2)
        many(axes[0], rows)
        worst = {f"K = {K} ({len(part)} games)": np.array([row.worst for row in part]) for K, part in _by_agents(rows)}
        distribution(axes[1], worst)
        axes[1].set_title("the user's worst equilibrium")
        style.legend(whole, axes[1:])
    style.title(whole, TITLE)
    return whole


@style.styled
def draw(rows: list[Profile], path: str | Path, kind: str, look: Look) -> None:
    """Write the figure that fits; kind: png, pdf or svg."""
    style.write(figure(rows, look), path, kind)


def few(ax: Axes, rows: list[Profile]) -> None:
    top = max((float(row.gap.max()) for row in rows), default=0.0) or 1.0
    if not rows:
        ax.text(0.5, 0.5, "information is worth nothing\nin these games", ha="center", transform=ax.transAxes)
    share = min(0.6, 1.35 * style.SMALL * (len(rows) + 1) / (72 * style.inches(ax)[1]))  # of the height, for bars
    step = 1.08 * top * share / (1 - share) / (len(rows) + 1)
    for n, (row, colour) in enumerate(zip(rows, style.COLOURS, strict=False)):
        ax.plot(row.value[: row.end], row.gap[: row.end], color=colour, lw=1.5, zorder=3, clip_on=False)
        if row.end is not None:
            ax.plot([1, 1], row.gap[-2:], color=colour, lw=0.9, ls=":", zorder=2)
            ax.plot(1, row.gap[-2], "o", ms=4, mfc="white", mec=colour, zorder=4, clip_on=False)
        at = -step * (n + 1)
        for low, high in intervals(row.value, row.zero):
            ax.plot([low, high], [at, at], color=colour, lw=3.2, solid_capstyle="butt", clip_on=False)
            if low == high:
                ax.plot(low, at, "o", ms=4, color=colour, clip_on=False)
        words, place = style.shown(row.name, style.letters(ax, 0.27)), ax.get_yaxis_transform()
        ax.text(1.04, at, words, color=colour, fontsize=style.SMALL, va="center", transform=place)
    ax.axhline(0, color=style.PALE, lw=0.6, zorder=0)
    ax.set_ylim(-step * (len(rows) + 0.7), 1.08 * top)
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 1.08 * top])
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylabel(GAP)
    ax.set_xlabel(style.wrapped(style.VALUE + "; bars: equilibrium values", 0.9 * style.inches(ax)[0], lines=3))


def many(ax: Axes, rows: list[Profile]) -> None:
    grid, groups = np.linspace(0, 1, GRID), _by_agents(rows)
    named = []
    for (K, part), colour in zip(groups, style.shades(len(groups)), strict=True):
        gaps = np.array([np.interp(grid, row.value[: row.end], row.gap[: row.end]) for row in part])
        low, middle, high = np.quantile(gaps, [0.1, 0.5, 0.9], axis=0)
        if len(groups) == 1:  # bands of several K would hide each other
            ax.fill_between(grid, low, high, color=colour, alpha=0.18, lw=0)
        else:
            ax.plot(grid, high, color=colour, lw=1, ls=style.DOTTED)
        ax.plot(grid, middle, color=colour, lw=1.5)
        named.append((float(middle[-1]), f"K = {K}", colour))
    ax.set_ylim(bottom=0)
    ax.set_xlim(-0.02, 1.02)
    if len(groups) > 1:
        style.beside(ax, named)
    band = "10 to 90 % of games" if len(groups) == 1 else "90 % of games (dotted)"
    ax.set_title(style.wrapped(f"profile: median and {band}", style.inches(ax)[0]))
    ax.set_ylabel(GAP)
    ax.set_xlabel(style.wrapped(style.VALUE, 0.8 * style.inches(ax)[0]))


def _by_agents(rows: list[Profile]) -> list[tuple[int, list[Profile]]]:
    return [(K, [row for row in rows if row.agents == K]) for K in sorted({row.agents for row in rows})]
