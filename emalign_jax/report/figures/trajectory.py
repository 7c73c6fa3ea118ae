"""One search, step by step: the user's value, whom the user picks, payoffs and deviation gains."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from emalign_jax.equilibrium.solution import Solution
from emalign_jax.internal.arguments import choice, shown
from emalign_jax.report import style
from emalign_jax.result import Move

LEAST_GAIN = 1e-6  # below, the axis of gains is linear, so that it has a zero
MARKERS = (
    (Move.START, "o", 4.0, "a start"),
    (Move.PLAY, ".", 2.0, "gradient play"),
    (Move.BEST_RESPONSE, ".", 5.0, "a best response"),
    (Move.OTHER, "s", 3.0, "another move"),
    (Move.RETURNED, "D", 3.5, "returned"),
)
SHOWN = ("value", "payoffs", "gains")


@style.styled
def trajectory(solution: Solution, game: Any = (), *, show: str = "value", ax: Any = None) -> Axes:
    """The profiles that a search met on its way (a `Trajectory`).

    Hollow circles are starts, small points gradient play, larger ones best responses, and diamonds what is returned.

    Args:
        solution: of `solve(..., record=True)`.
        game: the index of the game in the batch, such as 3, with several starts (start, game).
        show: "value" of the user, with a strip below of the agent that is picked where one is; "payoffs" of the agents;
            or their deviation "gains", as shares of the payoff range, where any were computed.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: for a solution without trajectories, and for an index outside of the batch.

    Example:
        >>> setting = em.catalog.two_prosecutors(), em.Selection(), em.RationalUser(), em.BestResponseDynamics()
        >>> found = em.solve(*setting, start=em.full_revelation(2, 2, 2), record=True)
        >>> type(em.plot.trajectory(found)).__name__
        'Axes'
    """
    kept = getattr(solution, "trajectory", None)
    if kept is None:
        raise ValueError(f"solution: expected one of em.solve(..., record=True), got {shown(solution)} without it")
    choice("show", show, SHOWN)
    index = game if isinstance(game, tuple) else (game,)
    try:
        steps = int(kept.steps[index])
    except (IndexError, TypeError, ValueError):
        batch = list(kept.steps.shape)
        raise ValueError(f"game: expected the index of one game in a batch of {batch}, got {shown(game)}") from None
    if not steps:
        raise ValueError(f"game: no profile was found of game {game!r}, which is malformed")
    own = style.axes_of(ax)
    columns = kept.move, kept.user, kept.agents, kept.relative_gain, kept.holder
    move, user, agents, gains, holder = (column[index][:steps] for column in columns)
    colours = style.shades(agents.shape[1])
    if show == "value":
        _line(own, move, user, style.INK)
        _picks(own, holder, colours)
        _between(own, solution, index)
        for code, marker, size, words in MARKERS:
            if (move == code).any():
                face = "white" if code == Move.START else style.INK
                own.plot([], [], marker, ms=size, color=style.INK, mfc=face, label=words)
    else:
        each = agents if show == "payoffs" else gains
        for i, colour in enumerate(colours):
            _line(own, move, each[:, i], colour)
        if show == "gains":
            most = np.nanmax(gains, initial=LEAST_GAIN)
            own.set_yscale("symlog", linthresh=LEAST_GAIN)
            own.set_yticks([0, *(t for t in 10.0 ** np.arange(-6, 3, 2) if t <= 3 * most)])
            style.plain_log(own.yaxis)
            own.set_ylim(-0.3 * LEAST_GAIN, 3 * most)
        last = [column[np.isfinite(column)] for column in each.T]
        named = [(float(x[-1]) if len(x) else np.nan, f"agent {i}", colours[i]) for i, x in enumerate(last)]
        style.beside(own, named)
        own.set_ylabel("payoffs of agents" if show == "payoffs" else "gain / payoff range")
    own.xaxis.set_major_locator(MaxNLocator(integer=True))
    own.set_xlabel(style.wrapped("profiles met, in order (of gradient play every tenth step)", style.inches(own)[0]))
    return style.key(own, ax)


def _between(ax: Axes, solution: Solution, index: tuple) -> None:
    """The values that the user's lies between."""
    if solution.certificate is not None:
        words = {"no_information": "no information", "full_information": "full information"}
        known = {what: float(getattr(solution.certificate, name)[index]) for name, what in words.items()}
        for level in known.values():
            ax.axhline(level, color="0.6", lw=0.8, ls=":", zorder=0)
        style.beside(ax, [(level, what, style.GREY) for what, level in known.items()])


def _picks(ax: Axes, holder: np.ndarray, colours: list[Any]) -> None:
    """A strip of the colour of the agent that is picked."""
    picks = [i for i in range(len(colours)) if (holder == i).any()]
    ax.margins(y=0.16 if picks else 0.08)
    for i in picks:
        mine = np.flatnonzero(holder == i)
        ax.bar(mine, 0.05, 1.0, 0.0, color=colours[i], lw=0, transform=ax.get_xaxis_transform())
    for n, i in enumerate(picks[:5]):
        place: dict[str, Any] = {"xytext": (4 + 8 * n, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(str(i), (1, 0.025), xycoords="axes fraction", color=colours[i], fontsize=style.SMALL, **place)
    ax.set_ylabel("user value" + ("\n(strip: whom it picks)" if picks else ""))


def _line(ax: Axes, move: np.ndarray, values: np.ndarray, colour: Any) -> None:
    """One line a start, which fresh starts and unknown numbers break; what is returned stands alone at the end."""
    at, starts = np.arange(len(move)), np.cumsum(move == Move.START)
    for start in np.unique(starts):
        some = (starts == start) & (move != Move.RETURNED)
        ax.plot(at[some], values[some], color=colour, lw=1.1)
    for code, marker, size, _ in MARKERS:
        some = move == code
        ax.plot(at[some], values[some], marker, ms=size, color=colour, mfc="white" if code == Move.START else colour)
