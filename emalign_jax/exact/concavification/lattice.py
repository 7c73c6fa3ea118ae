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
    directions: [B (B-1), B] to the neighbours
    neighbours: [N, B (B-1)] indices of the neighbours; the point itself where the neighbour is outside
    spacing:    between neighbours
    """

    points: np.ndarray
    directions: np.ndarray
    neighbours: np.ndarray
    spacing: float

    def local_maxima(self, values: np.ndarray, most: int) -> np.ndarray:
        """The indices of at most `most` local maxima of `values` [N], the largest first."""
        peaks = np.flatnonzero(values >= values[self.neighbours].max(1))
        return peaks[np.argsort(-values[peaks])[:most]]


@functools.cache
def simplex_lattice(dimension: int) -> Lattice:
    points = simplex_grid(dimension, GRID)
    directions = np.array(
        [np.eye(dimension)[i] - np.eye(dimension)[j] for i, j in itertools.permutations(range(dimension), 2)]
    )
    directions = directions.reshape(-1, dimension)
    parts = round(1 / points[points > 0].min())
    whole = np.round(points * parts).astype(int)
    index = {tuple(point): n for n, point in enumerate(whole)}
    steps = directions.astype(int)
    neighbours = [[index.get(tuple(point + step), n) for step in steps] for n, point in enumerate(whole)]
    return Lattice(points, directions, np.array(neighbours).reshape(len(points), -1), 1 / parts)


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
