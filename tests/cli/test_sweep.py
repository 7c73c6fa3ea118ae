"""`emalign sweep` from the command line: files, resuming, refusals, JSON, exit codes."""

import html
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from support.commands import ONE_THREAD, refused

from emalign_jax.experiments.grid import block

pytestmark = pytest.mark.host_only

GRID = """
title = "Small"
block = 2
[games]
family = ["hull", "shared_bias"]
agents = [1, 2]
states = 2
actions = 2
count = 3
[solver]
method = "best_responses"
"""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text(GRID)


def table(path):
    return pd.read_parquet(path / "games.parquet").drop(columns="seconds")


@pytest.mark.slow
def test_a_sweep_from_config_to_figure_and_once_more(run, tmp_path, monkeypatch):
    code, out, err = run("sweep", "grid.toml", "--out", "here")
    assert (code, err) == (0, "")
    here = tmp_path / "here"
    names = {path.name for path in here.iterdir()}
    assert names == {"games.parquet", "manifest.json", "user_value.pdf", "user_value.png"}
    assert (here / "user_value.png").read_bytes().startswith(b"\x89PNG")
    assert (here / "user_value.pdf").read_bytes().startswith(b"%PDF")
    manifest = json.loads((here / "manifest.json").read_text())
    assert {"command", "config", "seed", "versions", "device", "schema"} <= set(manifest)
    assert (manifest["status"], manifest["cells"], manifest["rows"]) == ("done", 4, 12)
    assert manifest["config"]["games.agents"] == [1, 2]
    assert manifest["config"]["user.precision"] == "inf"
    assert "here/games.parquet" in out
    assert len({len(line) for line in out.splitlines() if "%" in line}) == 1 or "10 %" in out
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in here.iterdir()}
    monkeypatch.setattr(block, "search", lambda *_: pytest.fail("searched again"))
    code, again, _ = run("sweep", "grid.toml", "--out", "here")
    assert (code, again) == (0, re.sub(r" \(.*\)\. Table", ". Table", out)), "but for what took the time"
    code, out, _ = run("sweep", "grid.toml", "--out", "here", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == 1
    assert [cell["games.agents"] for cell in document["cells"]] == [1, 2, 1, 2]
    assert document["summary"]["failed"] == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in here.iterdir()} == before


@pytest.mark.slow
def test_a_changed_config_is_refused_key_by_key_and_force_starts_anew(run, tmp_path):
    assert run("sweep", "grid.toml", "--out", "here")[0] == 0
    changed = GRID.replace("count = 3", "count = 2").replace('title = "Small"', 'title = "Other"')
    Path("grid.toml").write_text(changed.replace("agents = [1, 2]", "agents = 2") + "[user]\nprecision = 5\n")
    answer = run("sweep", "grid.toml", "--out", "here")
    assert refused(
        answer, "games.count is 3 there and 2 now", "games.agents is [1, 2] there and 2 now",
        'user.precision is "inf" there and 5.0 now', "--force",
    )  # fmt: skip
    assert "title" not in answer[2]
    Path("grid.toml").write_text(changed)
    assert run("sweep", "grid.toml", "--out", "here", "--force")[0] == 0
    assert len(table(tmp_path / "here")) == 8


@pytest.mark.slow
def test_a_tolerance_that_is_said_is_the_default_or_another(run):
    """What was begun with the default goes on with its number, and not with any other."""
    for text, number, other in ((GRID + "[user]\nprecision = 5\n", 1e-3, 1e-5), (GRID, 1e-5, 1e-3)):
        Path("grid.toml").write_text(text)
        out = f"of-{number}"
        assert run("sweep", "grid.toml", "--out", out)[0] == 0
        manifest = json.loads((Path(out) / "manifest.json").read_text())
        assert manifest["tolerances"] == [manifest["config"]["solver.tolerance"]] == [number]
        code, said, _ = run("sweep", "grid.toml", "--out", out, "--set", f"solver.tolerance={number}", "--json")
        assert code == 0
        assert [cell["tolerance"] for cell in json.loads(said)["cells"]] == [number] * 4
        words = f"solver.tolerance is {number} there and {other} now"
        assert refused(run("sweep", "grid.toml", "--out", out, "--set", f"solver.tolerance={other}"), words)


@pytest.mark.slow
def test_values_below_the_worst_exact_equilibrium_are_told(run):
    """Opposed agents: only full information is an equilibrium, and outbidding within .9 of the ranges stops before."""
    loose = '[games]\nfamily = "opposed"\nagents = 2\ncount = 8\n[solver]\nmethod = "best_responses"\ntolerance = 0.9\n'
    Path("grid.toml").write_text(loose)
    code, out, _ = run("sweep", "grid.toml", "--out", "here")
    assert code == 0
    rows = table(Path("here"))
    short = (rows["normalised_worst_equilibrium"] - rows["normalised_value"]).max()
    assert short > 1e-3
    said = f"worst exact equilibrium (by at most {short:.2g} of V_full - V_none)"
    assert said in out
    assert run("report", "here")[0] == 0
    assert said in html.unescape(Path("here/report.html").read_text())


