"""Bad files and bad options of search and certify are told in one line, and nothing is begun."""

from pathlib import Path

import numpy as np
import pytest
from support.commands import refused
from support.games import fields_of

import emalign_jax as em

SMALL = ["--count", "4", "--agents", "2", "--family", "noise"]

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]


def bad_file(kind):
    judge = dict(zip(("prior", "user_utility", "agent_utilities"), fields_of(em.catalog.judge()), strict=True))
    if kind == "negative":
        judge["prior"] = np.array([[[1.2, 0], [0, -0.2]]])
    elif kind == "sum":
        judge["prior"] = judge["prior"] * 1.1
    elif kind == "nan":
        judge["user_utility"] = np.full((2, 2), np.nan)
    elif kind == "rank":
        judge["prior"] = judge["prior"][0]
    elif kind == "axes":
        judge["user_utility"] = np.zeros((2, 3))
    elif kind == "no agents":
        judge["agent_utilities"] = np.zeros((0, 2, 2))
    elif kind == "field":
        del judge["prior"]
    elif kind == "objects":
        judge["prior"] = np.array([{"a": 1}, None], dtype=object)
    np.savez("bad.npz", **judge)
    if kind == "truncated":
        whole = Path("bad.npz").read_bytes()
        Path("bad.npz").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("negative", ["prior[0, 1, 1]", "negative"]),
        ("sum", ["prior", "sum to 1"]),
        ("nan", ["user_utility[0, 0]", "finite"]),
        ("rank", ["prior", "[..., XA, XB, Y]"]),
        ("axes", ["user_utility", "Y"]),
        ("no agents", ["agent_utilities", "at least one agent"]),
        ("field", ["prior", "not in the file"]),
        ("objects", ["prior", "pickled"]),
        ("truncated", ["truncated"]),
    ],
)
def test_bad_games_are_one_line(run, kind, words, tmp_path):
    bad_file(kind)
    assert refused(run("search", "--games", "bad.npz"), "bad.npz", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"], "no run directory was begun"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "--games", "nowhere.npz"], ["nowhere.npz", "no such file"]),
        (["search", "--family", "hul"], ["games.family: expected one of hull", "'hul'; did you mean 'hull'?"]),
        (["search", "--family", "hull,nose"], ["games.family: ", "did you mean 'noise'?"]),
        (["search", "--agents", "0"], ["games.agents: expected >= 1, got 0"]),
        (["search", "--agents", "two"], ["games.agents: expected an integer, got 'two'"]),
        (["search", "--agents", "2,2"], ["games.agents: expected distinct values"]),
        (["search", "--count", "0"], ["games.count: expected >= 1, got 0"]),
        (["search", "--count", "many"], ["--count"]),
        (["search", *SMALL, "--messages", "0"], ["protocol.messages: expected >= 1, got 0"]),
        (["search", *SMALL, "--starts", "0"], ["solver.starts: expected >= 1, got 0"]),
        (["search", *SMALL, "--seed", "-1"], ["seed: expected >= 0, got -1"]),
        (["search", *SMALL, "--set", "solver.steps=0"], ["solver.steps: expected >= 1, got 0"]),
        (["search", *SMALL, "--set", "solver.steps=1.5"], ["solver.steps: expected an integer, got 1.5"]),
        (["search", *SMALL, "--set", "measure.eps=1"], ["measure.eps: expected true or false, got 1"]),
        (["search", "--precision", "0"], ["user.precision: expected a number > 0 or inf, got 0"]),
        (["search", "--precision", "-1"], ["user.precision", "> 0"]),
        (["search", "--precision", "nan"], ["user.precision: expected a number, got nan"]),
        (["search", "--precision", "high"], ["user.precision: expected a number, got 'high'"]),
        (["search", "--set", "protocol.temperature=-1", "--precision", "5"], ["protocol.temperature", ">= 0"]),
        (["search", "--protocol", "pooled", "--set", "protocol.temperature=1"], ["protocol.temperature: belongs to"]),
        (["search", "--protocol", "mail"], ["protocol.kind: expected one of", "pooled", "'mail'"]),
        (["search", *SMALL, "--set", "solver.start=anywhere"], ["solver.start", "monopolist"]),
        (["search", *SMALL, "--set", "games.noise=-1"], ["games.noise", ">= 0"]),
        (["search", *SMALL, "--set", "solver.extrapolation=far"], ["solver.extrapolation", "optimistic"]),
        (["search", *SMALL, "--set", "solver.tolerance=0"], ["solver.tolerance"]),
        (["search", "--no-verify", "--set", "solver.method=best_responses"], ["measure.verify", "exact checks"]),
        (
            ["search", *SMALL, "--set", "solver.zzz=1"],
            ["solver.zzz: no such key; expected solver.method, solver.start"],
        ),
        (["search", *SMALL, "--set", "user.precison=5"], ["user.precison: no such key; did you mean user.precision?"]),
        (["search", *SMALL, "--set", "count=5"], ["count: no such key; did you mean games.count?"]),
        (["search", "--count", "3", "--set", "games.count=4"], ["'games.count': means the same as --count"]),
        (["search", "--set", "games.count=3", "--set", "games.count=4"], ["'games.count': given twice"]),
        (["search", *SMALL, "--set", "user.precision=[5, 6]"], ["user.precision: expected one value", "emalign sweep"]),
        (["search", *SMALL, "--set", "games.digest=abc"], ["games.digest: is computed; leave it out"]),
        (["search", "--no-verify", "--set", "measure.verify=true"], ["measure.verify", "same as --verify"]),
        (["search", "--games", "5"], ["5: no such file"]),
        (["search", "--user", "5"], ["user.kind: expected one of quantal", "got '5'"]),
        (["search", "--set", "block=1", "--count", "1000000000"], ["block: ", "blocks of 1 games would take about"]),
        (
            ["search", *SMALL, "--protocol", "conversation", "--replies", "2147483647"],
            ["protocol.rounds, protocol.messages, protocol.replies: 2 rounds"],
        ),
        (["certify", "nowhere.npz", "s.npz", "--tolerance", "2"], ["solver.tolerance: expected a number between"]),
        (["certify", "nowhere.npz", "s.npz", "--set", "protocol.messages=2"], ["protocol.messages: certify takes"]),
        (["search", *SMALL, "--workers", "2", "--cluster", "x:1"], ["--workers, --cluster: ", "give one of the two"]),
        (["search", *SMALL, "--workers", "0"], ["--workers"]),
        (["search", *SMALL, "--workers", "99999999"], ["--workers: expected at least 1 and at most"]),
        (["search", "nowhere.toml"], ["nowhere.toml: no such file"]),
        (["search", *SMALL, "--out", "file/run"], ["file/run", "cannot be written"]),
        (["search", *SMALL, "--out", "file"], ["file", "expected a directory"]),
        (["search", *SMALL, "--set", "games.user_features=8"], ["columns", "4096"]),
        (["search", "--nonsense"], ["--nonsense"]),
        (["certify", "nowhere.npz", "s.npz"], ["nowhere.npz"]),
        (["frobnicate"], ["frobnicate"]),
    ],
)
def test_bad_options_are_one_line(run, arguments, words, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert refused(run(*arguments), *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("schemes", "words"),
    [
        (np.full((2, 2, 2), 0.5), ["schemes", "K = 1"]),
        (np.full((1, 2, 2), 0.6), ["schemes", "sum to 1"]),
        (np.array([[[1.5, -0.5], [0, 1]]]), ["schemes", "negative"]),
        (np.full((3, 5, 1, 2, 0), 0.5), ["schemes", "M >= 1"]),
        (np.ones(3), ["schemes", "[..., K, XB, M]"]),
    ],
)
def test_bad_schemes_are_one_line(run, schemes, words):
    em.save_games("g.npz", em.catalog.judge())
    np.savez("s.npz", schemes=schemes)
    assert refused(run("certify", "g.npz", "s.npz"), "s.npz", *words)


def test_a_directory_is_no_file_of_games(run):
    Path("run").mkdir()
    assert refused(run("certify", "run"), "run: is a directory; expected an .npz file of games")
    em.save_games("run/games.npz", em.catalog.judge())
    assert refused(run("stability", "run"), "run: is a directory; it holds a run: give run/games.npz")
    em.save_schemes("run/schemes.npz", em.full_revelation(1, 2, 2))
    assert refused(run("certify", "run"), "run: is a directory; it holds a run: give run/games.npz run/schemes.npz")
