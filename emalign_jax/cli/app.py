"""The commands, and how they end: 0 done, 1 some games failed, 2 bad input (one line), 130 interrupted."""

from __future__ import annotations

import os
import sys

import typer
from typer.exceptions import TyperException

from emalign_jax import __version__
from emalign_jax.cli import interruption
from emalign_jax.cli.align import align
from emalign_jax.cli.certify import certify
from emalign_jax.cli.report import report
from emalign_jax.cli.search import search
from emalign_jax.cli.stability import stability
from emalign_jax.cli.sweep import sweep
from emalign_jax.cli.tune import tune

app = typer.Typer(
    name="emalign",
    help="Do competing AIs serve their user as well as an aligned one? Equilibria, searched and certified.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(search)
app.command()(certify)
app.command()(stability)
app.command()(align)
app.command()(sweep)
app.command()(tune)
app.command()(report)


def _print_version(asked: bool | None) -> None:
    if asked:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _common(
    version: bool | None = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version and stop."
    ),
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with interruption.kept():
            code = app(arguments or ["--help"], prog_name="emalign", standalone_mode=False)
    except (TyperException, ValueError, OSError) as error:
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        print("emalign: " + " ".join(message.split()), file=sys.stderr)
        code = 2
    except (MemoryError, OverflowError) as error:
        print(f"emalign: too large for this machine: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    if code == 130:
        print("emalign: interrupted; nothing half-written is left", file=sys.stderr)
    sys.exit(code or 0)


def launch() -> None:
    """The console command: `main` in a process of its own, left at once when interrupted.

    XLA's threads may be in the middle of a compilation then, and do not always survive an orderly shutdown.
    """
    try:
        main()
    except SystemExit as stop:
        if stop.code == 130:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(130)
        raise
