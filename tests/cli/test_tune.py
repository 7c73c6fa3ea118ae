"""`emalign tune`: its config, that it goes on where it stopped, and what it refuses."""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from support.commands import ENVIRONMENT, refused

from emalign_jax.experiments import toml
from emalign_jax.experiments.tune import config as configs
from emalign_jax.tuning import loop

pytestmark = pytest.mark.host_only

CONFIG = """
title = "small"
[games]
agents = 2
states = 2
actions = 2
count = 4
held_out = 4
[tune]
steps = 12
restarts = 2
draws = 3
[transfers]
start = "nothing"
"""
ONE_START = CONFIG.replace("restarts = 2\ndraws = 3\n", "")


@pytest.mark.slow
def test_shipped_configs_can_be_done():
    for name in toml.shipped(configs.FOLDER):
        assert configs.setup(configs.read(name)).games.batch_shape


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[transfers]\nbudget = -1.0", ["transfers.budget", ">= 0"]),
        ("[tune]\nmechanisms = ['bribes']", ["tune.mechanisms", "transfers"]),
        ("[objective]\nover_games = 'best'", ["objective.over_games", "cvar"]),
        ("[objective]\nlevel = 2.0", ["level", "between 0 and 1"]),
        ("[games]\nfamily = 'nice'", ["games.family"]),
        ("[games]\nalignment = 2.0", ["alignment", "[0, 1]"]),
        ("[games]\nagents = 40", ["agents"]),
        ("[tune]\nmechanisms = ['precision']\n[precision]\nstart = 99.0", ["precision", "between"]),
        ("[precision]\nstart = 2.0", ["precision", "not among tune.mechanisms"]),
        ("[tune]\nmechanisms = ['temperature']", ["temperature", "Selection"]),
        ("[tune]\nlearning_rate = 0", ["tune.learning_rate"]),
        ("[tune]\nrestarts = 4\ndraws = 2", ["draws", "at least restarts = 4"]),
        ("[tune]\nfinalists = 2", ["finalists", "at most restarts = 1"]),
        ("[tune", ["not TOML"]),
    ],
)
def test_bad_configs_are_refused_in_one_line(run, tmp_path, text, words):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    assert refused(run("tune", file, "--out", tmp_path / "out"), "bad.toml", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_numbers(run, tmp_path, monkeypatch):
    file = tmp_path / "small.toml"
    file.write_text(ONE_START)
    code, out, _ = run("tune", file, "--out", tmp_path / "whole", "--json")
    assert code in (0, 1)
    summary = json.loads(out)["summary"]
    assert summary["games"] == 4
    step, done = loop.step, []

    def interrupted(problem, state, **how):
        done.append(1)
        if len(done) == 11:  # one step after the first state on disk
            raise KeyboardInterrupt
        return step(problem, state, **how)

    monkeypatch.setattr(loop, "step", interrupted)
    assert run("tune", file, "--out", tmp_path / "parts")[0] == 130
    monkeypatch.setattr(loop, "step", step)
    run("tune", file, "--out", tmp_path / "parts")
    one, two = (dict(np.load(tmp_path / name / "tuned.npz")) for name in ("whole", "parts"))
    np.testing.assert_array_equal(one["transfers"], two["transfers"])
    tables = [pd.read_parquet(tmp_path / name / "games.parquet") for name in ("whole", "parts")]
    pd.testing.assert_frame_equal(*tables)
    assert (tmp_path / "parts" / "tuning.pdf").stat().st_size > 1000
    file.write_text(ONE_START.replace("steps = 12", "steps = 13"))
    assert refused(run("tune", file, "--out", tmp_path / "parts"), "tune.steps is 12 there and 13 now")


@pytest.mark.nightly
def test_killed_it_ends_with_the_same_numbers(tmp_path):
    (tmp_path / "small.toml").write_text(CONFIG)

    def start(name):
        command = [sys.executable, "-m", "emalign_jax", "tune", "small.toml", "--out", name]
        return subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    process, state = start("parts"), tmp_path / "parts" / "state.npz"
    while process.poll() is None and not state.exists():
        time.sleep(0.05)
    assert process.poll() is None, "there is time to kill it"
    process.kill()
    process.wait()
    assert not (tmp_path / "parts" / "tuned.npz").exists()
    for name in ("parts", "whole"):
        assert start(name).wait() in (0, 1)
    one, two = (pd.read_parquet(tmp_path / name / "games.parquet") for name in ("whole", "parts"))
    pd.testing.assert_frame_equal(one, two)
    assert not [p.name for p in (tmp_path / "parts").iterdir() if p.suffix == ".tmp"]
