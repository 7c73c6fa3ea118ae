"""Gradient-based tuning of a mechanism through equilibrium: loop -> evaluation -> config, run, figure."""

from emalign_jax.tuning.evaluation import Evaluation, evaluate
from emalign_jax.tuning.loop import Tuned, tune

__all__ = ["Evaluation", "Tuned", "evaluate", "tune"]
