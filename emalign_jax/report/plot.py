"""Figures of results, `em.plot`: each function draws into a matplotlib figure and returns its axes."""

from emalign_jax.report.trajectory_figure import trajectory

__all__ = ["trajectory"]
