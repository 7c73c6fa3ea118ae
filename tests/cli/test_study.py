"""`emalign study` from the command line: files, resuming, workers, the report, refusals."""

import html
import json
from pathlib import Path

import pandas as pd
import pytest
from support.commands import refused

from emalign_jax.experiments.grid import block

pytestmark = pytest.mark.host_only

STUDY = """
title = "Small"
[games]
family = "shared_bias"
agents = 2
states = 2
actions = 2
count = 3
[users.rational]
[users.lazy]
protocol.compare = [2, 1]
"""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(STUDY)


def table(path):
    return pd.read_parquet(Path(path) / "games.parquet").drop(columns="seconds")


@pytest.mark.slow
def test_a_study_from_specification_to_report_and_once_more(run, monkeypatch):
    code, out, err = run("study", "mine.toml")
    assert (code, err) == (0, "")
    here = Path("study-mine")
    names = {path.name for path in here.iterdir()}
    assert names == {"games.parquet", "manifest.json", "study.pdf", "study.png"}
    manifest = json.loads((here / "manifest.json").read_text())
    assert (manifest["kind"], manifest["cells"], manifest["rows"]) == ("study", 3, 9)
    assert manifest["config"]["users.lazy"] == {"protocol.compare": [2, 1]}
    assert "shared_bias K=2, lazy, compare:" in out
    assert "less best single" in out
    before = {path: path.read_bytes() for path in here.iterdir()}
    monkeypatch.setattr(block, "search", lambda *_: pytest.fail("searched again"))
    code, out, _ = run("study", "mine.toml", "--json")
    document = json.loads(out)
    assert (code, document["schema"], document["summary"]["failed"]) == (0, 1, 0)
    assert [(cell["users"], cell["strength"]) for cell in document["cells"]] == [
        ("rational", "nan"), ("lazy", 2.0), ("lazy", 1.0)
    ]  # fmt: skip
    assert {path: path.read_bytes() for path in here.iterdir()} == before
    assert run("report", str(here))[0] == 0
    page = html.unescape((here / "report.html").read_text())
    assert "less best single" in page
    assert "Where competition stops helping" in page
    changed = ("--set", "users.lazy.protocol.compare=1")
    assert refused(run("study", "mine.toml", *changed), "users.lazy is", "there and", "--force")


@pytest.mark.slow
def test_a_study_goes_on_where_it_stopped_and_workers_change_nothing(run, monkeypatch):
    search, done = block.search, []

    def interrupted(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(arguments[0])
        return search(*arguments)

    monkeypatch.setattr(block, "search", interrupted)
    code, out, _ = run("study", "mine.toml", "--out", "here")
    assert (code, out) == (130, "")
    assert len(list(Path("here/parts").glob("*.parquet"))) == 2
    monkeypatch.setattr(block, "search", search)
    assert run("study", "mine.toml", "--out", "here", "--workers", "2")[0] == 0
    assert run("study", "mine.toml", "--out", "there")[0] == 0
    pd.testing.assert_frame_equal(table("here"), table("there"), check_exact=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["user"], ["user: no such file", "did you mean users?"]),
        (["mine.toml", "--set", "users.lazy.protocol.compare=[3, 2]"], ["protocol.compare", "K = 2", "users = lazy"]),
        (["mine.toml", "--set", "users.lazy.games.count=2"], ["mine.toml: users.lazy: games.count", "same for all"]),
        (["mine.toml", "--set", "measure.aligned=false"], ["mine.toml: measure.aligned: a study"]),
        (["mine.toml", "--set", "users.lazy=3"], ["users.lazy: expected a section"]),
        (["empty.toml"], ["empty.toml: users: expected a section [users.NAME]"]),
        (["flat.toml"], ["flat.toml: users: expected a section [users]"]),
        (["key.toml"], ["key.toml: users.a: precision: no such key; did you mean user.precision?"]),
    ],
)
def test_bad_input_is_refused_in_one_line(run, arguments, words):
    Path("empty.toml").write_text("[users]\n")
    Path("flat.toml").write_text("users = 3\n")
    Path("key.toml").write_text("[users.a]\nprecision = 3.0\n")
    assert refused(run("study", *arguments), *words)
    assert not list(Path().glob("study-*"))
