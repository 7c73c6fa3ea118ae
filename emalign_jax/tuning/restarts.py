"""Several points to start from: drawn at random, screened before gradient steps, and compared after them.

If all games share the parameters, the score is a smooth function with small jumps where the equilibria of single games
change. So few games are enough to screen points, and near the maximum trying points finds more than gradients do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.result import Derivative
from emalign_jax.tuning.evaluation import evaluate
from emalign_jax.tuning.problem import NOT_PLAYED, Problem, score, settle

# Folded into the key: of drawn parameters, and of the order in which games are played.
FOLD_PARAMETERS = 2**20
FOLD_ORDER = 2**21
# Number of games in the first round of screening.
FEWEST_GAMES = 32
# Number of points tried near the best before the best is chosen again.
POLISH_ROUND = 4
# Share of the way from the best point to a random one, in the first and the last round.
POLISH_SHARES = (0.5, 0.1)


class Points(NamedTuple):
    """Points and their smoothed equilibria, from the same starts for all.

    params:  [R, ...] the parameters.
    schemes: [R, S, N, K, rows, M] the equilibria.
    user:    [R, S, N] the user's values in them; NaN where none was looked for.
    derivative: [R, S, N] the `Derivative` of each, or NOT_PLAYED.
    """

    params: Any
    schemes: jax.Array
    user: Float[np.ndarray, "R S N"]
    derivative: np.ndarray


# (problem, points, numbers of the points, numbers of games) -> points
Player = Callable[[Problem, Points, np.ndarray, np.ndarray], Points]


def draw(problem: Problem, key: jax.Array, numbers: Iterable[int], params: Any = None) -> Any:
    """[R, ...] the random parameters of each number; number 0 has `params`, by default the mechanism's `init`."""
    dtype = problem.games.prior.dtype
    points = [
        problem.mechanism.sample(jax.random.fold_in(key, FOLD_PARAMETERS + n), problem.games)
        if n
        else (problem.mechanism.init(problem.games) if params is None else params)
        for n in numbers
    ]
    return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(one, dtype) for one in x]), *points)


def play_everywhere(problem: Problem, params: Any, first: jax.Array) -> Points:
    """The equilibria at all points [R, ...] in all games, from the schemes [S, N, K, rows, M]."""
    points = unplayed(params, first)
    return _play(problem, points, np.ones(points.user.shape, bool))


