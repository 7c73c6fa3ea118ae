"""A tuning run on disk, resumable: its one part holds all that the loop carries, written whole every few steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from emalign_jax.exact import default_tolerance
from emalign_jax.experiments.executors import Executors
from emalign_jax.experiments.run_parts import Parts
from emalign_jax.experiments.run_store import Kind, figures
from emalign_jax.experiments.tune.config import Config
from emalign_jax.experiments.tune.screening import loop_of, player
from emalign_jax.internal import parquet
from emalign_jax.internal.files import atomic
from emalign_jax.internal.npz import packed, read_arrays, save_arrays, unpacked
from emalign_jax.result import Result, columns
from emalign_jax.tuning import loop
from emalign_jax.tuning.evaluation import evaluate
from emalign_jax.tuning.objectives import confidence
from emalign_jax.tuning.problem import Problem

TABLE, VALUES = "games.parquet", "tuned.npz"
FIGURES = figures("tuning")
TUNE = Kind("tune", (TABLE, VALUES, *FIGURES))
EVERY = 10  # steps between two states on disk
HISTORY = "history."  # begins the names of its arrays in VALUES, beside those of the tuned parameters


class Outcome(NamedTuple):
    """values: of the tuned parameters; history: [steps, R] a name; rows: a row a game, before and after; tolerance: the
    largest gain, as a share of the payoff range, of a certified equilibrium"""

    values: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    rows: pd.DataFrame
    tolerance: float


def run(
    config: Config, kept: Parts, progress: Callable[[str, int, int], None], executors: Executors | None = None
) -> Outcome:
    """Tune from where the run on disk stopped, then evaluate; the same numbers however often it was interrupted.

    executors: where the first equilibria are computed; None is in this process
    """
    with jax.enable_x64(True):
        text, steps = config.as_json(), config.made.tune.steps
        made, problem, key, plan = loop_of(text)
        plain = json.dumps(config.plain() | {"title": ""}).encode()
        own = hashlib.sha256(plain).hexdigest()[:16]  # so that a copy of another run's is not taken for it
        mine = f"state-{own}"
        state, history = load(kept.part(mine, ".npz"), problem)
        if state is None:
            progress("first equilibria", 0, steps)
            play = player(text, kept, f"points-{own}", executors, progress)
            state, history = loop.begin(problem, key, plan, play=play), {name: [] for name in loop.HISTORY}
            kept.keep(mine, ".npz", dump(state, history))
        for n in range(int(state.step), steps):
            state, row = loop.step(problem, state, refresh=(n + 1) % loop.REFRESH == 0)
            for name in loop.HISTORY:
                history[name].append(np.asarray(row[name], np.float64))
            if (n + 1) % EVERY == 0 or n + 1 == steps:
                kept.keep(mine, ".npz", dump(state, history))
            progress("tune", n + 1, steps)
        progress("choose", 0, 1)
        tuned = loop.finish(problem, state, key, plan, {name: np.array(x) for name, x in history.items()})
        tolerance = default_tolerance(made.protocol, made.user)
        rows = _evaluate(made, tuned.params, key, tolerance, progress)
    save_arrays(kept.path / VALUES, tuned.values | {HISTORY + name: x for name, x in tuned.history.items()})
    with atomic(kept.path / TABLE) as temporary:
        parquet.write(temporary, columns.arrow(columns.TUNE, rows))
    return Outcome(tuned.values, tuned.history, rows, tolerance)


def read(path: Path, tolerance: float) -> Outcome:
    """What a run that is done has left. tolerance: in its manifest
    Raises `ValueError` that names the file, or `FileNotFoundError`, where it is not there or damaged."""
    names = {HISTORY + name: name for name in loop.HISTORY}

    def check(declared):
        for name, array in declared.items():
            if array.dtype.kind != "f":
                raise ValueError(f"{name}: expected numbers, got {array.dtype}")
            if name in names and (array.ndim != 2 or not array.size or array.shape != declared[min(names)].shape):
                raise ValueError(f"{name}: expected an array [steps, restarts], got shape {list(array.shape)}")

    read_arrays(path / VALUES, (*names,), check=check)
    arrays = read_arrays(path / VALUES, check=check)
    rows = parquet.read(path / TABLE, columns.kinds(columns.TUNE))
    for column in columns.TUNE:
        if not len(rows) or (column.kind in ("flag", "text") and rows[column.name].isna().any()):
            raise ValueError(f"{path / TABLE}: {column.name}: expected a value in every row, and a row at least")
    history = {names[name]: arrays.pop(name) for name in names}
    if not np.isin(history["skipped"], (0, 1)).all():
        raise ValueError(f"{path / VALUES}: {HISTORY}skipped: expected 0 or 1 for each step and restart")
    return Outcome(arrays, history, rows, tolerance)


def _evaluate(made, params, key, tolerance: float, progress) -> pd.DataFrame:
    games = made.held_out
    values: dict[str, Any] = {"game": np.arange(len(games.prior))}
    held = {"before": (None, None), "after": (made.mechanism, params)}
    for when, (mechanism, own) in held.items():
        progress(f"certify {when}", 0, 1)
        found = evaluate(games, made.protocol, made.user, mechanism, own, made.solver, key=jax.random.fold_in(key, 1))
        results = [Result(code).name for code in found.certificate.result.tolist()]
        numbers = {"user": found.user, "cost": found.cost, "gain": found.gain, "result": results}
        numbers |= {name: getattr(found.certificate, name) for name in ("no_information", "full_information")}
        numbers |= {"certified": found.gain <= tolerance * 1.000001}
        values |= {f"{name}_{when}": column for name, column in numbers.items()}
    return columns.table(columns.TUNE, values)


@np.errstate(all="ignore")  # a file may hold infinite or huge numbers, which are shown as they are
def summary(outcome: Outcome) -> dict[str, Any]:
    """Means with 95 % intervals over games, before, after, and of the difference net of costs."""
    rows = {name: outcome.rows[name].to_numpy() for name in outcome.rows}
    change = rows["user_after"] - rows["cost_after"] - rows["user_before"] + rows["cost_before"]
    found = {"before": rows["user_before"], "after": rows["user_after"], "change": change}
    entries: dict[str, Any] = {name: list(confidence(column)) for name, column in found.items()}
    certified = rows["certified_before"] & rows["certified_after"]
    ok = [(rows[f"result_{x}"] == Result.UNREFUTED.name) | rows[f"certified_{x}"] for x in ("before", "after")]
    return entries | {
        "tolerance": outcome.tolerance,
        "cost": float(rows["cost_after"].mean()), "games": len(outcome.rows),
        "steps": len(outcome.history["objective"]),
        "skipped": int(outcome.history["skipped"].sum()), "trusted": float(outcome.history["trusted"].mean()),
        "certified": int(certified.sum()),
        "unrefuted": int((ok[0] & ok[1] & ~certified).sum()),
        "failed": int(np.isnan(rows["user_before"] + rows["user_after"]).sum()),
    }  # fmt: skip


def dump(state: loop.State, history: dict[str, list[np.ndarray]]) -> bytes:
    """An .npz of the state's leaves and the history."""
    leaves = {f"leaf_{n:03d}": np.asarray(leaf) for n, leaf in enumerate(jax.tree.leaves(state))}
    return packed(**leaves, **{f"history_{name}": np.array(x) for name, x in history.items()})


def load(data: bytes | None, problem: Problem) -> tuple[Any, Any]:
    """The state and the history of `dump`; (None, None) of None."""
    if data is None:
        return None, None
    params = jax.tree.map(jax.numpy.asarray, problem.mechanism.sample(jax.random.key(0), problem.games))
    one = jax.numpy.zeros(())
    structure = jax.tree.structure(
        loop.State(params, problem.optimizer.init(params), one, one, params, one, params, one)
    )
    arrays = unpacked(data)
    leaves = [jax.numpy.asarray(arrays[f"leaf_{n:03d}"]) for n in range(structure.num_leaves)]
    return jax.tree.unflatten(structure, leaves), {name: list(arrays[f"history_{name}"]) for name in loop.HISTORY}
