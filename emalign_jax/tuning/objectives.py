"""Objectives of tuning: one number from the user's value in each game and start."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.games.game import Array
from emalign_jax.internal import validation
from emalign_jax.internal.arguments import choice, number
from emalign_jax.internal.validation import setting
from emalign_jax.result import display

OVER_GAMES = ("mean", "quantile", "cvar")
OVER_STARTS = ("mean", "worst")


class Objective(eqx.Module):
    """The objective of tuning: one number from the user's value in each game and start.

    Args:
        over_games: "mean", "quantile", or "cvar", the mean over the worst share of games.
        level: in (0, 1): the quantile, or the share of games of "cvar"; not used by "mean".
        over_starts: "mean" or "worst", over the starts of each game.

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> values = jnp.arange(10.0)[None]  # [S, N] of one start and ten games
        >>> round(float(em.Objective("cvar", level=0.2)(values, values >= 0)), 3)
        0.5
    """

    over_games: str = setting("over_games", "mean", choice, OVER_GAMES)
    level: float = setting("level", 0.1, number, "a number strictly between 0 and 1", lambda x: 0 < x < 1)
    over_starts: str = setting("over_starts", "mean", choice, OVER_STARTS)
    __repr__ = display.written

    def __call__(self, values: Float[Array, "S N"], counted: Bool[Array, "S N"]) -> Float[Array, ""]:
        """The objective of the values that are counted; 0 if none is. The others may be NaN."""
        game, games = self.of_games(values, counted), counted.any(0)
        game, count = jnp.where(games, game, 0), jnp.maximum(games.sum(dtype=values.dtype), 1)
        if self.over_games == "mean":
            return game.sum() / count
        order = jnp.sort(jnp.where(games, game, jnp.inf))
        rank = jnp.arange(len(order), dtype=values.dtype)
        if self.over_games == "cvar":
            share = jnp.clip(self.level * count - rank, 0, 1)  # the last game counts in part
            return (share * jnp.where(share > 0, order, 0)).sum() / share.sum()
        at = self.level * (count - 1)
        share = jnp.maximum(1 - jnp.abs(rank - at), 0)  # between neighbours, as NumPy's quantile
        return (share * jnp.where(share > 0, order, 0)).sum()

    def of_games(self, values: Float[Array, "S N"], counted: Bool[Array, "S N"]) -> Float[Array, "N"]:
        """The value of each game over its starts; meaningless where none is counted."""
        safe = jnp.where(counted, values, 0)
        if self.over_starts == "worst":
            return jnp.where(counted, safe, jnp.inf).min(0)
        return safe.sum(0) / jnp.maximum(counted.sum(0, dtype=values.dtype), 1)


validation.describe(("objective",), Objective, "an objective such as em.Objective()")


OBJECTIVES: dict[str, Objective] = {
    "mean": Objective(),
    "quantile": Objective("quantile"),
    "cvar": Objective("cvar"),
    "worst_start": Objective(over_starts="worst"),
}


def confidence(values) -> tuple[float, float, float]:
    """The mean over games and its 95 % interval (mean, low, high), by the normal approximation; NaN are left out."""
    values = np.asarray(values, np.float64).ravel()
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan, np.nan
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)
