"""`emalign report`: one page that needs nothing else."""

import base64
import contextlib
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from emalign_jax.cli import main
from emalign_jax.report.page import contents, render

pytestmark = pytest.mark.host_only

QUICK = ("--set", "solver.method=best_responses")  # nothing to compile


def run_inside(arguments, where):
    """(exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(where), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stop:
            return stop.code, out.getvalue(), err.getvalue()
    raise AssertionError("main returned")


class Page(HTMLParser):
    """What a browser would fetch, the cells of all tables, and whether tags are closed in order."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.fetched, self.cells, self.images, self.open, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        assert tag not in ("link", "iframe", "base", "object")
        assert tag != "script" or {"type"} <= attrs.keys() <= {"type", "id"}
        for name in ("src", "href", "data", "action", "srcset"):
            if name in attrs and attrs[name] != "#main":  # on the page itself
                self.fetched.append(attrs[name])
        if tag == "img":
            self.images.append(attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A search, a sweep and a hull experiment."""
    here = tmp_path_factory.mktemp("runs")
    code, _, err = run_inside(
        ["search", "--count", "3", "--agents", "1,2", "--family", "hull,noise", "--out", "search", *QUICK], here
    )
    assert code == 0, err
    (here / "grid.toml").write_text(
        'title = "A <b>grid</b> & more"\n[games]\nfamily = "noise"\nnoise = [1.0, 2.5]\nagents = [1, 2]\ncount = 2\n'
        '[user]\nprecision = inf\n[solver]\nmethod = "best_responses"\n'
    )
    code, _, err = run_inside(["sweep", "grid.toml", "--out", "sweep"], here)
    assert code == 0, err
    rng = np.random.default_rng(0)
    ratings = pd.DataFrame(rng.normal(size=(20, 6)), columns=[f"p{i}" for i in range(6)])
    ratings.insert(0, "item", range(20))
    ratings.to_csv(here / "wide.csv", index=False)
    code, _, err = run_inside(["align", "wide.csv", "--id", "item", "--out", "align", "--subsets", "3"], here)
    assert code == 0, err
    return here


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["search", "sweep", "align"])
def test_a_page_needs_nothing_else(runs, kind, tmp_path):
    out = tmp_path / "page.html"
    code, text, err = run_inside(["report", str(runs / kind), "--out", str(out)], tmp_path)
    assert (code, err) == (0, "")
    assert str(out) in text
    seen = Page(out.read_text("utf-8"))
    assert seen.fetched
    assert all(
        address.startswith(("data:image/png;base64,", "data:application/pdf;base64,")) for address in seen.fetched
    )
    images = [base64.b64decode(address.split(",", 1)[1]) for address in seen.fetched]
    assert any(image.startswith(b"\x89PNG") for image in images)
    assert any(image.startswith(b"%PDF") for image in images)
    assert all(image["alt"] for image in seen.images)
    everything = "".join(seen.text)
    manifest = json.loads((runs / kind / "manifest.json").read_text())
    assert " ".join(manifest["command"][:2]) in everything
    assert manifest["versions"]["jax"] in everything
    assert '"command"' in everything  # the manifest itself


def test_numbers_are_those_of_the_table(runs):
    found = contents.read(runs / "search")
    rows = pd.read_parquet(runs / "search" / "games.parquet")
    table = found.tables[0]
    at = {name: i for i, name in enumerate(table.heads)}
    for row in table.rows:
        group = rows.query(f"family == '{row[at['family']]}' and agents == {row[at['K']]}")
        assert row[at["games"]] == str(len(group))
        assert float(row[at["median"]]) == pytest.approx(group["normalised_value"].median(), abs=6e-4)
    assert found.failed == (~rows["ok"]).sum()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_runs_without_png_have_their_figure(kind, tmp_path):
    """A browser draws SVG as a picture; of a PDF alone there is a link, and how to have the picture."""
    drawn = ["search", "--count", "2", "--agents", "1,2", "--family", "hull", "--out", "run", "--format", kind]
    assert run_inside([*drawn, *QUICK], tmp_path)[0] == 0
    page = Page(render.render(contents.read(tmp_path / "run")))
    data = base64.b64encode((tmp_path / "run" / f"user_value.{kind}").read_bytes()).decode("ascii")
    if kind == "svg":
        assert [image["src"] for image in page.images] == [f"data:image/svg+xml;base64,{data}"]
    else:
        assert page.images == []
        assert f"data:application/pdf;base64,{data}" in page.fetched
        assert "--format png,pdf" in "".join(page.text)


def test_titles_are_text_not_markup(runs):
    text = render.render(contents.read(runs / "sweep"))
    assert "A &lt;b&gt;grid&lt;/b&gt; &amp; more" in text
    assert "<b>grid" not in text


def test_a_sweep_and_a_hull_say_what_they_found(runs, tmp_path):
    shutil.copytree(runs / "sweep", tmp_path / "run")
    rows = pd.read_parquet(tmp_path / "run" / "games.parquet")
    rows["ok"] = rows.index != 7
    rows.to_parquet(tmp_path / "run" / "games.parquet")
    found = contents.read(tmp_path / "run")
    assert [figure.name for figure in found.figures] == ["user_value", "phase"], "the main one first"
    cells, stops, failed = found.tables
    assert stops.rows == [["noise", "2", threshold_of(rows)]]
    assert (failed.heads[:3], failed.rows[0][:3]) == (["family", "K", "noise"], ["noise", "2", "2.500"])
    assert {row[cells.heads.index("noise")] for row in cells.rows} == {"1", "2.5"}
    found = contents.read(runs / "align")
    assert "simplex weights" in found.notes[0]
    assert "no agent (its error less theirs" in found.notes[0]
    with_all, without_one = found.tables[-1].rows[:2]
    left = pd.read_csv(runs / "align" / "leave_out.csv")
    tolerance = json.loads((runs / "align" / "manifest.json").read_text())["coverage"]["tolerance"]
    assert with_all[1] == f"{(left['error'] <= tolerance * left['no_agent']).mean():.1%}"
    assert without_one[1] == f"{(left['without_one'] <= tolerance * left['no_agent']).mean():.1%}"


def threshold_of(rows):
    """By hand: with two values of the knob, and as many games at each."""
    shares = []
    for _, part in rows.query("agents == 2").groupby("games.noise"):
        worst, alone = part["normalised_worst_equilibrium"].mean(), part["normalised_best_monopolist"].mean()
        shares.append((worst - alone) / (1 - alone) if 1 - alone > 1e-9 else 1.0)
    assert min(shares) >= 0.5, "the case at hand"
    return "> 2.5"


def test_games_that_failed_are_listed(runs, tmp_path):
    shutil.copytree(runs / "search", tmp_path / "run")
    rows = pd.read_parquet(tmp_path / "run" / "games.parquet")
    rows.loc[1, ["ok", "message"]] = False, "A sentence that says why."
    rows.to_parquet(tmp_path / "run" / "games.parquet")
    seen = Page(render.render(contents.read(tmp_path / "run")))
    assert "A sentence that says why." in seen.cells
    assert "1 not within the tolerance or not solved" in "".join(seen.text)


def test_nothing_is_overwritten(runs, tmp_path):
    shutil.copytree(runs / "search", tmp_path / "run")
    for arguments, expected in (
        (["report", "run"], 0),
        (["report", "run"], 2),
        (["report", "run", "--force", "--json"], 0),
    ):
        code, out, err = run_inside(arguments, tmp_path)
        assert code == expected, err
    assert json.loads(out)["summary"]["kind"] == "search"


def damaged(make):
    def build(run, tmp_path):
        shutil.copytree(run / "search", tmp_path / "run")
        make(tmp_path / "run")

    return build


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda run, tmp: None, r"run: no such directory"),
        (lambda run, tmp: (tmp / "run").write_text("x"), r"run: expected the directory of a run or sweep, got a file"),
        (lambda run, tmp: (tmp / "run").mkdir(), r"manifest\.json: not there; expected a directory written by emalign"),
        (damaged(lambda run: (run / "manifest.json").write_text("{")), r"manifest\.json: not JSON"),
        (
            damaged(lambda run: (run / "manifest.json").write_text("[]")),
            r"manifest\.json: kind, command, config, versions, schema, status, files: not in the file",
        ),
        (damaged(lambda run: (run / "games.parquet").write_bytes(b"x")), r"games\.parquet: cannot be read as parquet"),
        (damaged(lambda run: (run / "games.parquet").unlink()), r"games\.parquet: not there, the search has not ended"),
    ],
)
def test_bad_directories(runs, build, message, tmp_path):
    build(runs, tmp_path)
    code, out, err = run_inside(["report", "run"], tmp_path)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert re.search(message, err)
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_tolerance_that_is_not_stated(runs, tmp_path):
    def forget(run):
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["config"]["solver.tolerance"] = None
        (run / "manifest.json").write_text(json.dumps(manifest))

    damaged(forget)(runs, tmp_path)
    code, _, err = run_inside(["report", "run"], tmp_path)
    assert (code in (0, 1), err) == (True, "")
    assert "gain ≤ the tolerance" in (tmp_path / "run" / "report.html").read_text("utf-8")
