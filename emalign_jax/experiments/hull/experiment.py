"""The experiment: how well n random agents, weighted, predict a target's utilities of items not fitted to.

A subset s is a random order of the people and a random split of the items. Its agents for a target are the first n
people of that order who may be agents of the target. So subsets of different n are nested, and all targets but those
among the first n share their agents; a person can be an agent of some targets and a target too. In a table with
missing cells each target has the agents that `by_overlap` finds on the items fitted to, and the items that all of them
rated.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emalign_jax.experiments import engine
from emalign_jax.experiments.engine import Task
from emalign_jax.experiments.executors import Executors
from emalign_jax.experiments.hull.fits import Rule, best_single, evaluate, fit
from emalign_jax.experiments.hull.overlap import by_overlap
from emalign_jax.experiments.hull.tables import Table
from emalign_jax.experiments.run_parts import Parts
from emalign_jax.experiments.run_store import Kind, figures
from emalign_jax.internal import memory

CURVES, WEIGHTS, LEAVE_OUT, ERRORS = "curves.csv", "weights.csv", "leave_out.csv", "errors.parquet"
FIGURES = figures("hull")
ALIGN = Kind("align", (CURVES, WEIGHTS, LEAVE_OUT, ERRORS, *FIGURES))
SIZES = (1, 2, 5, 10, 20, 50, 100)
FITTED = ("simplex", "cone")
METHODS = ("best single", "mean", *FITTED)
BUDGET = {"l2": 20_000, "sup": 3_000}  # fits, where the targets a subset are not given
ARRAYS = ("utilities", "targets", "agents", "item")  # of a table
SUFFIXES = (".npz", ".parquet")  # of a part; errors are written last
ROW = 500  # bytes that an error takes
IN_USE = 1e-6  # weights beyond this count as used


@dataclasses.dataclass(frozen=True)
class HullJob:
    """What to do with a table.

    offsets: the last is the one of headlines, weights and leave-k-out. targets: at most so many a subset; None: as many
    as BUDGET allows, each at least once. A target is covered by an error of at most `tolerance`, or where that is None
    of `relative_tolerance` times its error with no agent (the offset alone).
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
    relative_tolerance: float = 0.8

    def check(self) -> None:
        """Raise `ValueError` where the errors alone would not fit into memory."""
        T = len(self.table.targets)
        targets = T if self.targets is None else min(self.targets, T)
        least = max(self.subsets, T) if self.targets is None else self.subsets * targets
        rows = least * len(self.offsets) * len(self.sizes) * len(METHODS)
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

    def chosen(self, s: int, targets: np.ndarray) -> dict[int, np.ndarray]:
        """The agents of each target in subset `s`, in the order in which they are added; the items held out are not
        looked at."""
        (order, test), table, most = self.subset(s), self.table, self.sizes[-1]
        allowed = {int(t): order[table.agents[t][order]] for t in targets}
        if table.overlap is None:
            return {t: agents[:most] for t, agents in allowed.items()}
        there = table.there[:, np.setdiff1d(table.item, table.item[test])]
        return {t: by_overlap(there, int(table.targets[t]), a, most, table.overlap) for t, a in allowed.items()}

    def groups(self, chosen: dict[int, np.ndarray], n: int, test: np.ndarray) -> Iterator[Group]:
        """The targets with n agents, those together who share them, without those of fewer than 2 items held out."""
        table, together = self.table, {}
        for t, agents in chosen.items():
            if len(agents) >= n:
                key = tuple(agents[:n].tolist())
                together.setdefault(key if table.overlap is None else (*key, t), (agents[:n], []))[1].append(t)
        for agents, members in together.values():
            columns = np.asarray(~np.isnan(table.utilities[[table.targets[members[0]], *agents], 0]).any(0))
            if len(np.unique(table.item[columns & test])) > 1:
                yield Group(agents, np.array(members), columns)

    @property
    def available(self) -> int:
        """Agents that every target has; in a table with missing cells those that half of the targets have."""
        if self.table.overlap is None:
            return self.table.available
        chosen, test = self.chosen(0, self.assignment()[0]), self.subset(0)[1]
        counts = [
            sum(len(group.members) for group in self.groups(chosen, n, test)) for n in range(1, self.sizes[-1] + 1)
        ]
        return int(np.sum(2 * np.array(counts) >= len(chosen)))

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


