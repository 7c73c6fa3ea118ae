"""A regular lattice on the simplex of beliefs."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# The approximate number of points of a lattice.
GRID = 500


class Lattice(NamedTuple):
    """A lattice on the simplex.

    points:     [N, B]
    neighbours: [N, B (B-1)] indices of the neighbours; the point itself where the neighbour is outside
    spacing:    between neighbours
    """

    points: np.ndarray
    neighbours: np.ndarray
    spacing: float


@functools.cache
def simplex_lattice(dimension: int) -> Lattice:
    points = simplex_grid(dimension, GRID)
    one = np.eye(dimension, dtype=int)
    steps = [one[i] - one[j] for i, j in itertools.permutations(range(dimension), 2)]
    parts = round(1 / points[points > 0].min())
    whole = np.round(points * parts).astype(int)
    index = {tuple(point): n for n, point in enumerate(whole)}
    neighbours = [[index.get(tuple(point + step), n) for step in steps] for n, point in enumerate(whole)]
    return Lattice(points, np.array(neighbours).reshape(len(points), -1), 1 / parts)


def simplex_grid(dimension: int, about: int) -> Float[np.ndarray, "N dimension"]:
    """The points of a regular lattice on the simplex: at most `about`, but at least the vertices."""
    if dimension == 1:
        return np.ones((1, 1))
    parts = 1
    while _lattice_size(dimension, parts + 1) <= about:
        parts += 1
    bars = np.array(list(itertools.combinations(range(parts + dimension - 1), dimension - 1)), dtype=int)
    bars = bars.reshape(-1, dimension - 1)
    edges = np.concatenate([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), parts + dimension - 1)], axis=1)
    return (np.diff(edges, axis=1) - 1) / parts


def _lattice_size(dimension: int, parts: int) -> int:
    size = 1
    for k in range(1, dimension):
        size = size * (parts + k) // k
    return size
