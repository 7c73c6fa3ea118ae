"""The figure of the equilibrium set: stability profiles of a few games, or their spread over many."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from emalign_jax.exact.guarantees.equilibrium_set import Stability, intervals
from emalign_jax.report.search_figure import COLOURS

FEW = len(COLOURS)  # so many games are drawn one by one
GRID = 501
TITLE = "Stability profiles: Selection, rational user"
VALUE_LABEL = "user value (0 no information, 1 full information)"


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


def profiles(found: Stability, agents: int, names: list[str] | None = None) -> list[Profile]:
    """Those of all games that have one: neither failed nor such that information is worth nothing."""
    rows = []
    relative = found._replace(gap=found.relative_gap, value=found.normalise(found.value))
    for n, index in enumerate(np.ndindex(found.worst.shape)):
        value, gap, zero = relative.profile(index)
        if np.isfinite(value).all() and len(value) > 1:
            rows.append(Profile(agents, names[n] if names else ",".join(map(str, index)), value, gap, zero))
    return rows


def draw(rows: list[Profile], path: str | os.PathLike, kind: str = "png") -> None:
    """The figure that fits; kind: png, pdf or svg."""
    if not rows:
        figure = Figure(figsize=(5.4, 3.9), layout="constrained")
        figure.text(0.5, 0.5, "information is worth nothing in these games", ha="center")
    elif len(rows) <= FEW:
        figure = one_by_one(rows)
    else:
        figure = spread(rows)
    figure.savefig(path, dpi=160, format=kind)


def one_by_one(rows: list[Profile]) -> Figure:
    """Above the profile of each game, below where its equilibrium values lie: bars, and dots where isolated."""
    figure = Figure(figsize=(5.8, 3.6 + 0.24 * len(rows)), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.0, 0.24 * len(rows)])
    top = max(row.gap.max() for row in rows) or 1.0
    for n, (row, colour) in enumerate(zip(rows, COLOURS, strict=False)):
        end = _end(row)
        above.plot(row.value[:end], row.gap[:end], color=colour, lw=1.8, zorder=3, clip_on=False)
        if end is not None:
            above.plot([1, 1], row.gap[-2:], color=colour, lw=1, ls=":", zorder=2)
            above.plot(1, row.gap[-2], "o", ms=5, mfc="white", mec=colour, zorder=4, clip_on=False)
        for low, high in intervals(row.value, row.zero):
            below.plot([low, high], [n, n], color=colour, lw=4, solid_capstyle="butt", clip_on=False)
            if low == high:
                below.plot(low, n, "o", ms=6, color=colour, clip_on=False)
    above.set_ylim(0, 1.05 * top)
    above.set_xlim(-0.02, 1.02)
    above.set_ylabel("least total deviation gain\n(share of the agents' payoff ranges)")
    below.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    for label, colour in zip(below.get_yticklabels(), COLOURS, strict=False):
        label.set_color(colour)
    below.set_ylim(len(rows) - 0.5, -0.5)
    below.tick_params(axis="y", length=0)
    below.set_title("equilibrium values", fontsize=8.5, loc="left", pad=3)
    below.set_xlabel(VALUE_LABEL)
    above.spines[["top", "right"]].set_visible(False)
    below.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(TITLE, fontsize=10.5)
    return figure


def spread(rows: list[Profile]) -> Figure:
    """Left quantiles of the profile over games, right the distribution of the worst equilibrium; a colour a K."""
    figure = Figure(figsize=(9.0, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = sorted({row.agents for row in rows})
    grid = np.linspace(0, 1, GRID)
    for K, colour in zip(numbers, COLOURS * len(numbers), strict=False):
        part = [row for row in rows if row.agents == K]
        gaps = np.array([np.interp(grid, row.value[: _end(row)], row.gap[: _end(row)]) for row in part])
        low, middle, high = np.quantile(gaps, [0.1, 0.5, 0.9], axis=0)
        name = f"K = {K} ({len(part)} games)"
        if len(numbers) == 1:  # bands of several K would hide each other
            left.fill_between(grid, low, high, color=colour, alpha=0.18, lw=0)
        else:
            left.plot(grid, high, color=colour, lw=1.2, ls=(0, (1, 1.2)))
        left.plot(grid, middle, color=colour, lw=1.8)
        worst, share = np.unique([row.worst for row in part], return_counts=True)
        right.step(
            [0, *worst, 1], [0, *np.cumsum(share) / len(part), 1], where="post", color=colour, lw=1.8, label=name
        )
    left.set_ylabel("least total deviation gain\n(share of the agents' payoff ranges)")
    band = "10 to 90 % of games" if len(numbers) == 1 else "90th percentile (dotted)"
    left.set_title(f"profile: median and {band}", fontsize=9.5)
    left.set_ylim(bottom=0)
    right.set_ylabel("share of games at or below")
    right.set_title("the user's worst equilibrium", fontsize=9.5)
    right.set_ylim(0, 1.02)
    for axis in (left, right):
        axis.set_xlabel(VALUE_LABEL)
        axis.set_xlim(-0.02, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=8, loc="upper left")
    figure.suptitle(TITLE, fontsize=10.5)
    return figure


def _end(row: Profile) -> int | None:
    """Where the line ends: before a jump to 0 at V_full."""
    return -1 if row.value[-1] == row.value[-2] else None
