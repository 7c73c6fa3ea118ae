"""The figure of one search, step by step: the user's value, whom the user picks, payoffs and deviation gains.

matplotlib is imported at the first figure: `import emalign_jax` must stay light.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emalign_jax.equilibrium.solution import Solution
from emalign_jax.internal.arguments import shown
from emalign_jax.result import Move

LEAST_GAIN = 1e-6  # below, the axis of gains is linear, so that it has a zero
MARKERS = (
    (Move.START, "o", 6.0, "a start"),
    (Move.PLAY, ".", 2.5, "gradient play"),
    (Move.BEST_RESPONSE, ".", 6.0, "a best response"),
    (Move.OTHER, "s", 4.0, "another move"),
    (Move.RETURNED, "D", 5.0, "returned"),
)


def trajectory(solution: Solution, game: Any = (), *, figure: Any = None) -> np.ndarray:
    """Draw what a search met on its way (a `Trajectory`).

    solution: of `solve(..., record=True)`
    game:     the index of the game in the batch, such as 3, with several starts (start, game)
    figure:   a matplotlib figure or subfigure to draw into; by default a new one

    Returns the axes: the user's value, with a strip below of the agent that is picked where one is; the agents'
    payoffs; the deviation gains as shares of the payoff range, where any were computed. Hollow circles are starts,
    small points gradient play, larger ones best responses, and diamonds what is returned.
    Raises `ValueError` for a solution without trajectories, and for an index outside of the batch.

    Example: `em.plot.trajectory(em.solve(games, em.Selection(), em.RationalUser(), key=0, record=True), 0)[0].figure`
    """
    from matplotlib.figure import Figure

    from emalign_jax.report.search_figure import COLOURS

    kept = getattr(solution, "trajectory", None)
    if kept is None:
        raise ValueError(f"solution: expected one of em.solve(..., record=True), got {shown(solution)} without it")
    index = game if isinstance(game, tuple) else (game,)
    try:
        steps = int(kept.steps[index])
    except (IndexError, TypeError, ValueError):
        batch = list(kept.steps.shape)
        raise ValueError(f"game: expected the index of one game in a batch of {batch}, got {game!r}") from None
    if not steps:
        raise ValueError(f"game: no profile was found of game {game!r}, which is malformed")
    move, user, agents, gains, holder = (column[index][:steps] for column in kept[1:])
    checked = bool(np.isfinite(gains).any())
    figure = Figure(figsize=(7.2, 6.6 if checked else 5.0), layout="constrained") if figure is None else figure
    axes = figure.subplots(2 + checked, 1, sharex=True, height_ratios=[3, 2, 2][: 2 + checked])
    colours = [COLOURS[i % len(COLOURS)] for i in range(agents.shape[1])]
    _line(axes[0], move, user, "0.15", "user")
    if solution.certificate is not None:
        for name, words in (("no_information", "no information"), ("full_information", "full information")):
            level = float(getattr(solution.certificate, name)[index])
            axes[0].axhline(level, color="0.6", lw=0.9, ls=":", zorder=0)
            place = {"xytext": (0, 2), "textcoords": "offset points", "ha": "right"}
            axes[0].annotate(words, (steps - 1, level), fontsize=8, color="0.4", **place)
    for i, colour in enumerate(colours):
        _line(axes[1], move, agents[:, i], colour, f"agent {i}")
        if checked:
            _line(axes[2], move, gains[:, i], colour, None)
    picks = bool((holder >= 0).any())
    axes[0].margins(y=0.13 if picks else 0.07)
    for i, colour in enumerate(colours if picks else ()):
        mine = np.flatnonzero(holder == i)
        axes[0].bar(mine, 0.05, 1.0, 0.0, color=colour, lw=0, transform=axes[0].get_xaxis_transform())
    axes[0].set_ylabel("user value" + ("\n(below: the agent that is picked)" if picks else ""))
    axes[1].set_ylabel("payoffs")
    if checked:
        axes[2].set_yscale("symlog", linthresh=LEAST_GAIN)
        axes[2].set_ylim(-0.3 * LEAST_GAIN, 3 * max(LEAST_GAIN, np.nanmax(gains)))
        axes[2].set_ylabel("gain / payoff range")
    axes[-1].set_xlabel("profiles met, in order (of gradient play every tenth step)")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    for code, marker, size, words in MARKERS:
        if (move == code).any():
            face = "white" if code == Move.START else "0.15"
            axes[0].plot([], [], marker, ms=size, color="0.15", mfc=face, label=words)
    (handles, labels), (more, further) = (axis.get_legend_handles_labels() for axis in axes[:2])
    figure.legend(handles + more, labels + further, frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    return axes


def _line(axis, move, values, colour, label) -> None:
    """One line a start, which fresh starts and unknown numbers break; what is returned stands alone at the end."""
    at, starts = np.arange(len(move)), np.cumsum(move == Move.START)
    for start in np.unique(starts):
        some = (starts == start) & (move != Move.RETURNED)
        axis.plot(at[some], values[some], color=colour, lw=1.4)
    for code, marker, size, _ in MARKERS:
        some = move == code
        axis.plot(at[some], values[some], marker, ms=size, color=colour, mfc="white" if code == Move.START else colour)
    axis.plot([], [], color=colour, lw=1.8, label=label)
