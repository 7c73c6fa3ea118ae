"""The commands, and their exit codes: 0 done, 1 some games failed, 2 bad input, 70 a fault of the program.

130 stands for an interrupt: signals end the process as `internal.ending` says, with 128 + their number.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import traceback

import typer
from typer.exceptions import TyperException

from emalign_jax import __version__
from emalign_jax.cli.align import align
from emalign_jax.cli.certify import certify
from emalign_jax.cli.explore import explore
from emalign_jax.cli.market import market
from emalign_jax.cli.proofs import verify
from emalign_jax.cli.report import report
from emalign_jax.cli.search import search
from emalign_jax.cli.stability import stability
from emalign_jax.cli.study import study
from emalign_jax.cli.sweep import sweep
from emalign_jax.cli.tune import tune
from emalign_jax.internal import compiled_cache, plugins
from emalign_jax.internal.ending import CLEAN

app = typer.Typer(
    name="emalign",
    help="Do competing AIs serve their user as well as an aligned one? Equilibria, searched and certified.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (search, certify, stability, align, market, sweep, study, tune, report, explore, verify):
    app.command()(command)


def _print_version(asked: bool | None) -> None:
    if asked:
        print(__version__)
        raise typer.Exit()


@app.callback()
def _common(
    version: bool | None = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version and stop."
    ),
    cache: bool = typer.Option(
        True, "--cache/--no-cache", help="Keep compiled programs for later runs, in ~/.cache/emalign."
    ),
) -> None:
    if not cache:
        compiled_cache.forget()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(arguments or ["--help"], prog_name="emalign", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader stopped, as `head` does; the files are written
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        code, message = _end(error)
        _say(message)
    if code == 130:
        _say(f"interrupted; {CLEAN}")
    out = sys.stdout
    try:
        if out is not None:
            out.flush()
    except OSError:  # or Python tries once more as it ends, and says so
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code or 0)


def _end(error: Exception) -> tuple[int, str]:
    """The exit code, and what the one line says."""
    words = str(error)
    if isinstance(error, TyperException):
        return 2, error.format_message()
    if isinstance(error, OSError) and error.strerror:
        where = "could not be read or written" if error.filename is None else os.fsdecode(error.filename)
        return 2, f"{where}: {error.strerror}"
    if isinstance(error, ValueError | OSError) and words:
        return 2, words
    if isinstance(error, MemoryError | OverflowError) or words.startswith("RESOURCE_EXHAUSTED"):
        return 2, f"too large for this machine: {words or type(error).__name__}"
    if place := plugins.line_of(error):
        return 2, f"{place}: {type(error).__name__}: {words[:200]}"
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="emalign-", suffix=".txt", delete=False, encoding="utf-8") as file:
            file.write(f"emalign {__version__}\n{sys.argv}\n\n{text}")
        where = f"please report it, with {file.name}"
    except OSError:
        where = "please report it"
    return 70, f"unexpected {type(error).__name__}: {words[:200]}; this is a mistake of emalign's own: {where}"


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be closed
        print("emalign: " + " ".join(message.split()), file=sys.stderr)
