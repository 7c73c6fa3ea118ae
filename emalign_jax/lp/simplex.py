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
    return _take(x, jnp.expand_dims(index, tuple(range(x.ndim - 1))), 0)[0]


def _take(x, index, axis: int):
    """`jnp.take_along_axis` for indices that are sure to be in bounds, in half the operations."""
    return jnp.take_along_axis(x, index.astype(jnp.uint32), axis, mode="promise_in_bounds")


def _pivot(state: _State, r, s, active) -> _State:
    """Exchange the variables of row r and column s where `active`."""
    table = state.table
    row = _at(table, r)  # [n + 3, B]
    column = _take(table, s[None, None], 1)[:, 0]  # [m + 2, B]
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


def _crash(state: _State, equal: int, free: tuple[int, ...], first) -> _State:
    """Move the slacks of equalities out of the basis, and free variables into it, permanently.

    first: [equal, B] the column that replaces the slack of each equality; None: the one with the largest entry."""
    m, n = state.basic.shape[0], state.nonbasic.shape[0]
    for j in free:  # No pivot has been made in column j yet, so that it is the column of variable j.
        entries = jnp.where(state.leaves, jnp.abs(state.table[:m, j]), 0)
        r = _first(entries)
        active = entries.max(0) > PIVOT
        state = _pivot(state, r, jnp.full_like(r, j), active)
        here = (_numbers(m)[:, None] == r) & active
        barred = _numbers(n)[:, None] == j
        was_equality = (_at(state.nonbasic, jnp.full_like(r, j)) - n < equal) & active
        state = state._replace(leaves=state.leaves & ~here, enters=state.enters & ~(barred & was_equality))

    def one(i, state):
        at = state.basic == n + i  # [m, B]: all False if it has left the basis already.
        r = _first(at)
        row = _at(state.table, r)[:n]
        entries = jnp.where(state.enters, jnp.abs(row), 0)
        s = _first(entries) if first is None else first[i]
        active = at.any(0) & (_at(entries, s) > PIVOT)
        state = _pivot(state, r, s, active)
        redundant = at & ~active  # The row of a redundant equality is empty.
        return state._replace(
            leaves=state.leaves & ~redundant, enters=state.enters & ~((_numbers(n)[:, None] == s) & active)
        )

    return jax.lax.fori_loop(np.int32(0), np.int32(equal), one, state) if equal else state


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
    column = _take(table, s[None, None], 1)[:m, 0]
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


def _read(state: _State, t):
    """x [n, B] and dual [m, B] of the dictionary at t."""
    m, n = state.basic.shape[0], state.nonbasic.shape[0]
    B = state.basic.shape[1]
    each = _numbers(B)
    zero = jnp.zeros((n + m, B), state.table.dtype)
    x = zero.at[state.basic, each].set(state.table[:m, n] + t * state.table[:m, n + 2], mode="promise_in_bounds")[:n]
    dual = zero.at[state.nonbasic, each].set(state.table[m, :n], mode="promise_in_bounds")[n:]
    return x, dual


def _solve_tile(cost, rows, right, direction, first, *, equal, free, lean, limit, points):
    """Solve one tile of LPs; the last axis is B."""
    state = _crash(_start(cost, rows, right, direction, lean), equal, free, first)
    state = jax.lax.while_loop(
        lambda s: ((s.status == RUNNING) & (s.pivots < limit)).any(), lambda s: _self_dual_step(s), state
    )
    state = state._replace(status=jnp.where(state.status == RUNNING, STOPPED, state.status))
    if not points:
        return *_read(state, 0.0), state.nonbasic, state.status, state.pivots
    return _trace_tile(state, points)


def _trace_tile(state: _State, points: int):
    m, n, B = state.basic.shape[0], state.nonbasic.shape[0], state.basic.shape[1]
    dtype = state.table.dtype
    good = state.status == OPTIMAL
    state = state._replace(status=jnp.where(good, RUNNING, state.status), mu=jnp.zeros(B, dtype))
    room = (
        jnp.zeros((points, B), dtype), jnp.zeros((points, n, B), dtype), jnp.zeros((points, m, B), dtype),
        jnp.zeros(B, jnp.int32),
    )  # fmt: skip

    def step(carry):
        k, state, (ts, xs, duals, count) = carry
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
        x, dual = _read(state, t)
        ts, xs, duals = (jax.lax.dynamic_update_index_in_dim(a, b, k, 0) for a, b in ((ts, t), (xs, x), (duals, dual)))
        count = count + (running & ~ends).astype(count.dtype)
        active = running & some & ~ends
        moved = _pivot(state, r, s, active)
        status = jnp.where(running & ~active, OPTIMAL, state.status)
        return k + 1, moved._replace(status=status, mu=jnp.where(active, t, state.mu)), (ts, xs, duals, count)

    _, state, (t, x, dual, count) = jax.lax.while_loop(
        lambda carry: (carry[0] < points) & (carry[1].status == RUNNING).any(), step, (0, state, room)
    )
    status = jnp.where(state.status == RUNNING, STOPPED, state.status)
    return t, x, dual, count, status, state.pivots


@functools.partial(jit, static_argnames=("equal", "free", "lean", "limit", "points", "tile"))
def solve(cost, rows, right, direction, first, *, equal, free, lean, limit, points, tile):
    """Solve B LPs, with the batch axis first; B is a multiple of `tile`, and each tile runs its own loops.

    cost [B, n], rows [B, m, n], right [B, m], direction [B, m], first [B, equal] or None (see `_crash`).
    lean:   the scale of the perturbation of costs; small where the first dictionary is dual feasible
    limit:  the largest number of pivots of phase 1
    points: the largest number of points of phase 2; 0: no phase 2
    Returns (x [B, n], dual [B, m], nonbasic [B, n], status [B], pivots [B]); with points
    (t [B, P], x [B, P, n], dual [B, P, m], count [B], status [B], pivots [B]): point k is the solution at t[k], dual[k]
    is optimal from t[k - 1] (0 for k = 0) to t[k], and at t[count - 1] the LP becomes infeasible (or status STOPPED).
    """

    def tiles(a):
        return None if a is None else jnp.moveaxis(a.reshape(-1, tile, *a.shape[1:]), 1, -1)

    def back(a):
        a = jnp.moveaxis(a, -1, 1)  # [tiles, tile, ...]
        return a.reshape(-1, *a.shape[2:])

    def one(data):
        return _solve_tile(*data, equal=equal, free=free, lean=lean, limit=limit, points=points)

    return jax.tree.map(back, jax.lax.map(one, tuple(map(tiles, (cost, rows, right, direction, first)))))
