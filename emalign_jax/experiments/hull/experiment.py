"""The experiment: how well do n random agents, weighted, predict a target's utilities of items not fitted to?

A subset s is a random order of the people and a random split of the items. Its agents for a target are the first n
people of that order who may be agents of the target: so subsets of different n are nested, all targets but those
among the first n share their agents, and an agent of others is a target in turn.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emalign_jax.experiments import engine
from emalign_jax.experiments.engine import Task
from emalign_jax.experiments.executors import Executors
from emalign_jax.experiments.hull.fits import Rule, best_single, evaluate, fit
from emalign_jax.experiments.hull.tables import Table
from emalign_jax.experiments.run_parts import Parts
from emalign_jax.experiments.run_store import Kind
from emalign_jax.internal import memory

CURVES, WEIGHTS, LEAVE_OUT, ERRORS = "curves.csv", "weights.csv", "leave_out.csv", "errors.parquet"
FIGURES = ("hull.png", "hull.pdf")
ALIGN = Kind("align", (CURVES, WEIGHTS, LEAVE_OUT, ERRORS, *FIGURES))
SIZES = (1, 2, 5, 10, 20, 50, 100)
FITTED = ("simplex", "cone")
METHODS = ("best single", "mean", *FITTED)
ALONE = "offset alone"  # no agent: what a number that is best on the training items is worth
BUDGET = {"l2": 20_000, "sup": 3_000}  # fits, where the targets a subset are not given
ARRAYS = ("utilities", "targets", "agents", "item")  # of a table
SUFFIXES = (".npz", ".parquet")  # of a part; errors are written last
ROW = 500  # bytes that an error takes
IN_USE = 1e-6  # weights beyond this count as used


@dataclasses.dataclass(frozen=True)
class HullJob:
    """What to do with a table.

    offsets: the last is the one of headlines, weights and leave-k-out. targets: at most so many a subset; None: as many
    as BUDGET allows, each at least once. tolerance: None is report.MARGIN x the median error.
    """

    table: Table
    sizes: tuple[int, ...] = SIZES
    subsets: int = 20
    offsets: tuple[str, ...] = ("none", "constant")
    norm: str = "l2"
    test_share: float = 0.3
    targets: int | None = None
    tolerance: float | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise `ValueError` where the errors alone would not fit into memory."""
        T = len(self.table.targets)
        targets = T if self.targets is None else min(self.targets, T)
        least = max(self.subsets, T) if self.targets is None else self.subsets * targets
        rows = least * len(self.offsets) * (1 + len(self.sizes) * len(METHODS))
        memory.require(ROW * rows, f"--subsets: {self.subsets} subsets with {rows} errors")

    @property
    def fits(self) -> int:
        """Fits of a target in a subset."""
        return len(self.sizes) * len(self.offsets) * len(FITTED)

    @property
    def tests(self) -> int:
        """Items held out."""
        return min(max(2, round(self.test_share * self.table.item_count)), self.table.item_count - 2)

    @property
    def main_offset(self) -> str:
        """The one that headlines, weights and leave-k-out are about: the freest that means something."""
        return self.offsets[-1]

    def subset(self, s: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of people [P] and which columns [Y] are held out."""
        rng = np.random.default_rng([self.seed, s])
        order = rng.permutation(len(self.table.names))
        held = rng.permutation(self.table.item_count)[: self.tests]
        return order, np.isin(self.table.item, held)

    def groups(self, order: np.ndarray, n: int, targets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(agents, positions of the targets that share them)."""
        together: dict[tuple[int, ...], list[int]] = {}
        for t in targets:
            agents = order[self.table.agents[t][order]][:n]
            together.setdefault(tuple(agents.tolist()), []).append(int(t))
        for agents, members in together.items():
            yield np.array(agents), np.array(members)

    def assignment(self) -> list[np.ndarray]:
        """Positions of the targets of each subset. Each is a target equally often, up to the limit `targets`."""
        T, S = len(self.table.targets), self.subsets
        fits = T * self.fits
        meets = min(S, max(1, BUDGET[self.norm] // fits, -(-S // T))) if self.targets is None else S
        mixed = np.random.default_rng([self.seed, S]).permutation(T)
        parts: list[list[int]] = [[] for _ in range(S)]
        for j in range(meets):
            for i, t in enumerate(mixed):
                parts[(i + j) % S].append(int(t))
        if self.targets is not None:
            parts = [list(np.roll(part, -s * self.targets))[: self.targets] for s, part in enumerate(parts)]
        return [np.sort(np.array(part, int)) for part in parts]


class Outcome(NamedTuple):
    """errors: a row an (offset, method, n, subset, target), in the table's units, `target` a position in its targets.
    weights: a row an agent: its mean weight, and how often it is not 0, in simplex fits at the largest n."""

    errors: pd.DataFrame
    weights: pd.DataFrame


def run(
    job: HullJob,
    progress: Callable[[str, int, int], None] | None = None,
    kept: Parts | None = None,
    executors: Executors | None = None,
) -> Outcome:
    """Fit every subset. progress(what, done, total).

    kept: subsets that are there are not fitted again, the others are kept; None: nothing is
    executors: where; None is in this process
    """
    parts, data = job.assignment(), pack(job)
    total, done, found = sum(map(len, parts)) * job.fits, 0, {}

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress("fit", done, total)

    def keep(task: Task, files: dict[str, bytes]) -> None:
        if kept is not None:
            for suffix, held in files.items():
                kept.keep(task.name, suffix, held)
        found[task.name] = files
        tell(len(parts[task.arguments[1]]) * job.fits if executors is not None else 0)

    tasks = [Task(f"subset-{s:05d}", (data, s, targets)) for s, targets in enumerate(parts)]
    for task in tasks:
        files = {suffix: None if kept is None else kept.part(task.name, suffix) for suffix in SUFFIXES}
        if None not in files.values():
            found[task.name] = files
            tell(len(task.arguments[2]) * job.fits)
    tell(0)
    left = [task for task in tasks if task.name not in found]
    here = functools.partial(fit_subset, progress=tell)
    engine.run(here if executors is None else fit_subset, left, keep, executors=executors)
    rows = [pd.read_parquet(io.BytesIO(found[task.name][".parquet"])) for task in tasks]
    counts = [np.load(io.BytesIO(found[task.name][".npz"])) for task in tasks]
    met, used, weight = (np.sum([one[name] for one in counts], 0) for name in ("met", "used", "weight"))
    with np.errstate(invalid="ignore"):
        columns = {"agent": job.table.names, "fits": met.astype(int), "mean_weight": weight / met}
        columns |= {"share_used": used / met}
    weights = pd.DataFrame(columns).loc[met > 0].sort_values("mean_weight", ascending=False, kind="stable")
    return Outcome(pd.concat(rows, ignore_index=True), weights.reset_index(drop=True))


def fit_subset(
    data: bytes, s: int, targets: np.ndarray, progress: Callable[[int], None] = lambda _: None
) -> dict[str, bytes]:
    """The files of the part of subset `s` by suffix: errors (.parquet), and of each person how often it was fitted and
    used, and the sum of its weights (.npz). data: of `pack`"""
    job = unpack(data)
    table, rows = job.table, []
    met, used, weight = (np.zeros(len(table.names)) for _ in range(3))
    order, test = job.subset(s)

    def note(offset, method, n, targets, split, gap, solved, fallback: Any = False):
        columns = {"offset": offset, "method": method, "agents": n, "subset": s, "target": targets}
        rows.append(pd.DataFrame(columns | split._asdict() | {"gap": gap, "solved": solved, "fallback": fallback}))

    for offset in job.offsets:
        rule = Rule(offset, job.norm)
        none = np.zeros((len(targets), 1))
        everyone = table.utilities[table.targets[targets]]
        note(offset, ALONE, 0, targets, evaluate(none, everyone, everyone[:1], test, rule), 0.0, True)
        for n in job.sizes:
            for agents, members in job.groups(order, n, targets):
                user, others = table.utilities[table.targets[members]], table.utilities[agents]
                train = user[..., ~test], others[..., ~test]
                plain = np.full((len(members), n), 1 / n)
                for method, w in (("best single", best_single(*train, rule)), ("mean", plain)):
                    note(offset, method, n, members, evaluate(w, user, others, test, rule), 0.0, True)
                for method in FITTED:
                    found = fit(*train, method, rule, progress)
                    split = evaluate(found.weights, user, others, test, rule)
                    note(offset, method, n, members, split, found.gap, found.solved, found.fallback)
                    if (method, offset, n) == ("simplex", job.main_offset, job.sizes[-1]):
                        w = found.weights[found.solved]
                        np.add.at(met, agents, len(w))
                        np.add.at(weight, agents, w.sum(0))
                        np.add.at(used, agents, (w > IN_USE).sum(0))
    errors, counts = io.BytesIO(), io.BytesIO()
    pd.concat(rows, ignore_index=True).to_parquet(errors)
    np.savez(counts, met=met, used=used, weight=weight)
    return {".npz": counts.getvalue(), ".parquet": errors.getvalue()}


def pack(job: HullJob) -> bytes:
    """The job and its table as an .npz, for other processes."""
    facts = {field.name: getattr(job, field.name) for field in dataclasses.fields(job) if field.name != "table"}
    file, table = io.BytesIO(), vars(job.table)
    arrays = {name: table[name] for name in ARRAYS}
    others = {name: value for name, value in table.items() if name not in ARRAYS}
    np.savez_compressed(file, allow_pickle=False, job=json.dumps([facts, others]), **arrays)
    return file.getvalue()


@functools.lru_cache(maxsize=2)
def unpack(data: bytes) -> HullJob:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        facts, others = json.loads(str(archive["job"]))
        others["notes"] = tuple(others["notes"])
        table = Table(**others, **{name: archive[name] for name in ARRAYS})
    facts |= {name: tuple(facts[name]) for name in ("sizes", "offsets")}
    return HullJob(table=table, **facts)
