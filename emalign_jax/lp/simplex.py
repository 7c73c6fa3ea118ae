"""The parametric simplex method on many dense LPs of one shape at once, in pure JAX (float64 inside its own context).

    maximise  cost @ x   subject to   rows @ x <= right  (the first `equal` of them with =),   x >= 0 but where `free`

Each LP is a condensed dictionary; the LPs are on the last axis, so that one pivot of all of them is one pass over
memory. Phase 1 is Dantzig's self-dual method: right-hand side and costs are perturbed by multiples of mu, the
dictionary is optimal for large mu, and every pivot, primal or dual, is made at the largest remaining breakpoint, down
to mu = 0. It needs no feasible start, and the perturbations are in general position, so that degenerate LPs do not
cycle. Phase 2 pivots in the same way along a line of right-hand sides, right + t direction, and finds all breakpoints
of the optimal value as a function of t in one pass.

Answers are not proved here: `batched_lp.errors` measures their residuals and gaps.

Shapes: B LPs, n columns, m rows. Source: Vanderbei, Linear Programming, ch. 7 (self-dual) and 23 (condensed pivots).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from emalign_jax.internal.xla import jit

# Smaller entries are not used as pivots.
PIVOT = 1e-9
# A violation up to this counts as rounding.
ZERO = 1e-11
RUNNING, OPTIMAL, INFEASIBLE, UNBOUNDED, STOPPED = range(5)


class _State(NamedTuple):
    table: jax.Array  # [m + 2, n + 3, B]; rows: constraints, reduced costs, their perturbation;
    #                   columns: nonbasic variables, right-hand side, its perturbation, its direction
    basic: jax.Array  # [m, B] variable in each row: j < n is x_j, n + i the slack of row i
    nonbasic: jax.Array  # [n, B]
    leaves: jax.Array  # [m, B] may leave the basis: not a free variable
    enters: jax.Array  # [n, B] may enter it: not the slack of an equality
    mu: jax.Array  # [B] or, in phase 2, t
    status: jax.Array  # [B]
    pivots: jax.Array  # [B]


def _general_position(count: int, seed: int) -> np.ndarray:
    """Random numbers in [1, 2], the same in every batch: perturbations in general position."""
    return 1 + np.random.default_rng(seed).random(count)


def _start(cost, rows, right, direction, lean) -> _State:
    """The dictionary in which all slacks are basic; rows [m, n, B]."""
    m, n, B = rows.shape
    size_right = jnp.maximum(jnp.abs(right).max(0), 1e-300)
    size_cost = jnp.maximum(jnp.abs(cost).max(0), 1e-300)
    beside = right, _general_position(m, 0)[:, None] * size_right, direction
    below = -cost, lean * _general_position(n, 1)[:, None] * size_cost
    table = jnp.concatenate([rows, jnp.stack(beside, 1)], 1)
    table = jnp.concatenate([table, jnp.pad(jnp.stack(below), ((0, 0), (0, 3), (0, 0)))])
    index = lambda k, at: jnp.broadcast_to(at + _numbers(k)[:, None], (k, B))  # noqa: E731
    none = jnp.zeros(B, jnp.int32)
    return _State(
        table, index(m, n), index(n, 0), jnp.ones((m, B), bool), jnp.ones((n, B), bool),
        jnp.full(B, jnp.inf, rows.dtype), none + RUNNING, none,
    )  # fmt: skip


def _numbers(count: int):
    """0, 1, ..., count - 1 in 32 bits, as all indices here, whatever the default integer type."""
    return jnp.arange(count, dtype=jnp.int32)


def _at(x, index):
    """x[index[b], ..., b]."""
    return _picked(x, jnp.broadcast_to(index, x.shape[1:]), 0)


def _column(table, index):
    """table[:, index[b], b]."""
    return _picked(table, jnp.broadcast_to(index, (table.shape[0], table.shape[2])), 1)


def _picked(x, index, axis: int):
    """`jnp.take_along_axis` of an index without this axis, which is sure to be in bounds.

    The numbers are gathered from the flat array one by one, so that the result has the lanes last in memory: XLA puts
    them first in the result of a gather of slices, and the loops that read it are not vectorised."""
    strides = [math.prod(x.shape[k + 1 :]) for k in range(x.ndim)]
    others = [k for k in range(x.ndim) if k != axis]
    place = index.astype(jnp.int32) * strides[axis]
    for at, k in enumerate(others):
        place = place + jnp.expand_dims(_numbers(x.shape[k]) * strides[k], [d for d in range(index.ndim) if d != at])
    return x.reshape(-1).at[place.astype(jnp.uint32)].get(mode="promise_in_bounds")


def _take(x, index, axis: int):
    """`jnp.take_along_axis` for indices that are sure to be in bounds, in half the operations."""
    return jnp.take_along_axis(x, index.astype(jnp.uint32), axis, mode="promise_in_bounds")


def _pivot(state: _State, r, s, active) -> _State:
    """Exchange the variables of row r and column s where `active`."""
    table = state.table
    row = _at(table, r)  # [n + 3, B]
    column = _column(table, s)  # [m + 2, B]
    pivot = _at(row, s)
    inverse = jnp.where(active, 1 / jnp.where(active, pivot, 1), 0)
    scaled = row * inverse
    in_row = (_numbers(table.shape[0])[:, None] == r)[:, None]
    in_column = (_numbers(table.shape[1])[:, None] == s)[None]
    at_column = jnp.where(in_row[:, 0], inverse, -column * inverse)[:, None]
    moved = jnp.where(in_column, at_column, jnp.where(in_row, scaled[None], table - column[:, None] * scaled[None]))
    table = jnp.where(active, moved, table)
    r_here, s_here = in_row[:-2, 0] & active, in_column[0, :-3] & active
    into, out = _at(state.nonbasic, s), _at(state.basic, r)
    return state._replace(
        table=table,
        basic=jnp.where(r_here, into, state.basic),
        nonbasic=jnp.where(s_here, out, state.nonbasic),
        pivots=state.pivots + active.astype(state.pivots.dtype),
    )


def _without(state: _State, equal: int, first) -> _State:
    """The equalities solved for the variables `first` [equal, B], each of which occurs in one of them: the dictionary
    after as many pivots, without the columns of slacks that stay 0."""
    n = state.nonbasic.shape[0]
    top, below = state.table[:equal], state.table[equal:]
    entry = _take(top, first[:, None], 1)[:, 0]
    some = jnp.abs(entry) > PIVOT  # The row of a redundant equality is empty.
    top = top * jnp.where(some, 1 / jnp.where(some, entry, 1), 0)[:, None]
    factors = _take(below, first[None], 1)
    for i in range(equal):
        below = below - factors[:, i, None] * top[i]
    # The other columns in their order.
    kept = _numbers(n - equal)[:, None]
    behind = jnp.sort(first, 0) - _numbers(equal)[:, None]
    kept = kept + (behind[:, None] <= kept).sum(0, dtype=jnp.int32)
    right = jnp.broadcast_to(n + _numbers(3)[:, None], (3, first.shape[1]))
    return state._replace(
        table=_take(jnp.concatenate([top, below]), jnp.concatenate([kept, right])[None], 1),
        basic=jnp.concatenate([first, state.basic[equal:]]),
        nonbasic=kept,
        leaves=state.leaves.at[:equal].set(some),
        enters=state.enters[equal:],
    )


def _crash(state: _State, equal: int, free: tuple[int, ...], first, variables: int) -> _State:
    """Move the slacks of equalities out of the basis, and free variables into it, permanently.

    first: see `_without`; None: each equality is solved for the variable with the largest entry."""
    if first is not None:
        state = _without(state, equal, first)
    m, n = state.basic.shape[0], state.nonbasic.shape[0]
    for j in free:  # No pivot has been made since, so that the column of variable j is known.
        s = jnp.full(state.mu.shape, j, jnp.int32)
        s = s if first is None else s - (first < j).sum(0, dtype=jnp.int32)
        entries = jnp.where(state.leaves, jnp.abs(_column(state.table, s)[:m]), 0)
        r = _first(entries)
        active = entries.max(0) > PIVOT
        state = _pivot(state, r, s, active)
        here = (_numbers(m)[:, None] == r) & active
        left = _at(state.nonbasic, s) - variables
        barred = (_numbers(n)[:, None] == s) & (left >= 0) & (left < equal) & active
        state = state._replace(leaves=state.leaves & ~here, enters=state.enters & ~barred)

    def one(i, state):
        at = state.basic == n + i  # [m, B]: all False if it has left the basis already.
        r = _first(at)
        row = _at(state.table, r)[:n]
        entries = jnp.where(state.enters, jnp.abs(row), 0)
        s = _first(entries)
        active = at.any(0) & (_at(entries, s) > PIVOT)
        state = _pivot(state, r, s, active)
        redundant = at & ~active  # The row of a redundant equality is empty.
        return state._replace(
            leaves=state.leaves & ~redundant, enters=state.enters & ~((_numbers(n)[:, None] == s) & active)
        )

    loop = first is None and equal
    return jax.lax.fori_loop(np.int32(0), np.int32(equal), one, state) if loop else state


def _largest(x):
    """Maximum along axis 0 and its first index."""
    return x.max(0), _first(x)


def _first(x):
    """The index of the first maximum along axis 0, in 32 bits."""
    return jax.lax.argmax(x, 0, jnp.int32)


def _smallest(ratio, size, allowed):
    """The index of the smallest ratio among those allowed (of equal ones, that of the largest pivot `size`), and
    whether any is allowed."""
    ratio = jax.lax.optimization_barrier(jnp.where(allowed, jnp.maximum(ratio, 0), jnp.inf))
    least = ratio.min(0)
    size = jnp.where((ratio <= least + ZERO * (1 + least)) & allowed, size, -1)
    return _first(size), jnp.isfinite(least)


def _self_dual_step(state: _State) -> _State:
    m, n = state.basic.shape[0], state.nonbasic.shape[0]
    table = state.table
    right, right_by = table[:m, n], table[:m, n + 1]
    reduced, reduced_by = table[m, :n], table[m + 1, :n]

    def until(value, by, counts):
        """The mu below which value + mu * by < 0."""
        bad = counts & (by > ZERO)
        broken = counts & (by <= ZERO) & (value < -ZERO)  # By rounding: pivot at once.
        at = jnp.where(bad, -value / jnp.where(bad, by, 1), -jnp.inf)
        return jnp.where(broken, jnp.inf, at)

    rows, columns = jax.lax.optimization_barrier(
        (until(right, right_by, state.leaves), until(reduced, reduced_by, state.enters))
    )
    (row_mu, r), (column_mu, s) = _largest(rows), _largest(columns)
    mu = jnp.minimum(jnp.maximum(row_mu, column_mu), state.mu)
    done = jnp.maximum(row_mu, column_mu) <= ZERO
    mu = jnp.maximum(mu, 0)
    safe = jnp.where(jnp.isfinite(mu), mu, 0)
    dual = row_mu >= column_mu
    # Dual pivot: the variable of row r leaves.
    row = _at(table, r)[:n]
    s_dual, some_s = _smallest(
        (reduced + safe * reduced_by) / jnp.where(row < -PIVOT, -row, 1), -row, state.enters & (row < -PIVOT)
    )
    # Primal pivot: the variable of column s enters.
    column = _column(table, s)[:m]
    r_primal, some_r = _smallest(
        (right + safe * right_by) / jnp.where(column > PIVOT, column, 1), column, state.leaves & (column > PIVOT)
    )
    stuck = jnp.where(dual, ~some_s, ~some_r)
    running = state.status == RUNNING
    active = running & ~done & ~stuck
    status = jnp.where(
        running,
        jnp.where(done, OPTIMAL, jnp.where(stuck, jnp.where(dual, INFEASIBLE, UNBOUNDED), RUNNING)),
        state.status,
    )
    state = _pivot(state, jnp.where(dual, r, r_primal), jnp.where(dual, s_dual, s), active)
    return state._replace(status=status, mu=jnp.where(active, mu, state.mu))


def _read(state: _State, t, n: int):
    """x [n, B], the reduced costs of x, and dual [m, B] of the dictionary at t; 0 for equalities solved beforehand."""
    m, left = state.basic.shape[0], state.nonbasic.shape[0]
    B = state.basic.shape[1]
    each = _numbers(B)
    zero = jnp.zeros((n + m, B), state.table.dtype)
    right, by = state.table[:m, left], state.table[:m, left + 2]
    x = zero.at[state.basic, each].set(right + t * by, mode="promise_in_bounds")[:n]
    reduced = zero.at[state.nonbasic, each].set(state.table[m, :left], mode="promise_in_bounds")
    return x, reduced[:n], reduced[n:]


def _with_prices(dual, reduced, cost, rows, equal: int, first):
    """`dual` with the multipliers of the equalities that were solved for the variables `first`."""
    entry = _take(rows[:equal], first[:, None], 1)[:, 0]
    paid = (_take(rows[equal:], first[None], 1) * dual[equal:, None]).sum(0)
    some = jnp.abs(entry) > PIVOT
    price = (_take(cost, first, 0) + _take(reduced, first, 0) - paid) / jnp.where(some, entry, 1)
    return dual.at[:equal].set(jnp.where(some, price, 0))


def _solve_tile(cost, rows, right, direction, first, begun, *, equal, free, lean, limit, points):
    """Solve one tile of LPs; the last axis is B. begun: whether to make any pivots at all."""
    state = _start(cost, rows, right, direction, lean)
    state = _crash(state, equal, free, first, len(cost))
    state = state._replace(status=jnp.where(begun, state.status, STOPPED))
    state = jax.lax.while_loop(
        lambda s: ((s.status == RUNNING) & (s.pivots < limit)).any(), lambda s: _self_dual_step(s), state
    )
    state = state._replace(status=jnp.where(state.status == RUNNING, STOPPED, state.status))
    if points:
        return _trace_tile(state, points, len(cost))
    x, reduced, dual = _read(state, 0.0, len(cost))
    nonbasic = state.nonbasic
    if first is not None:
        dual = _with_prices(dual, reduced, cost, rows, equal, first)
        slacks = jnp.broadcast_to(len(cost) + _numbers(equal)[:, None], first.shape)
        nonbasic = jnp.concatenate([nonbasic, slacks])
    return x, dual, nonbasic, state.status, state.pivots


def _trace_tile(state: _State, points: int, variables: int):
    m, n, B = state.basic.shape[0], state.nonbasic.shape[0], state.basic.shape[1]
    dtype = state.table.dtype
    good = state.status == OPTIMAL
    state = state._replace(status=jnp.where(good, RUNNING, state.status), mu=jnp.zeros(B, dtype))
    room = (
        jnp.zeros((points, variables, B), dtype), jnp.zeros((points, m, B), dtype),
        jnp.zeros(B, jnp.int32),
    )  # fmt: skip

    def step(carry):
        k, state, (xs, duals, count) = carry
        table, running = state.table, state.status == RUNNING
        right, by = table[:m, n], table[:m, n + 2]
        falls = state.leaves & (by < -ZERO)
        until = jnp.where(falls, jnp.maximum(right / jnp.where(falls, -by, 1), state.mu), jnp.inf)
        r, some_t = _smallest(until, -by, falls)
        t = _at(until, r)
        row = _at(table, r)[:n]
        s, some = _smallest(table[m, :n] / jnp.where(row < -PIVOT, -row, 1), -row, state.enters & (row < -PIVOT))
        ends = ~some_t
        t = jnp.where(ends, state.mu, t)
        x, _, dual = _read(state, t, variables)
        xs, duals = (jax.lax.dynamic_update_index_in_dim(a, b, k, 0) for a, b in ((xs, x), (duals, dual)))
        count = count + (running & ~ends).astype(count.dtype)
        active = running & some & ~ends
        moved = _pivot(state, r, s, active)
        status = jnp.where(running & ~active, OPTIMAL, state.status)
        return k + 1, moved._replace(status=status, mu=jnp.where(active, t, state.mu)), (xs, duals, count)

    _, state, (x, dual, count) = jax.lax.while_loop(
        lambda carry: (carry[0] < points) & (carry[1].status == RUNNING).any(), step, (0, state, room)
    )
    status = jnp.where(state.status == RUNNING, STOPPED, state.status)
    return x, dual, count, status, state.pivots


@functools.partial(jit, static_argnames=("equal", "free", "lean", "limit", "points", "tile"))
def solve(cost, rows, right, direction, first, tiles, *, equal, free, lean, limit, points, tile):
    """Solve B LPs, with the batch axis first; B is a multiple of `tile`, and each tile runs its own loops.

    cost [B, n], rows [B, m, n], right [B, m], direction [B, m], first [B, equal] or None (see `_without`).
    tiles:  the number of tiles to solve; the others have no answers
    lean:   the scale of the perturbation of costs; small where the first dictionary is dual feasible
    limit:  the largest number of pivots of phase 1
    points: the largest number of points of phase 2; 0: no phase 2
    Returns (x [B, n], dual [B, m], nonbasic [B, n], status [B], pivots [B]); with points
    (x [B / tile, P, n, tile], dual [B / tile, P, m, tile], count [B], status [B], pivots [B]): point k is a breakpoint,
    dual at k (0 for equalities if `first` is given) is optimal between it and the one before, and behind the last of
    the `count` points the LP becomes infeasible (or status STOPPED).
    """

    def lanes_last(a):
        return None if a is None else jnp.moveaxis(a.reshape(-1, tile, *a.shape[1:]), 1, -1)

    def lanes_first(a):
        a = jnp.moveaxis(a, -1, 1)  # [tiles, tile, ...]
        return a.reshape(-1, *a.shape[2:])

    def one(data):
        return _solve_tile(*data, equal=equal, free=free, lean=lean, limit=limit, points=points)

    begun = _numbers(len(cost) // tile) < tiles
    found = jax.lax.map(one, (*map(lanes_last, (cost, rows, right, direction, first)), begun))
    # Points stay as they are: the few that there are, are listed by the host.
    return (*found[:2], *map(lanes_first, found[2:])) if points else tuple(map(lanes_first, found))
