"""The interface of solvers: how a search for equilibria is made, step by step."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Int

from emalign_jax.result import display


class AbstractSolver(eqx.Module):
    """Hyper-parameters and method of a search for equilibria.

    A new solver is a subclass with `rounds` and `improve`. A class may declare `verifies`: whether the method itself
    asks for exact checks, so that `verify=False` is refused.

    Args:
        tolerance: a profile is done if every gain is at most this share of the payoff range; None: the default of the
            check.

    Example:
        >>> class OnlyRestarts(em.AbstractSolver):
        ...     tolerance: float | None = None
        ...     def rounds(self, search):
        ...         return 20
        ...     def improve(self, search, pending, attempt):
        ...         search.restart(pending, attempt)
        ...         return search.examine(pending, em.FoundBy.START)
        >>> found = em.solve(em.catalog.two_prosecutors(), em.Selection(), em.RationalUser(), OnlyRestarts(), key=0)
        >>> found.schemes.shape
        (2, 2, 2)

    Source: section 4.8 of docs/model.md.
    """

    tolerance: eqx.AbstractVar[float | None]
    verifies = False
    __repr__ = display.written

    @abc.abstractmethod
    def rounds(self, search: Any) -> int:
        """How often `improve` may be called."""

    def copies(self, search: Any) -> tuple[int, int]:
        """From which attempt on each profile is searched as several copies side by side; by default never.

        The copies go on in so many times fewer rounds, until one of them is an equilibrium: few profiles would leave an
        accelerator idle. For solvers that restart profiles at that attempt, as copies differ by their restarts alone.

        Returns:
            (attempt, number of copies).
        """
        return 0, 1

    @abc.abstractmethod
    def improve(self, search: Any, pending: Int[np.ndarray, "n"], attempt: int) -> Int[np.ndarray, "n"]:
        """Move the profiles that are not yet equilibria, and say which of them still are not.

        Args:
            search: holds `current` [N, K, rows, M], the profiles, which this may change, and methods that move, examine
                and record them (`equilibrium.search.Search`).
            pending: numbers of profiles.
            attempt: 0, 1, ...

        Returns:
            The numbers of the profiles that are still no equilibria.
        """
