"""The tuning loop: equilibrium, its gradient, a step of the parameters; each equilibrium starts from the last one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from emalign_jax import parameters
from emalign_jax.arguments import integer
from emalign_jax.differentiable import starts_of
from emalign_jax.game import Game, faults
from emalign_jax.mechanisms import AbstractMechanism
from emalign_jax.objectives import Objective
from emalign_jax.play import Implicit, SmoothPlay, Unrolled
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.result import Result
from emalign_jax.solve import solve
from emalign_jax.users import AbstractUser

WARM_NEWTON = 1  # Newton steps from the last equilibrium; the derivative takes one more
WARM_TOLERANCE = 1e-5  # of |F|: the derivative is off by about as much
REFRESH = 20  # steps after which games that lost their equilibrium are played again
BLOCK = 64  # games played together, so that one size is compiled
HISTORY = ("objective", "value", "cost", "trusted", "skipped")


class Tuned(NamedTuple):
    """params:  of the mechanism, as its `init` shapes them
    values:  what they mean, by name (NumPy)
    history: [steps] a name: objective (before each step), value (mean user value), cost, trusted (share of games and
             starts whose derivative counted), skipped (1 where the gradient was not finite and no step was taken)
    schemes: [..., K, rows, M] the last equilibria, and their `result`
    skipped: steps that were not taken
    """

    params: Any
    values: dict[str, np.ndarray]
    history: dict[str, Float[np.ndarray, "steps"]]
    schemes: jax.Array
    result: np.ndarray
    skipped: int


class State(NamedTuple):
    """All that the loop carries from step to step; arrays alone."""

    params: Any
    optimizer: Any
    schemes: jax.Array  # [S, N, K, rows, M]
    step: jax.Array


class Problem(NamedTuple):
    """What is tuned, checked."""

    games: Game
    protocol: AbstractProtocol
    user: AbstractUser
    mechanism: AbstractMechanism
    objective: Objective
    solver: SmoothPlay
    differentiation: Implicit | Unrolled
    optimizer: optax.GradientTransformation


def tune(
    games: Game,
    protocol: AbstractProtocol,
    user: AbstractUser,
    mechanism: AbstractMechanism,
    objective: Objective | None = None,
    solver: SmoothPlay | None = None,
    *,
    key: jax.Array,
    starts: int = 1,
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
    starts:        equilibria a game, from random schemes
    learning_rate: of Adam, falling to a tenth along a cosine; `optimizer` takes its place
    params:        to start from; those of the mechanism's `init` unless given
    progress:      called with (steps done, objective)
    A game whose derivative cannot be trusted does not count in that step; a gradient that is not finite is not taken.
    The result is of smoothed equilibria: `tuning.evaluate` certifies what the parameters are worth.
    Raises `ValueError` for what cannot be tuned. In the dtype of `games` (float64 needs x64).
    """
    steps = integer("steps", steps, 1)
    problem = make_problem(
        games, protocol, user, mechanism, objective, solver, steps, learning_rate, optimizer, differentiation
    )
    state = begin(problem, key, integer("starts", starts, 1), params)
    rows = []
    for n in range(steps):
        state, row, result = step(problem, state)
        rows.append(row)
        if (n + 1) % REFRESH == 0:
            state = refresh(problem, state, np.asarray(result))
        if progress is not None:
            progress(n + 1, float(row["objective"]))
    history = {name: np.array([float(row[name]) for row in rows]) for name in HISTORY}
    values = {name: np.asarray(value) for name, value in mechanism.describe(state.params).items()}
    return Tuned(state.params, values, history, state.schemes, np.asarray(result), int(history["skipped"].sum()))


def make_problem(
    games, protocol, user, mechanism, objective, solver, steps, learning_rate, optimizer=None, differentiation=None
) -> Problem:
    """Everything checked and defaults filled in. `ValueError` for what cannot be tuned."""
    if not isinstance(mechanism, AbstractMechanism):
        raise ValueError(f"mechanism: expected an AbstractMechanism, got {type(mechanism).__name__}")
    if len(games.batch_shape) != 1:
        raise ValueError(f"games: expected one batch axis, got {list(games.batch_shape)}")
    wrong = faults(games)
    if (wrong != "").all():
        raise ValueError(f"games: every game is malformed, the first: {wrong[0] if len(wrong) else 'there is none'}")
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate: expected a finite number > 0, got {learning_rate}")
    mechanism.check(games, protocol, user)
    games = jax.tree.map(jnp.asarray, games)
    optimizer = _adam(float(learning_rate), steps) if optimizer is None else optimizer
    return Problem(
        games, protocol, user, mechanism, Objective() if objective is None else objective,
        SmoothPlay() if solver is None else solver,
        Implicit() if differentiation is None else differentiation, optimizer,
    )  # fmt: skip


