"""Belief LPs for each user for whom they are known."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.concavification.belief_lps import AbstractBeliefLPs, BeliefOptima
from emalign_jax.exact.concavification.problems import BeliefProblems, without_equal_types
from emalign_jax.exact.concavification.quantal_lps import QuantalBeliefLPs
from emalign_jax.exact.concavification.rational_lps import RationalBeliefLPs


def belief_lps(
    problems: BeliefProblems, beliefs: Float[np.ndarray, "P N B"], compiled: bool = False
) -> AbstractBeliefLPs:
    """The belief LPs of these problems (arguments as in `AbstractBeliefLPs`)."""
    return _kind(problems)(problems, beliefs, compiled)


def payoffs(
    problems: BeliefProblems, beliefs: Float[np.ndarray, "P R B"]
) -> tuple[Float[np.ndarray, "P R"], Float[np.ndarray, "P R"]]:
    """The payoff `own` and the user's value at unnormalised beliefs."""
    return _kind(problems).payoffs(problems, beliefs)


def _kind(problems: BeliefProblems) -> type[AbstractBeliefLPs]:
    return QuantalBeliefLPs if problems.acting.is_smooth else RationalBeliefLPs


def concavify(
    problem: BeliefProblems, beliefs: Float[np.ndarray, "N XB"], *, bracket: float | None = None, work: int = 0,
    rough: bool = False,
) -> BeliefOptima:  # fmt: skip
    """The best payoff of one problem over all schemes (arguments as in `AbstractBeliefLPs.best`)."""
    width = None if bracket is None else np.array([bracket])
    return belief_lps(without_equal_types(problem), beliefs[None]).best(np.arange(1), width, work, rough)
