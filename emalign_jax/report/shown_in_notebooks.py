"""The figures that results show below their tables in notebooks. What draws is imported at the first of them."""

from __future__ import annotations

from typing import Any

from emalign_jax.equilibrium.solution import Solution
from emalign_jax.exact import Stability
from emalign_jax.result.display import register_figure


def _stability(found: Stability) -> Any:
    from emalign_jax.report import style
    from emalign_jax.report.figures import stability

    if not stability.profiles(found):
        return None
    # Not a figure of pyplot, which the notebook would show a second time.
    figure, (ax,) = style.blank(1, width=style.NARROW, height=2.4)
    stability.stability_profile(found, ax=ax)
    return figure


def _solution(found: Solution) -> Any:
    """What the first search met on its way, where that was recorded."""
    from emalign_jax.report import style
    from emalign_jax.report.figures.trajectory import trajectory

    if found.trajectory is None or not found.trajectory.steps.size:
        return None
    figure, (ax,) = style.blank(1, width=style.NARROW, height=2.4)
    trajectory(found, (0,) * len(found.batch_shape), ax=ax)
    return figure


register_figure(Stability, _stability)
register_figure(Solution, _solution)
