"""The tuning loop: equilibrium, its gradient, a step of the parameters; each equilibrium starts from the last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from emalign_jax.equilibrium.solver import check_sizes, solve
from emalign_jax.games.game import Game
from emalign_jax.internal.arguments import integer
from emalign_jax.internal.validation import as_key, on_host
from emalign_jax.internal.xla import update_of
from emalign_jax.mechanisms import AbstractMechanism
from emalign_jax.play import Implicit, SmoothPlay, Unrolled
from emalign_jax.play.differentiable import starts_of
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.result import Derivative
from emalign_jax.tuning.objectives import Objective
from emalign_jax.tuning.problem import Problem, by_game, make_problem, score, settle
from emalign_jax.tuning.restarts import choose, draw, near, play, screen
from emalign_jax.users.base import AbstractUser

WARM_NEWTON = 1  # Newton steps from the last equilibrium; the derivative takes one more
WARM_TOLERANCE = 1e-5  # of |F|: the derivative is off by about as much
REFRESH = 20  # steps after which games that lost their equilibrium are played again
HISTORY = ("objective", "value", "cost", "trusted", "skipped")


class Tuned(NamedTuple):
    """params:  the best found, as the mechanism's `init` shapes them
    values:  what they mean, by name (NumPy)
    history: [steps, restarts] a name: objective (before each step; games that lost their equilibrium at their last
             value), value (mean user value), cost, trusted (share of games and starts whose derivative counted),
             skipped (1 where the gradient was not finite and no step was taken)
    schemes: [S, N, K, rows, M] smoothed equilibria under them from the first starts, and their `derivative` [S, N]
    skipped: steps that were not taken, over all restarts
    """

    params: Any
    values: dict[str, np.ndarray]
    history: dict[str, Float[np.ndarray, "steps R"]]
    schemes: jax.Array
    derivative: np.ndarray
    skipped: int


class Plan(NamedTuple):
    """How widely to search.

    starts:    equilibria a game, from random schemes
    restarts:  points that gradients move: the mechanism's `init` (or the given parameters) and random ones
    draws:     points drawn, of which those go on whose first equilibria are best (of every game its own, where it has
               parameters of its own); None: as many as restarts
    polish:    points tried near the best when all have been moved, for values jump where gradients do not see it; None:
               half as many as draws, but none where every game has parameters of its own or without draws
    finalists: of the points in the end, how many are judged by certified equilibria; 1: by smoothed ones alone
    """

    starts: int = 1
    restarts: int = 1
    draws: int | None = None
    polish: int | None = None
    finalists: int = 1

    def checked(self) -> Plan:
        starts, restarts = integer("starts", self.starts, 1), integer("restarts", self.restarts, 1)
        draws = integer("draws", restarts if self.draws is None else self.draws, 1)
        polish = None if self.polish is None else integer("polish", self.polish, 0)
        finalists = integer("finalists", self.finalists, 1)
        if draws < restarts:
            raise ValueError(f"draws: expected at least restarts = {restarts}, got {draws}")
        if finalists > restarts:
            raise ValueError(f"finalists: expected at most restarts = {restarts}, got {finalists}")
        return Plan(starts, restarts, draws, polish, finalists)

    def tried(self, problem: Problem) -> range:
        """The numbers of the draws towards which points near the best are tried."""
        assert self.draws is not None
        own = self.draws == 1 or by_game(problem.mechanism)
        polish = self.polish if self.polish is not None else 0 if own else self.draws // 2
        return range(self.draws, self.draws + polish)


class State(NamedTuple):
    """All that the loop carries from step to step; arrays alone, R restarts.

    values: [R, S, N] her value where an equilibrium was last reached
    best:   the parameters of the highest score so far (of every game its own, where it has parameters of its own)
    drawn:  those that it began with
    """

    params: Any
    optimizer: Any
    schemes: jax.Array  # [R, S, N, K, rows, M]
    values: jax.Array
    best: Any
    score: jax.Array  # [R] or [R, N]
    drawn: Any
    step: jax.Array


def tune(
    games: Game,
    protocol: AbstractProtocol,
    user: AbstractUser,
    mechanism: AbstractMechanism,
    objective: Objective | None = None,
    solver: SmoothPlay | None = None,
    *,
    key: jax.Array | SupportsIndex,
    starts: int = 1,
    restarts: int = 1,
    draws: int | None = None,
    polish: int | None = None,
    finalists: int = 1,
    steps: int = 200,
    learning_rate: float = 0.05,
    params: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    differentiation: Implicit | Unrolled | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Tuned:
    """Move the parameters of `mechanism` so that the objective of the smoothed equilibria, less the mean cost, grows.

    games:         a batch [N]
    solver:        finds the first equilibria; later ones start from the last with few steps
    starts, restarts, draws, polish, finalists: how widely to search, see `Plan`
    learning_rate: of Adam, falling to a tenth along a cosine; `optimizer` takes its place
    params:        to start from; those of the mechanism's `init` unless given
    progress:      called with (steps done, objective)
    A game whose derivative cannot be trusted does not count in that step; a gradient that is not finite is not taken.
    Values may jump where equilibria change, so the best parameters on the way are kept, not the last; the best restart
    is judged by fresh equilibria, from the same starts for all.
    The result is of smoothed equilibria: `tuning.evaluate` certifies what the parameters are worth.
    Raises `ValueError` for what cannot be tuned. In the session's float type.
    """
    games, protocol, user, mechanism, objective, solver = on_host(
        games=games, protocol=protocol, user=user, mechanism=mechanism, objective=objective, solver=solver
    )
    key = as_key(key)
    _, differentiation, progress = on_host(key=key, differentiation=differentiation, progress=progress)
    steps, plan = integer("steps", steps, 1), Plan(starts, restarts, draws, polish, finalists).checked()
    problem = make_problem(
        games,
        protocol,
        user,
        mechanism,
        objective,
        solver,
        steps,
        learning_rate,
        optimizer,
        differentiation,
        params,
    )
    state, rows = begin(problem, key, plan, params), []
    for n in range(steps):
        state, row = step(problem, state, refresh=(n + 1) % REFRESH == 0)
        rows.append(row)
        if progress is not None:
            progress(n + 1, float(jnp.max(row["objective"])))
    history = {name: np.array([np.asarray(row[name], np.float64) for row in rows]) for name in HISTORY}
    return finish(problem, state, key, plan, history)


def first_schemes(problem: Problem, key: jax.Array, starts: int, params: Any) -> jax.Array:
    """Random schemes [S, N, K, rows, M], the same whatever the numbers in params [R, ...]."""
    one = jax.tree.map(lambda x: x[0], params)
    under = problem.mechanism.apply(one, problem.games, problem.protocol, problem.user)
    schemes = starts_of(under[0], under[1], key, starts, under[1].messages(under[0]))
    return (schemes if starts > 1 else schemes[None]).astype(problem.games.prior.dtype)


def begin(problem: Problem, key: jax.Array, plan: Plan, params: Any = None) -> State:
    """The parameters to start from and their equilibria."""
    assert plan.draws is not None
    params = draw(problem, key, range(plan.draws), params)
    if plan.finalists > 1:  # nothing is begun that cannot be ended
        one = jax.tree.map(lambda x: x[0], params)
        games, _, user = problem.mechanism.apply(one, problem.games, problem.protocol, problem.user)
        check_sizes(games, problem.protocol, user, problem.protocol.messages(games), alone=False, exactly=True)
    first = first_schemes(problem, key, plan.starts, params)
    points = screen(problem, params, first, key, plan.restarts)
    params, schemes = points.params, jnp.asarray(points.schemes)
    values = jnp.asarray(np.where(points.derivative == Derivative.NOT_REACHED, np.nan, points.user), schemes.dtype)
    worth = jax.vmap(lambda *x: score(problem, *x))(params, values, jnp.isfinite(values))
    lowest = jnp.full_like(worth, -jnp.inf)
    moments = jax.vmap(problem.optimizer.init)(params)
    begun = jnp.zeros((), int)  # of no weak type: with one, a run that goes on would compile anew
    return State(params, moments, schemes, values, params, lowest, params, begun)


def finish(problem: Problem, state: State, key: jax.Array, plan: Plan, history: dict[str, np.ndarray]) -> Tuned:
    """The best of all restarts, moved or as they began, and of the points near the best."""
    first = first_schemes(problem, key, plan.starts, state.params)
    both = jax.tree.map(lambda *x: jnp.concatenate(x), state.best, state.drawn)
    points = near(problem, play(problem, both, first), first, key, plan.tried(problem))
    params, schemes, _, derivative = choose(problem, points, key, plan.finalists)
    values = {name: np.asarray(value) for name, value in problem.mechanism.describe(params).items()}
    return Tuned(params, values, history, jnp.asarray(schemes), np.asarray(derivative), int(history["skipped"].sum()))


def step(problem: Problem, state: State, *, refresh: bool) -> tuple[State, dict[str, jax.Array]]:
    """One step: (state, row of the history [R]). refresh: games that lost their equilibrium are played again."""
    state, row, derivative = _step(problem, state)
    if refresh:
        which = np.asarray(derivative) != Derivative.SMOOTH
        schemes, user, found = settle(problem, state.params, state.schemes, which)
        values = jnp.where(found == Derivative.SMOOTH, user, state.values).astype(state.values.dtype)
        state = state._replace(schemes=schemes, values=values)
    return state, row


@eqx.filter_jit
def _step(problem: Problem, state: State):
    solver = SmoothPlay(
        problem.solver.agents_precision,
        steps=0,
        newton=WARM_NEWTON,
        tolerance=problem.solver.tolerance or WARM_TOLERANCE,
    )

    def one(params, optimizer, schemes, values, best, highest):
        def objective(params):
            games, protocol, user = problem.mechanism.apply(params, problem.games, problem.protocol, problem.user)
            found = solve(games, protocol, user, solver, start=schemes, differentiation=problem.differentiation)
            trusted = (found.derivative == int(Derivative.SMOOTH)) & jnp.isfinite(found.user)
            cost = problem.mechanism.cost(params, problem.games)
            counted = trusted.any(0)
            mean_cost = jnp.where(counted, cost, 0).sum() / jnp.maximum(counted.sum(dtype=cost.dtype), 1)
            return problem.objective(found.user, trusted) - mean_cost, (found, mean_cost, trusted)

        (reached, (found, cost, trusted)), slope = jax.value_and_grad(objective, has_aux=True)(params)
        leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(slope)]
        ok = jnp.stack([*leaves, jnp.isfinite(reached)]).all() & trusted.any()
        update, moments = update_of(problem.optimizer, jax.tree.map(jnp.negative, slope), optimizer, params)
        moved = (optax.apply_updates(params, update), moments)
        keep = lambda new, old: jnp.where(ok, new, old)  # noqa: E731
        values = jnp.where(trusted, found.user, values)
        worth = score(problem, params, values, jnp.isfinite(values))
        better = worth > highest
        grown = lambda x: better.reshape(*better.shape, *(1,) * (x.ndim - better.ndim))  # noqa: E731
        best = jax.tree.map(lambda new, old: jnp.where(grown(new), new, old), params, best)
        params, optimizer = jax.tree.map(keep, moved, (params, optimizer))
        schemes = jnp.where(jnp.isfinite(found.schemes), found.schemes, schemes)
        known = jnp.isfinite(values)  # of the same games in every step, so that the curve shows no change of who counts
        value = jnp.where(known, values, 0).sum() / jnp.maximum(known.sum(dtype=values.dtype), 1)
        row = {
            "objective": problem.objective(values, known) - cost,
            "value": value,
            "cost": cost,
            "trusted": trusted.mean(),
            "skipped": jnp.where(ok, 0.0, 1.0),
        }
        return (params, optimizer, schemes, values, best, jnp.maximum(worth, highest)), row, found.derivative

    moved, row, derivative = jax.vmap(one)(*state[:-2])
    return State(*moved, state.drawn, state.step + 1), row, derivative
