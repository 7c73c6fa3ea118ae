"""The command line: `emalign` and `python -m emalign_jax`."""

from __future__ import annotations

import gc

from emalign_jax.cli import streams
from emalign_jax.internal import compiled_cache, ending


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    from emalign_jax.cli import app  # with jax, which takes seconds

    app.main(arguments)


def launch() -> None:
    """The console command: `main` in a process of its own, which signals end."""
    ending.install_handlers()
    streams.prepare()
    compiled_cache.keep()
    gc.disable()  # Searching what was imported for garbage takes a tenth of the start, and there is none.
    from emalign_jax.cli import app

    gc.freeze()
    gc.enable()
    app.main()
