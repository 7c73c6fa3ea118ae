"""How the figures of a command are written: their width and their formats. Nothing here loads matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FULL, NARROW = 5.5, 3.25  # inches: the text of a page, and one of two columns


class Look(NamedTuple):
    """width: inches; kinds: suffixes of the files; asked: whether a command was given any of it."""

    width: float = FULL
    kinds: tuple[str, ...] = (".png", ".pdf")
    asked: bool = False

    def paths(self, directory: Path, name: str) -> list[Path]:
        """The files of the figure `name`."""
        return [directory / f"{name}{kind}" for kind in self.kinds]
