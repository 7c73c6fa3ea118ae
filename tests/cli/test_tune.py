"""`emalign tune`: its config, that it goes on where it stopped, and what it refuses."""

import json

import numpy as np
import pandas as pd
import pytest
from support.commands import refused

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
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["manifest.json", "parts"]
    monkeypatch.setattr(loop, "step", step)
    run("tune", file, "--out", tmp_path / "parts")
    one, two = (dict(np.load(tmp_path / name / "tuned.npz")) for name in ("whole", "parts"))
    np.testing.assert_array_equal(one["transfers"], two["transfers"])
    tables = [pd.read_parquet(tmp_path / name / "games.parquet") for name in ("whole", "parts")]
    pd.testing.assert_frame_equal(*tables)
    assert (tmp_path / "parts" / "tuning.pdf").stat().st_size > 1000
    file.write_text(ONE_START.replace("steps = 12", "steps = 13"))
    assert refused(run("tune", file, "--out", tmp_path / "parts"), "tune.steps is 12 there and 13 now")


@pytest.mark.slow
def test_a_run_that_is_done_prints_the_same_and_computes_nothing(run, tmp_path, monkeypatch):
    file = tmp_path / "small.toml"
    file.write_text(ONE_START)
    command = ("tune", file, "--out", tmp_path / "out")
    first = run(*command, "--json")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()}
    assert {path.name for path in before} == {"manifest.json", "games.parquet", "tuned.npz", "tuning.pdf", "tuning.png"}
    monkeypatch.setattr(loop, "step", None)
    monkeypatch.setattr(loop, "begin", None)
    one, two = (json.loads(answer[1]) for answer in (first, run(*command, "--json")))
    assert one["summary"].pop("seconds") == pytest.approx(two["summary"].pop("seconds"), abs=1e-3)
    assert one == two
    code, out, err = run(*command)
    assert (code, err) == (first[0], "")
    assert "tuning.png" in out
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()} == before
    for name in ("tuning.png", "tuning.pdf"):
        (tmp_path / "out" / name).unlink()
    assert run(*command)[::2] == (first[0], ""), "figures are drawn again, which may have failed"
    for name in ("tuning.png", "tuning.pdf"):
        path = tmp_path / "out" / name
        assert path.read_bytes() == before[path][0]
    (tmp_path / "out/tuned.npz").write_bytes(b"")
    assert refused(run(*command), "tuned.npz", "truncated or not an .npz file")
    (tmp_path / "out/tuned.npz").unlink()
    assert refused(run(*command), "tuned.npz", "no such file")


@pytest.mark.slow
def test_a_damaged_state_is_told_of_and_begun_anew(run, tmp_path, monkeypatch):
    file = tmp_path / "small.toml"
    file.write_text(ONE_START)
    step, done = loop.step, []

    def counted(*arguments, **how):
        if len(done) == 11:
            raise KeyboardInterrupt
        done.append(1)
        return step(*arguments, **how)

    monkeypatch.setattr(loop, "step", counted)
    assert run("tune", file, "--out", tmp_path / "out")[0] == 130
    (state,) = (tmp_path / "out/parts").glob("state-*")
    state.write_bytes(state.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(loop, "step", lambda *x, **how: done.append(1) or step(*x, **how))
    done.clear()
    code, _, err = run("tune", file, "--out", tmp_path / "out")
    assert code in (0, 1)
    assert len(done) == 12, "all steps"
    assert err.count("\n") == 1
    assert f"{state}: damaged; what it held is computed again" in err
