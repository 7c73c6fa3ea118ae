"""Who says what when: the schemes of agents as bars."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from emalign_jax.exact.responses import by_agent, is_known
from emalign_jax.games.game import Game, faults
from emalign_jax.internal.arguments import shown
from emalign_jax.internal.validation import on_host
from emalign_jax.protocols import Selection
from emalign_jax.protocols.base import reduce_for
from emalign_jax.protocols.schemes import check_schemes
from emalign_jax.report import style
from emalign_jax.users.base import AbstractUser

ROWS = 36  # bars that are drawn


@style.styled
def schemes(game: Game, schemes: Any, *, user: Any = None, protocol: Any = None, ax: Any = None) -> Axes:
    """Who says what when: a bar for each agent and value of x_B, divided by the probabilities of its messages.

    Each part has its message's colour and number and, with a `user` of whom responses to single messages are known, the
    action that the user takes after it if it hears this agent alone (as in Selection). Of more than 36 bars the first
    are drawn.

    Args:
        game: one game.
        schemes: [K, XB, M], in conversations [K, rows, M], or a `Solution`.
        user: a rational or quantal user, for the names of actions; None: messages have their numbers alone.
        protocol: of conversations, whose schemes have a row for each history.
        ax: matplotlib axes; by default new ones, as high as the bars need.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> game, honest = em.catalog.judge(), em.full_revelation(1, 2, 2)
        >>> type(em.plot.schemes(game, honest, user=em.RationalUser())).__name__
        'Axes'
    """
    game, protocol = on_host(game=game, protocol=Selection() if protocol is None else protocol)
    if game.batch_shape:
        raise ValueError(f"game: expected one game, got a batch of {list(game.batch_shape)}: take game[k]")
    if fault := str(faults(game)):
        raise ValueError(f"game: {fault}")
    array = check_schemes(game, getattr(schemes, "schemes", schemes), protocol)
    if array.ndim > 3 or not np.isfinite(array).all():
        raise ValueError(f"schemes: expected finite numbers [K, rows, M] of one game, got {list(array.shape)}")
    K, R, M = array.shape
    told = _actions(game, array, user) if user is not None else [[""] * M] * K
    rows = [(i, r) for i in range(K) for r in range(R)]
    drawn = rows[:ROWS]
    own = style.axes_of(ax, height=0.7 + 0.19 * len(drawn) + 0.16 * min(K, drawn[-1][0] + 1))
    colours = _colours(M)
    places, labels = [], []
    for n, (i, r) in enumerate(drawn):
        at = n + 0.8 * i  # with a gap between agents
        if r == 0:
            words = style.shown(game.names("agents")[i], style.letters(own, 0.9))
            own.text(0, at - 0.95, words, fontsize=style.SMALL, fontweight="bold", va="center")
        _bar(own, at, array[i, r], colours, told[i])
        places.append(at)
        labels.append(_label(game, r, R))
    own.set_yticks(places, labels)
    own.set_ylim(places[-1] + 0.5, -1.6)
    own.set_xlim(0, 1)
    own.tick_params(axis="y", length=0)
    own.spines["left"].set_visible(False)
    more = f"; {len(rows) - len(drawn)} more bars are left out" if len(rows) > len(drawn) else ""
    what = "probability of messages, by number" + (" and the action after it" if user is not None else "")
    own.set_xlabel(style.wrapped(what + more, 0.75 * style.inches(own)[0], lines=4))
    return own


def _bar(ax: Axes, at: float, chances: np.ndarray, colours: list[Any], actions: list[str]) -> None:
    left, wide = 0.0, style.inches(ax)[0]
    for m, chance in enumerate(chances):
        if chance > 1e-6:
            ax.barh(at, chance, 0.78, left, color=colours[m], edgecolor="white", lw=0.8)
            letters = int(chance * wide * 72 / (0.6 * style.SMALL)) - 1
            words = f"{m}: {style.shown(actions[m], max(4, letters - 3))}" if actions[m] else str(m)
            words = words if len(words) <= letters else str(m)
            if len(words) <= letters:
                place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": style.SMALL}
                ax.text(left + chance / 2, at, words, color=style.ink(colours[m]), **place)
        left += chance


def _colours(count: int) -> list[Any]:
    if count <= len(style.COLOURS):
        return list(style.COLOURS[:count])
    return [style.mpl.colormaps[style.MAP](share) for share in np.linspace(0, 1, count)]


def _label(game: Game, row: int, rows: int) -> str:
    """ "x_B is guilty"; in conversations also which of the histories of this x_B it is."""
    histories = rows // game.agent_features
    words = f"x_B is {style.shown(game.names('agent_features')[row // histories], 16)}"
    return words if histories == 1 else f"{words}, history {row % histories}"


def _actions(game: Game, array: np.ndarray, user: Any) -> list[list[str]]:
    """By agent and message the likeliest action, for each x_A where there are several; "" for what is never said."""
    if not isinstance(user, AbstractUser) or not is_known(user.plain):
        raise ValueError(f"user: expected a rational or a quantal user, or None, got {shown(user)}")
    if array.shape[1] != game.agent_features:
        raise ValueError("user: actions are known of single messages; leave it out for conversations")
    reduced, names, found = reduce_for(game, Selection(), user, np), game.names("actions"), []
    for i, scheme in enumerate(array):
        sent = np.einsum("bm,xb->xm", scheme, reduced.mass)
        response = by_agent(user.plain, reduced, lambda x, own=scheme: np.einsum("bm,...xbn->...xmn", own, x))[i]
        best = response.argmax(-1)  # [XA, M]
        words = [" / ".join(dict.fromkeys(names[a] for a, p in zip(best[:, m], sent[:, m], strict=True) if p > 0))
                 for m in range(scheme.shape[1])]  # fmt: skip
        found.append(words)
    return found
