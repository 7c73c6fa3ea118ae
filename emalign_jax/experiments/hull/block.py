"""Which people and items to keep of a table with missing cells: a block without any, by a deterministic rule.

Greedy: drop the person or item with the largest share of cells missing (ties: items first, later ones first) until
none is; put back those that fit. An item's share counts `balance` times a person's; of the blocks of all BALANCES that
have the people and items asked for, the one with most cells is kept (ties: the first). Of more than MOST people, or
items, only those with most cells are looked at.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

MOST = 10_000  # the work grows with the square of this
BALANCES = tuple(2.0**k for k in range(-4, 5))


def dense_block(
    present: Bool[np.ndarray, "P I"], least_people: int, least_items: int, keep: int | None = None
) -> tuple[Int[np.ndarray, "R"], Int[np.ndarray, "C"]]:
    """Rows and columns, in order, that hold no missing cell; row `keep` stays.

    The block may be smaller than asked for, if no balance gives one that is not: the largest is returned then.
    """
    if present.all():
        return np.arange(present.shape[0]), np.arange(present.shape[1])
    some, what = _fullest(present, keep), _fullest(present.T, None)
    present, keep = present[np.ix_(some, what)], None if keep is None else int(np.searchsorted(some, keep))
    blocks = [_greedy(present, balance, keep) for balance in BALANCES]

    def merit(block):
        rows, columns = block
        enough = len(rows) >= least_people and len(columns) >= least_items
        return (
            enough,
            min(len(rows) / least_people, len(columns) / least_items) if not enough else 0.0,
            rows.size * columns.size,
        )

    rows, columns = max(blocks, key=merit)
    return some[rows], what[columns]


def _fullest(present: Bool[np.ndarray, "P I"], keep: int | None) -> Int[np.ndarray, "R"]:
    """The rows with most cells, MOST of them at most, in order; row `keep` is one of them."""
    cells = present.sum(1)
    if keep is not None:
        cells[keep] = present.shape[1] + 1
    return np.sort(np.argsort(-cells, kind="stable")[:MOST])


def _greedy(present, balance: float, keep: int | None):
    P, C = present.shape
    rows, columns = np.ones(P, bool), np.ones(C, bool)
    by_row, by_column = present.sum(1), present.sum(0)  # cells that are there, of what is left
    transposed = np.ascontiguousarray(present.T)
    people, items = P, C
    while people and items:
        row_share = np.where(rows, 1 - by_row / items, -1.0)
        column_share = np.where(columns, balance * (1 - by_column / people), -1.0)
        if keep is not None:
            row_share[keep] = 0
        row, column = P - 1 - int(row_share[::-1].argmax()), C - 1 - int(column_share[::-1].argmax())
        if max(row_share[row], column_share[column]) <= 0:
            break
        if column_share[column] >= row_share[row]:
            columns[column], items = False, items - 1
            by_row -= transposed[column]
        else:
            rows[row], people = False, people - 1
            by_column -= present[row]
    columns |= present[rows].all(0)
    rows |= present[:, columns].all(1)
    return np.flatnonzero(rows), np.flatnonzero(columns)
