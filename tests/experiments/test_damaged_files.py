"""Whatever a file holds, reading it ends well or in one line that names it: a few good files of our own writers, and
a thousand damaged and odd ones made from them.

EMALIGN_NIGHTLY=1 reads 50,000 of each kind.
"""

import contextlib
import io
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import pytest
from support import mutations

import emalign_jax as em
from emalign_jax.cli import main
from emalign_jax.experiments import plan, run_store
from emalign_jax.experiments.grid import check, merge, run, table, tally, threshold
from emalign_jax.experiments.hull import tables
from emalign_jax.experiments.run_parts import PARTS, Parts
from emalign_jax.experiments.tune import config as tunings
from emalign_jax.experiments.tune import run as tuning
from emalign_jax.games.files import sizes
from emalign_jax.internal import parquet
from emalign_jax.report import sweep_table
from emalign_jax.report.page import contents, render

pytestmark = pytest.mark.host_only

GRID = """title = "A grid"
seed = 3
block = 2
[games]
family = "noise"
noise = [1.0, 2.5]
agents = 2
states = 2
actions = 2
count = 2
[user]
precision = inf
[solver]
method = "best_responses"
starts = 1
[measure]
monopoly = true
"""
GOAL = """title = "Small"
[games]
agents = 2
states = 2
actions = 2
count = 2
held_out = 2
alignment = 0.5
[objective]
over_games = "mean"
[tune]
mechanisms = ["transfers"]
steps = 1
[transfers]
start = "nothing"
budget = 1.0
"""


class Reader(NamedTuple):
    """read(path) of mutations of the seeds, of (name, bytes), beside `others`; same(result) says whether what was
    read is what was written, where that is promised."""

    seeds: list[tuple[str, bytes]]
    others: dict[str, bytes]
    read: Callable[[Path], Any]
    same: Callable[[Any], bool] = lambda result: True


def call(*arguments):
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as stop:
        main([str(x) for x in arguments])
    assert stop.value.code in (0, 1)


@pytest.fixture(scope="module")
def compiled_fast():
    """Programs that are used once, for files whose numbers no test looks at."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def made(tmp_path_factory, compiled_fast):
    """Files and runs of our own writers."""
    path = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    with contextlib.chdir(path):
        for name, count, agents in (("one", 1, 2), ("two", 3, 1)):
            games = em.random_games(0, count, agents=agents, states=2, actions=2)
            em.save_games(f"{name}-games.npz", games)
            em.save_schemes(f"{name}-schemes.npz", em.random_schemes(1, count, agents, 2, 2))
        wide = pd.DataFrame(rng.integers(1, 6, (8, 4)), columns=["ann", "bob", "cy", "di"])
        wide.insert(0, "item", [f"q{k}" for k in range(8)])
        long = wide.melt("item", var_name="user", value_name="rating")
        shares = rng.dirichlet([1, 1], (4, 4))
        poll = pd.DataFrame(
            [(f"q{q}", "ab"[o], f"g{g}", shares[q, g, o]) for q in range(4) for g in range(4) for o in range(2)],
            columns=["question", "option", "group", "share"],
        )
        for name, frame in (("wide", wide), ("long", long), ("poll", poll)):
            frame.to_csv(f"{name}.csv", index=False)
            frame.to_parquet(f"{name}.parquet", index=False)
        bare = long.assign(item=long.groupby("user").cumcount(), user=pd.factorize(long["user"])[0], time=1)
        bare[["user", "item", "rating", "time"]].to_csv("u.data", sep="\t", index=False, header=False)
        Path("grid.toml").write_text(GRID)
        Path("goal.toml").write_text(GOAL)
        quick = ("--set", "solver.method=best_responses", "--states", "2", "--actions", "2", "--count", "2")
        call("search", "--agents", "1,2", "--family", "hull", *quick, "--out", "several")
        call("search", "--agents", "2", "--family", "hull", *quick, "--out", "search")
        call("sweep", "grid.toml", "--out", "sweep")
        fits = ("--id", "item", "--least-items", "4", "--subsets", "2", "--agents", "1,2")
        call("align", "wide.csv", *fits, "--out", "align")
        call("tune", "goal.toml", "--out", "tune")
    return path


RUNS = ("search", "sweep", "align", "tune")
WAYS = itertools.cycle([{}, {}, {"id": "item"}, {"target": "ann"}])


def hull(path):
    """A table, read in one of the ways there are, in turn."""
    return tables.read(path, tables.Options(least_people=2, least_items=2, **next(WAYS)))


def report(path):
    assert len(render.render(contents.read(path.parent))) < 2_000_000


def _all(made, *names):
    return [(Path(name).name, (made / name).read_bytes()) for name in names]


def _npz(made, what):
    return [("x.npz", data) for _, data in _all(made, f"one-{what}.npz", f"two-{what}.npz", f"several/{what}.npz")]


def _each(load):
    """All numbers of agents that a file has."""
    return lambda path: [load(path, agents=agents) for agents in sizes(path)]


def _texts(made):
    csv = _all(made, "wide.csv", "long.csv", "poll.csv", "u.data")
    return [*csv, ("long.tsv", csv[1][1].replace(b",", b"\t"))]


def _run(made, *names):
    """Files of runs, each in its run's directory, beside the others of the run, which stay what they are."""
    runs = {name.split("/")[0] for name in names}
    files = [file for run in sorted(runs) for file in (made / run).iterdir() if file.suffix in mutations.OF]
    return [(name, (made / name).read_bytes()) for name in names], {
        f"{file.parent.name}/{file.name}": file.read_bytes() for file in files
    }


