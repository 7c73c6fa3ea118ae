"""`em.experiments.run` does from Python what the commands do."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import ENVIRONMENT, child

import emalign_jax as em

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

SMALL = {"games.agents": 1, "games.states": 2, "games.actions": 2, "games.count": 2, "solver.method": "best_responses"}


WRONG = [
    (None, {}, "specification: expected a path, got None"),
    ("", {}, "specification: expected a path, got ''"),
    (["bias"], {}, "specification: expected a path, got a list"),
    ({"games": {"agents": 2}}, {}, "games: no such key"),
    ({5: 5}, {}, "5: no such key"),
    ({"games.agents": []}, {}, "games.agents: expected a value or a list of some"),
    ({"games.agents": np.array([2, 2])}, {}, "games.agents: expected distinct values"),
    (SMALL, {"kind": "tune"}, "kind: expected one of search, sweep, market, got 'tune'"),
    (SMALL, {"out": 5}, "out: expected a path, got 5"),
    (SMALL, {"out": ""}, "out: expected a path, got ''"),
    (SMALL, {"out": "a\0b"}, "out: expected a path"),
    (SMALL, {"force": "no"}, "force: expected True or False, got 'no'"),
    (SMALL, {"workers": 0}, "workers: expected an integer >= 1, got 0"),
    (SMALL, {"workers": "2"}, "workers: expected an integer >= 1, got '2'"),
    (SMALL, {"workers": 2, "cluster": "tcp://127.0.0.1:1"}, "workers, cluster, executor: give one of them"),
    (SMALL, {"cluster": ""}, "cluster: expected an address"),
    (SMALL, {"executor": 5}, "executor: expected a concurrent.futures.Executor, got 5"),
    (SMALL, {"plugin": "mine.py"}, "plugin: expected a list of files, got 'mine.py'"),
    (SMALL, {"plugin": [5]}, "plugin: expected a path, got 5"),
    (SMALL, {"progress": "yes"}, "progress: expected True or False, got 'yes'"),
]
TRY = """
import emalign_jax as em
import numpy as np
from experiments.test_run import WRONG
for specification, given, _ in WRONG:
    try:
        em.experiments.run(specification, **given)
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_wrong_argument_is_told_by_its_name(monkeypatch):
    """In a process in which types are not checked before the function is called."""
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{ENVIRONMENT['PYTHONPATH']}:{Path(__file__).parents[1]}")
    for line, (*_, words) in zip(child(TRY).splitlines(), WRONG, strict=True):
        assert line.startswith(words)
    assert not list(Path().iterdir())


@pytest.mark.slow
def test_numbers_may_be_those_of_numpy():
    said = []
    numbers = {"games.agents": np.arange(1, 3), "seed": np.int64(3), "solver.tolerance": np.float64(1e-4)}
    found = em.experiments.run(SMALL | numbers, out=Path("run"), progress=said.append)
    assert found.fresh
    assert (said[0].done, said[-1].done, said[-1].total) == (0, 4, 4)
    again = em.experiments.run(SMALL | {"games.agents": (1, 2), "seed": 3, "solver.tolerance": 1e-4}, out="run")
    assert not again.fresh
    pd.testing.assert_frame_equal(again.rows, found.rows)
    assert json.loads(Path("run/manifest.json").read_text())["command"] == sys.orig_argv
