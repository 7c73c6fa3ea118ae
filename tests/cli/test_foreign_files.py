"""No command and no option touches what is not its own: other people's directories, and their files among ours."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.commands import ENVIRONMENT, refused
from support.foreign_files import NAMES, OURS, make, random_names, seen, untouched

import emalign_jax as em

pytestmark = pytest.mark.host_only

SIZES = ("--count", "1", "--agents", "1", "--states", "2", "--actions", "2", "--family", "hull")
METHOD = ("--set", "solver.method=best_responses", "--set", "measure.stability=false")
QUICK = (*SIZES, *METHOD)
GRID = """
[games]
family = "hull"
agents = 1
states = 2
actions = 2
count = 2
[solver]
method = "best_responses"
"""
TUNE = """
[games]
agents = 2
states = 2
actions = 2
count = 2
held_out = 2
[tune]
steps = 1
"""


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs()


def inputs():
    Path("grid.toml").write_text(GRID)
    Path("tune.toml").write_text(TUNE)
    em.save_games("g.npz", em.catalog.judge())
    values = np.random.default_rng(0).normal(size=(12, 4))
    rows = [f"p{n}," + ",".join(f"{x:.3f}" for x in row) for n, row in enumerate(values)]
    Path("wide.csv").write_text("\n".join(["prompt,human,a,b,c", *rows]) + "\n")


COMMANDS = {
    "search": ("search", *QUICK),
    "sweep": ("sweep", "grid.toml"),
    "align": ("align", "wide.csv", "--id", "prompt", "--target", "human", "--subsets", "2", "--agents", "1,3"),
    "tune": ("tune", "tune.toml"),
}
KINDS = [pytest.param(kind, marks=pytest.mark.nightly if kind == "tune" else ()) for kind in COMMANDS]


FOREIGN = ({"name": "my app"}, {"schema": 3, "kind": "search"}, {"kind": "sweep", "config": {}, "versions": {}}, [], 1)


@pytest.mark.slow
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_directory_of_other_files_is_refused_and_as_it_was(run, force):
    few = ([".env.local"], ["parts"], [".lock"], ["manifest.json"], ["parts", ".env.local", ".lock"])
    there = [make(Path("mine"), 0), make(Path("all"), 1, OURS)]
    there += [make(Path(f"some {n}"), n, names) for n, names in enumerate(few)]
    for n, held in enumerate(FOREIGN):
        there.append(make(Path(f"app {n}"), 20 + n))
        (there[-1] / "manifest.json").write_text(json.dumps(held))
    for folder in there:
        before = seen(folder)
        for command in COMMANDS.values():
            assert refused(run(*command, "--out", folder, *force), str(folder), "--out")
        assert run("report", folder, *force)[0] == 2
        assert seen(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_another_kind_is_refused_and_as_it_was(run, kind):
    assert run(*COMMANDS[kind], "--out", "run")[0] == 0
    before = seen(Path("run"))
    for other, command in COMMANDS.items():
        for force in ((), ("--force",)):
            if other != kind:
                assert refused(run(*command, "--out", "run", *force), f"not that of a run of emalign {other}")
    assert seen(Path("run")) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_other_files_within_a_run_stay(run, kind):
    """A run that is done is shown, and starts anew, among them."""
    again = (*COMMANDS[kind], "--out", "run")
    assert run(*again)[0] == 0
    own = seen(Path("run"))
    make(Path("run"), 3, [*NAMES, *random_names(4)])
    make(Path("run/parts"), 5)
    before = {name: facts for name, facts in seen(Path("run")).items() if name not in own}
    for force in ((), ("--force",)):
        assert run(*again, *force)[0] == 0
        assert run("report", "run", *force)[0] == 0
    assert untouched(before, Path("run"))


@pytest.mark.slow
def test_the_page_shows_regular_files_that_the_manifest_names_and_no_others(run):
    assert run(*COMMANDS["search"], "--out", "run")[0] == 0
    Path("secret").write_text("a secret of somebody's")
    shutil.copy("run/user_value.png", "run/mine.png")
    Path("run/link.png").symlink_to("../secret")
    own = base64.b64encode(Path("run/user_value.png").read_bytes()).decode()
    assert run("report", "run", "--out", "page.html")[0] == 0
    text = Path("page.html").read_text()
    assert text.count(own) == 1
    assert base64.b64encode(Path("secret").read_bytes()).decode() not in text
    for name in ("user_value.png", "games.parquet"):
        Path("run", name).rename("kept")
        Path("run", name).symlink_to("../kept")
        assert refused(run("report", "run", "--out", "other.html"), f"run/{name}", "regular file")
        Path("kept").replace(Path("run", name))


@pytest.mark.slow
def test_a_page_of_somebody_else_in_a_run_is_not_replaced(run):
    assert run(*COMMANDS["search"], "--out", "run")[0] == 0
    Path("run/report.html").write_text("mine")
    for force in ((), ("--force",)):
        assert refused(run("report", "run", *force), "run/report.html")
    assert Path("run/report.html").read_text() == "mine"
    Path("run/report.html").unlink()
    assert run("report", "run")[0] == 0
    assert run(*COMMANDS["search"], "--out", "run", "--force")[0] == 0, "a page of its own is the run's"
    assert not Path("run/report.html").exists()


@pytest.mark.slow
def test_two_searches_started_together_have_a_name_each():
    command = [sys.executable, "-m", "emalign_jax", *COMMANDS["search"]]
    both = [subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sorted(path.name for path in Path().glob("search-*")) == ["search-1", "search-2"]
    assert sorted("certificates: search-1\n" in text for text in said) == [False, True]


NAME = "\udcff\udcfe $x$ and $y_"  # no UTF-8, and what a figure might take for mathematics


def every_command():
    """One of each at least, with names that are hard to print; of what it reads and of what it writes."""
    files = {name: f"{NAME}{name}" for name in ("g.npz", "grid.toml", "wide.csv", "tune.toml")}
    for name, to in files.items():
        os.rename(name, to)
    search, *others = ([files.get(word, word) for word in command] for command in COMMANDS.values())
    if os.environ.get("EMALIGN_NIGHTLY") != "1":
        others.pop()  # tuning compiles for long
    return [
        [*search, "--out", NAME],
        ["search", "--games", files["g.npz"], *METHOD, "--out", f"{NAME}2", "--json"],
        ["certify", f"{NAME}/games.npz", f"{NAME}/schemes.npz"],
        ["stability", files["g.npz"], "--figure", f"{NAME}.svg"],
        *([*command, "--out", f"{NAME}{command[0]}"] for command in others),
        *(["report", name] for name in (NAME, f"{NAME}sweep", f"{NAME}align")),
    ]


@pytest.mark.parametrize(
    "closed",
    ["2>&-", *(pytest.param(streams, marks=pytest.mark.nightly) for streams in ("", ">&-", "<&- >&- 2>&-"))],
)
def test_neither_names_nor_closed_streams_end_a_run_after_its_work(closed):
    """All commands in one process, as if it had just begun each time."""
    Path("all.py").write_text(
        "import json, os, sys\nfrom emalign_jax.cli import launch\ncodes = []\n"
        "for sys.argv[1:] in json.load(open('commands.json')):\n"
        "    try:\n        launch()\n    except SystemExit as stop:\n        codes.append(stop.code)\n"
        "json.dump(codes, open('codes.json', 'w'))\n"
    )
    commands = every_command()
    Path("commands.json").write_text(json.dumps(commands))
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "all.py"]
    done = subprocess.run(shell, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(Path("codes.json").read_text()) == [0] * len(commands)
    assert (rb"certificates: \udcff\udcfe $x$" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
    assert done.stderr == b""
    written = [path for path in Path().glob("*/*") if path.suffix in (".png", ".pdf", ".parquet")]
    assert len(written) >= 11
    for path in written:
        assert path.read_bytes()[:4] in (b"PAR1", b"\x89PNG", b"%PDF"), f"{path}: something was printed into it"
