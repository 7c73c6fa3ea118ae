"""A conversation as a picture: a tree of what may be said, with the user's belief at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from emalign_jax.games.game import Game
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.report import style
from emalign_jax.report.transcripts import Line, Words, transcript
from emalign_jax.users.base import AbstractUser

ROWS = 45  # lines that are drawn
STEP, REACHED, BAR = (
    0.035,
    0.47,
    (0.5, 0.7),
)  # widths as shares of the axes: of a step of the tree, and where the beliefs stand


@style.styled
def transcript_tree(
    game: Game,
    schemes: Any,
    protocol: AbstractProtocol,
    user: AbstractUser,
    *,
    user_feature: int | None = None,
    at_least: float = 0.01,
    names: Any = None,
    ax: Any = None,
) -> Axes:
    """What may be said in a conversation of one game, drawn as a tree.

    A line for the messages of a round, and one for each reply. Beside each: its probability, the user's belief over x_B
    as a bar, and at the end the action and the user's value. Of more than 45 lines the first are drawn.

    Args:
        game, schemes, protocol, user, user_feature, at_least, names: as in `em.transcript_tree`.
        ax: matplotlib axes; by default new ones, as high as the tree needs.

    Returns:
        The axes.

    Raises:
        ValueError: as `em.transcript_tree`.

    Example:
        >>> setting = em.catalog.judge(), em.full_revelation(1, 2, 2), em.Conversation(1), em.RationalUser()
        >>> type(em.plot.transcript_tree(*setting)).__name__
        'Axes'
    """
    array = getattr(schemes, "schemes", schemes)
    title, lines, words = transcript(game, array, protocol, user, user_feature, at_least, names)
    drawn = lines[:ROWS]
    own = style.axes_of(ax, style.FULL, 0.6 + 0.155 * (len(drawn) + 2))
    own.set_axis_off()
    own.set_xlim(0, 1)
    own.set_ylim(len(drawn) + 0.2, -1.6)
    last: dict[int, int] = {}  # the line above, by depth
    colours = style.shades(len(words["x_B"]))
    for row, line in enumerate(drawn):
        depth = len(line.branches) // 3
        _branch(own, row, depth, last)
        last = {level: at for level, at in last.items() if level < depth} | {depth: row}
        _words(own, row, depth, line, words)
        _belief(own, row, line, colours)
    heads = (
        (REACHED, "reached", "right"),
        (BAR[0], "belief over x_B", "left"),
        (BAR[1] + 0.02, "action", "left"),
        (1, "value", "right"),
    )
    for x, text, side in heads:
        own.text(x, -1, text, fontsize=style.SMALL, color=style.GREY, ha=side, va="center")
    _names(own, words["x_B"], colours, len(drawn))
    more = f" ({len(lines) - len(drawn)} more lines are left out)" if len(lines) > len(drawn) else ""
    if title or more:
        own.set_title(style.wrapped((title or "") + more, style.inches(own)[0]))
    return own


def _branch(ax: Axes, row: int, depth: int, last: dict[int, int]) -> None:
    if depth and depth - 1 in last:
        x = STEP * (depth - 0.7)
        top = last[depth - 1] + 0.35
        ax.plot([x, x, x + 0.6 * STEP], [top, row, row], color="0.6", lw=0.7)


def _words(ax: Axes, row: int, depth: int, line: Line, words: Words) -> None:
    start = STEP * depth
    look: dict[str, Any] = {"fontsize": style.SMALL, "va": "center"}
    ax.text(start, row, style.shown(line.label, max(5, _letters(ax, REACHED - 0.09 - start))), **look)
    ax.text(REACHED, row, f"{100 * line.reached:.0f} %" if line.reached >= 5e-3 else "<1 %", ha="right", **look)
    value = "" if line.paid is None else f"{line.paid[0] + 0.0:.3g}"
    ax.text(1, row, value, ha="right", **look)
    if line.action is not None:
        room = max(4, _letters(ax, 0.98 - BAR[1]) - len(value) - 1)
        likely = int(np.argmax(line.action))
        action, sure = words["actions"][likely], f" {100 * line.action[likely]:.0f} %"
        action += sure * bool(line.action[likely] < 0.995 and len(action + sure) <= room)
        ax.text(BAR[1] + 0.02, row, style.shown(action, room), **look)


def _letters(ax: Axes, share: float) -> int:
    """How many letters fit into a share of the width, which without ticks and labels is nearly that of the figure."""
    return int(share * 1.2 * style.inches(ax)[0] * 72 / (0.57 * style.SMALL))


def _belief(ax: Axes, row: int, line: Line, colours: list[Any]) -> None:
    """The belief as one bar, divided by x_B."""
    if line.belief is not None:
        wide = (BAR[1] - BAR[0]) * line.belief
        left = BAR[0] + np.append(0, np.cumsum(wide)[:-1])
        ax.barh(np.full(len(wide), row), wide, 0.7, left, color=colours, edgecolor="white", lw=0.5)


def _names(ax: Axes, names: list[str], colours: list[Any], row: int) -> None:
    """The values of x_B in their colours, as many as fit."""
    x, wide = 0.0, 72 * style.inches(ax)[0] / (0.6 * style.SMALL)  # letters
    parts = [f"x_B is {style.shown(name, 14)}" for name in names]
    for part, colour in zip(parts, colours, strict=True):
        if x + len(part) / wide > 0.97:
            ax.text(x, row, "...", fontsize=style.SMALL, va="center")
            break
        ax.text(x, row, part, color=colour, fontsize=style.SMALL, va="center", fontweight="bold")
        x += (len(part) + 3) / wide