@functools.lru_cache
def _adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """The same object for the same numbers: another one would compile the step anew."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps, 0.1))


def begin(problem: Problem, key: jax.Array, starts: int, params: Any = None) -> State:
    """The parameters to start from and their equilibria."""
    params = problem.mechanism.init(problem.games) if params is None else params
    params = jax.tree.map(lambda x: jnp.asarray(x, problem.games.prior.dtype), params)
    under = problem.mechanism.apply(params, problem.games, problem.protocol, problem.user)
    M = under[1].messages(under[0])
    schemes = starts_of(under[0], under[1], key, starts, M).astype(problem.games.prior.dtype)
    schemes = schemes if starts > 1 else schemes[None]
    state = State(params, problem.optimizer.init(params), schemes, jnp.asarray(0))
    return refresh(problem, state, np.full(schemes.shape[:2], int(Result.NOT_REACHED)))


def refresh(problem: Problem, state: State, result: np.ndarray) -> State:
    """Play again from where they are the games [S, N] whose derivative could not be trusted."""
    lost = np.argwhere(result != Result.SMOOTH)
    if not len(lost):
        return state
    N = result.shape[1]
    games, protocol, user = _under(problem, state.params)
    protocol, user, solver = (parameters.flatten(module, (N,), jnp) for module in (protocol, user, problem.solver))
    schemes = state.schemes
    for at in range(0, len(lost), BLOCK):
        some = np.resize(lost[at : at + BLOCK], (BLOCK, 2))
        start, game = some.T
        one = jax.tree.map(lambda x, game=game: x[game], (games, protocol, user, solver))
        found = solve(*one, start=schemes[start, game], differentiation=Implicit())
        new = jnp.where(jnp.isfinite(found.schemes), found.schemes, schemes[start, game])
        schemes = schemes.at[start, game].set(new)
    return state._replace(schemes=schemes)


@eqx.filter_jit
def _under(problem: Problem, params):
    return problem.mechanism.apply(params, problem.games, problem.protocol, problem.user)


def step(problem: Problem, state: State) -> tuple[State, dict[str, jax.Array], jax.Array]:
    """One step: (state, row of the history, results [S, N])."""
    return _step(problem, state)


@eqx.filter_jit
def _step(problem: Problem, state: State):
    solver = SmoothPlay(
        problem.solver.agents_precision,
        steps=0,
        newton=WARM_NEWTON,
        tolerance=problem.solver.tolerance or WARM_TOLERANCE,
    )

    def objective(params):
        games, protocol, user = problem.mechanism.apply(params, problem.games, problem.protocol, problem.user)
        found = solve(games, protocol, user, solver, start=state.schemes, differentiation=problem.differentiation)
        trusted = (found.result == int(Result.SMOOTH)) & jnp.isfinite(found.user)
        cost = problem.mechanism.cost(params, problem.games)
        counted = trusted.any(0)
        mean_cost = jnp.where(counted, cost, 0).sum() / jnp.maximum(counted.sum(), 1)
        reached = problem.objective(found.user, trusted) - mean_cost
        value = jnp.where(trusted, found.user, 0).sum() / jnp.maximum(trusted.sum(), 1)
        return reached, (value, mean_cost, trusted.mean(), found.schemes, found.result)

    (reached, (value, cost, trusted, schemes, result)), slope = jax.value_and_grad(objective, has_aux=True)(
        state.params
    )
    leaves = [jnp.isfinite(x).all() for x in jax.tree.leaves(slope)]
    ok = jnp.stack([*leaves, jnp.isfinite(reached)]).all() & (trusted > 0)
    update, optimizer = problem.optimizer.update(jax.tree.map(jnp.negative, slope), state.optimizer, state.params)
    moved = (optax.apply_updates(state.params, update), optimizer)
    keep = lambda new, old: jnp.where(ok, new, old)  # noqa: E731
    params, optimizer = jax.tree.map(keep, moved, (state.params, state.optimizer))
    schemes = jnp.where(jnp.isfinite(schemes), schemes, state.schemes)
    row = {"objective": reached, "value": value, "cost": cost, "trusted": trusted, "skipped": 1.0 - ok}
    return State(params, optimizer, schemes, state.step + 1), row, result
