"""Several points to start from: drawn, screened before any gradient is taken, and judged when all have been moved."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.result import Result
from emalign_jax.tuning.evaluate import evaluate
from emalign_jax.tuning.problem import Problem, by_game, score, settle

DRAWS = 2**20  # folded into the key of drawn parameters


def draw(problem: Problem, key: jax.Array, count: int, params: Any = None) -> Any:
    """[count, ...]: given parameters, or the mechanism's own, and others at random."""
    dtype = problem.games.prior.dtype
    points = [problem.mechanism.init(problem.games) if params is None else params]
    for n in range(1, count):
        points.append(problem.mechanism.sample(jax.random.fold_in(key, DRAWS + n), problem.games))
    return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(one, dtype) for one in x]), *points)


def take(problem: Problem, tree: Any, order: np.ndarray | np.integer, *, starts: bool = False) -> Any:
    """Rows `order` of [R, ...]; of every game its own, if `order` is [..., N]. starts: an axis of starts follows R."""
    if not by_game(problem.mechanism):
        return jax.tree.map(lambda x: x[order], tree)
    games = np.arange(order.shape[-1])
    if not starts:
        return jax.tree.map(lambda x: x[order, games], tree)
    return jax.tree.map(lambda x: jnp.moveaxis(jnp.moveaxis(x, 1, 2)[order, games], order.ndim, order.ndim - 1), tree)


def ranked(problem: Problem, params: Any, user: Float[np.ndarray, "R S N"], result: np.ndarray) -> np.ndarray:
    """Restarts from the best to the worst, [R] or [R, N]; only equilibria that were reached count."""
    reached = np.isfinite(user) & (result != Result.NOT_REACHED)
    worth = jax.vmap(lambda *x: score(problem, *x))(params, jnp.asarray(user), jnp.asarray(reached))
    return np.argsort(-np.asarray(worth), axis=0, kind="stable")


def choose(problem: Problem, params: Any, schemes: jax.Array, key: jax.Array, finalists: int):
    """The best of the parameters [R, ...] by equilibria from the same schemes [S, N, K, rows, M]: smoothed ones, and
    with finalists > 1 so many of the best by certified ones. Returns (params, schemes, result)."""
    R = len(jax.tree.leaves(params)[0])
    schemes = jnp.broadcast_to(schemes, (R, *schemes.shape))
    schemes, user, result = settle(problem, params, schemes, np.ones(schemes.shape[:3], bool))
    order = ranked(problem, params, user, result)[: min(finalists, R)]
    best = np.zeros(order.shape[1:], int)
    if len(order) > 1:
        worth = [_certified(problem, *_rows(problem, row, params, schemes), key) for row in order]
        best = np.argmax(worth, axis=0)
    final = order[best] if order.ndim == 1 else order[best, np.arange(order.shape[1])]
    return *_rows(problem, final, params, schemes), np.asarray(take(problem, jnp.asarray(result), final, starts=True))


def _rows(problem, row, params, schemes):
    return take(problem, params, row), take(problem, schemes, row, starts=True)


def _certified(problem: Problem, params, schemes, key) -> np.ndarray:
    """`score` by equilibria of agents who are not smoothed, from these schemes [S, ...]."""
    setting = problem.games, problem.protocol, problem.user, problem.mechanism, params, problem.solver
    user = jnp.stack([jnp.asarray(evaluate(*setting, key=key, start=start).user) for start in schemes])
    return np.asarray(score(problem, params, user, jnp.isfinite(user)))
