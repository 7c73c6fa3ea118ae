"""Several points to start from: drawn, screened before any gradient is taken, and judged when all have been moved.

Where all games share the parameters, values are a smooth hill, roughened by jumps where the equilibria of single games
change: few games are enough to see the hill from afar, and near its top trying points finds more than gradients do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.result import Derivative
from emalign_jax.tuning.evaluation import evaluate
from emalign_jax.tuning.problem import NOT_PLAYED, Problem, by_game, score, settle

DRAWS = 2**20  # folded into the key of drawn parameters
ORDER = 2**21  # and of the order in which games are looked at
FEWEST = 32  # games by which points are screened at first
ROUND = 4  # points tried near the best before it is asked again which is best
NEAR = (0.5, 0.1)  # share of the way to a drawn point, in the first round and the last


class Points(NamedTuple):
    """Parameters [R, ...]; from the same schemes for all, their smoothed equilibria [R, S, N, K, rows, M], the user's
    values in these [R, S, N], NaN where none was played, and results."""

    params: Any
    schemes: jax.Array
    user: Float[np.ndarray, "R S N"]
    derivative: np.ndarray


def draw(problem: Problem, key: jax.Array, numbers: range, params: Any = None) -> Any:
    """[R, ...]: of every number its random parameters; of number 0 the given ones, or the mechanism's own."""
    dtype = problem.games.prior.dtype
    points = [
        problem.mechanism.sample(jax.random.fold_in(key, DRAWS + n), problem.games)
        if n
        else (problem.mechanism.init(problem.games) if params is None else params)
        for n in numbers
    ]
    return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(one, dtype) for one in x]), *points)


def play(problem: Problem, params: Any, first: jax.Array) -> Points:
    """All points [R, ...] in all games, from the schemes [S, N, K, rows, M]."""
    points = _unplayed(params, first)
    return _play(problem, points, np.ones(points.user.shape, bool))


def screen(problem: Problem, params: Any, first: jax.Array, key: jax.Array, keep: int) -> Points:
    """The `keep` best of the points [R, ...], from the best to the worst. Successive halving: all are played in few
    games, the better half of them in twice as many, and so on. Where every game has parameters of its own, all are
    played in all games."""
    points, N = _unplayed(params, first), first.shape[1]
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, ORDER), N))
    for n in sizes(len(points.user), N, keep, by_game(problem.mechanism)):
        which = np.zeros(points.user.shape, bool)
        which[:, :, order[:n]] = True
        points = _play(problem, points, which & (points.derivative == NOT_PLAYED))
        if n < N:
            points = best(problem, points, max(keep, -(-len(points.user) // 2)))
    return best(problem, points, keep)


def sizes(points: int, games: int, keep: int, own: bool) -> list[int]:
    """In how many games the points are played, round by round."""
    rounds = [games]
    while not own and points > keep and rounds[0] > FEWEST:
        rounds.insert(0, max(FEWEST, -(-rounds[0] // 2)))
        points = -(-points // 2)
    return rounds


def near(problem: Problem, points: Points, first: jax.Array, key: jax.Array, numbers: range) -> Points:
    """As many points as given, the best of these and of others that lie near the best, ever nearer, each on the way
    from there to a random point."""
    rounds = [numbers[at : at + ROUND] for at in range(0, len(numbers), ROUND)]
    for own, share in zip(rounds, np.geomspace(*NEAR, max(len(rounds), 2)), strict=False):
        top = best(problem, points, 1).params
        tried = jax.tree.map(lambda x, y, share=share: x + share * (y - x), top, draw(problem, key, own))
        found = play(problem, tried, first)
        both = Points(*(jax.tree.map(lambda *x: jnp.concatenate(x), *pair) for pair in zip(points, found, strict=True)))
        points = best(problem, both, len(points.user))
    return points


def best(problem: Problem, points: Points, count: int) -> Points:
    """The `count` best, from the best to the worst; of every game its own, if it has parameters of its own."""
    return take(problem, points, ranked(problem, points)[:count])


def ranked(problem: Problem, points: Points) -> np.ndarray:
    """Points from the best to the worst, [R] or [R, N]; only equilibria that were reached count."""
    reached = np.isfinite(points.user) & (np.asarray(points.derivative) != Derivative.NOT_REACHED)
    worth = jax.vmap(lambda *x: score(problem, *x))(points.params, jnp.asarray(points.user), jnp.asarray(reached))
    return np.argsort(-np.asarray(worth), axis=0, kind="stable")


def take(problem: Problem, points: Points, order: np.ndarray | np.integer) -> Points:
    """Points `order`; of every game its own, if `order` is [..., N]."""
    if not by_game(problem.mechanism):
        return jax.tree.map(lambda x: x[order], points)
    games = np.arange(order.shape[-1])
    last = lambda x: np.moveaxis(np.moveaxis(x, 1, 2)[order, games], order.ndim, order.ndim - 1)  # noqa: E731
    return Points(jax.tree.map(lambda x: x[order, games], points.params), *map(last, points[1:]))


def choose(problem: Problem, points: Points, key: jax.Array, finalists: int) -> Points:
    """The best point, without the axis R: by smoothed equilibria; with finalists > 1, so many of the best by certified
    ones."""
    points = best(problem, points, finalists)
    R, N = len(points.user), points.user.shape[2]
    rows = [np.full(N, r) if by_game(problem.mechanism) else np.intp(r) for r in range(R)]
    if R == 1:
        return take(problem, points, rows[0])
    worth = [_certified(problem, take(problem, points, row), key) for row in rows]
    return take(problem, points, np.argmax(worth, axis=0))


def _unplayed(params: Any, first: jax.Array) -> Points:
    R = len(jax.tree.leaves(params)[0])
    schemes = jnp.broadcast_to(first, (R, *first.shape))
    return Points(params, schemes, np.full(schemes.shape[:3], np.nan), np.full(schemes.shape[:3], NOT_PLAYED))


def _play(problem: Problem, points: Points, which: np.ndarray) -> Points:
    schemes, user, derivative = settle(problem, points.params, points.schemes, which)
    return Points(
        points.params, schemes, np.where(which, user, points.user), np.where(which, derivative, points.derivative)
    )


def _certified(problem: Problem, point: Points, key) -> np.ndarray:
    """`score` by equilibria of agents who are not smoothed, from the point's schemes [S, ...]."""
    setting = problem.games, problem.protocol, problem.user, problem.mechanism, point.params, problem.solver
    user = jnp.stack([jnp.asarray(evaluate(*setting, key=key, start=start).user) for start in point.schemes])
    return np.asarray(score(problem, point.params, user, jnp.isfinite(user)))
