"""Batch jobs with files: search, sweep, study, market, hull, tune. `run` does from Python what the first four do."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emalign_jax.experiments.grid.experiment import Found, run

__all__ = ["Found", "run"]


def __getattr__(name):
    """A public name, at first use: tables and their libraries take a second to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("emalign_jax.experiments.grid.experiment"), name)
