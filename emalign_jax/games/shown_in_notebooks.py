"""How a game shows in notebooks: the utilities of the user and of the agents, by action and outcome."""

from __future__ import annotations

import html as markup
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from emalign_jax.internal.transfers import fetch
from emalign_jax.result.display import ROWS, number


def html(game: Any) -> str:
    """The sizes of a `Game`, and a table of one game, the first of a batch. Text from data is escaped."""
    head = f"<p><code>{markup.escape(repr(game))}</code></p>"
    arrays = game.prior, game.user_utility, game.agent_utilities
    known = all(isinstance(x, np.ndarray | jax.Array) and not isinstance(x, Tracer) for x in arrays)
    if not known or repr(game) == "Game(...)" or 0 in game.batch_shape:  # traced, mapped to something else, or no game
        return head
    prior, user, agents = (np.asarray(fetch(x[(0,) * len(game.batch_shape)])) for x in arrays)
    outcomes, actions = game.names("outcomes")[:ROWS], game.names("actions")[:ROWS]
    lines = [("P(outcome)", "", prior.sum((0, 1)))]
    for who, utility in zip(("user", *game.names("agents")), (user, *agents), strict=True):
        lines += [(who, action, row) for action, row in zip(actions, utility, strict=False)]
    rows = [
        _row("td", [who, action, *map(number, values[:ROWS].tolist())])
        for who, action, values in lines[: 1 + ROWS * (1 + ROWS)]
    ]
    left = len(outcomes) < game.outcomes or len(actions) < game.actions or len(rows) < len(lines)
    notes = ["the first game of the batch"] * bool(game.batch_shape) + ["not all rows and columns are shown"] * left
    end = f"<p>{'; '.join(notes).capitalize()}.</p>" if notes else ""
    table = (
        f"<table><thead>{_row('th', ['utility of', 'action', *outcomes])}</thead><tbody>{''.join(rows)}</tbody></table>"
    )
    return f'<div>{head}<div style="overflow-x: auto">{table}{end}</div></div>'


def _row(tag: str, cells: list[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{markup.escape(cell)}</{tag}>' for cell in cells)}</tr>"
