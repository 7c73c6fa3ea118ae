"""Beliefs on the simplex: what the messages of an agent tell, over its payoff and its concavification."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation

from emalign_jax.exact.concavification.envelope import (
    BeliefValues,
    Faces,
    Split,
    belief_values,
    beliefs_of_interest,
    best_split,
    split,
    upper_faces,
)
from emalign_jax.exact.responses import is_known
from emalign_jax.games.game import Game, ReducedGame, faults
from emalign_jax.internal.arguments import choice, integer, shown
from emalign_jax.internal.validation import on_host
from emalign_jax.protocols import Selection
from emalign_jax.protocols.base import reduce_for
from emalign_jax.protocols.schemes import check_schemes
from emalign_jax.report import style
from emalign_jax.report.style import COLOURS, GREY, INK
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser

ABOUT = {2: 201, 3: 2500}  # beliefs of the lattice
BEND = 0.05  # of the normals of two faces: by less, a curved envelope bends everywhere
NAMED = 6  # messages that have their number beside them
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])  # of the triangle


@style.styled
def beliefs(
    game: Game, schemes: Any = None, *, agent: int = 0, user: Any = None, of: str = "agent", ax: Any = None
) -> Axes:
    """The beliefs to which one agent's messages lead the user, over the payoff at each belief and its concavification.

    The payoff is the agent's (or the user's) as a function of the user's belief over x_B. Also drawn are the beliefs to
    which the agent would lead the user if it were alone and, along the axis or in the triangle, the action that the
    user takes. The areas of points are the probabilities of messages.

    Args:
        game: one game, in which x_B has two or three values.
        schemes: [K, XB, M] of all agents, or a `Solution`; None: no messages are drawn.
        agent: whose messages and payoff.
        user: the user; by default a rational one.
        of: "agent" or "user": whose payoff is drawn.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> type(em.plot.beliefs(em.catalog.judge(), em.full_revelation(1, 2, 2))).__name__
        'Axes'

    Source: section 5.3 of docs/model.md.
    """
    user = RationalUser() if user is None else user
    game, user = on_host(game=game, user=user)
    reduced = _checked(game, user, of)
    agent = integer("agent", agent, 0)
    if agent >= game.agents:
        raise ValueError(f"agent: expected an index below K = {game.agents}, got {agent}")
    prior = np.asarray(reduced.mass).sum(0)
    told = None if schemes is None else split(prior, _schemes(game, schemes)[agent])
    best = best_split(reduced, user.plain, agent) if of == "agent" else split(prior, np.eye(len(prior)))
    more = [prior[None], best.belief] + ([] if told is None else [told.belief])
    points = np.concatenate([beliefs_of_interest(reduced, user.plain, agent, ABOUT[len(prior)]), *more])
    found = belief_values(reduced, user.plain, agent, points)
    value = found.own if of == "agent" else found.user
    own = style.axes_of(ax, height=2.5)

    def at(belief: np.ndarray) -> np.ndarray:
        there = belief_values(reduced, user.plain, agent, belief)
        return there.own if of == "agent" else there.user

    words = style.shown(game.names("agents")[agent], 24)
    if len(prior) == 2:
        _line(own, game, found, value, at, prior, told, best)
        own.set_ylabel(style.wrapped(f"payoff of {words}" if of == "agent" else "user value", style.inches(own)[1]))
    else:
        bar = _triangle(own, game, found, value, prior, told, best)
        bar.set_label(f"payoff of {words}" if of == "agent" else "user value", fontsize=style.SMALL)
    label = f"best for {words} alone" if of == "agent" else "full information"
    own.plot([], [], "D", ms=4, mfc="none", mec=INK, label=label)
    if told is not None:
        own.plot([], [], "o", ms=4, color=COLOURS[1], alpha=0.75, label="messages it sends, by number")
    return style.key(own, ax)


def _checked(game: Any, user: Any, of: Any) -> ReducedGame:
    if not isinstance(user, AbstractUser) or not is_known(user.plain):
        raise ValueError(f"user: expected a rational or a quantal user, got {shown(user)}")
    choice("of", of, ("agent", "user"))
    if game.batch_shape:
        raise ValueError(f"game: expected one game, got a batch of {list(game.batch_shape)}: take game[k]")
    if fault := str(faults(game)):
        raise ValueError(f"game: {fault}")
    if game.agent_features not in ABOUT:
        raise ValueError(f"game: expected an x_B of two or three values, got {game.agent_features}")
    reduced = reduce_for(game, Selection(), user, np)
    if not (reduced.mass.sum(0) > 0).all():
        raise ValueError("game: expected every x_B to be possible")
    return reduced


def _schemes(game: Game, schemes: Any) -> np.ndarray:
    array = check_schemes(game, getattr(schemes, "schemes", schemes))
    if array.ndim > 3 or not np.isfinite(array).all():
        raise ValueError(f"schemes: expected finite numbers [K, XB, M] of one game, got {list(array.shape)}")
    return array


def _line(
    ax: Axes, game: Game, found: BeliefValues, value: np.ndarray, at: Any, prior: np.ndarray, told: Split | None,
    best: Split,
) -> None:  # fmt: skip
    order = np.argsort(found.belief[:, 1], kind="stable")
    x, y = found.belief[order, 1], value[order]
    low, high = float(y.min()), float(y.max())
    room = max(high - low, 1e-9)
    ends = upper_faces(found.belief, value).corners.ravel()
    ends = ends[np.argsort(found.belief[ends, 1])]
    ax.plot(found.belief[ends, 1], value[ends], color=COLOURS[2], ls=style.DASHED, lw=1.5, zorder=2,
            label="concavification")  # fmt: skip
    jump = (np.diff(x) < 1e-5) & (np.abs(np.diff(y)) > 1e-4 * room)
    cut = np.flatnonzero(jump) + 1
    ax.plot(np.insert(x, cut, np.nan), np.insert(y, cut, np.nan), color=COLOURS[0], lw=1.5, zorder=3)
    ax.axvline(prior[1], color=GREY, lw=0.8, ls=":", zorder=0)
    ax.annotate("prior", (prior[1], 1), xycoords=("data", "axes fraction"), xytext=(0, 1.5), ha="center",
                textcoords="offset points", fontsize=style.SMALL, color=GREY)  # fmt: skip
    ax.plot(best.belief[:, 1], at(best.belief), "D", ms=5, mfc="none", mec=INK, zorder=5, clip_on=False)
    ax.set_ylim(low - 0.3 * room, high + 0.2 * room)
    ax.set_yticks([tick for tick in ax.get_yticks() if low - 0.05 * room <= tick <= high + 0.2 * room])
    ax.set_xlim(-0.02, 1.02)
    if told is not None:
        _messages(ax, told.belief[:, 1], at(told.belief), told)
    if game.user_features == 1:
        action, name = found.response[0, order].argmax(-1), game.names("actions")
        ends = np.flatnonzero(np.diff(action)) + 1
        for n, (first, after) in enumerate(zip([0, *ends], [*ends, len(x)], strict=True)):
            left, right = x[first], x[min(after, len(x) - 1)]
            ax.axvspan(left, right, 0, 0.09, color="0.9" if n % 2 else "0.8", lw=0, zorder=0)
            letters = int((right - left) * style.inches(ax)[0] * 72 / (0.6 * style.SMALL))
            words = style.shown(name[action[first]], max(4, letters))
            if len(words) <= letters:
                place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": style.SMALL}
                ax.text((left + right) / 2, 0.045, words, transform=ax.get_xaxis_transform(), **place)
    words = f"belief that x_B is {style.shown(game.names('agent_features')[1], 30)}"
    ax.set_xlabel(style.wrapped(words, style.inches(ax)[0]))


def _triangle(
    ax: Axes, game: Game, found: BeliefValues, value: np.ndarray, prior: np.ndarray, told: Split | None, best: Split
) -> Any:
    flat = found.belief @ CORNERS
    # Points on either side of a change are too close for triangles.
    keep = np.unique(np.round(flat, 4), axis=0, return_index=True)[1]
    mesh = Triangulation(*flat[keep].T)
    filled = ax.tripcolor(mesh, value[keep], cmap=style.MAP, shading="gouraud", rasterized=True, zorder=0)
    bar = ax.figure.colorbar(filled, ax=ax, fraction=0.05, aspect=25, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    for n, (one, other) in enumerate(_ridges(upper_faces(found.belief, value))):
        label = None if n else "ridges of the concavification"
        ax.plot(*flat[[one, other]].T, color="white", lw=1.8, zorder=1)
        ax.plot(*flat[[one, other]].T, color=COLOURS[2], ls=style.DASHED, lw=1, zorder=1, label=label)
    if game.user_features == 1:
        _regions(ax, game, found, flat)
    ax.plot(*(prior @ CORNERS), "*", ms=8, color="white", mec=INK, mew=0.7, zorder=6, label="prior")
    at = best.belief @ CORNERS
    ax.plot(at[:, 0], at[:, 1], "D", ms=5.5, mfc="none", mec="white", mew=2, zorder=4, clip_on=False)
    ax.plot(at[:, 0], at[:, 1], "D", ms=5.5, mfc="none", mec=INK, zorder=5, clip_on=False)
    if told is not None:
        place = told.belief @ CORNERS
        _messages(ax, place[:, 0], place[:, 1], told, np.round(place[:, 1] / CORNERS[2, 1]))
    names = [style.shown(name, 16) for name in game.names("agent_features")]
    for n, (corner, side) in enumerate(zip(CORNERS, ("left", "right", "center"), strict=True)):
        # Further out than the labels of messages that lie in the corner.
        place = {"xytext": (0, 18 if n == 2 else -17), "va": "bottom" if n == 2 else "top", "ha": side}
        ax.annotate(f"x_B is {names[n]}", corner, textcoords="offset points", fontsize=style.SMALL, **place)
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.08)
    ax.set_axis_off()
    return bar


def _ridges(faces: Faces) -> list[tuple[int, int]]:
    """The edges at which the envelope bends."""
    normals: dict[tuple[int, int], list[np.ndarray]] = {}
    for corners, normal in zip(np.sort(faces.corners, 1).tolist(), faces.normal, strict=True):
        for pair in itertools.combinations(corners, 2):
            normals.setdefault(pair, []).append(normal)
    return [pair for pair, own in normals.items() if np.ptp(own, axis=0).max() > BEND]


def _regions(ax: Axes, game: Game, found: BeliefValues, flat: np.ndarray) -> None:
    """The names of actions where they are taken."""
    action = found.response[0].argmax(-1)
    for a in np.unique(action):
        here = flat[action == a]
        if len(here) > 0.02 * len(flat):
            words = style.shown(game.names("actions")[a], 14)
            box: dict[str, Any] = {"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 1}
            x, y = here.mean(0)
            ax.text(x, y, words, fontsize=style.SMALL, ha="center", va="center", bbox=box, zorder=2)


def _messages(ax: Axes, x: np.ndarray, y: np.ndarray, told: Split, above: np.ndarray | None = None) -> None:
    """Points, with labels above or below them as `above` says, or in turn."""
    ax.scatter(x, y, s=120 * told.chance, color=COLOURS[1], alpha=0.75, lw=0, zorder=4, clip_on=False)
    together: dict[tuple[float, ...], list[int]] = {}
    for m, belief in enumerate(np.round(told.belief, 4)):
        together.setdefault(tuple(belief), []).append(m)
    likely = sorted(together.values(), key=lambda group: -told.chance[group].sum())
    for n, group in enumerate(likely[:NAMED]):
        number = ", ".join(str(told.number[m]) for m in group[:3]) + ", ..." * (len(group) > 3)
        words = f"{number}: {100 * told.chance[group].sum():.0f} %"
        side = "left" if x[group[0]] < 0.05 else "right" if x[group[0]] > 0.95 else "center"
        box: dict[str, Any] = {"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 0.5}
        up = n % 2 == 0 if above is None else above[group[0]]
        place: dict[str, Any] = {"xytext": (0, 7 if up else -13), "textcoords": "offset points", "ha": side}
        ax.annotate(words, (x[group[0]], y[group[0]]), fontsize=style.SMALL, color=INK, bbox=box, zorder=7, **place)
