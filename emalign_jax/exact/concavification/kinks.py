"""Beliefs at which the user's response changes: where planes of indifference between actions meet.

Near them a precise quantal user's response changes fast; there, a rational user's response jumps.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.concavification.problems import BeliefProblems
from emalign_jax.games import units

# Beyond so many features x_B a point in common of planes is found by a solver, not by determinants.
MOST_EXPANDED = 4
# The largest number of edges that are all listed.
MAX_EDGES = 16_000
# Determinants of planes, scaled to largest entry 1: above REGULAR their common point is accurate; below PARALLEL the
# planes have no common point, up to rounding.
REGULAR = 1e-9
PARALLEL = 1e-13


def kinks(problems: BeliefProblems, most: int) -> Float[np.ndarray, "P N B"]:
    """Beliefs at which B - 1 of the planes meet on which a type is indifferent between two actions, or some x_B has
    probability 0: of each problem a fixed sample if there are more than `most`. Planes that do not meet inside the
    simplex give its first vertex, and so does what fills up the problems with fewer planes."""
    planes = _planes(problems, 0.0)
    P, all_planes, B = planes.shape
    counts, parts = (planes != 0).any(2).sum(1), {}
    for count in np.unique(counts):
        parts[count] = _corners(planes[counts == count, :count], most)[0]
    size = max(B + min(count_corners(all_planes, B), most), *(part.shape[1] for part in parts.values()))
    found = np.broadcast_to(np.eye(B)[0], (P, size, B)).copy()
    for count, part in parts.items():
        found[counts == count, : part.shape[1]] = part
    return found


def edges(problems: BeliefProblems) -> tuple[Float[np.ndarray, "P N B"], Bool[np.ndarray, "P"]]:
    """As `kinks`, with rational users, for the planes on which two actions are just tied within the user's tolerance;
    and whether these are all. Then one of them is an optimal belief."""
    planes = _planes(problems, problems.acting.tie_tolerance)
    planes = planes[:, : int((planes != 0).any(2).sum(1).max())]
    if count_corners(planes.shape[1], planes.shape[2]) > MAX_EDGES:
        return np.zeros((len(planes), 0, planes.shape[2])), np.zeros(len(planes), bool)
    points, known = _corners(planes, MAX_EDGES)
    return without_repeats(points), known


def without_repeats(points: Float[np.ndarray, "P N B"]) -> Float[np.ndarray, "P M B"]:
    """The points without as many repetitions of the first vertex as all problems have."""
    again = (points == np.eye(points.shape[2])[0]).all(2)
    again[:, 0] = False
    order = np.argsort(again, 1, kind="stable")[:, : int((~again).sum(1).max())]
    return np.take_along_axis(points, order[:, :, None], 1)


def count_planes(problems: BeliefProblems) -> Int[np.ndarray, "P"]:
    """The number of planes of which `edges` are corners."""
    planes = _planes(problems, problems.acting.tie_tolerance)
    return np.asarray((planes != 0).any(2).sum(1))


def _planes(problems: BeliefProblems, tolerance: float) -> Float[np.ndarray, "P N B"]:
    """The planes plane @ belief = 0, scaled to largest entry 1; planes that are 0 come last."""
    P, (B, _, A) = len(problems.target), problems.size
    a, c = np.triu_indices(A, 1) if tolerance == 0 else np.nonzero(~np.eye(A, dtype=bool))
    user = problems.user.swapaxes(2, 3)
    ties = units.relaxed(user, tolerance)[..., a, c] if tolerance else user[..., a] - user[..., c]
    ties = ties.reshape(P, B, -1).swapaxes(1, 2)
    size = np.abs(ties).max(2, keepdims=True)
    order = np.argsort(size[..., 0] == 0, 1, kind="stable")
    ties = np.take_along_axis(ties / np.where(size > 0, size, 1), order[:, :, None], 1)
    return np.concatenate([np.broadcast_to(np.eye(B), (P, B, B)), ties], 1)


def _corners(planes: Float[np.ndarray, "P N B"], most: int) -> tuple[Float[np.ndarray, "P M B"], Bool[np.ndarray, "P"]]:
    """The points of the simplex at which B - 1 of the planes meet, and whether none is missing for inaccuracy."""
    P, _, B = planes.shape
    vertices = np.broadcast_to(np.eye(B), (P, B, B))
    if B == 1:
        return vertices, np.ones(P, bool)
    chosen = _choices(planes.shape[1], B - 1, most)
    found = _meeting([planes[:, chosen[:, k]] for k in range(B - 1)])
    size = np.abs(found.sum(2, keepdims=True))
    found = found / np.where(size > PARALLEL, found.sum(2, keepdims=True), np.inf)
    inaccurate = ((size > PARALLEL) & (size <= REGULAR))[..., 0] & (found > -0.01).all(2)
    inside = (found > -1e-9).all(2, keepdims=True) & (size > REGULAR)
    found = np.where(inside, np.maximum(found, 0), vertices[:, :1])
    return np.concatenate([vertices, found / found.sum(2, keepdims=True)], 1), ~inaccurate.any(1)


def count_corners(all_planes: int, agent_features: int) -> int:
    """In how many ways agent_features - 1 of the planes, including those of the simplex, can be chosen."""
    return math.comb(all_planes, agent_features - 1)


@functools.lru_cache(maxsize=64)
def _choices(planes: int, some: int, most: int) -> Int[np.ndarray, "N some"]:
    """All choices of `some` of the planes; a fixed sample of `most` choices if there are more."""
    if math.comb(planes, some) <= most:
        return np.array(list(itertools.combinations(range(planes), some)), int).reshape(-1, some)
    draws = np.random.default_rng(0).random((most, planes))
    return np.sort(draws.argpartition(some - 1, axis=1)[:, :some], axis=1)


def _meeting(planes: list[Float[np.ndarray, "P N B"]]) -> Float[np.ndarray, "P N B"]:
    """A vector on B - 1 planes; its sum is the determinant of the planes and the plane of sum 1."""
    B = planes[0].shape[-1]
    if B <= MOST_EXPANDED:
        columns = [[plane[..., b] for b in range(B)] for plane in planes]
        minors = [_determinant([row[:b] + row[b + 1 :] for row in columns]) for b in range(B)]
        return np.stack([m if b % 2 == 0 else -m for b, m in enumerate(minors)], -1)
    system = np.concatenate([np.stack(planes, -2), np.ones((*planes[0].shape[:-1], 1, B))], -2)
    size = np.abs(np.linalg.det(system))[..., None]
    right = np.zeros((*system.shape[:-1], 1))
    right[..., -1, :] = 1
    return size * np.linalg.solve(np.where(size[..., None] > PARALLEL, system, np.eye(B)), right)[..., 0]


def _determinant(rows: list[list[np.ndarray]]) -> np.ndarray:
    if len(rows) == 1:
        return rows[0][0]
    parts = [rows[0][b] * _determinant([row[:b] + row[b + 1 :] for row in rows[1:]]) for b in range(len(rows))]
    return functools.reduce(np.add, [part if b % 2 == 0 else -part for b, part in enumerate(parts)])
