"""The command line: `emalign` and `python -m emalign_jax`."""

from emalign_jax.cli.app import launch, main

__all__ = ["launch", "main"]
