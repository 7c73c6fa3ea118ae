"""Batched gradient play: every agent climbs his own payoff, all at once, on softmax logits.

`GradientPlay` holds the hyper-parameters; `play` runs it. The step is compiled once a batch size and runs
in chunks; between chunks the host drops the games that are done. What play reports about convergence is a
stationarity gap, a first-order proxy; only the exact part speaks of deviation gains.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float

from emalign_jax import parameters
from emalign_jax.arguments import integer
from emalign_jax.game import ReducedGame
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols._base import user_scale
from emalign_jax.schemes import to_logits
from emalign_jax.users import AbstractUser

LOGIT_FLOOR = -14.0  # below the largest logit: messages of probability 1e-6 are as good as never sent
EXPLORE = 0.04  # weight of the uniform law mixed into given schemes, so that no logit starts at the floor
COMPACT_FROM = 512  # games; below this a smaller batch saves less time than its compilation costs
EXTRAPOLATIONS = ("none", "optimistic", "extragradient")
ADAM = optax.scale_by_adam(b1=0.5, b2=0.9)  # little momentum: games turn, unlike losses


class GradientPlay(eqx.Module):
    """Hyper-parameters of gradient play.

    steps:               of the first play and of fresh starts; after a best-response step, the last half
    learning_rate:       (first, last), geometric in between
    precision:           (first, last) of the quantal user that stands in for a rational one, times
                         1 / (largest difference between two actions to her)
    temperature:         (first, last) of the soft choice of an agent that stands in for the best one, times
                         the largest difference between two actions to her
    extrapolation:       "none", "optimistic" or "extragradient"
    optimizer:           any optax transformation of the gradient, without a learning rate; applied game by game
    tolerance:           a profile is done if every gain is at most this share of the payoff range
    best_responses:      how often a game that is not done may be moved by an exact best response (a sixth as often
                         in conversations, where they are searched for)
    fresh_starts:        after every so many of those, a new random start instead
    chunk:               steps in one compiled call; `steps` is rounded up to a multiple
    dtype:               "float32" or "float64" (the latter switches x64 on for the call)
    """

    steps: int = eqx.field(static=True, default=500)
    learning_rate: tuple[float, float] = eqx.field(static=True, default=(0.1, 0.02))
    precision: tuple[float, float] = eqx.field(static=True, default=(10.0, 300.0))
    temperature: tuple[float, float] = eqx.field(static=True, default=(0.1, 0.003))
    extrapolation: str = eqx.field(static=True, default="none")
    optimizer: optax.GradientTransformation = eqx.field(static=True, default=ADAM)
    tolerance: float = eqx.field(static=True, default=1e-3)
    best_responses: int = eqx.field(static=True, default=72)
    fresh_starts: int = eqx.field(static=True, default=2)
    chunk: int = eqx.field(static=True, default=100)
    dtype: str = eqx.field(static=True, default="float32")

    def __check_init__(self):
        for name in ("steps", "chunk", "fresh_starts"):
            integer(name, getattr(self, name), 1)
        integer("best_responses", self.best_responses, 0)
        for name in ("learning_rate", "precision", "temperature"):
            pair = getattr(self, name)
            if len(pair) != 2 or not all(np.isfinite(x) and x > 0 for x in pair):
                raise ValueError(f"{name}: expected two finite numbers > 0 (first, last), got {pair}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance: expected a number between 0 and 1, got {self.tolerance}")
        if self.extrapolation not in EXTRAPOLATIONS:
            raise ValueError(f"extrapolation: expected one of {', '.join(EXTRAPOLATIONS)}, got {self.extrapolation!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f'dtype: expected "float32" or "float64", got {self.dtype!r}')

    def schedule(self, late: bool) -> _Schedule:
        """[steps] values of each annealed quantity; `late` is the last half of it."""
        steps = -(-self.steps // self.chunk) * self.chunk
        rate, precision, temperature = (
            np.geomspace(*pair, steps) for pair in (self.learning_rate, self.precision, self.temperature)
        )
        whole = _Schedule(rate, precision, temperature, np.arange(steps))
        return _Schedule(*(x[-self.chunk * -(-steps // (2 * self.chunk)) :] for x in whole)) if late else whole


class _Schedule(NamedTuple):
    learning_rate: np.ndarray
    precision: np.ndarray
    temperature: np.ndarray
    step: np.ndarray


class _State(NamedTuple):
    """What a game carries from step to step; every leaf has the games as first axis."""

    logits: jax.Array  # [N, K, rows, M]
    optimizer: optax.OptState
    previous: jax.Array  # [N, K, rows, M] the last gradient, for optimistic steps


class Played(NamedTuple):
    """schemes [N, K, rows, M] float64; gap [N, K] stationarity gap in utility units; finite [N]; steps taken."""

    schemes: Float[np.ndarray, "N K rows M"]
    gap: Float[np.ndarray, "N K"]
    finite: Bool[np.ndarray, "N"]
    steps: int


def play(
    game: ReducedGame,
    schemes: Float[np.ndarray, "N K rows M"],
    protocol: AbstractProtocol,
    user: AbstractUser,
    solver: GradientPlay,
    *,
    late: bool = False,
    progress=None,
) -> Played:
    """Gradient play from `schemes`. Parameters of protocol and user are scalars or [N].

    late: only the last half of the schedules, for games that go on after a best-response step.
    progress: called with (steps done since the last call) * (games).
    """
    dtype = np.dtype(solver.dtype)
    x64 = jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()
    with x64, jax.default_matmul_precision("highest"):
        return _play(game, schemes, protocol, user, solver, late, dtype, progress)


def _play(game, schemes, protocol, user, solver, late, dtype, progress):
    N = len(schemes)
    game, protocol, user = _cast((game, parameters.flatten(protocol, (N,)), parameters.flatten(user, (N,))), dtype)
    annealed = type(user.smoothed(1.0)) is not type(user) or protocol.smoothed(1.0) is not protocol
    schedule = _cast(solver.schedule(late), dtype)
    state = _start(solver, jnp.asarray(schemes, dtype))
    result_schemes = np.array(schemes, np.float64)
    result_gap = np.full(schemes.shape[:2], np.inf)
    finite = np.ones(N, bool)
    active = np.arange(N)  # which game each row of the present batch is; padding repeats the last one
    enough = 0.1 * solver.tolerance * np.ptp(game.agents, axis=-1).sum((2, 3))  # [N, K]
    total = len(schedule.learning_rate)
    taken = 0
    for at in range(0, total, solver.chunk):
        piece = _Schedule(*(x[at : at + solver.chunk] for x in schedule))
        state, present, gap, ok = _chunk(solver, game, protocol, user, state, piece)
        taken = at + solver.chunk
        present, gap, ok = (np.asarray(x) for x in (present, gap, ok))
        result_schemes[active], result_gap[active], finite[active] = present, gap, ok
        if progress is not None:
            progress(solver.chunk * len(np.unique(active)))
        done = ~ok | ((gap <= enough).all(1) & (not annealed))
        if done.all():
            break
        left = np.flatnonzero(~done)
        if len(active) >= COMPACT_FROM and bucket(len(left)) <= len(active) // 2:
            rows = np.pad(left, (0, bucket(len(left)) - len(left)), mode="edge")
            game, protocol, user, state = jax.tree.map(lambda x, rows=rows: x[rows], (game, protocol, user, state))
            active, enough = active[rows], enough[rows]
    return Played(result_schemes / result_schemes.sum(-1, keepdims=True), result_gap, finite, taken)


def _cast(tree, dtype):
    """Integers, such as seeds and steps, stay what they are."""
    return jax.tree.map(lambda x: x if np.asarray(x).dtype.kind in "iu" else np.asarray(x, dtype), tree)


def bucket(count: int) -> int:
    """Batches are padded to powers of four times 16, so that few sizes are ever compiled."""
    size = 16
    while size < count:
        size *= 4
    return size


@eqx.filter_jit
def _start(solver: GradientPlay, schemes) -> _State:
    logits = to_logits(schemes, EXPLORE)
    return _State(logits, jax.vmap(solver.optimizer.init)(logits), jnp.zeros_like(logits))


@eqx.filter_jit
def _chunk(solver: GradientPlay, game, protocol, user, state: _State, schedule: _Schedule):
    scale = jax.vmap(user_scale)(game)
    scale = jnp.where(scale > 0, scale, 1)  # 0 where she is indifferent between all actions

    def gradient(logits, row):
        """d payoff / d logits and the stationarity gap of every game."""

        def one(game, protocol, user, scale, logits):
            scheme = jax.nn.softmax(logits, axis=-1)
            smooth = protocol.at_step(row.step).smoothed(row.temperature * scale)
            slope = smooth.pseudo_gradient(game, scheme, user.smoothed(row.precision / scale))
            mean = (scheme * slope).sum(-1, keepdims=True)
            return scheme * (slope - mean), (slope.max(-1) - mean[..., 0]).sum(-1)

        return jax.vmap(one)(game, protocol, user, scale, logits)

    def moved(logits, direction, optimizer_state, rate):
        update, optimizer_state = jax.vmap(solver.optimizer.update)(-direction, optimizer_state)
        logits = logits - rate * update
        logits = logits - logits.max(-1, keepdims=True)  # fix the gauge: softmax does not see a shift
        return jnp.maximum(logits, LOGIT_FLOOR), optimizer_state

    def step(state, row):
        direction, _ = gradient(state.logits, row)
        if solver.extrapolation == "extragradient":
            ahead, _ = moved(state.logits, direction, state.optimizer, row.learning_rate)
            direction, _ = gradient(ahead, row)
        aim = 2 * direction - state.previous if solver.extrapolation == "optimistic" else direction
        logits, optimizer_state = moved(state.logits, aim, state.optimizer, row.learning_rate)
        new = _State(logits, optimizer_state, direction)
        ok = jax.vmap(lambda x: jnp.isfinite(x).all())(logits)  # a game that breaks stops where it was
        keep = lambda a, b: jnp.where(ok.reshape(-1, *(1,) * (a.ndim - 1)), a, b)  # noqa: E731
        return jax.tree.map(keep, new, state), None

    state, _ = jax.lax.scan(step, state, schedule)
    last = jax.tree.map(lambda x: x[-1], schedule)
    direction, gap = gradient(state.logits, last)
    ok = jnp.isfinite(direction).all((1, 2, 3)) & jnp.isfinite(gap).all(1)
    return state, jax.nn.softmax(state.logits, axis=-1), gap, ok
