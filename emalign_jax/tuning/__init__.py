"""Gradient-based tuning of a mechanism through smoothed equilibria, and its evaluation in certified ones."""

from emalign_jax.tuning.evaluation import Evaluation, evaluate
from emalign_jax.tuning.loop import Tuned, tune

__all__ = ["Evaluation", "Tuned", "evaluate", "tune"]
