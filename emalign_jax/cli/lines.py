"""Lines that several commands print."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SHOWN = 50  # games


def tell_games(heads: list[str], games: Iterable[tuple[bool, list[str], str]]) -> None:
    """A line a game, of (whether it is as it should be, its cells, its sentence); those that failed come first, so that
    the limit hides none of them first."""
    from emalign_jax.experiments.grid.table import lined_up

    lines = sorted(games, key=lambda game: game[0])
    sentences = ["result", *(line[2] for line in lines[:SHOWN])]
    for cells, sentence in zip(lined_up([heads, *(line[1] for line in lines[:SHOWN])]), sentences, strict=True):
        print(f"{cells}  {sentence}")
    if len(lines) > SHOWN:
        print(f"... and {len(lines) - SHOWN} more (--json prints all)")


def place(index: Iterable[int]) -> str:
    """The number of a game in a batch, as the table has it."""
    return ",".join(map(str, index)) or "-"


def check_no_directory(path: Path, *names: str) -> None:
    """Raise `ValueError` where a directory is given for a file of games; of a run it says which files to give.

    names: of the files of a run that the command takes.
    """
    if not path.is_dir():
        return
    files = " ".join(str(path / name) for name in names if (path / name).is_file())
    hint = f"it holds a run: give {files}" if files else "expected an .npz file of games (em.save_games writes one)"
    raise ValueError(f"{path}: is a directory; {hint}")


def tell_figures(path: Path, names: Iterable[str]) -> None:
    """The figures that are there, of the files of a run."""
    from emalign_jax.experiments.run_store import FORMATS

    there = [str(path / name) for name in names if name.endswith(FORMATS) and (path / name).exists()]
    if there:
        print(f"Figure: {', '.join(there)}")
