"""A tuning run: the training curve, and the user's value before and after, game by game."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emalign_jax.experiments.tune.run import Outcome
from emalign_jax.internal.arguments import shown
from emalign_jax.report import style
from emalign_jax.report.look import Look
from emalign_jax.report.style import COLOURS
from emalign_jax.tuning import Tuned
from emalign_jax.tuning.objectives import confidence


@style.styled
def tuning(tuned: Tuned | Outcome, *, ax: Any = None) -> Axes:
    """The objective by step of the gradient, net of cost, a line a restart.

    The best restart at the end is the thick line; crosses are steps that were not taken.

    Args:
        tuned: what `em.tune` returned.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> setting = em.catalog.two_users(), em.Pooled(), em.QuantalUser(5.0), em.mechanisms.UserPrecision()
        >>> type(em.plot.tuning(em.tune(*setting, key=0, steps=2))).__name__
        'Axes'
    """
    if not isinstance(tuned, Tuned | Outcome):
        raise ValueError(f"tuned: expected what em.tune returns, got {shown(tuned)}")
    own = style.axes_of(ax)
    history = tuned.history
    objective = history["objective"]
    steps, restarts = objective.shape
    at = np.arange(1, steps + 1)
    last = np.where(np.isfinite(objective[-1]), objective[-1], -np.inf)
    best, value = int(last.argmax()), history["value"]
    marker: dict[str, Any] = {"marker": "o", "ms": 3} if steps == 1 else {}
    own.plot(at, objective[:, best], color=COLOURS[0], lw=1.8, label="objective, net of cost", **marker)
    if restarts > 1:
        others = np.delete(objective, best, axis=1)
        lines = own.plot(at, others, color=COLOURS[0], lw=0.7, alpha=0.45, **marker)
        lines[0].set_label(f"{restarts - 1} other restarts" if restarts > 2 else "the other restart")
    if not np.allclose(value[:, best], objective[:, best], equal_nan=True):  # which it is where nothing costs
        own.plot(at, value[:, best], color=style.GREY, ls=style.DASHED, lw=1.1, label="user value, mean", **marker)
    skipped, restart = np.nonzero(history["skipped"])
    if len(skipped):
        own.plot(at[skipped], objective[skipped, restart], "x", ms=4, color=COLOURS[1], label="step skipped")
    own.xaxis.set_major_locator(MaxNLocator(integer=True))
    own.set_xlabel("step")
    own.set_ylabel("objective, user value\n(smoothed equilibria)")
    return style.key(own, ax)


@style.styled
def before_and_after(rows: pd.DataFrame, *, ax: Any = None) -> Axes:
    """The user's value in each game before and after tuning, and the means with their 95 % intervals.

    Above the diagonal the user is better off.

    Args:
        rows: a table with the columns `user_before` and `user_after`, such as games.parquet of `emalign tune`.
        ax: matplotlib axes; by default new ones.

    Returns:
        The axes.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> import pandas as pd
        >>> type(em.plot.before_and_after(pd.DataFrame({"user_before": [0.1, 0.5], "user_after": [0.3, 0.6]}))).__name__
        'Axes'
    """
    rows = style.frame("rows", rows, ("user_before", "user_after"))
    own = style.axes_of(ax, height=2.8)
    before, after = rows["user_before"].to_numpy(float), rows["user_after"].to_numpy(float)
    both = np.concatenate([before, after])
    both = both[np.isfinite(both)] if np.isfinite(both).any() else np.array([0.0, 1.0])
    room = 0.05 * max(both.max() - both.min(), 0.1 * np.abs(both).max(), 1e-9)
    ends = [both.min() - room, both.max() + room]
    own.plot(ends, ends, color=style.PALE, lw=0.8, zorder=0)
    own.scatter(before, after, s=12, color=COLOURS[0], alpha=0.5, lw=0, label="a game")
    (x, *across), (y, *up) = confidence(before), confidence(after)
    own.errorbar(
        x, y, xerr=np.abs(np.array(across) - x)[:, None], yerr=np.abs(np.array(up) - y)[:, None], fmt="o",
        color=COLOURS[1], ms=4, capsize=2.5, label="mean, 95 % interval",
    )  # fmt: skip
    own.set_xlabel("user value before")
    own.set_ylabel("user value after")
    return style.key(own, ax)


@style.styled
def figure(outcome: Outcome, words: str, look: Look) -> Figure:
    whole, axes = style.blank(2, width=look.width, height=2.3)
    tuning(outcome, ax=axes[0])
    before_and_after(outcome.rows, ax=axes[1])
    style.title(whole, style.shown(words))
    return whole


@style.styled
def draw(outcome: Outcome, words: str, directory: Path, look: Look) -> list[str]:
    """Write the figure; returns the names of the files."""
    return style.save(figure(outcome, words, look), *look.paths(directory, "tuning"))
