"""Payoffs and deviation gains of one profile of one game, by its exact check."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.base import AbstractCheck, Deviation
from emalign_jax.games.units import LP_ERROR

# A message of smaller probability counts as never sent.
SMALLEST_PROBABILITY = 1e-60


class Examination(NamedTuple):
    """Payoffs, best responses and deviation gains (lower bounds) of one profile of one game."""

    user: float
    agents: Float[np.ndarray, "K"]
    deviations: list[Deviation]
    gains: Float[np.ndarray, "K"]
    relative: Float[np.ndarray, "K"]
    bracketed: bool  # Whether upper bounds were computed for a bracket, or equal the values.

    @property
    def upper(self) -> Float[np.ndarray, "K"]:
        """Upper bounds of the deviation gains."""
        return np.maximum([d.upper for d in self.deviations] - self.agents, self.gains)

    @property
    def worst(self) -> float:
        """The largest relative gain; inf if an LP failed."""
        return float(self.relative.max()) if np.isfinite(self.relative).all() else np.inf


def examine(check: AbstractCheck, schemes: Float[np.ndarray, "K XB M"], bracket: float | None = None) -> Examination:
    """Examine the profile `schemes`. bracket: as in `AbstractCheck.deviations`."""
    schemes = without_impossible_messages(schemes)
    value, payoffs = check.payoffs(schemes)
    deviations = check.deviations(schemes, range(len(schemes)), bracket)
    solved = np.array([d.value if d.status == "Optimal" else np.nan for d in deviations])
    gains = np.maximum(solved - payoffs, 0)
    room = np.nan_to_num(solved) + LP_ERROR * check.stakes  # As `certificates` allows.
    bracketed = bracket is not None or all(d.upper <= most for d, most in zip(deviations, room, strict=True))
    shares = relative(gains, known_range(check.payoff_range, check.negligible, gains))
    return Examination(value, payoffs, deviations, gains, shares, bracketed)


def without_impossible_messages(schemes):
    """`schemes` with probabilities below `SMALLEST_PROBABILITY` set to 0: dividing by products of such probabilities
    would overflow."""
    return np.where(schemes < SMALLEST_PROBABILITY, 0, schemes)


def known_range(ranges, negligible, gains):
    """The payoff ranges, or the gains where they are larger, which is possible if a range was found by search."""
    return np.where(gains > negligible, np.maximum(ranges, gains), ranges)


def relative(gains, ranges):
    """gains / ranges; 0 where the payoff range is 0."""
    matters = ranges > 0
    return np.where(matters | np.isnan(ranges), gains / np.where(matters, ranges, np.nan), 0.0)
