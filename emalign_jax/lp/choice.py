"""Whether LPs are solved together by the batched simplex or one by one by HiGHS: the option `lp`."""

from __future__ import annotations

from emalign_jax.internal.arguments import choice

CHOICES = ("auto", "batched", "highs")
# Compiling takes 2 s, and HiGHS .5 to 1 ms for a small LP: so many LPs of one shape make compiling worth while.
FEWEST = 1024
# Guarantees have LPs of few shapes, whatever the number of agents, so that compiling is soon worth while.
FEWEST_GUARANTEES = 64
# Rows * columns of an LP. HiGHS makes use of sparsity and warm starts, and is as fast for larger LPs.
MOST_CELLS = 4_000


def check_word(lp: str) -> None:
    """Raise `ValueError` unless `lp` is one of `CHOICES`."""
    choice("lp", lp, CHOICES)


def of_guarantees(lp: str, count: int) -> str:
    """The option for each part of the guarantees of `count` games: "auto" is resolved from their total number."""
    if lp != "auto":
        return lp
    return "batched" if count >= FEWEST_GUARANTEES else "highs"


def use_batched(lp: str, count: int, cells: int) -> bool:
    """Whether to solve `count` LPs of `cells` = rows * columns each by the batched simplex. LPs of more than
    `MOST_CELLS` never are."""
    check_word(lp)
    return cells <= MOST_CELLS and (lp == "batched" or (lp == "auto" and count >= FEWEST))