class Group(NamedTuple):
    """Agents, the targets (positions) that share them, and which columns all of them rated."""

    agents: np.ndarray
    members: np.ndarray
    columns: np.ndarray


class Outcome(NamedTuple):
    """errors: a row an (offset, method, n, subset, target), in the table's units, `target` a position in its targets;
    no_agent: the held-out error of the offset alone, items and test_items: how many were fitted to and held out.
    weights: a row an agent: its mean weight, and how often it is not 0, in simplex fits at the largest n; sorted
    by it, or where agents are chosen by overlap by the sum of the weights, as many have few fits."""

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

    own = hashlib.sha256(data).hexdigest()[:16]  # so that a copy of another run's part is not taken for it
    tasks = [Task(f"subset-{own}-{s:05d}", (data, s, targets)) for s, targets in enumerate(parts)]
    for task in tasks:
        files = {suffix: None if kept is None else kept.part(task.name, suffix) for suffix in SUFFIXES}
        if None not in files.values():
            found[task.name] = files
            tell(len(task.arguments[2]) * job.fits)
    tell(0)
    left = [task for task in tasks if task.name not in found]
    here = functools.partial(fit_subset, progress=tell)
    engine.run(here if executors is None else fit_subset, left, keep, executors=executors)
    tell(total - done)  # targets without so many agents
    rows = [pd.read_parquet(io.BytesIO(found[task.name][".parquet"])) for task in tasks]
    counts = [np.load(io.BytesIO(found[task.name][".npz"])) for task in tasks]
    met, used, weight = (np.sum([one[name] for one in counts], 0) for name in ("met", "used", "weight"))
    with np.errstate(invalid="ignore"):
        columns = {"agent": job.table.names, "fits": met.astype(int), "mean_weight": weight / met}
        columns |= {"share_used": used / met}
    order = columns["mean_weight"] if job.table.overlap is None else weight
    weights = pd.DataFrame(columns).iloc[np.argsort(-order, kind="stable")].loc[lambda rows: rows["fits"] > 0]
    return Outcome(pd.concat(rows, ignore_index=True), weights.reset_index(drop=True))


def fit_subset(
    data: bytes, s: int, targets: np.ndarray, progress: Callable[[int], None] = lambda _: None
) -> dict[str, bytes]:
    """The files of the part of subset `s` by suffix: errors (.parquet), and of each person how often it was fitted and
    used, and the sum of its weights (.npz). data: of `pack`"""
    job = unpack(data)
    table, rows = job.table, []
    met, used, weight = (np.zeros(len(table.names)) for _ in range(3))
    chosen, test = job.chosen(s, targets), job.subset(s)[1]
    for offset, n in itertools.product(job.offsets, job.sizes):
        rule = Rule(offset, job.norm)
        for agents, members, columns in job.groups(chosen, n, test):
            user, others = (table.utilities[who][..., columns] for who in (table.targets[members], agents))
            held = test[columns]
            train = user[..., ~held], others[..., ~held]
            tested = len(np.unique(table.item[columns & test]))
            facts = {
                "offset": offset, "agents": n, "subset": s, "target": members, "test_items": tested,
                "items": len(np.unique(table.item[columns])) - tested,
                "no_agent": evaluate(np.zeros((len(members), 1)), user, others[:1], held, rule).held_out,
            }  # fmt: skip
            given = {"best single": best_single(*train, rule), "mean": np.full((len(members), n), 1 / n)}
            for method in METHODS:
                certified: dict[str, Any] = {"gap": 0.0, "solved": True, "fallback": False}
                if method in FITTED:
                    found = fit(*train, method, rule, progress)
                    given[method], certified = found.weights, {name: getattr(found, name) for name in certified}
                    if (method, offset, n) == ("simplex", job.main_offset, job.sizes[-1]):
                        w = found.weights[found.solved]
                        np.add.at(met, agents, len(w))
                        np.add.at(weight, agents, w.sum(0))
                        np.add.at(used, agents, (w > IN_USE).sum(0))
                split = evaluate(given[method], user, others, held, rule)
                rows.append(pd.DataFrame({"method": method} | facts | split._asdict() | certified))
    errors, counts = io.BytesIO(), io.BytesIO()
    pd.concat(rows or [pd.DataFrame()], ignore_index=True).to_parquet(errors)
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
