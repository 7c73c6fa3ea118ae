"""What all figures have in common: words from outside are drawn as they stand, and one that fails costs no more."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from emalign_jax.internal.files import atomic

LONGEST = 100  # characters of a name or title from outside
# a dollar sign is one, also in `prices_$US_vs_$CA.csv`
PLAIN: dict[Any, Any] = {"text.parse_math": False, "text.usetex": False}


def shown(words: str) -> str:
    """A name or title from outside, as it fits into a figure: one line of what can be printed."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(words.split()))
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def save(figure: Figure, paths: Iterable[Path]) -> list[str]:
    """Write the figure to each of the paths, whole or not at all; their names."""
    names = []
    for path in paths:
        with atomic(path) as temporary:
            kind = path.suffix[1:]
            metadata = {"CreationDate": None} if kind == "pdf" else {}  # the same figure is the same file
            figure.savefig(temporary, dpi=160, format=kind, metadata=metadata)
        names.append(path.name)
    return names


def attempt(draw: Callable[[], list[str]]) -> list[str]:
    """The names of the files that `draw` writes; none, and a line on stderr that says why, if it fails."""
    try:
        with rc_context(PLAIN), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            return draw()
    except Exception as error:
        words = getattr(error, "strerror", None) or error
        why = " ".join(f"{type(error).__name__}: {words}".split())
        print(f"emalign: no figure could be drawn ({why}); all else is as it should be", file=sys.stderr)
        return []
