"""Batched gradient play: all agents ascend their own payoffs at once, on softmax logits (section 4.8 of docs/model.md).

`GradientPlay` holds the hyper-parameters; `play_games` runs games in compiled chunks of steps (`step.py`), on all cores
or devices (`tiles.py`). What play reports about convergence is a stationarity gap, a first-order proxy; deviation gains
are computed by the exact part alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float

from emalign_jax.games.game import ReducedGame
from emalign_jax.internal import batching, validation
from emalign_jax.internal.arguments import BETWEEN, choice, integer, number, pair
from emalign_jax.internal.transfers import fetch, send
from emalign_jax.internal.validation import optimizer_of, setting
from emalign_jax.play.solver import AbstractSolver
from emalign_jax.play.step import Schedule, advance, begin
from emalign_jax.play.tiles import SMALLEST_TILE, Queue, bucket, run, tile_width
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.result import FoundBy
from emalign_jax.users.base import AbstractUser

# Tiles with fewer lanes are not made smaller at the end: compilation would cost more time than it saves.
NARROW_FROM = 1024
# Steps between profiles that are watched, or a divisor of it.
WATCHED = 10
EXTRAPOLATIONS = ("none", "optimistic", "extragradient")
# Payoffs are clipped to this many units, so that float32 holds them.
LARGEST_PAYOFF = 1e6
# Tolerance of a solver without one, as far as play is concerned.
PLAY_TOLERANCE = 1e-3
# Little momentum, because the gradient field of a game rotates, unlike that of a loss.
ADAM = optax.scale_by_adam(b1=0.3, b2=0.7)
# So much less often is a profile moved by best responses that must be searched for.
SEARCHED = 6
# Where outbidding is not defined, one best response and more play come before best responses alone.
PLAYS_BEFORE_DYNAMICS = 1
# Where outbidding is defined, a profile is given up after this many attempts: outbidding ends at V_full from anywhere,
# unless the frontiers are so steep there that the tie tolerance of values alone is worth more than the tolerance.
OUTBIDDING_ATTEMPTS = 4

# After so many attempts a profile is searched from so many starts side by side.
ALONE, COPIES = 4, 16


class GradientPlay(AbstractSolver):
    """Hyper-parameters of gradient play, the default solver.

    All agents ascend their own payoffs at once; what play ends with is checked, and moved on by exact best responses.

    Args:
        tolerance: largest deviation gain of a profile that is accepted, as a share of the payoff range; None means
            1e-5 in Selection with a rational user, 1e-3 otherwise.
        steps: number of steps of the first play and from new random starts; half of them, with the last values of
            the schedules, after a best-response step.
        learning_rate: (first, last), geometric in between.
        precision: (first, last) precision of the quantal user that replaces a rational one, divided by the user's unit
            (section 4.5 of docs/model.md).
        temperature: (first, last) temperature of the choice of an agent that replaces the best one, times the user's
            unit.
        extrapolation: "none", "optimistic" or "extragradient".
        optimizer: any optax transformation of the gradient, without a learning rate; applied game by game.
        best_responses: how many times a profile that is not accepted may be moved by an exact best response; a sixth of
            that in conversations, where best responses are searched for; at most 3 where agents outbid
            each other (Selection at temperature 0), which settles or never will. After the fourth, where
            checks are batched, a profile is searched from 16 starts side by side, in as many attempts.
        fresh_starts: after this many best responses a new random start takes the place of the next one.
        chunk: number of steps in one compiled call; `steps` is rounded up to a multiple of it.
        dtype: "float32" or "float64" (which switches x64 on for the call).

    Raises:
        ValueError: names the field and the rule.

    Example:
        >>> game, solver = em.catalog.two_prosecutors(), em.GradientPlay(steps=100)
        >>> found = em.solve(game, em.Selection(), em.RationalUser(), solver, key=0)
        >>> em.Result(int(found.result)).name
        'CERTIFIED'

    Source: section 4.8 of docs/model.md.
    """

    steps: int = setting("steps", 200, integer, 1)
    learning_rate: tuple[float, float] = setting("learning_rate", (1.0, 0.02), pair)
    precision: tuple[float, float] = setting("precision", (10.0, 300.0), pair)
    temperature: tuple[float, float] = setting("temperature", (0.1, 0.003), pair)
    extrapolation: str = setting("extrapolation", "none", choice, EXTRAPOLATIONS)
    optimizer: optax.GradientTransformation = setting("optimizer", ADAM, optimizer_of)
    tolerance: float | None = setting("tolerance", None, number, *BETWEEN)
    best_responses: int = setting("best_responses", 72, integer, 0)
    fresh_starts: int = setting("fresh_starts", 2, integer, 1)
    chunk: int = setting("chunk", 100, integer, 1)
    dtype: str = setting("dtype", "float32", choice, ("float32", "float64"))

    def schedule(self, late: bool) -> Schedule:
        """The values [steps] of each annealed quantity; if `late`, the last half of them."""
        steps = -(-self.steps // self.chunk) * self.chunk
        rate, precision, temperature = (
            np.geomspace(*pair, steps) for pair in (self.learning_rate, self.precision, self.temperature)
        )
        whole = Schedule(rate, precision, temperature, np.arange(steps))
        return Schedule(*(x[-self.chunk * -(-steps // (2 * self.chunk)) :] for x in whole)) if late else whole

    def rounds(self, search):
        return self.best_responses // (SEARCHED if search.searched else 1) + 1

    def copies(self, search):
        alone = -(-ALONE // self.fresh_starts) * self.fresh_starts
        return alone, COPIES if search.verify and search.checks.batched else 1

    def improve(self, search, pending, attempt):
        fresh = attempt % self.fresh_starts == 0
        if attempt and fresh:
            search.restart(pending, attempt)
        elif attempt:
            search.respond(pending, attempt)
            if search.searched:  # Play may leave what a best response has brought about, such as ties.
                pending = search.examine(pending, FoundBy.PLAY_AND_BEST_RESPONSES)
        if not len(pending):
            return pending
        pending = search.play(pending, late=not fresh)
        if not search.verify:
            search.keep(pending, FoundBy.PLAY)
            return pending[:0]
        pending = search.examine(pending, FoundBy.PLAY_AND_BEST_RESPONSES if attempt else FoundBy.PLAY)
        if search.searched or not len(pending):
            return pending
        outbids = search.can_outbid(pending)
        now = outbids | (attempt >= PLAYS_BEFORE_DYNAMICS)
        left = search.settle(pending[now])
        if attempt + 1 >= OUTBIDDING_ATTEMPTS:
            left = left[~search.can_outbid(left)] if len(left) else left
        return np.sort(np.concatenate([pending[~now], left]))


validation.describe(("solver",), AbstractSolver, "a solver such as em.GradientPlay()")


class Played(NamedTuple):
    """Where play ends.

    schemes: [N, K, rows, M] in float64.
    gap:     [N, K] the stationarity gap, in units of utility.
    finite:  [N] whether all numbers of the game stayed finite.
    steps:   the largest number of steps that a game took.
    """

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
    watch: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Played:
    """Gradient play from `schemes`, in games in standard units.

    protocol, user: their parameters are scalars or [N].
    cells:    numbers in one game's largest tensor (`protocol.cells`), by which the size of tiles is chosen.
    late:     whether to use the last half of the schedules, as after a best-response step.
    progress: called with the number of steps done since the last call, summed over games.
    watch:    called with (numbers of games [n], their schemes [n, K, rows, M]) every tenth step or so, but for the
              first and the last; play itself is the same with it.
    """
    dtype = np.dtype(solver.dtype)

    @contextlib.contextmanager
    def context():
        x64 = jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()
        with x64, jax.default_matmul_precision("highest"):
            yield

    devices = jax.local_devices()
    fused = devices[0].platform == "cpu" and protocol.sums_are_unrolled(game, schemes.shape[-1], user.smoothed(1.0))
    width = tile_width(len(schemes), 2 * cells if fused else cells, devices)  # one kernel is fastest on half a tile
    fused = fused and width >= SMALLEST_TILE
    work = _Play(game, schemes, protocol, user, solver, solver.schedule(late), dtype, progress, width, fused, watch)
    run(work, len(schemes), width, devices, context)
    return Played(work.schemes / work.schemes.sum(-1, keepdims=True), work.gap, work.finite, int(work.taken.max()))


class _Play:
    """All games of one call, on the host. Each worker calls it, and plays games of the queue until it is empty.

    fused: whether the steps of a chunk are compiled as one kernel (`internal.xla.one_kernel`).
    """

    def __init__(self, game, schemes, protocol, user, solver, schedule, dtype, progress, width, fused, watch):
        N = len(schemes)
        self.width, self.fused = width, fused
        modules = batching.flatten(protocol, (N,)), batching.flatten(user, (N,))
        # A payoff of an action that the user can never be made to take may be larger than float32 holds.
        game = game._replace(
            user=np.clip(game.user, -LARGEST_PAYOFF, LARGEST_PAYOFF),
            agents=np.clip(game.agents, -LARGEST_PAYOFF, LARGEST_PAYOFF),
            welfare=np.clip(game.welfare, -LARGEST_PAYOFF, LARGEST_PAYOFF),
        )
        self.inputs = _cast((game, *modules), dtype)
        self.start = np.asarray(schemes, dtype)
        self.solver, self.schedule, self.progress, self.watch = solver, _cast(schedule, dtype), progress, watch
        self.annealed = not (user.is_smooth and protocol.is_smooth)
        self.gap_tolerance = 0.1 * (solver.tolerance or PLAY_TOLERANCE)  # in units of each agent
        self.schemes = np.array(schemes, np.float64)
        self.gap = np.full(schemes.shape[:2], np.inf)
        self.finite = np.ones(N, bool)
        self.taken = np.zeros(N, int)
        self.progress_lock, self.compile_lock = threading.Lock(), threading.Lock()
        # All cores share what one compiles, so the first call is made by one; each device compiles for itself.
        self.compiled = len(jax.local_devices()) > 1

    def __call__(self, queue: Queue) -> None:
        total, chunk = len(self.schedule.step), self.solver.chunk
        games = queue.take(self.width)
        lanes = np.pad(games, (0, self.width - len(games)), mode="edge") if len(games) else games
        alive = np.arange(len(lanes)) < len(games)
        state, fresh, schedule = None, True, send(self.schedule)
        while alive.any() and not queue.stopped:
            if fresh:
                tile, state = self.fill(lanes, state)
            taken = np.minimum(self.taken[lanes], total - chunk).astype(np.int32)
            now = lanes[alive]
            if self.watch is not None:
                self.replay(now, alive, tile, state, schedule, taken)
            state, reached = self.advance(tile, state, schedule, taken)
            ends, gap, finite = (np.moveaxis(x, -1, 0)[alive] for x in fetch(reached))
            self.schemes[now], self.gap[now], self.finite[now] = ends, gap, finite
            self.taken[now] += chunk
            self.report(chunk * len(now))
            done = ~finite | (self.taken[now] >= total) | ((gap <= self.gap_tolerance).all(1) & (not self.annealed))
            if self.watch is not None:
                with self.progress_lock:
                    self.watch(now[~done], self.schemes[now[~done]])
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
        inputs = jax.tree.map(lambda x: np.ascontiguousarray(np.moveaxis(x[lanes], 0, -1)), self.inputs)
        tile, new = send((inputs, self.taken[lanes] == 0))
        start = begin(self.solver, self.start[lanes])
        return tile, start if state is None else jax.tree.map(lambda a, b: jnp.where(new, a, b), start, state)

    def advance(self, tile, state, schedule, taken):
        game, protocol, user = tile
        with contextlib.nullcontext() if self.compiled else self.compile_lock:
            everything, fused = (self.solver, game, protocol, user, state, schedule, taken), self.fused
            try:
                found = advance(*everything, fused)
            except jax.errors.JaxRuntimeError:
                if not fused:
                    raise
                self.fused = False  # this version of XLA cannot compile it as one kernel
                found = advance(*everything, False)
            self.compiled = True
        return found

    def replay(self, now, alive, tile, state, schedule, taken) -> None:
        """Tell `watch` what the next chunk will meet, by the same steps in shorter chunks: play itself is not changed,
        as another program might round otherwise."""
        few = math.gcd(self.solver.chunk, WATCHED)
        solver = dataclasses.replace(self.solver, chunk=few)
        game, protocol, user = tile
        for done in range(0, self.solver.chunk - few, few):
            with self.compile_lock:
                state, reached = advance(solver, game, protocol, user, state, schedule, taken + np.int32(done), False)
            schemes = np.moveaxis(fetch(reached.schemes), -1, 0)[alive]
            finite = np.isfinite(schemes).all((1, 2, 3))
            with self.progress_lock:
                self.watch(now[finite], schemes[finite].astype(np.float64))

    def report(self, steps: int) -> None:
        if self.progress is not None:
            with self.progress_lock:
                self.progress(steps)


def _cast(tree, dtype):
    """The floats of `tree` as `dtype`, infinite if too large; integers, such as seeds and steps, are kept."""
    with np.errstate(over="ignore"):
        return jax.tree.map(lambda x: x if np.asarray(x).dtype.kind in "iu" else np.asarray(x, dtype), tree)
