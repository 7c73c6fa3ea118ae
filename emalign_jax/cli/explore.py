"""`emalign explore`: one market on a page with sliders."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def explore(
    games: Annotated[
        Path | None, typer.Argument(metavar="G.npz", help="Games, of which one is shown; default: examples alone.")
    ] = None,
    index: Annotated[
        int | None, typer.Option(min=0, help="Which game of the file, as numbered by `emalign stability --json`.")
    ] = None,
    agents: Annotated[int | None, typer.Option(min=1, help="K, for a file with several numbers of agents.")] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("explorer.html"),
    open_: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="Show the page in a browser; default: in a terminal with a display."),
    ] = None,
    highs: Annotated[
        Path | None,
        typer.Option(
            envvar="EMALIGN_HIGHS",
            metavar="FILE.tgz",
            help="HiGHS for the browser (npm package highs); default: fetched from the npm registry once, then kept.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the page if it is there.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a sentence.")] = False,
) -> None:
    """Write a page on which one market is computed live: sliders for the prior, biases, the number of agents and the
    user's precision; worst and best equilibrium, every agent's curve and concavification.

    The page needs no network. Its numbers are those of `emalign stability`, by the same linear programs, which HiGHS
    solves in the browser.

    \b
    Examples:
      emalign explore
      emalign explore search-1/games.npz --index 3 --out market.html
      emalign explore --highs highs-1.15.3.tgz --no-open
    """
    from emalign_jax.experiments.grid.table import document
    from emalign_jax.internal.files import atomic, check_output
    from emalign_jax.report.explorer import build, solver

    if games is None and (index is not None or agents is not None):
        raise ValueError(f"--{'agents' if index is None else 'index'}: belongs to a file of games; name one")
    check_output(out, "--out", force)
    game = None if games is None else _game(games, index, agents)
    title = "" if games is None else f"{games.name}, game {index or 0}"
    text = build.render(solver.load(highs), game, title)
    with atomic(out, replace=force) as temporary:
        temporary.write_text(text, "utf-8", "backslashreplace")  # a file's name may hold what is no text
    if json_:
        print(document(summary={"page": str(out), "bytes": len(text), "highs": solver.VERSION}))
    else:
        print(f"Market explorer, {len(text) / 1e6:.1f} MB: {out}")
    if _display() if open_ is None else open_:
        import webbrowser

        webbrowser.open(out.absolute().as_uri())


def _game(path: Path, index: int | None, agents: int | None):
    """The game of a file that is asked for, checked."""
    import numpy as np

    import emalign_jax as em
    from emalign_jax.experiments.specification import placed
    from emalign_jax.report.explorer import build

    games = em.load_games(path, agents=agents)
    count = int(np.prod(games.batch_shape))
    if index is None and count > 1:
        raise ValueError(f"{path}: --index: the file has {count} games; say which, 0 to {count - 1}")
    if (index or 0) >= count:
        raise ValueError(f"{path}: --index: the file has {count} games, numbered from 0; got {index}")
    game = games[np.unravel_index(index or 0, games.batch_shape)] if games.batch_shape else games
    with placed(f"{path}: ", words=str):
        build.check(game)
    return game


def _display() -> bool:
    """Whether somebody sees a browser here."""
    graphical = sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
    return sys.stdout.isatty() and graphical
