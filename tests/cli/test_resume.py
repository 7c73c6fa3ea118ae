"""A search that has stopped goes on by the same command, one that is done is told again, and another is refused."""

import contextlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from support.commands import refused
from support.foreign_files import seen
from support.kills import same

import emalign_jax as em
from emalign_jax.experiments import executors, run_store
from emalign_jax.experiments.grid import block

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

SIZES = ("--states", "2", "--actions", "2", "--family", "hull", "--agents", "1,2", "--count", "3")
QUICK = ("--set", "solver.method=best_responses", "--set", "block=1")
COMMAND = ("search", *SIZES, *QUICK)


@pytest.fixture
def blocks(monkeypatch):
    """The blocks searched in this process, (agents, first game); after `limit` of them it is interrupted."""
    found, search = [], block.search

    def spied(specification, games, first, *rest):
        if len(found) == spied.limit:
            raise KeyboardInterrupt
        found.append((specification.games.agents, first))
        return search(specification, games, first, *rest)

    spied.limit, spied.found = None, found
    monkeypatch.setattr(block, "search", spied)
    return spied


def interrupted(run, blocks, after, *command):
    """The command, interrupted when so many blocks are done; what was searched is forgotten."""
    blocks.limit = after
    assert run(*command)[0] == 130
    blocks.limit = None
    blocks.found.clear()


@pytest.mark.slow
def test_an_interrupted_search_goes_on_to_the_same_files(run, blocks):
    assert run(*COMMAND, "--out", "whole")[0] == 0
    every = blocks.found.copy()
    assert every == [(agents, n) for agents in (1, 2) for n in range(3)]
    blocks.found.clear()
    interrupted(run, blocks, 2, *COMMAND, "--out", "run")
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["status"] == "running"
    assert {path.name for path in Path("run").iterdir()} == {"manifest.json", "parts"}
    assert len(list(Path("run/parts").iterdir())) == 4, "games and rows of two blocks"
    interrupted(run, blocks, 1, *COMMAND, "--out", "run")
    code, out, err = run(*COMMAND, "--out", "run")
    assert (code, err) == (0, "")
    assert blocks.found == every[3:]
    assert same(Path("whole"), Path("run")), "so no part and no lock is left"
    assert "6 games in " in out


@pytest.mark.slow
def test_a_search_that_is_done_is_told_again_from_its_files(run, blocks):
    code, first, _ = run(*COMMAND, "--out", "run")
    _, told, _ = run(*COMMAND, "--out", "other", "--json")
    before = seen(Path("run"))
    blocks.limit = len(blocks.found)
    again = run(*COMMAND, "--out", "run")
    assert (again[0], again[2]) == (code, "")
    assert "6 games were there already." in again[1]
    without = [re.sub(r"6 games (in .* s.*|were there already)\. Table", "Table", text) for text in (first, again[1])]
    assert without[0] == without[1], "with the figures"
    code, out, _ = run(*COMMAND, "--out", "run", "--json")
    documents = [json.loads(text) for text in (told, out)]
    assert documents[0]["games"] == documents[1]["games"]
    for document in documents:
        del document["summary"]["seconds"], document["summary"]["run"]
        for cell in document["summary"]["cells"]:
            del cell["seconds"]
    assert documents[0] == documents[1]
    assert seen(Path("run")) == before


