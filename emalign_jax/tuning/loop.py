"""The tuning loop: smoothed equilibria, their gradient, a step of the parameters. Each search starts from the last
equilibria."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from emalign_jax.equilibrium.solver import check_sizes, solve
from emalign_jax.games.game import Game
from emalign_jax.internal.arguments import boolean, integer
from emalign_jax.internal.validation import as_key, on_host
from emalign_jax.internal.xla import update_of
from emalign_jax.mechanisms import AbstractMechanism
from emalign_jax.play import Implicit, SmoothPlay, Unrolled
from emalign_jax.play.differentiable import starts_of
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.result import Batched, Derivative, display
from emalign_jax.tuning.objectives import Objective
from emalign_jax.tuning.problem import Problem, make_problem, score, settle
from emalign_jax.tuning.restarts import Player, choose, draw, play_everywhere, polish, screen
from emalign_jax.users.base import AbstractUser

if TYPE_CHECKING:
    import pandas as pd

# Newton steps from the last equilibrium; the derivative takes one more.
WARM_NEWTON = 1
# Tolerance of |F| in the loop; the relative error of derivatives is about as large.
WARM_TOLERANCE = 1e-5
# Every so many steps, games without a trusted equilibrium are played again.
REFRESH = 20
HISTORY = ("objective", "value", "cost", "trusted", "skipped")


class Tuned(Batched):
    """The best parameters that `tune` found, and how it found them.

    `len`, iteration and indices go along the games of `schemes` and `derivative`; the rest is of all of them together.

    Attributes:
        params: the best parameters, a tree like the mechanism's `init`.
        values: the quantities that they stand for, by name (`describe` of the mechanism).
        history: arrays [steps, restarts] by name: "objective" before each step (a game whose equilibrium was not
            reached counts with its last value), "value" the user's mean value, "cost", "trusted" the share of games and
            starts whose derivative was trusted, "skipped" 1 where the gradient was not finite and no step was taken.
        schemes: [S, N, K, rows, M] smoothed equilibria under `params` from S starts.
        derivative: [S, N] the `Derivative` of each.
        skipped: number of steps that were not taken, over all restarts.

    Example:
        >>> setting = em.catalog.two_users(), em.Pooled(), em.QuantalUser(5.0), em.mechanisms.UserPrecision()
        >>> tuned = em.tune(*setting, key=0, steps=2)
        >>> tuned.history["objective"].shape, tuned.schemes.shape[:3]
        ((2, 1), (1, 2, 2))
    """

    params: Any
    values: dict[str, np.ndarray]
    history: dict[str, Any]
    schemes: Float[jax.Array, "S *batch K rows M"]
    derivative: Int[np.ndarray, "S *batch"]
    skipped: int

    _code: ClassVar[str | None] = "derivative"

    def _headline(self) -> dict[str, Any]:
        objective = np.asarray(self.history["objective"])
        said = " to ".join(display.number(row.max()) for row in (objective[0], objective[-1]))
        return {"steps": len(objective), "objective": said} | dict(list(self.values.items())[:2])

    def to_pandas(self, *, long: bool = False) -> pd.DataFrame:
        """A pandas table of the history, a row a step and restart.

        Columns: step, restart, objective, value, cost, trusted, skipped.

        Args:
            long: a row a step, restart and quantity, with its name and its number.
        """
        import pandas as pd

        boolean("long", long)
        steps, restarts = next(iter(self.history.values())).shape
        index = {"step": np.repeat(np.arange(steps), restarts), "restart": np.tile(np.arange(restarts), steps)}
        rows = pd.DataFrame(index | {name: x.reshape(-1) for name, x in self.history.items()})
        return rows.melt(id_vars=list(index), var_name="quantity", value_name="number") if long else rows


class Plan(NamedTuple):
    """How widely to search. A point is one value of the parameters.

    starts:    number of equilibria of each game, from random schemes.
    restarts:  number of points that gradients move: the mechanism's `init` (or the given parameters) and random ones.
    draws:     number of points drawn; the best of them, by their first equilibria, are the restarts (separately for
               each game if all parameters are per game). None: as many as restarts.
    polish:    number of points tried near the best one at the end, because values jump where gradients do not see it.
               None: half as many as draws, but 0 if all parameters are per game or draws is 1.
    finalists: number of points compared by certified equilibria at the end; with 1, the best by smoothed ones is taken.
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
        """The numbers of the random points towards which `polish` moves."""
        assert self.draws is not None
        default = 0 if self.draws == 1 or problem.mechanism.all_per_game else self.draws // 2
        polish = default if self.polish is None else self.polish
        return range(self.draws, self.draws + polish)


