"""Figures of results, `em.plot`: each function draws into matplotlib axes and returns them.

`ax=None` makes new axes 3.25 inches wide, a column of a paper; `panels` makes figures of several. Fonts are 7 to 8
points at print size, colours are safe for colour blindness, and `save` writes PDF with TrueType fonts.
"""

from importlib import import_module

TYPE_CHECKING = False

if TYPE_CHECKING:
    from emalign_jax.report.figures.beliefs import beliefs
    from emalign_jax.report.figures.hull import agents_removed, hull_curves
    from emalign_jax.report.figures.market import market, market_against_agents
    from emalign_jax.report.figures.phase import phase_diagram
    from emalign_jax.report.figures.schemes import schemes
    from emalign_jax.report.figures.stability import stability_profile, worst_equilibria
    from emalign_jax.report.figures.study import study
    from emalign_jax.report.figures.trajectory import trajectory
    from emalign_jax.report.figures.transcripts import transcript_tree
    from emalign_jax.report.figures.tuning import before_and_after, tuning
    from emalign_jax.report.figures.values import value_against, value_against_agents, value_over_games
    from emalign_jax.report.style import panels, save

__all__ = [
    "agents_removed",
    "before_and_after",
    "beliefs",
    "hull_curves",
    "market",
    "market_against_agents",
    "panels",
    "phase_diagram",
    "save",
    "schemes",
    "stability_profile",
    "study",
    "trajectory",
    "transcript_tree",
    "tuning",
    "value_against",
    "value_against_agents",
    "value_over_games",
    "worst_equilibria",
]
# The file of each function whose name is another one.
FILES = {
    "agents_removed": "hull", "before_and_after": "tuning", "hull_curves": "hull", "market_against_agents": "market",
    "phase_diagram": "phase", "stability_profile": "stability", "transcript_tree": "transcripts",
    "value_against": "values", "value_against_agents": "values", "value_over_games": "values",
    "worst_equilibria": "stability",
}  # fmt: skip


def __getattr__(name):
    """A function, at first use: matplotlib must not be loaded before anything is drawn."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    file = "style" if name in ("panels", "save") else f"figures.{FILES.get(name, name)}"
    return getattr(import_module(f"emalign_jax.report.{file}"), name)


def __dir__():
    return sorted({*globals(), *__all__})