def screen(
    problem: Problem, params: Any, first: jax.Array, key: jax.Array, keep: int, play: Player | None = None
) -> Points:
    """The `keep` best of the points [R, ...], from the best to the worst, by successive halving: all points are played
    in few games, the better half of them in twice as many, and so on. If all parameters are per game, all points are
    played in all games.

    play: finds the equilibria of the points with these numbers in these games, where they were not played before
    """
    points, N = unplayed(params, first), first.shape[1]
    numbers, play = np.arange(len(points.user)), play or play_some
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, FOLD_ORDER), N))
    before = 0
    for n in sizes(len(points.user), N, keep, problem.mechanism.all_per_game):
        points = play(problem, points, numbers, np.sort(order[before:n]))
        before = n
        if n < N:
            best_first = ranked(problem, points)[: max(keep, -(-len(numbers) // 2))]
            points, numbers = take(problem, points, best_first), numbers[best_first]
    return best(problem, points, keep)


def play_some(problem: Problem, points: Points, numbers: np.ndarray, games: np.ndarray) -> Points:
    """The points with their equilibria in these games."""
    which = np.zeros(points.user.shape, bool)
    which[:, :, games] = True
    return _play(problem, points, which)


def sizes(points: int, games: int, keep: int, own: bool) -> list[int]:
    """The number of games in each round of screening; `own` is whether all parameters are per game."""
    rounds = [games]
    while not own and points > keep and rounds[0] > FEWEST_GAMES:
        rounds.insert(0, max(FEWEST_GAMES, -(-rounds[0] // 2)))
        points = -(-points // 2)
    return rounds


def polish(problem: Problem, points: Points, first: jax.Array, key: jax.Array, numbers: range) -> Points:
    """As many points as given: the best of these and of points on the way from the best one to random ones, in each
    round closer to the best."""
    rounds = [numbers[at : at + POLISH_ROUND] for at in range(0, len(numbers), POLISH_ROUND)]
    for own, share in zip(rounds, np.geomspace(*POLISH_SHARES, max(len(rounds), 2)), strict=False):
        top = best(problem, points, 1).params
        tried = jax.tree.map(lambda x, y, share=share: x + share * (y - x), top, draw(problem, key, own))
        found = play_everywhere(problem, tried, first)
        both = Points(*(jax.tree.map(lambda *x: jnp.concatenate(x), *pair) for pair in zip(points, found, strict=True)))
        points = best(problem, both, len(points.user))
    return points


def best(problem: Problem, points: Points, count: int) -> Points:
    """The `count` best, from the best to the worst; separately for each game if all parameters are per game."""
    return take(problem, points, ranked(problem, points)[:count])


def ranked(problem: Problem, points: Points) -> np.ndarray:
    """Points from the best to the worst, [R] or [R, N]; only equilibria that were reached count."""
    reached = np.isfinite(points.user) & (np.asarray(points.derivative) != Derivative.NOT_REACHED)
    scores = jax.vmap(lambda *x: score(problem, *x))(points.params, jnp.asarray(points.user), jnp.asarray(reached))
    return np.argsort(-np.asarray(scores), axis=0, kind="stable")


def take(problem: Problem, points: Points, order: np.ndarray | np.integer) -> Points:
    """The points with the numbers `order`; if `order` is [..., N], other points for each game."""
    if not problem.mechanism.all_per_game:
        return jax.tree.map(lambda x: x[order], points)
    games = np.arange(order.shape[-1])
    last = lambda x: np.moveaxis(np.moveaxis(x, 1, 2)[order, games], order.ndim, order.ndim - 1)  # noqa: E731
    return Points(jax.tree.map(lambda x: x[order, games], points.params), *map(last, points[1:]))


def choose(problem: Problem, points: Points, key: jax.Array, finalists: int) -> Points:
    """The best point, without the axis R: by smoothed equilibria, or with finalists > 1 the best of that many by
    certified equilibria."""
    points = best(problem, points, finalists)
    R, N = len(points.user), points.user.shape[2]
    rows = [np.full(N, r) if problem.mechanism.all_per_game else np.intp(r) for r in range(R)]
    if R == 1:
        return take(problem, points, rows[0])
    scores = [_certified(problem, take(problem, points, row), key) for row in rows]
    return take(problem, points, np.argmax(scores, axis=0))


def unplayed(params: Any, first: jax.Array) -> Points:
    """Points [R, ...] with the schemes [S, N, K, rows, M] that play starts from."""
    R = len(jax.tree.leaves(params)[0])
    schemes = jnp.broadcast_to(first, (R, *first.shape))
    return Points(params, schemes, np.full(schemes.shape[:3], np.nan), np.full(schemes.shape[:3], NOT_PLAYED))


def _play(problem: Problem, points: Points, which: np.ndarray) -> Points:
    schemes, user, derivative = settle(problem, points.params, points.schemes, which)
    return Points(
        points.params, schemes, np.where(which, user, points.user), np.where(which, derivative, points.derivative)
    )


def _certified(problem: Problem, point: Points, key) -> np.ndarray:
    """`score` by certified equilibria of agents that are not smoothed, from the point's schemes [S, ...]."""
    setting = problem.games, problem.protocol, problem.user, problem.mechanism, point.params, problem.solver
    user = jnp.stack([jnp.asarray(evaluate(*setting, key=key, start=start).user) for start in point.schemes])
    return np.asarray(score(problem, point.params, user, jnp.isfinite(user)))
