"""The commands from the command line: output, exit codes, files, bad input."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from support.commands import ENVIRONMENT, refused
from support.games import fields_of

import emalign_jax as em
from emalign_jax.experiments.grid import block, merge, table
from emalign_jax.experiments.specification import fields
from emalign_jax.users.rational import TIES

SMALL = ["--count", "4", "--agents", "2", "--family", "noise"]

pytestmark = pytest.mark.usefixtures("empty_directory")


@pytest.mark.slow
def test_search_writes_a_whole_run(run, tmp_path):
    code, out, _ = run("search", *SMALL, "--agents", "1,3", "--out", "here")
    assert code == 0
    assert "100.0%" in out
    assert "here/user_value.png" in out
    here = tmp_path / "here"
    assert sorted(path.name for path in here.iterdir()) == [
        "games.npz", "games.parquet", "manifest.json", "schemes.npz", "user_value.pdf", "user_value.png",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["here"]  # no temporary left
    manifest = json.loads((here / "manifest.json").read_text())
    assert {"command", "config", "seed", "versions", "device", "schema"} <= set(manifest)
    rows = pd.read_parquet(here / "games.parquet")
    assert list(rows["agents"]) == [1] * 4 + [3] * 4
    assert (here / "user_value.png").read_bytes().startswith(b"\x89PNG")
    for agents in (1, 3):
        games, schemes = (
            em.load_games(here / "games.npz", agents=agents),
            em.load_schemes(here / "schemes.npz", agents=agents),
        )
        again = em.certify(games, schemes, em.Selection(), em.RationalUser())
        part = rows[rows["agents"] == agents]
        np.testing.assert_allclose(again.user, part["user_value"], atol=1e-12)  # stored in float64, nothing rounded
        np.testing.assert_allclose(again.relative_gain.max(-1), part["relative_gain"], atol=1e-9)
    table = [line for line in out.splitlines() if line.startswith(("noise", " ")) and "%" in line]
    assert len({len(line) for line in table}) == 1, "the columns line up"


@pytest.mark.slow
def test_json_is_one_document(run):
    code, out, err = run("search", *SMALL, "--starts", "2", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["schema"] == 1
    assert len(document["games"]) == 8
    keys = {
        "user",
        "agents",
        "no_information",
        "full_information",
        "gain_lower",
        "gain_upper",
        "closed",
        "guarantee",
        "result",
    }
    for entry in document["games"]:
        assert keys <= set(entry)
        assert len(entry["agents"]) == len(entry["gain_lower"]) == len(entry["gain_upper"]) == 2
        assert entry["guarantee"] <= entry["user"] + 1e-6
    starts = [(entry["game"], entry["start"]) for entry in document["games"]]
    assert starts == [(n, s) for n in range(4) for s in range(2)]
    code, out, _ = run("certify", "search-1/games.npz", "search-1/schemes.npz", "--json")
    certified = json.loads(out)
    assert code == 0
    by_start = np.array([entry["user"] for entry in document["games"]]).reshape(4, 2).T.ravel()
    np.testing.assert_allclose([entry["user"] for entry in certified["games"]], by_start, atol=1e-12)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(run, tmp_path):
    for name in ("one", "two"):
        assert run("search", *SMALL, "--seed", "7", "--out", name)[0] == 0
    one, two = (em.load_schemes(tmp_path / name / "schemes.npz") for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    assert run("search", *SMALL, "--seed", "8", "--out", "three")[0] == 0
    assert not np.array_equal(em.load_games("one/games.npz").prior, em.load_games("three/games.npz").prior)


@pytest.mark.slow
def test_pooled_quantal(run):
    code, out, _ = run(
        "search", *SMALL, "--states", "3", "--messages", "4", "--protocol", "pooled", "--precision", "20", "--out", "p"
    )
    assert code == 0
    assert "Pooled, quantal user (precision 20)" in out
    code, out, _ = run("certify", "p/games.npz", "p/schemes.npz", "--protocol", "pooled", "--precision", "20")
    assert code == 0
    assert "4 of 4 certified" in out
    assert "unrefuted" not in out


@pytest.mark.slow
def test_given_games_with_one_that_is_malformed(run, tmp_path):
    games = em.Game(*(np.repeat(x[None], 5, 0) for x in fields_of(em.catalog.two_prosecutors())))
    prior = games.prior.copy()
    prior[2, 0, 0, 0] = np.nan
    em.save_games("g.npz", em.Game(prior, games.user_utility, games.agent_utilities, check="shapes"))
    code, out, _ = run("search", "--games", "g.npz", "--json")
    document = json.loads(out)  # NaN would not be JSON
    assert code == 1
    assert [entry["code"] for entry in document["games"]].count("MALFORMED") == 1
    assert document["games"][2]["user"] is None
    assert document["games"][0]["user"] == pytest.approx(0.7, abs=1e-6)
    assert document["summary"]["failed"] == 1
    code, out, _ = run("search", "--games", "g.npz")
    assert code == 1
    assert "file K=2 game 2 start 0: The game or its schemes are malformed" in out


def test_a_profile_that_is_no_equilibrium_is_said_to_be_none(run):
    em.save_games("g.npz", em.catalog.judge())
    em.save_schemes("s.npz", em.full_revelation(1, 2, 2))
    code, out, _ = run("certify", "g.npz", "s.npz")
    assert code == 1
    assert "0 of 1 certified" in out
    assert "0.500000" in out  # the agent gains .3 of a range of .6
    code, out, _ = run("certify", "g.npz", "s.npz", "--json")
    entry = json.loads(out)["games"][0]
    assert entry["gain_lower"] == pytest.approx([0.3], abs=1e-8)
    assert entry["full_information"] == pytest.approx(1)
    assert entry["no_information"] == pytest.approx(0.7)


@pytest.mark.slow
def test_the_tolerance_is_that_of_the_protocol_and_user_unless_it_is_given(run):
    quick = ("search", *SMALL, "--states", "3", "--set", "solver.method=best_responses", "--json")
    pooled = ("--protocol", "pooled", "--precision", "20", "--messages", "2", "--agents", "1")
    for number, (options, expected) in enumerate(
        (
            ((), 1e-5),
            (pooled, 1e-3),
            ((*pooled, "--set", "solver.tolerance=0.25"), 0.25),
        ),
        1,
    ):
        code, out, err = run(*quick, *options)
        assert code in (0, 1)  # whether each game settles is not asked here
        assert err == ""
        assert json.loads(out)["summary"]["tolerance"] == expected
        manifest = json.loads(Path(f"search-{number}/manifest.json").read_text())
        assert manifest["config"]["solver.tolerance"] == expected
    assert "gain <= 1e-05" in run(*quick[:-1])[1]
    slow = (
        "--set",
        "solver.tolerance=1e-12",
        "--count",
        "3",
        "--set",
        "solver.steps=1",
        "--agents",
        "3",
        "--starts",
        "9",
    )
    _, out, _ = run(*quick[:-1], *slow)
    assert "Not within 1e-12 of the payoff range:" in out


def test_certify_takes_the_same_default(run):
    em.save_games("g.npz", em.catalog.judge())
    rate = 3 / 7 - 1e-4  # of conviction if innocent; the prosecutor's best, 3/7, is worth .7e-4 more of a range of .6
    em.save_schemes("s.npz", np.array([[[1 - rate, rate], [0, 1]]]))
    code, out, _ = run("certify", "g.npz", "s.npz")
    assert code == 1
    assert "0 of 1 certified within 1e-05" in out
    assert run("certify", "g.npz", "s.npz", "--tolerance", "1e-3")[0] == 0
    code, out, _ = run("certify", "g.npz", "s.npz", "--json")
    assert json.loads(out)["summary"]["tolerance"] == 1e-5
    code, out, _ = run("certify", "g.npz", "s.npz", "--protocol", "pooled", "--precision", "1e3", "--json")
    assert json.loads(out)["summary"]["tolerance"] == 1e-3


def test_the_command_line_knows_every_tie_rule(run):
    assert get_args(fields()["user.ties"].annotation) == TIES
    em.save_games("g.npz", em.Game([[[1.0]]], [[1.0], [1.0], [0.0]], [[[0.0], [0.5], [1.0]]]))  # actions 0 and 1 tie
    em.save_schemes("s.npz", np.ones((1, 1, 1)))
    paid = {"agents": 0.5, "lowest": 0.0, "highest": 0.5, "uniform": 0.25}
    for rule in TIES:
        code, out, _ = run("certify", "g.npz", "s.npz", "--set", f"user.ties={rule}", "--json")
        assert code == 0
        assert json.loads(out)["games"][0]["agents"] == pytest.approx([paid[rule]])


@pytest.mark.slow
def test_a_value_below_the_worst_exact_equilibrium_is_told(run):
    """Prosecutor against defender: full information, worth 1, is the only equilibrium value; outbidding within nine
    tenths of the payoff ranges ends well below it."""
    em.save_games("g.npz", em.catalog.prosecutor_against_defender())
    loose = ("search", "--games", "g.npz", "--set", "solver.method=best_responses", "--set", "solver.tolerance=0.9")
    code, out, _ = run(*loose, "--out", "here")
    assert code == 0
    row = pd.read_parquet("here/games.parquet").iloc[0]
    assert row["certified"]
    assert row["user_value"] < 0.9
    assert row["worst_equilibrium"] == pytest.approx(1, abs=1e-9)
    assert row["normalised_worst_equilibrium"] == pytest.approx(1, abs=1e-9)
    short = 1 - row["normalised_value"]
    said = "1 certified profile is worth less to the user than the game's worst exact equilibrium (by at most "
    assert f"{said}{short:.2g} of V_full" in out
    document = json.loads(run(*loose, "--json")[1])
    assert document["summary"]["below_worst"] == 1
    assert document["summary"]["most_below_worst"] == pytest.approx(short)
    assert document["games"][0]["worst_equilibrium"] == pytest.approx(1, abs=1e-9)
    out = run("search", "--games", "g.npz", "--set", "solver.method=best_responses")[1]
    assert "worst exact equilibrium" not in out, "within 1e-5 outbidding ends where all is told"


def test_only_certified_values_that_are_below_by_more_than_rounding_count():
    rows = pd.DataFrame(
        {
            "normalised_worst_equilibrium": [0.9, 0.9, 0.9, 0.9, np.nan, 0.9],
            "normalised_value": [0.5, 0.5, 0.9 - 5e-7, 0.95, 0.5, np.nan],
            "certified": [True, False, True, True, True, True],
        }
    )
    np.testing.assert_allclose(table.below_worst(rows), [0.4, 0, 0, 0, 0, 0])


@pytest.mark.slow
def test_the_worst_exact_equilibrium_is_there_where_it_is_known(run):
    quick = ("search", *SMALL[:-2], "--family", "shared_bias", "--states", "3", "--set", "solver.method=best_responses")
    assert run(*quick, "--agents", "1,3", "--starts", "2", "--out", "here")[0] == 0
    rows = pd.read_parquet("here/games.parquet")
    assert rows.query("agents == 1")["worst_equilibrium"].isna().all()
    every = em.stability(em.load_games("here/games.npz", agents=3))
    several = rows.query("agents == 3").sort_values(["start", "game"])
    np.testing.assert_allclose(several["worst_equilibrium"], np.tile(every.worst, 2), atol=1e-9)
    expected = np.tile(every.normalise(every.worst), 2)
    np.testing.assert_allclose(several["normalised_worst_equilibrium"], expected, atol=1e-9)
    without = (
        ("--set", "user.ties=lowest"),
        ("--set", "protocol.compare=1"),
        ("--precision", "9"),
        ("--no-verify",),
        ("--set", "measure.stability=false"),
    )
    for n, options in enumerate(without):
        method = quick[:-2] if "--no-verify" in options else quick
        assert run(*method, *options, "--agents", "2", "--count", "2", "--out", f"other-{n}")[0] == 0
        assert pd.read_parquet(f"other-{n}/games.parquet")["worst_equilibrium"].isna().all()


@pytest.mark.slow
def test_nothing_is_overwritten_without_force(run, tmp_path):
    assert run("search", *SMALL, "--out", "mine")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    assert refused(run("search", *SMALL, "--seed", "5", "--out", "mine"), "mine", "--force")
    assert {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before
    assert run("search", *SMALL, "--seed", "5", "--out", "mine", "--force")[0] == 0
    assert json.loads((tmp_path / "mine" / "manifest.json").read_text())["seed"] == 5
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "monday").write_text("dear diary")
    assert refused(run("search", *SMALL, "--out", "diary", "--force"), "diary", "something else than a run")
    assert (tmp_path / "diary" / "monday").read_text() == "dear diary"


@pytest.mark.slow
def test_a_failure_while_writing_keeps_what_is_done(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    assert run("search", *SMALL, "--out", "mine")[0] == 0
    whole = (tmp_path / "mine/schemes.npz").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(merge, "merge_arrays", full)
        assert refused(run("search", *SMALL, "--out", "mine", "--force"), "No space left")
        assert refused(run("search", *SMALL, "--out", "other"), "No space left")
    for name in ("mine", "other"):
        assert {path.name for path in (tmp_path / name).iterdir()} >= {"manifest.json", "parts"}
        assert not (tmp_path / name / "schemes.npz").exists()
    monkeypatch.setattr(block, "search", lambda *_: pytest.fail("searched again"))
    assert run("search", *SMALL, "--out", "other")[0] == 0
    assert (tmp_path / "other/schemes.npz").read_bytes() == whole
    assert len(list((tmp_path / "other").iterdir())) == 6, "no part, lock or temporary is left"


@pytest.mark.slow
def test_lps_done_again_are_counted(run, tmp_path, monkeypatch):
    def solve(*arguments, **options):
        found = em.solve(*arguments, **options)
        again = np.arange(found.user.size) % 2 == 1
        return found.replace(certificate=found.certificate.replace(fallback=again))

    monkeypatch.setattr(block, "solve", solve)
    quick = ("search", *SMALL, "--set", "solver.method=best_responses")
    assert "2 of 4 done again one by one" in run(*quick, "--out", "here")[1]
    assert pd.read_parquet(tmp_path / "here" / "games.parquet")["fallback"].tolist() == [False, True] * 2
    assert json.loads(run(*quick, "--json")[1])["summary"]["lp_fallbacks"] == 2


def test_help_shows_examples(run):
    for command in ("search", "certify"):
        code, out, err = run(command, "--help")
        assert (code, err) == (0, "")
        assert "Examples:" in out
        assert f"emalign {command}" in out
    assert "search" in run("--help")[1]
    assert run("--version")[1].strip() == em.__version__


@pytest.mark.slow
def test_control_c_in_mid_search(tmp_path):
    """Before a block is done nothing is left, and afterwards what is done."""
    kept = r"\d+ of 3000 games are done and kept in long; the same command goes on from there"
    for size, words in (("5000", "nothing half-written is left"), ("1", kept)):
        more = ("--count", "3000", "--family", "hull", "--agents", "2", "--out", "long", "--set", f"block={size}")
        with subprocess.Popen(
            [sys.executable, "-m", "emalign_jax", "search", *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, cwd=tmp_path, env=ENVIRONMENT,
        ) as process:  # fmt: skip
            try:
                there = "long/parts/*.parquet" if size == "1" else "long/manifest.json"
                while process.poll() is None and len(list(tmp_path.glob(there))) < (2 if size == "1" else 1):
                    time.sleep(0.05)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=60)
            finally:
                process.kill()
        assert (process.returncode, out) == (130, "")
        assert re.fullmatch(f"emalign: interrupted; {words}\n", err), "and no progress bar off a terminal"
        assert [path.name for path in tmp_path.iterdir()] == ([] if size == "5000" else ["long"])
    assert {path.name for path in (tmp_path / "long").iterdir()} == {"manifest.json", "parts"}


@pytest.mark.slow
def test_module_and_bad_input_in_a_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "emalign_jax", "certify", "nowhere.npz", "s.npz"],
        capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "emalign: nowhere.npz: no such file\n"
