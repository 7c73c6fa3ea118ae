"""Batched gradient play: every agent climbs his own payoff, all at once, on softmax logits.

`GradientPlay` holds the hyper-parameters; `play_games` streams games through compiled chunks of steps (`step.py`), on
all cores or devices (`tiles.py`). What play reports about convergence is a stationarity gap, a first-order proxy; only
the exact part speaks of deviation gains.
"""

from __future__ import annotations

import contextlib
import threading
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float

from emalign_jax.games.game import ReducedGame
from emalign_jax.internal import batching, validation
from emalign_jax.internal.arguments import BETWEEN, integer, number, pair, word
from emalign_jax.internal.validation import optimizer_of, setting
from emalign_jax.play.step import Schedule, advance, begin
from emalign_jax.play.tiles import SMALLEST, Queue, bucket, run, tile_width
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users.base import AbstractUser

NARROW_FROM = 1024  # lanes; below this a smaller tile saves less time than its compilation costs
EXTRAPOLATIONS = ("none", "optimistic", "extragradient")
FAR = 1e6  # units: differences that are larger are as good as this one to play
LOOSE = 1e-3  # the tolerance of a solver that names none
ADAM = optax.scale_by_adam(b1=0.3, b2=0.7)  # little momentum: games turn, unlike losses


