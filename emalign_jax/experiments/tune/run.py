"""A tuning run on disk, resumable: state.npz holds all that the loop carries, written whole every few steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from emalign_jax.exact import default_tolerance
from emalign_jax.experiments import columns
from emalign_jax.experiments.run_directory import PACKAGES, Kind
from emalign_jax.experiments.tune.config import Config, setup
from emalign_jax.internal import parquet
from emalign_jax.internal.files import atomic
from emalign_jax.internal.npz import read_arrays, save_arrays
from emalign_jax.result import Result
from emalign_jax.tuning import loop
from emalign_jax.tuning.evaluation import evaluate
from emalign_jax.tuning.objectives import confidence
from emalign_jax.tuning.problem import Problem

STATE, TABLE, VALUES = "state.npz", "games.parquet", "tuned.npz"
FIGURES = ("tuning.png", "tuning.pdf")
TUNE = Kind("tune", (STATE, TABLE, VALUES, *FIGURES), resumed=True)
EVERY = 10  # steps between two states on disk


class Outcome(NamedTuple):
    """values: of the tuned parameters; history: [steps, R] a name; rows: a row a game, before and after; tolerance: the
    largest gain, as a share of the payoff range, of a certified equilibrium"""

    values: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    rows: pd.DataFrame
    tolerance: float


def run(config: Config, path: Path, progress: Callable[[str, int, int], None], warn: Callable[[str], None]) -> Outcome:
    """Tune from where the run on disk stopped, then evaluate; the same numbers however often it was interrupted."""
    values = config.values
    with jax.enable_x64(True):
        made = setup(config)
        steps = values["tune.steps"]
        problem = loop.make_problem(
            made.games, made.protocol, made.user, made.mechanism, made.objective, made.solver, steps,
            values["tune.learning_rate"],
        )  # fmt: skip
        key = jax.random.key(values["seed"])
        plan = loop.Plan(*(values[f"tune.{name}"] for name in loop.Plan._fields)).checked()
        owner = json.dumps([config.plain() | {"title": ""}, *map(version, ("emalign-jax", *PACKAGES))])
        state, history = load(path / STATE, owner, problem, warn)
        if state is None:
            progress("first equilibria", 0, steps)
            state, history = loop.begin(problem, key, plan), {name: [] for name in loop.HISTORY}
            save(path / STATE, owner, state, history)
        for n in range(int(state.step), steps):
            state, row = loop.step(problem, state, refresh=(n + 1) % loop.REFRESH == 0)
            for name in loop.HISTORY:
                history[name].append(np.asarray(row[name], np.float64))
            if (n + 1) % EVERY == 0 or n + 1 == steps:
                save(path / STATE, owner, state, history)
            progress("tune", n + 1, steps)
        progress("choose", 0, 1)
        tuned = loop.finish(problem, state, key, plan, {name: np.array(x) for name, x in history.items()})
        tolerance = default_tolerance(made.protocol, made.user)
        rows = _evaluate(made, tuned.params, key, tolerance, progress)
    save_arrays(path / VALUES, tuned.values)
    with atomic(path / TABLE) as temporary:
        parquet.write(temporary, columns.arrow(columns.TUNE, rows))
    return Outcome(tuned.values, tuned.history, rows, tolerance)


def _evaluate(made, params, key, tolerance: float, progress) -> pd.DataFrame:
    games = made.held_out
    values: dict[str, Any] = {"game": np.arange(len(games.prior))}
    held = {"before": (None, None), "after": (made.mechanism, params)}
    for name, (mechanism, own) in held.items():
        progress(f"certify {name}", 0, 1)
        found = evaluate(games, made.protocol, made.user, mechanism, own, made.solver, key=jax.random.fold_in(key, 1))
        values[f"user_{name}"], values[f"cost_{name}"] = found.user, found.cost
        values[f"gain_{name}"] = found.gain
        values[f"certified_{name}"] = found.gain <= tolerance * 1.000001
        values[f"result_{name}"] = [Result(code).name for code in found.certificate.result.tolist()]
        values[f"no_information_{name}"] = found.certificate.no_information
        values[f"full_information_{name}"] = found.certificate.full_information
    return columns.table(columns.TUNE, values)


def summary(outcome: Outcome) -> dict[str, Any]:
    """Means with 95 % intervals over games, before, after, and of the difference net of costs."""
    rows = {name: outcome.rows[name].to_numpy() for name in outcome.rows}
    change = rows["user_after"] - rows["cost_after"] - rows["user_before"] + rows["cost_before"]
    found = {"before": rows["user_before"], "after": rows["user_after"], "change": change}
    entries: dict[str, Any] = {name: list(confidence(column)) for name, column in found.items()}
    unrefuted = (rows[f"result_{when}"] == Result.UNREFUTED.name for when in ("before", "after"))
    ok = [one | rows[f"certified_{when}"] for one, when in zip(unrefuted, ("before", "after"), strict=True)]
    return entries | {
        "tolerance": outcome.tolerance,
        "cost": float(rows["cost_after"].mean()), "games": len(outcome.rows),
        "steps": len(outcome.history["objective"]),
        "skipped": int(outcome.history["skipped"].sum()), "trusted": float(outcome.history["trusted"].mean()),
        "certified": int((rows["certified_before"] & rows["certified_after"]).sum()),
        "unrefuted": int((ok[0] & ok[1] & ~(rows["certified_before"] & rows["certified_after"])).sum()),
        "failed": int(np.isnan(rows["user_before"] + rows["user_after"]).sum()),
    }  # fmt: skip


def save(path: Path, owner: str, state: loop.State, history: dict[str, list[np.ndarray]]) -> None:
    """The state, with a digest of all numbers and of what they belong to.

    owner: the config, and the versions of what computes"""
    leaves = jax.tree.leaves(state)
    arrays = {f"leaf_{n:03d}": np.asarray(leaf) for n, leaf in enumerate(leaves)}
    arrays |= {f"history_{name}": np.array(x, float) for name, x in history.items()}
    save_arrays(path, arrays | {"digest": np.array(_digest(owner, arrays))})


def _digest(owner: str, arrays: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256(owner.encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape} ".encode() + arrays[name].tobytes())
    return found.hexdigest()


def load(path: Path, owner: str, problem: Problem, warn: Callable[[str], None]) -> tuple[Any, Any]:
    """The state on disk and its history, (None, None) if there is none; what is damaged, or is not the owner's, is
    begun anew, with a warning."""
    if not path.exists():
        return None, None
    params = jax.tree.map(jax.numpy.asarray, problem.mechanism.sample(jax.random.key(0), problem.games))
    one = jax.numpy.zeros(())
    structure = jax.tree.structure(
        loop.State(params, problem.optimizer.init(params), one, one, params, one, params, one)
    )
    names = [f"leaf_{n:03d}" for n in range(structure.num_leaves)]
    try:
        arrays = read_arrays(path, ("digest", *names, *(f"history_{name}" for name in loop.HISTORY)))
        if str(arrays.pop("digest")) != _digest(owner, arrays):
            raise ValueError(f"{path}: digest: is not that of these numbers and of this config, the file was altered")
    except ValueError as error:
        warn(f"{error}; begun anew")
        return None, None
    state = jax.tree.unflatten(structure, [jax.numpy.asarray(arrays[name]) for name in names])
    return state, {name: list(arrays[f"history_{name}"]) for name in loop.HISTORY}
