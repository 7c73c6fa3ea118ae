"""The interface of solvers: how a search for equilibria is made, step by step."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Int


class AbstractSolver(eqx.Module):
    """Hyper-parameters and method of a search for equilibria; a new one is a subclass with `rounds` and `improve`.

    tolerance: a profile is done if every gain is at most this share of the payoff range; None: the default of the check
    verifies:  whether the method itself asks for exact checks, so that `verify=False` is refused

    Example:
        class OnlyRestarts(em.AbstractSolver):
            tolerance: float | None = None

            def rounds(self, search):
                return 20

            def improve(self, search, pending, attempt):
                search.restart(pending, attempt)
                return search.examine(pending, em.FoundBy.START)
    """

    tolerance: eqx.AbstractVar[float | None]
    verifies = False

    @abc.abstractmethod
    def rounds(self, search: Any) -> int:
        """How often `improve` may be called."""

    def copies(self, search: Any) -> tuple[int, int]:
        """(attempt, copies): from this attempt on each profile that is left is searched as so many copies side by side,
        in so many times fewer rounds, until one of them is an equilibrium. Few profiles would leave an accelerator
        idle. For solvers that restart profiles at that attempt, as copies differ by their restarts alone; by default
        there are none."""
        return 0, 1

    @abc.abstractmethod
    def improve(self, search: Any, pending: Int[np.ndarray, "n"], attempt: int) -> Int[np.ndarray, "n"]:
        """Move the profiles that are not yet equilibria; returns those that are still none.

        search:  holds `current` [N, K, rows, M], the profiles, which this may change, and methods that move, examine
                 and record them (`equilibrium.search.Search`)
        pending: numbers of profiles
        attempt: 0, 1, ...
        """