class GradientPlay(eqx.Module):
    """Hyper-parameters of gradient play.

    steps:               of the first play and of fresh starts; after a best-response step, the last half
    learning_rate:       (first, last), geometric in between
    precision:           (first, last) of the quantal user that stands in for a rational one, over the user's unit
    temperature:         (first, last) of the soft choice of an agent that stands in for the best one, times the user's
                         unit (section 4.5 of docs/model.md)
    extrapolation:       "none", "optimistic" or "extragradient"
    optimizer:           any optax transformation of the gradient, without a learning rate; applied game by game
    tolerance:           a profile is done if every gain is at most this share of the payoff range; None: 1e-5 in
                         Selection with a rational user, 1e-3 elsewhere
    best_responses:      how often a game that is not done may be moved by an exact best response (a sixth as often
                         in conversations, where they are searched for)
    fresh_starts:        after every so many of those, a new random start instead
    chunk:               steps in one compiled call; `steps` is rounded up to a multiple
    dtype:               "float32" or "float64" (the latter switches x64 on for the call)
    """

    steps: int = setting("steps", 200, integer, 1)
    learning_rate: tuple[float, float] = setting("learning_rate", (1.0, 0.02), pair)
    precision: tuple[float, float] = setting("precision", (10.0, 300.0), pair)
    temperature: tuple[float, float] = setting("temperature", (0.1, 0.003), pair)
    extrapolation: str = setting("extrapolation", "none", word, EXTRAPOLATIONS)
    optimizer: optax.GradientTransformation = setting("optimizer", ADAM, optimizer_of)
    tolerance: float | None = setting("tolerance", None, number, *BETWEEN)
    best_responses: int = setting("best_responses", 72, integer, 0)
    fresh_starts: int = setting("fresh_starts", 2, integer, 1)
    chunk: int = setting("chunk", 100, integer, 1)
    dtype: str = setting("dtype", "float32", word, ("float32", "float64"))

    def schedule(self, late: bool) -> Schedule:
        """[steps] values of each annealed quantity; `late` is the last half of it."""
        steps = -(-self.steps // self.chunk) * self.chunk
        rate, precision, temperature = (
            np.geomspace(*pair, steps) for pair in (self.learning_rate, self.precision, self.temperature)
        )
        whole = Schedule(rate, precision, temperature, np.arange(steps))
        return Schedule(*(x[-self.chunk * -(-steps // (2 * self.chunk)) :] for x in whole)) if late else whole


validation.describe(("solver",), GradientPlay, "a solver such as em.GradientPlay()")


class Played(NamedTuple):
    """schemes [N, K, rows, M] float64; gap [N, K] stationarity gap in utility units; finite [N]; steps taken."""

    schemes: Float[np.ndarray, "N K rows M"]
    gap: Float[np.ndarray, "N K"]
    finite: Bool[np.ndarray, "N"]
    steps: int


def play_games(
    game: ReducedGame,
    schemes: Float[np.ndarray, "N K rows M"],
    protocol: AbstractProtocol,
    user: AbstractUser,
    solver: GradientPlay,
    *,
    cells: int,
    late: bool = False,
    progress=None,
) -> Played:
    """Gradient play from `schemes`. Parameters of protocol and user are scalars or [N].

    cells:    numbers in one game's largest tensor, by which tiles are cut (`protocol.cells`).
    late:     only the last half of the schedules, for games that go on after a best-response step.
    progress: called with (steps done since the last call) * (games).
    """
    dtype = np.dtype(solver.dtype)

    @contextlib.contextmanager
    def context():
        x64 = jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()
        with x64, jax.default_matmul_precision("highest"):
            yield

    devices = jax.local_devices()
    whole = devices[0].platform == "cpu" and protocol.sums_are_unrolled(game, schemes.shape[-1], user.smoothed(1.0))
    width = tile_width(len(schemes), 2 * cells if whole else cells, devices)  # one kernel is fastest with half as much
    whole = whole and width >= SMALLEST
    work = _Play(game, schemes, protocol, user, solver, solver.schedule(late), dtype, progress, width, whole)
    run(work, len(schemes), width, devices, context)
    return Played(work.schemes / work.schemes.sum(-1, keepdims=True), work.gap, work.finite, int(work.taken.max()))


class _Play:
    """All games of one call, on the host; called by each worker to play games of the queue until it is empty."""

    def __init__(self, game, schemes, protocol, user, solver, schedule, dtype, progress, width, whole):
        N = len(schemes)
        self.width, self.whole = width, whole
        modules = batching.flatten(protocol, (N,)), batching.flatten(user, (N,))
        # a disaster that nobody can be led into may be larger than float32 holds
        game = game._replace(user=np.clip(game.user, -FAR, FAR), agents=np.clip(game.agents, -FAR, FAR))
        self.inputs = _cast((game, *modules), dtype)
        self.start = np.asarray(schemes, dtype)
        self.solver, self.schedule, self.progress = solver, _cast(schedule, dtype), progress
        self.annealed = not (user.is_smooth and protocol.is_smooth)
        self.enough = 0.1 * (solver.tolerance or LOOSE)  # in units of each agent
        self.schemes = np.array(schemes, np.float64)
        self.gap = np.full(schemes.shape[:2], np.inf)
        self.finite = np.ones(N, bool)
        self.taken = np.zeros(N, int)
        self.telling, self.compiling = threading.Lock(), threading.Lock()
        self.compiled = len(jax.local_devices()) > 1  # what one core compiles serves all, not what a device does

    def __call__(self, queue: Queue) -> None:
        total, chunk = len(self.schedule.step), self.solver.chunk
        games = queue.take(self.width)
        lanes = np.pad(games, (0, self.width - len(games)), mode="edge") if len(games) else games
        alive = np.arange(len(lanes)) < len(games)
        state, fresh = None, True
        while alive.any() and not queue.stopped:
            if fresh:
                tile, state = self.fill(lanes, state)
            state, reached = self.advance(tile, state, jnp.asarray(np.minimum(self.taken[lanes], total - chunk)))
            now = lanes[alive]
            ends, gap, finite = (np.moveaxis(np.asarray(x), -1, 0)[alive] for x in reached)
            self.schemes[now], self.gap[now], self.finite[now] = ends, gap, finite
            self.taken[now] += chunk
            self.tell(chunk * len(now))
            done = ~finite | (self.taken[now] >= total) | ((gap <= self.enough).all(1) & (not self.annealed))
            free = np.flatnonzero(alive)[done]
            games = queue.take(len(free))
            fresh = len(games) > 0
            lanes[free[: len(games)]] = games
            alive[free[len(games) :]] = False
            if len(lanes) >= NARROW_FROM and bucket(int(alive.sum())) < len(lanes):  # the last games of a wide tile
                left = np.flatnonzero(alive)
                keep = np.pad(left, (0, bucket(len(left)) - len(left)), mode="edge") if len(left) else left
                lanes, alive = lanes[keep], np.arange(len(keep)) < len(left)
                tile, state = jax.tree.map(lambda x, keep=keep: x[..., keep], (tile, state))

    def fill(self, lanes, state):
        """The games in `lanes` as a tile, and `state` with the start of those that have not moved yet."""
        tile = jax.tree.map(lambda x: jnp.asarray(np.moveaxis(x[lanes], 0, -1)), self.inputs)
        start, new = begin(self.solver, jnp.asarray(self.start[lanes])), self.taken[lanes] == 0
        return tile, start if state is None else jax.tree.map(lambda a, b: jnp.where(new, a, b), start, state)

    def advance(self, tile, state, taken):
        game, protocol, user = tile
        with contextlib.nullcontext() if self.compiled else self.compiling:
            everything, whole = (self.solver, game, protocol, user, state, self.schedule, taken), self.whole
            try:
                found = advance(*everything, whole)
            except jax.errors.JaxRuntimeError:
                if not whole:
                    raise
                self.whole = False  # this XLA cannot make one kernel of it
                found = advance(*everything, False)
            self.compiled = True
        return found

    def tell(self, steps: int) -> None:
        if self.progress is not None:
            with self.telling:
                self.progress(steps)


def _cast(tree, dtype):
    """Integers, such as seeds and steps, stay what they are. What is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return jax.tree.map(lambda x: x if np.asarray(x).dtype.kind in "iu" else np.asarray(x, dtype), tree)