class State(NamedTuple):
    """The state of the loop, arrays for R restarts.

    params:    [R, ...] the parameters.
    optimizer: the state of the optimizer.
    schemes:   [R, S, N, K, rows, M] the last equilibria.
    values:    [R, S, N] the user's value where an equilibrium was last reached.
    best:      the parameters of the highest score so far, separately for each game if all parameters are per game.
    score:     [R] or [R, N] the highest score so far.
    drawn:     the parameters at the start.
    step:      number of steps taken.
    """

    params: Any
    optimizer: Any
    schemes: jax.Array
    values: jax.Array
    best: Any
    score: jax.Array
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
    """Tune the parameters of a mechanism by gradients through smoothed equilibria.

    The goal is the objective of the user's values, less the mean cost. A game whose derivative cannot be trusted does
    not count in that step, and no step is taken along a gradient that is not finite. Values may jump where equilibria
    change, so the best parameters on the way are kept rather than the last ones. Restarts are compared by new
    equilibria, from the same starts for all. Everything is computed in the session's float type. The result is about
    smoothed equilibria; `evaluate` certifies equilibria under the parameters.

    Args:
        games: [N] games.
        protocol: how the user talks to the agents.
        user: how the user acts.
        mechanism: whose parameters are tuned.
        objective: by default the mean over games and starts.
        solver: finds the first equilibria; later searches start from the last equilibria with few steps.
        key: a jax key or an integer seed.
        starts: number of equilibria of each game, from random schemes.
        restarts: number of points that gradients move: the mechanism's `init` (or `params`) and random ones.
        draws: number of points drawn; the best of them, by their first equilibria, are the restarts (separately for
            each game if all parameters are per game). None: as many as restarts.
        polish: number of points tried near the best one at the end, because values jump where gradients do not see it.
            None: half as many as draws, but 0 if all parameters are per game or draws is 1.
        finalists: number of points compared by certified equilibria at the end; with 1, the best by smoothed ones is
            taken.
        steps: number of gradient steps.
        learning_rate: of Adam, falling to a tenth along a cosine; not used if `optimizer` is given.
        params: the parameters to start from; by default the mechanism's `init`.
        optimizer: an optax transformation.
        differentiation: `Implicit()` (the default) or `Unrolled()`.
        progress: called with (steps done, objective).

    Returns:
        `Tuned`.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> setting = em.catalog.two_users(), em.Pooled(), em.QuantalUser(5.0), em.mechanisms.UserPrecision()
        >>> 0.5 < float(em.tune(*setting, key=0, steps=2).values["precision"]) < 50
        True

    Source: section 6.8 of docs/model.md.
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


def begin(problem: Problem, key: jax.Array, plan: Plan, params: Any = None, play: Player | None = None) -> State:
    """The parameters to start from and their equilibria. play: of `screen`"""
    assert plan.draws is not None
    params = draw(problem, key, range(plan.draws), params)
    if plan.finalists > 1:  # the sizes of the certification at the end are checked before any work
        one = jax.tree.map(lambda x: x[0], params)
        games, _, user = problem.mechanism.apply(one, problem.games, problem.protocol, problem.user)
        check_sizes(games, problem.protocol, user, problem.protocol.messages(games), alone=False, exactly=True)
    first = first_schemes(problem, key, plan.starts, params)
    points = screen(problem, params, first, key, plan.restarts, play)
    params, schemes = points.params, jnp.asarray(points.schemes)
    values = jnp.asarray(np.where(points.derivative == Derivative.NOT_REACHED, np.nan, points.user), schemes.dtype)
    scores = jax.vmap(lambda *x: score(problem, *x))(params, values, jnp.isfinite(values))
    lowest = jnp.full_like(scores, -jnp.inf)
    moments = jax.vmap(problem.optimizer.init)(params)
    begun = jnp.zeros((), int)  # not a weak type, with which a resumed run would compile again
    return State(params, moments, schemes, values, params, lowest, params, begun)


def finish(problem: Problem, state: State, key: jax.Array, plan: Plan, history: dict[str, np.ndarray]) -> Tuned:
    """The best of all restarts, before and after tuning, and of points near the best."""
    first = first_schemes(problem, key, plan.starts, state.params)
    both = jax.tree.map(lambda *x: jnp.concatenate(x), state.best, state.drawn)
    points = polish(problem, play_everywhere(problem, both, first), first, key, plan.tried(problem))
    params, schemes, _, derivative = choose(problem, points, key, plan.finalists)
    values = {name: np.asarray(value) for name, value in problem.mechanism.describe(params).items()}
    return Tuned(params, values, history, jnp.asarray(schemes), np.asarray(derivative), int(history["skipped"].sum()))


def step(problem: Problem, state: State, *, refresh: bool) -> tuple[State, dict[str, jax.Array]]:
    """One step: (state, row of the history [R]). refresh: whether to play games without a trusted equilibrium again."""
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
        scored = score(problem, params, values, jnp.isfinite(values))
        better = scored > highest
        like = lambda x: better.reshape(*better.shape, *(1,) * (x.ndim - better.ndim))  # noqa: E731
        best = jax.tree.map(lambda new, old: jnp.where(like(new), new, old), params, best)
        params, optimizer = jax.tree.map(keep, moved, (params, optimizer))
        schemes = jnp.where(jnp.isfinite(found.schemes), found.schemes, schemes)
        known = jnp.isfinite(values)  # the same games in every step, so that the history is comparable
        value = jnp.where(known, values, 0).sum() / jnp.maximum(known.sum(dtype=values.dtype), 1)
        row = {
            "objective": problem.objective(values, known) - cost,
            "value": value,
            "cost": cost,
            "trusted": trusted.mean(),
            "skipped": jnp.where(ok, 0.0, 1.0),
        }
        return (params, optimizer, schemes, values, best, jnp.maximum(scored, highest)), row, found.derivative

    moved, row, derivative = jax.vmap(one)(*state[:-2])
    return State(*moved, state.drawn, state.step + 1), row, derivative