def _resumed(made):
    plans = {"sweep": plan.parse(GRID, "grid.toml").plain(), "tune": tunings.parse(GOAL, "goal.toml").plain()}
    kinds = {run: run_store.Kind(run, ()) for run in plans}
    now = {run: run_store.manifest(kinds[run], plan, plan["seed"]) for run, plan in plans.items()}

    def check(path):
        run = path.parent.name
        assert run_store.check(path.parent, kinds[run], False, now[run]) is not None

    return Reader(*_run(made, "sweep/manifest.json", "tune/manifest.json"), check)


def _told(made):
    """What searches and sweeps that are done print from."""
    plans = {
        run: plan.from_manifest(run_store.read(made / run)["config"], "m") for run in ("search", "several", "sweep")
    }
    work = {name: run.blocks(grid.cells(), check.block_size(grid)) for name, grid in plans.items()}

    def read(path):
        name = path.parent.name
        grid = plans[name]
        merge.check_rows(grid, work[name], path.parent)
        with np.errstate(all="ignore"):  # as the commands have it
            if name == "sweep":
                rows = parquet.read(path)
                return sweep_table.summary(grid, rows), threshold.thresholds(grid, rows), table.failures(rows)
            return tally.tally(path.parent, work[name]), [*merge.entries(path.parent)]

    return Reader(*_run(made, *(f"{name}/games.parquet" for name in plans)), read)


def _parts(made):
    """Files under the name of a part: only what was kept under it is ever taken for it."""
    files = [(made / name).read_bytes() for name in ("one-games.npz", "two-games.npz")]
    kept = Parts(made)
    for n, data in enumerate(files):
        kept.keep(f"part-{n}", ".npz", data)
    (part,) = (made / PARTS).glob("part-0-*")

    def read(path):
        said = []
        found = Parts(path.parent.parent, said.append).part("part-0", ".npz")
        if found is None:
            assert not path.exists(), "it is removed"
            raise ValueError(*said)
        return found

    name = f"run/{PARTS}/{part.name}"
    return Reader([(name, data) for data in files], {name: files[0]}, read, lambda found: found == files[0])


def _tuned(made):
    """What a tuning run that is done prints from."""
    return Reader(
        *_run(made, "tune/tuned.npz", "tune/games.parquet"), lambda path: tuning.summary(tuning.read(path.parent, 1e-3))
    )


