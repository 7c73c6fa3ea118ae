"""The misalignment at which competition stops helping.

Beyond it, the worst equilibrium regains less than half of what the best single agent leaves the user short of full
information.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from emalign_jax.experiments.plan import Plan

KNOBS = ("games.bias", "games.noise")  # the larger, the less aligned
SHARE = 0.5
CONFIDENCE = 0.95
RESAMPLES = 1000


class Threshold(NamedTuple):
    """value, and the ends of its interval: where the share regained falls below SHARE for good, by linear interpolation
    between the knob's values; infinite beyond the largest, -inf below the least."""

    family: str
    agents: int
    value: float
    low: float
    high: float


def knob(plan: Plan) -> str | None:
    """The one knob of misalignment that the grid varies, if nothing else varies but family and K."""
    others = [name for name in plan.axes if name not in ("games.family", "games.agents")]
    return others[0] if len(others) == 1 and others[0] in KNOBS else None


@np.errstate(all="ignore")  # infinite or huge numbers of a file are shown as they are
def thresholds(plan: Plan, rows: pd.DataFrame) -> list[Threshold]:
    """One a family and K >= 2; none where the worst equilibrium or the monopolists were not measured.

    The interval is a bootstrap's over games: game n is the same user at every value of the knob, so games are drawn
    whole."""
    name = knob(plan)
    if name is None:
        return []
    found = []
    for (family, agents), part in rows.groupby(["family", "agents"], sort=False):
        worst, alone = (
            part.pivot_table(index=["game", "start"], columns=name, values=f"normalised_{column}", dropna=False)
            for column in ("worst_equilibrium", "best_monopolist")
        )
        values = worst.columns.to_numpy(float)
        gained, short = (worst - alone).to_numpy(float), 1 - alone.to_numpy(float)  # [games, values]
        known = np.isfinite(gained).all(1)  # games in which information is worth nothing are not
        if agents > 1 and known.any():
            ends = crossing(values, SHARE, regained, gained[known], short[known])
            found.append(Threshold(str(family), int(agents), *ends))
    return found


def regained(
    gained: Float[np.ndarray, "*any N X"], short: Float[np.ndarray, "*any N X"]
) -> Float[np.ndarray, "*any X"]:
    """Share of the games' total shortfall; 1 where there is none to speak of."""
    left = short.mean(-2)
    return np.where(left > 1e-9, gained.mean(-2) / np.maximum(left, 1e-9), 1.0)


def crossing(
    values: Float[np.ndarray, "X"], level: float, curve: Callable[..., np.ndarray], *games: Float[np.ndarray, "N X"]
) -> tuple[float, float, float]:
    """Where curve(*games) [X] falls below the level for good, and the ends of a bootstrap's interval over games."""
    N = len(games[0])
    draws = np.random.default_rng(0).integers(N, size=(RESAMPLES, N))
    resampled = [_falls(values, curve(*(x[draw] for x in games)), level) for draw in draws]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], method="nearest")
    return _falls(values, curve(*games), level), float(low), float(high)


def _falls(values: Float[np.ndarray, "X"], share: Float[np.ndarray, "X"], level: float) -> float:
    """The last crossing: where agents are nearly aligned, next to nothing is left to regain, and shares of it jump."""
    enough = np.flatnonzero(share >= level)
    if len(enough) == 0:
        return -np.inf
    n = int(enough[-1])
    return float(np.interp(level, share[[n + 1, n]], values[[n + 1, n]])) if n + 1 < len(values) else np.inf


def words(plan: Plan, threshold: Threshold) -> str:
    """ "0.98 [0.75, 1.4]"; "> 3" where the largest value tried is not enough, "< 0" where the least is too much."""
    values = plan.grid[knob(plan) or ""]

    def bounded(x: float) -> str:
        return f"{x:.2g}" if np.isfinite(x) else f"> {max(values):g}" if x > 0 else f"< {min(values):g}"

    value, low, high = (bounded(x) for x in (threshold.value, threshold.low, threshold.high))
    return f"{value} [{low}, {high}]" if low != high else value


def explain(plan: Plan) -> str:
    """What the numbers are."""
    what = (knob(plan) or "").split(".")[-1]
    return (
        f"Where competition stops helping: the {what} beyond which the worst equilibrium regains less than half of "
        f"what the best single agent leaves the user short of full information ({100 * CONFIDENCE:g} % interval, over "
        "games)"
    )
