"""Whether LPs go to the batched solver of `lp` together, or one by one to HiGHS: the word `lp` of public functions."""

from __future__ import annotations

from emalign_jax.internal.arguments import choice

CHOICES = ("auto", "batched", "highs")
FEWEST = 1024  # small LPs of one shape from which compiling (2 s) pays, at .5 to 1 ms each by HiGHS
MOST_CELLS = 4_000  # rows * columns of such an LP: beyond it HiGHS, which knows sparsity and warm starts, is as fast


def check_word(lp: str) -> None:
    """Raise `ValueError` for a word that is none."""
    choice("lp", lp, CHOICES)


def for_all(lp: str, count: int) -> str:
    """The word for each part of `count` LPs that are solved in parts: "auto" looks at all of them."""
    if lp != "auto":
        return lp
    return "batched" if count >= FEWEST else "highs"


def together(lp: str, count: int, cells: int) -> bool:
    """Whether to solve `count` LPs of so many rows * columns batched; too large ones never are."""
    check_word(lp)
    return cells <= MOST_CELLS and (lp == "batched" or (lp == "auto" and count >= FEWEST))
