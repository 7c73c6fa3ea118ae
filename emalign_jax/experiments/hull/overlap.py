"""Which agents a target has in a table with missing cells, where it is fitted on the items that all of them rated."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int


def by_overlap(
    there: Bool[np.ndarray, "P I"], target: int, order: Int[np.ndarray, "Q"], most: int, least: int
) -> Int[np.ndarray, "n"]:
    """The agents, in the order in which they are added.

    Each is who rated most of the items that the target and all agents before rated; ties: who comes first in `order`.
    It ends with `most` agents, or where fewer than `least` of these items would be left.

    there: which person rated which item, of those that may be looked at (fitted to); order: who may be an agent

    >>> there = np.array([[1, 1, 1, 0], [1, 0, 0, 1], [1, 1, 0, 1], [0, 1, 1, 1]], bool)
    >>> by_overlap(there, 0, np.array([1, 2, 3]), most=3, least=1).tolist()
    [2, 3]
    """
    rated = there[np.ix_(order, there[target])].astype(np.float32)  # BLAS counts faster than bools are summed
    shared, chosen = np.ones(rated.shape[1], np.float32), []
    while len(chosen) < min(most, len(order)):
        counts = rated @ shared
        counts[chosen] = -1
        best = int(counts.argmax())
        if counts[best] < least:
            break
        chosen.append(best)
        shared *= rated[best]
    return order[np.array(chosen, int)]