@pytest.mark.slow
def test_other_versions_are_a_difference(run):
    assert run("sweep", "grid.toml", "--out", "here")[0] == 0
    manifest = json.loads(Path("here/manifest.json").read_text())
    manifest["versions"]["highspy"] = "0.0.1"
    Path("here/manifest.json").write_text(json.dumps(manifest))
    assert refused(run("sweep", "grid.toml", "--out", "here"), 'version of highspy is "0.0.1" there')


@pytest.mark.slow
def test_count_makes_any_config_small(run, tmp_path):
    assert run("sweep", "grid.toml", "--count", "1")[0] == 0
    assert len(table(tmp_path / "sweep-grid")) == 4
    assert refused(run("sweep", "grid.toml"), "games.count is 1 there and 3 now")


def test_shipped_configs_are_listed_and_found_by_name(run):
    code, out, _ = run("sweep", "--list")
    assert code == 0
    assert {"competition", "bias", "talk"} <= {line.split()[0] for line in out.splitlines()}
    assert refused(run("sweep"), "competition", "SPEC.toml")
    assert refused(run("sweep", "competitoin"), "did you mean competition?")
    assert refused(run("sweep", "nothing.toml"), "nothing.toml: no such file", "competition")


def test_bad_configs_end_in_one_line(run):
    for text, words in (
        ("[games]\nfamly = 1", ("grid.toml: games.famly", "games.family")),
        ("[games", ("grid.toml: not TOML", "line 1")),
        ("[protocol]\nkind = 'pooled'\ntemperature = 1", ("grid.toml: protocol.temperature",)),
    ):
        Path("grid.toml").write_text(text)
        assert refused(run("sweep", "grid.toml", "--out", "here"), *words)
    Path("grid.toml").write_bytes(b"title = '\xff'")
    assert refused(run("sweep", "grid.toml"), "grid.toml", "UTF-8")
    Path("folder").mkdir()
    assert refused(run("sweep", "folder"), "folder", "directory")
    assert not Path("here").exists()


def test_what_is_not_a_sweep_is_not_touched(run):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    for force in ((), ("--force",)):
        assert refused(run("sweep", "grid.toml", "--out", "mine", *force), "mine", "something else than a run")
    Path("other").mkdir()
    Path("other/manifest.json").write_text('{"schema": 1}')
    assert refused(
        run("sweep", "grid.toml", "--out", "other", "--force"), "other", "not that of a run of emalign sweep"
    )
    Path("file").write_text("")
    assert refused(run("sweep", "grid.toml", "--out", "file"), "file", "directory")
    assert sorted(path.name for path in Path("mine").iterdir()) == ["thesis.txt"]


@pytest.mark.slow
def test_two_processes_on_one_directory_are_refused(run):
    Path("here").mkdir()
    with FileLock("here/.emalign-lock"):
        assert refused(run("sweep", "grid.toml", "--out", "here"), "here", "another emalign sweep is at work here")
    Path("here/.emalign-lock").touch()
    assert run("sweep", "grid.toml", "--out", "here")[0] == 0, "a lock that no process holds is none"


@pytest.mark.slow
def test_games_that_fail_are_listed_and_the_code_is_1(run):
    slow = '[games]\nfamily = "noise"\nagents = 3\ncount = 4\n[solver]\nmethod = "best_responses"\nsteps = 1\n'
    slow += 'start = "random"\ntolerance = 1e-9\n[protocol]\nkind = "pooled"\nmessages = 2\n[user]\nprecision = 50\n'
    Path("grid.toml").write_text(slow.replace("count = 4", "count = 2\nstates = 2\nactions = 2"))
    code, out, _ = run("sweep", "grid.toml", "--json")
    assert code == 1
    assert "Not within 1e-09 of the payoff range:" in run("sweep", "grid.toml")[1]
    document = json.loads(out)
    assert document["summary"]["failed"] > 0
    assert document["cells"][0]["worst"] is None, "not finite is null"


@pytest.mark.slow
def test_interrupted_it_says_how_to_go_on():
    command = [sys.executable, "-m", "emalign_jax", "sweep", "competition", "--count", "60", "--out", "here"]
    with subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.PIPE, text=True) as process:
        limit = time.monotonic() + 300  # of a busy machine
        while not list(Path().glob("here/parts/[!.]*")) and time.monotonic() < limit:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    done = sum(len(pd.read_parquet(path)) for path in Path("here/parts").glob("[!.]*"))
    assert 0 < done < 1800
    words = (
        r"emalign: interrupted; (\d+) of 1800 games are done and kept in here; the same command goes on from there\n"
    )
    said = re.fullmatch(words, err)
    assert int(said[1]) in (done - 60, done), "a part may have come between"
    assert {path.name for path in Path("here").iterdir()} == {"manifest.json", "parts"}
