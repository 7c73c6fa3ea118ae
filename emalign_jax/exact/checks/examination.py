"""One profile of one game under exact check: what it pays, and what each agent would gain by his best response."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.checks.base import AbstractCheck, Deviation
from emalign_jax.games.units import LP_ERROR

NEVER = 1e-60  # a message of smaller probability is never sent


class Examination(NamedTuple):
    """One profile of one game: payoffs, every agent's best response, and what he gains by it."""

    user: float
    agents: Float[np.ndarray, "K"]
    deviations: list[Deviation]
    gains: Float[np.ndarray, "K"]
    relative: Float[np.ndarray, "K"]
    bracketed: bool  # whether the deviations' upper bounds were worked for, or need no work

    @property
    def upper(self) -> Float[np.ndarray, "K"]:
        """No deviation gains more."""
        return np.maximum([d.upper for d in self.deviations] - self.agents, self.gains)

    @property
    def worst(self) -> float:
        """The largest relative gain; inf where an LP failed."""
        return float(self.relative.max()) if np.isfinite(self.relative).all() else np.inf


def examine(check: AbstractCheck, schemes: Float[np.ndarray, "K XB M"], bracket: float | None = None) -> Examination:
    """bracket: how close the upper bounds of the gains are to be brought to the lower ones (None: no work for it)."""
    schemes = without_impossible_messages(schemes)
    value, payoffs = check.payoffs(schemes)
    deviations = check.deviations(schemes, range(len(schemes)), bracket)
    solved = np.array([d.value if d.status == "Optimal" else np.nan for d in deviations])
    gains = np.maximum(solved - payoffs, 0)
    room = np.nan_to_num(solved) + LP_ERROR * check.stakes  # as `certify_game` allows
    bracketed = bracket is not None or all(d.upper <= most for d, most in zip(deviations, room, strict=True))
    return Examination(value, payoffs, deviations, gains, relative(gains, check.known_range(gains)), bracketed)


def without_impossible_messages(schemes):
    """Schemes without messages that are never sent: products of a few would overflow where they are divided by."""
    return np.where(schemes < NEVER, 0, schemes)


def relative(gains, ranges):
    matters = ranges > 0
    return np.where(matters | np.isnan(ranges), gains / np.where(matters, ranges, np.nan), 0.0)