READERS = {
    "games": lambda made: Reader(_npz(made, "games"), {}, _each(em.load_games)),
    "schemes": lambda made: Reader(
        _npz(made, "schemes"), {}, lambda p: [em.load_schemes(p, agents=k) for k in sizes(p)]
    ),
    "utilities": lambda made: Reader(_npz(made, "games"), {}, hull),
    "texts": lambda made: Reader(_texts(made), {}, hull),
    "parquet": lambda made: Reader(_all(made, "wide.parquet", "long.parquet", "poll.parquet"), {}, hull),
    "sweep config": lambda made: Reader(
        _all(made, "grid.toml"), {}, lambda p: plan.plan(plan.document(str(p)), str(p)).cells()
    ),
    "tune config": lambda made: Reader(_all(made, "goal.toml"), {}, lambda p: tunings.read(str(p))),
    "reports": lambda made: Reader(*_run(made, *(f"{run}/manifest.json" for run in RUNS)), report),
    "report's tables": lambda made: Reader(
        *_run(
            made,
            "search/games.parquet",
            "sweep/games.parquet",
            "align/curves.csv",
            "align/weights.csv",
            "tune/games.parquet",
            "tune/tuned.npz",
            "several/games.npz",
            "several/schemes.npz",
            "search/schemes.npz",
        ),
        report,
    ),
    "resumed": _resumed,
    "parts": _parts,
    "tuned": _tuned,
    "told": _told,
}


def judge(path, error):
    """The one line."""
    words = str(error)
    short = words.replace(str(path.parent), "")[:300]
    assert words.startswith(f"{path.parent}"), f"does not name the file: {short}"
    assert "\n" not in words, f"several lines: {short}"
    assert len(words) < 1000, f"{len(words)} characters: {short}"
    assert not re.search(r"\d{100}", words), f"digits: {short}"


@pytest.mark.parametrize("count", [100, pytest.param(50_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(kind, count, made, tmp_path):
    reader = READERS[kind](made)
    for name, data in reader.others.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    rng = np.random.default_rng(len(kind))
    found, wrong, slowest, began = Counter(), [], 0.0, time.perf_counter()
    for n in range(count):
        name, data = reader.seeds[n % len(reader.seeds)]
        path = tmp_path / name
        others = [other for seed, other in reader.seeds if seed.endswith(path.suffix)]
        if n >= len(reader.seeds):
            mutate = mutations.OF[path.suffix] if rng.random() < 0.6 else mutations.of_bytes
            data = mutate(rng, data, others[rng.integers(len(others))])
        path.write_bytes(data)
        start = time.perf_counter()
        try:
            try:
                result = reader.read(path)
                assert reader.same(result), "altered, and not noticed"
                found["accepted"] += 1
            except (ValueError, FileNotFoundError) as error:
                judge(path, error)
                found["refused"] += 1
        except Exception as error:
            wrong.append((n, error))
            print(f"{kind}, {n}: {error!r:.300}")
        if name in reader.others:
            path.write_bytes(reader.others[name])
        else:
            path.unlink()
        slowest = max(slowest, time.perf_counter() - start)
    seconds = time.perf_counter() - began
    print(f"\n{kind}: {dict(found)}, wrong {len(wrong)}, {seconds:.0f} s, slowest {slowest:.2f} s")
    kinds = {re.sub(r"\d+", "0", f"{error!r:.150}"): f"{n}: {error!r:.400}" for n, error in wrong}
    assert not wrong, "\n".join(list(kinds.values())[:10])


def test_a_report_refuses_rows_without_a_cell(made, tmp_path):
    for name, data in _run(made, "sweep/games.parquet")[1].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "sweep/games.parquet"
    pd.read_parquet(path).assign(cell=pd.Series(dtype="string")).to_parquet(path, index=False)
    with pytest.raises(ValueError, match=r"sweep/games.parquet: cell: expected the key of a cell in every row"):
        report(path)