@pytest.mark.slow
def test_a_run_that_is_done_and_whose_table_is_not_its_own_is_refused(run):
    assert run(*COMMAND, "--out", "run")[0] == 0
    assert run(*COMMAND, "--seed", "1", "--out", "other")[0] == 0
    table = Path("run/games.parquet")
    whole = table.read_bytes()
    for data, words in (
        (whole[: len(whole) // 2], "cannot be read as parquet"),
        (Path("other/games.parquet").read_bytes(), "cell: expected "),
    ):
        table.write_bytes(data)
        assert refused(run(*COMMAND, "--out", "run"), "run/games.parquet: ", words)
        assert table.read_bytes() == data
    assert run(*COMMAND, "--out", "run", "--force")[0] == 0
    assert len(pd.read_parquet(table)) == 6


@pytest.mark.slow
def test_another_specification_is_refused_by_its_keys_and_force_starts_anew(run, blocks):
    interrupted(run, blocks, 2, *COMMAND, "--out", "run")
    before = seen(Path("run"))
    for more, words in (
        (("--seed", "1"), "seed is 0 there and 1 now"),
        (("--starts", "2"), "solver.starts is 1 there and 2 now"),
        (("--precision", "5"), 'user.precision is "inf" there and 5.0 now'),
        (("--set", "measure.stability=false"), "measure.stability is true there and false now"),
        (("--set", "games.noise=1.0"), "games.noise is not set there and 1.0 now"),
    ):
        assert refused(run(*COMMAND, *more, "--out", "run"), words, "--force")
    assert refused(run("search", *SIZES, *QUICK[:2], "--out", "run"), "block is 1 there and not set now")
    assert seen(Path("run")) == before
    assert run(*COMMAND, "--seed", "1", "--out", "run", "--force")[0] == 0
    assert len(blocks.found) == 6
    assert json.loads(Path("run/manifest.json").read_text())["seed"] == 1


@pytest.mark.slow
def test_without_a_name_the_first_unfinished_search_of_the_same_kind_goes_on(run, blocks):
    interrupted(run, blocks, 1, *COMMAND)
    interrupted(run, blocks, 1, *COMMAND, "--seed", "1")
    assert sorted(path.name for path in Path().iterdir()) == ["search-1", "search-2"]
    assert "certificates: search-2\n" in run(*COMMAND, "--seed", "1")[1]
    assert len(blocks.found) == 5
    assert "certificates: search-1\n" in run(*COMMAND)[1]
    assert "certificates: search-3\n" in run(*COMMAND)[1], "those that are done are kept"


@pytest.mark.slow
def test_a_search_of_a_file_goes_on_and_is_refused_when_the_file_has_changed(run, blocks):
    games = em.random_games(0, 4, agents=2, states=2, actions=2)
    em.save_games("g.npz", games)
    command = ("search", "--games", "g.npz", *QUICK)
    assert run(*command, "--out", "whole")[0] == 0
    blocks.found.clear()
    interrupted(run, blocks, 2, *command, "--out", "run")
    kept = seen(Path("run"))
    em.save_games("g.npz", em.Game(games.prior, games.user_utility, 2 * games.agent_utilities))
    assert refused(run(*command, "--out", "run"), "games.digest is ", "--force")
    assert seen(Path("run")) == kept
    em.save_games("g.npz", games)
    assert run(*command, "--out", "run")[0] == 0
    assert blocks.found == [(2, 2), (2, 3)]
    assert same(Path("whole"), Path("run"))
    Path("g.npz").rename("h.npz")
    assert run("search", "--games", "h.npz", *QUICK, "--out", "run")[0] == 0
    assert len(blocks.found) == 2, "what the file holds counts, not where it lies"
    rows = pd.read_parquet("run/games.parquet")
    assert (rows["family"] == "file").all()
    np.testing.assert_array_equal(em.load_games("run/games.npz").agent_utilities, games.agent_utilities)


@pytest.mark.slow
def test_a_file_says_what_options_say_and_options_change_it(run, blocks):
    Path("spec.toml").write_text(
        'title = "Mine"\nblock = 1\n[games]\nfamily = "hull"\nagents = [1, 2]\nstates = 2\nactions = 2\ncount = 3\n'
        '[solver]\nmethod = "best_responses"\n'
    )
    assert run("search", "spec.toml", "--out", "file")[0] == 0
    assert json.loads(Path("file/manifest.json").read_text())["title"].startswith("Mine: Selection, rational user")
    assert run(*COMMAND, "--out", "options")[0] == 0
    tables = [pd.read_parquet(f"{name}/games.parquet").drop(columns="seconds") for name in ("file", "options")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    changed = ("search", "spec.toml", "--set", "user.precision=20", "--set", "games.agents=1", "--out", "changed")
    code, out, _ = run(*changed)
    assert "quantal user (precision 20)" in out
    rows = pd.read_parquet("changed/games.parquet")
    assert set(rows["agents"]) == {1}
    manifest = json.loads(Path("changed/manifest.json").read_text())
    assert manifest["config"]["user.precision"] == 20
    assert code == int((~rows["ok"]).any())
    assert refused(run("search", "spec.toml", "--out", "changed"), 'user.precision is 20.0 there and "inf" now')


def test_a_file_is_refused_by_its_name_and_options_by_their_keys(run):
    Path("spec.toml").write_text("[games]\nagents = 2\n[user]\nprecision = [5, 6]\n")
    assert refused(run("search", "spec.toml"), "spec.toml: user.precision: expected one value", "emalign sweep")
    assert refused(run("search", "spec.toml", "--set", "user.precision=0"), "user.precision: expected a number > 0")
    Path("spec.toml").write_text("[games]\nagents = 0\n")
    assert refused(run("search", "spec.toml"), "spec.toml: games.agents: expected >= 1, got 0")
    Path("spec.toml").write_text("[games]\nfile = 'g.npz'\ncount = 3\n")
    assert refused(run("search", "spec.toml"), "games.count: belongs to random games")
    Path("spec.toml").write_text("[games\n")
    assert refused(run("search", "spec.toml"), "spec.toml: not TOML")
    assert [path.name for path in Path().iterdir()] == ["spec.toml"]


@pytest.mark.slow
def test_the_games_of_a_file_may_be_named_in_a_specification(run):
    em.save_games("g.npz", em.catalog.judge())
    Path("spec.toml").write_text('[games]\nfile = "g.npz"\n')
    assert run("search", "spec.toml", "--out", "file")[0] == 0
    assert run("search", "--games", "g.npz", "--out", "option")[0] == 0
    assert same(Path("file/games.npz"), Path("option/games.npz"))
    assert Path("file/schemes.npz").read_bytes() == Path("option/schemes.npz").read_bytes()


@pytest.mark.slow
def test_a_run_that_is_done_needs_neither_room_nor_workers(run, monkeypatch):
    @contextlib.contextmanager
    def entered(address):
        raise AssertionError
        yield

    assert run(*COMMAND, "--out", "run")[0] == 0
    monkeypatch.setattr(run_store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    monkeypatch.setattr(executors, "Cluster", entered)
    assert run(*COMMAND, "--out", "run", "--cluster", "tcp://127.0.0.1:1")[0] == 0
    assert refused(run(*COMMAND, "--out", "other"), "games.count: the run would take")
