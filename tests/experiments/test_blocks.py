"""Blocks of a search: whatever it is cut into, and whoever computes it, the run is the same."""

import json

import numpy as np
import pandas as pd
import pytest
from support.commands import refused
from support.kills import same

import emalign_jax as em
from emalign_jax.exact.checks import selection_rational
from emalign_jax.exact.obedience import frontier
from emalign_jax.experiments.grid import run as grids
from emalign_jax.lp import choice


@pytest.fixture
def few(monkeypatch):
    """Five games count as many, for which LPs are solved together."""
    monkeypatch.setattr(frontier, "FEWEST", 5)
    monkeypatch.setattr(choice, "FEWEST_GUARANTEES", 5)
    monkeypatch.setattr(selection_rational.SelectionRational, "games_at_once", 5)


SEARCH = ["--family", "noise", "--agents", "1,2", "--count", "5", "--states", "3"]


def same_run(one, two):
    """But for seconds, to the bit: float32 play in the same lanes and tiles, float64 checks game by game."""
    tables = [pd.read_parquet(path / grids.TABLE).drop(columns="seconds") for path in (one, two)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    for name in (grids.GAMES, grids.SCHEMES):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    return tables[0]


@pytest.mark.slow
def test_blocks_do_not_matter(run, few, tmp_path):
    lines = []
    for name, block in (("whole", 100), ("blocks", 2)):
        code, out, _ = run("search", *SEARCH, "--starts", "2", "--set", f"block={block}", "--out", tmp_path / name)
        assert code == 0
        lines.append([line.split()[:-1] for line in out.splitlines() if "%" in line])
    assert lines[0] == lines[1], "the printed table"
    rows = same_run(tmp_path / "whole", tmp_path / "blocks")
    assert list(rows["game"]) == [n for _ in range(2) for n in range(5) for _ in range(2)]
    schemes = em.load_schemes(tmp_path / "blocks" / "schemes.npz", agents=2)
    assert schemes.shape[:3] == (2, 5, 2), "starts lead, then the games"
    games = em.load_games(tmp_path / "blocks" / "games.npz", agents=2)
    again = em.certify(games, schemes, em.Selection(), em.RationalUser())
    ours = rows[rows["agents"] == 2]["user_value"].to_numpy().reshape(5, 2).T
    np.testing.assert_allclose(again.user, ours, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_unverified_runs_say_so(run, tmp_path):
    pooled = ["--protocol", "pooled", "--precision", "20", *SEARCH, "--family", "hull", "--agents", "2"]
    code, out, _ = run("search", *pooled, "--no-verify", "--out", tmp_path / "run")
    assert code == 0
    assert "not checked" in out
    assert "Not verified" in out
    rows = pd.read_parquet(tmp_path / "run" / "games.parquet")
    assert set(rows["result"]) == {"UNCHECKED"}
    assert not rows["ok"].any()
    assert rows["relative_gain"].isna().all()
    games = em.load_games(tmp_path / "run" / "games.npz")
    exact = em.certify(games, em.load_schemes(tmp_path / "run" / "schemes.npz"), em.Pooled(), em.QuantalUser(20.0))
    np.testing.assert_allclose(rows["no_information"], exact.no_information, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rows["full_information"], exact.full_information, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rows["user_value"], exact.user, rtol=0, atol=1e-5)  # float32 payoffs
    code, out, _ = run("search", *pooled, "--no-verify", "--json", "--out", tmp_path / "json")
    document = json.loads(out)
    assert document["summary"]["unchecked"] == 5
    assert document["games"][0]["gain_lower"] == [None, None]


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--no-verify",), ("--starts", "2")])
def test_processes_write_the_run_of_one(run, tmp_path, more):
    """Each part is that of this process, to the bit, whoever computed it and in whatever order."""
    pooled = ("--protocol", "pooled", "--precision", "20") if "--no-verify" in more else ()
    command = ("search", *SEARCH, *pooled, *more, "--set", "block=2")
    code, said, _ = run(*command, "--out", tmp_path / "one")
    assert code == 0
    code, out, err = run(*command, "--workers", "2", "--out", tmp_path / "two")
    assert (code, err) == (0, "")
    table = [[line.split()[:-1] for line in text.splitlines() if " noise" in f" {line}"] for text in (said, out)]
    assert table[0] == table[1]
    same_run(tmp_path / "one", tmp_path / "two")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "games.npz", "games.parquet", "manifest.json", "schemes.npz", "user_value.pdf", "user_value.png",
    ]  # fmt: skip
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


@pytest.mark.slow
def test_processes_compute_the_games_of_a_file_and_a_sweep(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    em.save_games("g.npz", em.random_games(0, 5, agents=2, states=2, actions=2))
    (tmp_path / "grid.toml").write_text(
        "block = 2\n[games]\nagents = [1, 2]\nstates = 2\nactions = 2\ncount = 3\n[user]\nprecision = [inf, 20.0]\n"
        "[solver]\nmethod = 'best_responses'\n"
    )
    for command in (("search", "--games", "g.npz", "--set", "block=2"), ("sweep", "grid.toml")):
        for name, more in (("one", ()), ("two", ("--workers", "2"))):
            code, _, err = run(*command, *more, "--out", f"{command[0]}-{name}")
            assert (code in (0, 1), err) == (True, "")
        assert same(tmp_path / f"{command[0]}-one", tmp_path / f"{command[0]}-two")


@pytest.mark.slow
def test_what_a_worker_refuses_is_one_line_and_nothing_is_left(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for more in ((), ("--workers", "2")):
        answer = run("search", "--set", "games.actions=1", "--count", "2", "--family", "hull", *more)
        assert refused(answer, "games.information_worth: ", "(at games.agents = ")
    assert list(tmp_path.iterdir()) == []
