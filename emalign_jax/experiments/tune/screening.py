"""The first equilibria of a tuning run, for many points: blocks of the engine, which are kept as parts."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np

from emalign_jax.experiments import engine
from emalign_jax.experiments.executors import Executors
from emalign_jax.experiments.run_parts import Parts
from emalign_jax.experiments.tune.config import Config, Setup, loop_plan, setup
from emalign_jax.internal.npz import packed, unpacked
from emalign_jax.tuning import loop, restarts
from emalign_jax.tuning.problem import Problem
from emalign_jax.tuning.restarts import Player, Points

EQUILIBRIA = 256  # of a block, about: enough for the solver to work side by side


@functools.lru_cache(maxsize=2)
def loop_of(text: str) -> tuple[Setup, Problem, jax.Array, loop.Plan]:
    """What the loop of a config in JSON starts from: setup, problem, key and plan. To be called, and used, with float64
    enabled."""
    config = Config.of_json(text)
    tune, made = config.made.tune, setup(config)
    problem = loop.make_problem(
        made.games, made.protocol, made.user, made.mechanism, made.objective, made.solver, tune.steps,
        tune.learning_rate,
    )  # fmt: skip
    return made, problem, jax.random.key(config.made.seed), loop_plan(tune)


def player(
    text: str, kept: Parts, mine: str, executors: Executors | None, progress: Callable[[str, int, int], None]
) -> Player:
    """The `play` of `restarts.screen`. text: the config in JSON; mine: what names of parts begin with"""

    def play(problem: Problem, points: Points, numbers: np.ndarray, games: np.ndarray) -> Points:
        R, S = points.user.shape[:2]
        size, found, at = max(1, EQUILIBRIA // (S * len(games))), {}, {}
        tasks = []
        for first in range(0, R, size):
            some = slice(first, first + size)
            task = engine.Task(f"{mine}-{len(games)}-{first}", (text, numbers[some].tolist(), games.tolist()))
            at[task.name] = some
            data = kept.part(task.name, ".npz")
            tasks += [task] if data is None else []
            found |= {} if data is None else {task.name: data}

        def keep(task: engine.Task, data: bytes) -> None:
            kept.keep(task.name, ".npz", data)
            found[task.name] = data
            progress(f"first equilibria of {R} points", min(R, size * len(found)), R)

        engine.run(play_points, tasks, keep, executors=executors)
        schemes, user, derivative = (np.array(array) for array in points[1:])
        for name, data in found.items():
            arrays = unpacked(data)
            for whole, part in ((schemes, "schemes"), (user, "user"), (derivative, "derivative")):
                whole[at[name], :, games] = arrays[part]
        return Points(points.params, jax.numpy.asarray(schemes), user, derivative)

    return play


def play_points(text: str, numbers: list[int], games: list[int]) -> bytes:
    """Equilibria of the points with these numbers in these games, from the first schemes: an .npz of schemes, user and
    derivative [points, S, games, ...]."""
    with jax.enable_x64(True):
        _, problem, key, plan = loop_of(text)
        params = restarts.draw(problem, key, numbers)
        points = restarts.unplayed(params, loop.first_schemes(problem, key, plan.starts, params))
        points = restarts.play_some(problem, points, np.array(numbers), np.array(games))
    return packed(**{name: np.asarray(getattr(points, name))[:, :, games] for name in Points._fields[1:]})
