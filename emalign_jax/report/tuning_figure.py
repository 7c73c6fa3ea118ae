"""The figure of a tuning run: the training curve, and the user's value before and after, game by game."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from emalign_jax.experiments.tune.run import FIGURES, Outcome
from emalign_jax.report.drawing import save, shown
from emalign_jax.report.search_figure import COLOURS
from emalign_jax.tuning.objectives import confidence


def draw(outcome: Outcome, title: str, path: Path) -> list[str]:
    """PNG and PDF; their names."""
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    curve, games = figure.subplots(1, 2)
    history = outcome.history
    steps, restarts = history["objective"].shape
    at, lw = np.arange(1, steps + 1), 2 if restarts == 1 else 1
    lines = curve.plot(at, history["objective"], color=COLOURS[0], lw=lw, alpha=1 if restarts == 1 else 0.6)
    lines[0].set_label("objective, net of cost" + (f"; {restarts} restarts" if restarts > 1 else ""))
    if restarts == 1:
        curve.plot(at, history["value"], color="0.45", lw=1.2, ls="--", label="mean user value")
    skipped, restart = np.nonzero(history["skipped"])
    if len(skipped):
        value = history["value"][skipped, restart]
        curve.plot(at[skipped], value, "x", color=COLOURS[1], label="step skipped")
    curve.set_xlabel("step")
    curve.set_ylabel("smoothed equilibria of the games tuned on")
    curve.legend(frameon=False, fontsize=8, loc="best")
    rows = outcome.rows
    before, after = rows["user_before"].to_numpy(), rows["user_after"].to_numpy()
    both = np.concatenate([before, after])
    low, high = np.nanmin(both), np.nanmax(both)
    room = 0.04 * max(high - low, 1e-9)
    games.plot([low - room, high + room], [low - room, high + room], color="0.75", lw=0.8, zorder=0)
    games.scatter(before, after, s=16, color=COLOURS[0], alpha=0.55, lw=0, label="a game")
    (x, *across), (y, *up) = confidence(before), confidence(after)
    games.errorbar(
        x, y, xerr=np.abs(np.array(across) - x)[:, None], yerr=np.abs(np.array(up) - y)[:, None], fmt="o",
        color=COLOURS[1], ms=5, capsize=3, label="mean, 95 % interval",
    )  # fmt: skip
    games.set_xlabel("user value before")
    games.set_ylabel("user value after")
    games.legend(frameon=False, fontsize=8, loc="upper left")
    for axis in (curve, games):
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(shown(title), fontsize=10.5)
    return save(figure, [path / name for name in FIGURES])
