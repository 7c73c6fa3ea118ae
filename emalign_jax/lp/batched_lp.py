"""Many dense LPs of one shape at once: padded to one of few sizes, solved on the device, checked on the host."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.internal.processors import cores, each
from emalign_jax.internal.transfers import fetch
from emalign_jax.lp import simplex

# Of an answer's residuals and gap, relative to the LP's own numbers.
TOLERANCE = 1e-9
# The number of LPs whose dictionaries fit into the cache of one core.
TILE = 16
# The largest number of tiles in a call, and the smallest if the LPs are distributed over the cores.
TILES, FEWEST_TILES = 16, 4
# The largest number of numbers in the dictionaries of one call: 256 MB.
MOST_CELLS = 2**25


class Optimum(NamedTuple):
    """The answers of B LPs in float64; x and dual are NaN unless status is OPTIMAL.

    value:  [B] cost @ x
    x:      [B, n]
    dual:   [B, m] multipliers of the rows, >= 0 except on equalities
    status: [B] a code of `simplex`
    error:  [B] the largest of primal residual, dual residual and gap, in the LP's own units; inf unless OPTIMAL
    proved: [B] error <= TOLERANCE, so that the value is optimal up to that
    """

    value: Float[np.ndarray, "B"]
    x: Float[np.ndarray, "B n"]
    dual: Float[np.ndarray, "B m"]
    status: Int[np.ndarray, "B"]
    error: Float[np.ndarray, "B"]
    proved: Bool[np.ndarray, "B"]


def maximise(
    cost, rows, right, *, equal: int = 0, free: tuple[int, ...] = (), first=None, limit: int = 0,
    size: tuple[int, int] = (0, 0),
) -> Optimum:  # fmt: skip
    """Maximise cost [B, n] @ x subject to rows [B, m, n] @ x <= right [B, m], the first `equal` rows with =, and
    x >= 0 except for the variables `free`. Leading axes of 1 are broadcast.

    first: [B, equal] the initial basic variable of each equality row; None: chosen by the size of the entries.
    limit: the largest number of pivots; 0: 50 + 10 (m + n).
    size:  rows and columns of zeros are added up to this many, so that LPs of several sizes are one program.
    Raises `ValueError` for numbers that are not finite.
    """
    cost, rows, right = (np.asarray(a, np.float64) for a in (cost, rows, right))
    B = max(len(cost), len(rows), len(right))
    columns = rows.shape[2]
    down, across = (max(0, most - now) for most, now in zip(size, rows.shape[1:], strict=True))
    cost, right = np.pad(cost, ((0, 0), (0, across))), np.pad(right, ((0, 0), (0, down)))
    rows = np.pad(rows, ((0, 0), (0, down), (0, across)))
    m, n = rows.shape[1:]
    cost, rows, right = (np.broadcast_to(a, (B, *a.shape[1:])) for a in (cost, rows, right))
    bad = ~(np.isfinite(cost).all(1) & np.isfinite(rows).all((1, 2)) & np.isfinite(right).all(1))
    if bad.any():
        raise ValueError(f"an LP needs finite numbers, item {int(np.flatnonzero(bad)[0])} has NaN or inf")
    options = {"equal": equal, "free": tuple(free), "lean": 1.0, "limit": limit or 50 + 10 * (m + n), "points": 0}
    data = (cost, rows, right, np.zeros((B, m)), first)
    x, dual, nonbasic, status, _ = run(data, **options)
    error = errors(cost, rows, right, x, dual, equal, free)
    error = np.where(status == simplex.OPTIMAL, error, np.inf)
    again = np.flatnonzero(np.isfinite(error) & (error > TOLERANCE))
    if len(again):
        closer = polished(cost[again], rows[again], right[again], nonbasic[again])
        better = errors(cost[again], rows[again], right[again], closer[0], closer[1], equal, free)
        use = better < error[again]
        for whole, part in zip((x, dual, error), (closer[0], closer[1], better), strict=True):
            whole[again[use]] = part[use]
    x[status != simplex.OPTIMAL], dual[status != simplex.OPTIMAL] = np.nan, np.nan
    value = (cost * x).sum(1)
    return Optimum(value, x[:, :columns], dual[:, : m - down], status, error, error <= TOLERANCE)


def errors(cost, rows, right, x, dual, equal: int, free: tuple[int, ...]) -> Float[np.ndarray, "B"]:
    """The largest of primal residual, dual residual and gap, each relative to the terms it is computed from."""
    is_free = np.isin(np.arange(cost.shape[1]), free)
    size = np.abs(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        left = (rows * x[:, None]).sum(2) - right
        left[:, equal:] = np.maximum(left[:, equal:], 0)
        primal = np.abs(left) / (1 + np.abs(right) + (size * np.abs(x)[:, None]).sum(2))
        sign = np.where(is_free, 0, np.maximum(-x, 0)) / (1 + np.abs(x).max(1, keepdims=True))
        short = cost - (rows * dual[..., None]).sum(1)
        short = np.where(is_free, np.abs(short), np.maximum(short, 0))
        reduced = short / (1 + np.abs(cost) + (size * np.abs(dual)[..., None]).sum(1))
        wrong = np.maximum(-dual[:, equal:], 0) / (1 + np.abs(dual).max(1, keepdims=True))
        paid, earned = right * dual, cost * x
        gap = np.abs(paid.sum(1) - earned.sum(1)) / (1 + np.abs(paid).sum(1) + np.abs(earned).sum(1))
        parts = [primal.max(1), sign.max(1), reduced.max(1), wrong.max(1, initial=0.0), gap]
    worst = np.max(parts, 0)
    return np.where(np.isnan(worst), np.inf, worst)


def run(data, **options) -> tuple[np.ndarray, ...]:
    """`simplex.solve` of NumPy arrays in float64, in calls of bounded memory.

    data: as there, but that the rows may be a function that makes those of some LPs, given their numbers.

    With points, (x [T, n], dual [T, m], count [B], status [B], pivots [B]): of each LP in turn its points, or the first
    where it has none.
    """
    (count, n), m = data[0].shape, data[2].shape[1]
    points = options["points"]
    cells = (m + 2) * (n + 3) + points * (m + n + 1)
    cpu = jax.default_backend() == "cpu"
    tile = TILE if cpu else max(TILE, bucket(min(count, MOST_CELLS // cells)) // 2)
    most = max(1, min(TILES, MOST_CELLS // cells // tile))
    # All calls have one size, so that one program is compiled, but solve no more tiles than there are.
    share = min(most, max(FEWEST_TILES, -(-count // (tile * cores())))) if cpu else most

    def call(at):
        number = min(share * tile, count - at)
        some = np.minimum(np.arange(at, at + most * tile), count - 1)
        numbers = (None if a is None else a(some) if callable(a) else a[some] for a in data)
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            tiles = np.int32(-(-number // tile))
            x, dual, *others = fetch(simplex.solve(*numbers, tiles, tile=tile, **options))
        others = [a[:number] for a in others]
        if not points:
            return x[:number], dual[:number], *others
        found = np.maximum(others[0], 1)
        lp, point = np.nonzero(np.arange(points) < found[:, None])
        return x[lp // tile, point, :, lp % tile], dual[lp // tile, point, :, lp % tile], *others

    return tuple(map(np.concatenate, zip(*each(call, range(0, count, share * tile)), strict=True)))


def polished(cost, rows, right, nonbasic) -> tuple[np.ndarray, np.ndarray]:
    """x [B, n] and dual [B, m] of a few LPs, computed again from the data and the basis alone: from the n constraints
    that hold with equality. NaN where these are singular."""
    m, n = rows.shape[1:]
    x, dual = np.full(cost.shape, np.nan), np.full(right.shape, np.nan)
    for k, basis in enumerate(nonbasic):
        tight = np.concatenate([np.eye(n), rows[k]])[basis]
        limits = np.concatenate([np.zeros(n), right[k]])[basis]
        with contextlib.suppress(np.linalg.LinAlgError):
            x[k], price = np.linalg.solve(tight, limits), np.zeros(n + m)
            price[basis] = np.linalg.solve(tight.T, cost[k])
            dual[k] = price[n:]
    return x, dual


def bucket(count: int) -> int:
    """The next power of two."""
    return 1 << max(0, int(count) - 1).bit_length()
