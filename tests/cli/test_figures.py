"""--format and --width, of every command that draws."""

import json
import re
from pathlib import Path

import pytest
from support.commands import refused

import emalign_jax as em

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

SMALL = ("--family", "hull", "--count", "2", "--states", "2", "--actions", "2", "--agents", "1,2")
SMALL += ("--set", "solver.method=best_responses", "--out", "run")


@pytest.mark.slow
def test_another_width_draws_a_run_again_and_computes_nothing(run):
    assert run("search", *SMALL, "--format", "svg")[0] == 0
    assert {path.suffix for path in Path("run").glob("user_value.*")} == {".svg"}
    table = Path("run/games.parquet").read_bytes()
    code, out, err = run("search", *SMALL, "--format", "svg,pdf", "--width", "3.25")
    assert (code, err) == (0, "")
    assert "were there already" in out
    assert Path("run/games.parquet").read_bytes() == table
    width = re.search(r'<svg[^>]* width="([\d.]+)pt"', Path("run/user_value.svg").read_text())
    assert width is not None
    assert float(width[1]) == 3.25 * 72
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert {"user_value.svg", "user_value.pdf"} <= {*manifest["files"]}
    assert not {"width", "format"} & {name.split(".")[-1] for name in manifest["config"]}


def test_the_figure_of_stability_has_the_formats_that_are_asked_for(run):
    em.save_games("g.npz", em.catalog.pharma_market())
    code, out, _ = run("stability", "g.npz", "--format", "pdf,svg", "--width", "3.25")
    assert code == 0
    assert "Figure: stability.pdf, stability.svg" in out
    assert run("stability", "g.npz", "--figure", "mine.svg")[0] == 0
    assert Path("mine.svg").read_text().startswith("<?xml")
    assert sorted(path.name for path in Path().glob("*")) == ["g.npz", "mine.svg", "stability.pdf", "stability.svg"]


@pytest.mark.parametrize("command", ["search", "sweep", "study", "tune", "market", "align", "stability"])
def test_wrong_formats_and_widths_are_refused(run, command):
    Path("t.csv").write_text("a,b\n1,2\n")
    em.save_games("g.npz", em.catalog.judge())
    inputs = {"search": (), "sweep": ("bias",), "study": (), "tune": ("transfers",), "stability": ("g.npz",)}
    given = inputs.get(command, ("t.csv",))
    assert refused(run(command, *given, "--format", "png,jpeg"), "--format: expected some of png, pdf, svg")
    for width in ("1", "wide", "nan", "1e9"):
        assert refused(run(command, *given, "--width", width), "--width: expected inches, from 2.5 to 20")
    assert sorted(path.name for path in Path().glob("*")) == ["g.npz", "t.csv"]
