"""Extensions from outside the package: the files of the how-tos, as they stand there."""

import hashlib
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emalign_jax as em
from emalign_jax.cli import main
from emalign_jax.games.families import FAMILIES
from emalign_jax.mechanisms import MECHANISMS
from emalign_jax.protocols.base import PROTOCOLS
from emalign_jax.users.base import USERS

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
TEXT = "".join((GUIDES / f"own_{name}.md").read_text("utf-8") for name in ("protocol", "user", "parts"))
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.S))
SMALL = ("--count", "3", "--states", "2", "--actions", "2", "--agents", "2")
MARKET = """[games]
agents = 2
states = 2
actions = 2
count = 3
held_out = 3
[tune]
mechanisms = ["profit_sharing"]
steps = 2
"""
GRID = """[games]
family = ["scaled", "hull"]
most = 3.0
agents = 2
states = 2
actions = 2
count = 2
[protocol]
kind = ["lottery", "pooled"]
cost = 0.25
[user]
kind = "trembling"
error = 0.3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory outside the package with the files, from which they can be imported. Other test modules in the same
    process must not see the names that the files register."""
    registries = (FAMILIES, MECHANISMS, PROTOCOLS, USERS)
    before = [dict(registry) for registry in registries]
    directory = tmp_path_factory.mktemp("stranger")
    for name, text in FILES.items():
        (directory / name).write_text(text)
    sys.path.insert(0, str(directory))
    for name in FILES:
        importlib.import_module(name.removesuffix(".py"))
    yield directory
    sys.path.remove(str(directory))
    for registry, names in zip(registries, before, strict=True):
        registry.clear()
        registry.update(names)


@pytest.fixture
def run(place, capsys, monkeypatch):
    """(exit code, stdout, stderr) of a command there."""
    monkeypatch.chdir(place)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(one) for one in arguments])
        return ended.value.code, *capsys.readouterr()

    return run


def module(name):
    return importlib.import_module(name)


def test_there_is_one_file_a_kind_of_extension():
    assert list(FILES) == [
        "lottery.py", "lottery_check.py", "trembling.py", "scaled.py", "profit_sharing.py", "restarts.py",
        "gains_figure.py",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_plugin_runs_in_a_process_that_knows_nothing_of_it(tmp_path):
    (tmp_path / "scaled.py").write_text(FILES["scaled.py"])
    command = (
        "search", "--plugin", "scaled.py", "--family", "scaled", "--set", "games.most=3", *SMALL, "--out", "run",
        "--json",
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "emalign_jax", *command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    games = em.load_games(tmp_path / "run" / "games.npz")
    factors = games.agent_utilities / games.user_utility[:, None]
    np.testing.assert_allclose(factors, factors[..., :1, :1] * np.ones((2, 2)), rtol=1e-6)  # files hold float32
    assert 0 < factors.min() <= factors.max() <= 3
    # agents who want what the user wants reveal all
    assert {entry["code"] for entry in json.loads(done.stdout)["games"]} == {"CERTIFIED"}
    np.testing.assert_allclose([entry["normalised_value"] for entry in json.loads(done.stdout)["games"]], 1, atol=1e-6)
    two = [*command[:-3], "--out", "two", "--workers", "2", "--set", "block=1"]  # whose processes get the plugin
    done = subprocess.run([sys.executable, "-m", "emalign_jax", *two], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("games.npz", "schemes.npz"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.x64
def test_a_protocol_a_user_and_a_family_in_search(run):
    plugins = [word for name in ("lottery", "trembling", "scaled") for word in ("--plugin", f"{name}.py")]
    names = ("--family", "scaled", "--protocol", "lottery", "--user", "trembling", "--precision", "3")
    code, out, err = run("search", *plugins, *names, "--set", "user.error=0.2", *SMALL, "--out", "one", "--json")
    assert (code, err) == (0, "")
    entries = json.loads(out)["games"]
    assert {entry["code"] for entry in entries} == {"UNREFUTED"}
    assert all(entry["guarantee"] is None for entry in entries)
    games, schemes = em.load_games("one/games.npz"), em.load_schemes("one/schemes.npz")
    user = module("trembling").Trembling(3.0, 0.2)
    paid = em.payoffs(games, schemes, module("lottery").Lottery(), user)
    np.testing.assert_allclose([entry["user"] for entry in entries], paid.user, atol=1e-5)
    manifest = json.loads(Path("one/manifest.json").read_text())
    assert set(manifest["config"]["plugins"]) == {"lottery.py", "trembling.py", "scaled.py"}
    assert manifest["title"].startswith("Lottery (cost 0), Trembling (precision 3, error 0.2)")


@pytest.mark.slow
@pytest.mark.x64
def test_a_grid_of_plugins_and_its_report(run):
    Path("grid.toml").write_text(GRID)
    plugins = [word for name in ("lottery", "trembling", "scaled") for word in ("--plugin", f"{name}.py")]
    code, _, err = run("sweep", "grid.toml", *plugins, "--out", "grid", "--force")
    assert (code, err) == (0, "")
    rows = pd.read_parquet("grid/games.parquet")
    assert set(rows["result"]) == {"UNREFUTED"}
    value = rows.groupby(["protocol.kind", "games.family"])["user_value"].mean()
    assert (value["lottery"] < value["pooled"]).all()
    code, out, _ = run("sweep", "grid.toml", *plugins, "--out", "grid", "--json")  # nothing is left to do
    assert (code, len(json.loads(out)["cells"])) == (0, 4)
    Path("scaled.py").write_text(FILES["scaled.py"] + "\n")  # another file, whatever it says
    code, _, err = run("sweep", "grid.toml", *plugins, "--out", "grid")
    assert code == 2
    assert "plugins" in err
    Path("scaled.py").write_text(FILES["scaled.py"])
    done = subprocess.run(  # a report needs no plugins
        [sys.executable, "-m", "emalign_jax", "report", "grid"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.x64
def test_a_mechanism_is_tuned(run):
    Path("market.toml").write_text(MARKET)
    changes = ("--set", "profit_sharing.start=0.4", "--set", "tune.steps=3")
    code, out, err = run("tune", "market.toml", "--plugin", "profit_sharing.py", *changes, "--out", "market", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["summary"]["steps"] == 3
    assert document["tuned"]["share"] != pytest.approx(0.4, abs=1e-6), "moved from where the config says"
    assert document["tuned"]["share"] == pytest.approx(0.4, abs=0.2)


@pytest.mark.slow
@pytest.mark.x64
def test_a_check_certifies_what_is_true_and_nothing_else(place):
    Lottery, user = module("lottery").Lottery, em.QuantalUser(5.0)
    games = em.random_games(3, 6, agents=2, states=2, actions=2, user_features=2)
    found = em.solve(games, Lottery(), user, key=0)
    assert (found.result == em.Result.CERTIFIED).all()
    assert np.isnan(found.certificate.guarantee).all()
    # by an independent route: each agent does as well as with no rival
    for i in range(2):
        alone = em.Game(games.prior, games.user_utility, games.agent_utilities[:, i : i + 1])
        most = em.solve(alone, em.Pooled(), user, key=1).agents[:, 0]
        told = em.payoffs(alone, found.schemes[:, i : i + 1], em.Pooled(), user).agents[:, 0]
        np.testing.assert_allclose(told, most, atol=2e-3)
    silent = em.certify(games, em.no_information(2, 2, 2), Lottery(), user)
    searched = em.certify(games, em.no_information(2, 2, 2), Subclass(Lottery)(), user)
    np.testing.assert_allclose(silent.gain_lower, searched.gain_lower, atol=1e-3)
    assert (silent.result == em.Result.ABOVE_TOLERANCE).any()
    np.testing.assert_allclose(silent.user, searched.user, atol=1e-9)
    np.testing.assert_allclose(silent.agents, searched.agents, atol=1e-9)


@pytest.mark.slow
@pytest.mark.x64
def test_a_solver_is_certified_by_the_checks(place):
    Restarts, setting = module("restarts").Restarts, (em.Selection(), em.RationalUser())
    games = em.random_games(3, 6, agents=2, states=2, actions=2)
    found = em.solve(games, *setting, Restarts(), key=0)
    assert (found.result == em.Result.CERTIFIED).all()
    again = em.certify(games, found, *setting, lp="highs")
    np.testing.assert_array_equal(again.result, em.Result.CERTIFIED)
    with pytest.raises(ValueError, match="verify: Restarts consists of exact checks"):
        em.solve(games, *setting, Restarts(), key=0, verify=False)


@pytest.mark.x64
@pytest.mark.parametrize("factor", [2.0, -1.0, np.nan])
def test_nothing_is_certified_that_a_solver_made_up(factor):
    class Wrong(em.AbstractSolver):
        tolerance: float | None = None

        def rounds(self, search):
            return 1

        def improve(self, search, pending, attempt):
            search.current[pending] *= factor
            return search.examine(pending, em.FoundBy.START)

    class Hasty(Wrong):
        def improve(self, search, pending, attempt):
            search.respond(pending, attempt)
            return pending

    games = em.random_games(3, 2, agents=2, states=2, actions=2)
    with pytest.raises(ValueError, match="solver: Wrong left schemes in `current` that are no distributions"):
        em.solve(games, em.Selection(), em.RationalUser(), Wrong(), key=0, start="random")
    with pytest.raises(ValueError, match="call `examine` first"):
        em.solve(games, em.Selection(), em.RationalUser(), Hasty(), key=0, start="random")


def Subclass(cls):
    """Of which nothing is known: it gets the generic check."""
    return type("Quiet", (cls,), {})


def test_faults_of_a_plugin_are_told_as_such(run):
    Path("faulty.py").write_text(
        FILES["lottery.py"].replace('"lottery"', '"faulty"').replace("value.mean()", "value.men()")
    )
    code, out, err = run("search", "--plugin", "faulty.py", "--protocol", "faulty", "--precision", "5", *SMALL)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"emalign: \S+faulty.py, line \d+: AttributeError: .+\n", err), err


def test_what_a_plugin_imports_is_in_its_digest(tmp_path):
    place = tmp_path
    from emalign_jax.internal import plugins

    (place / "helping.py").write_text("FACTOR = 1\n")
    (place / "asking.py").write_text("import helping\n")
    alone = hashlib.sha256((place / "asking.py").read_bytes()).hexdigest()
    found = plugins.load([place / "asking.py"])
    assert list(found) == ["asking.py"]
    assert found["asking.py"] != alone
    (place / "json.py").write_text("")
    with pytest.raises(ValueError, match=r"json\.py: there is a module json already"):
        plugins.load([place / "json.py"])
    (place / "wave.py").write_text("")
    with pytest.raises(ValueError, match=r"wave\.py: there is a module wave already"):
        plugins.load([place / "wave.py"])


def test_a_protocol_that_needs_two_agents_is_checked_without_monopolists():
    class Pairs(em.Pooled):
        def rows(self, game, messages):
            return 2 // (game.agents - 1)

    game = em.random_games(0, 1, agents=2, states=2, actions=2)[0]
    found = em.certify(game, em.full_revelation(2, 2, 2), Pairs(), em.QuantalUser(3.0))
    assert found.result in (em.Result.UNREFUTED, em.Result.ABOVE_TOLERANCE)


@pytest.mark.slow
def test_a_figure_is_drawn(run):
    code, *_ = run("search", "--family", "hull", *SMALL, "--out", "drawn")
    assert code == 0
    assert module("gains_figure").draw(Path("drawn")) == ["gains.png"]
    assert Path("drawn/gains.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("search", "--plugin", "none.py"), ("none.py: no such file",)),
        (("search", "--plugin", "."), ("expected a Python file, got a directory",)),
        (("search", "--plugin", "broken.py"), ("broken.py, line 2", "ZeroDivisionError")),
        (("search", "--plugin", "syntax.py"), ("syntax.py, line 1", "SyntaxError")),
        (("search", "--plugin", "taken.py"), ("taken.py, line 3", "there is a protocol 'pooled' already, Pooled")),
        (("search", "--protocol", "pool"), ("protocol.kind: expected", "got 'pool'; did you mean 'pooled'?")),
        (("search", "--user", "noone"), ("user.kind: expected", "sparsemax", "got 'noone'")),
        (
            ("search", "--protocol", "lottery", "--set", "protocol.costs=1"),
            ("protocol.costs", "did you mean protocol.cost?"),
        ),
        (
            ("search", "--protocol", "lottery", "--set", "protocol.temperature=1"),
            ("protocol.temperature: lottery has no such parameter",),
        ),
        (("search", "--protocol", "lottery", "--set", "protocol.cost=[1, 2]"), ("protocol.cost: expected one value",)),
        (
            ("search", "--protocol", "lottery", "--set", "protocol.cost=inf"),
            ("protocol.cost: expected a finite number",),
        ),
        (("search", "--protocol", "lottery", "--set", "protocol.cost=-1"), ("protocol.cost: expected", "got -1")),
        (("search", "--set", "protocol.cost=1"), ("protocol.cost: selection has no such parameter",)),
        (("search", "--precision", "5", "--set", "user.precision=5"), ("user.precision", "the same as --precision")),
        (("search", "--count", "5", "--set", "games.count=5"), ("games.count", "the same as --count")),
        (("search", "--set", "user.tolerance=0", "--set", "user.tolerance=1"), ("user.tolerance", "given twice")),
        (("search", "--set", "user.tolerance=1e-6\nx=1"), ("user.tolerance", "expected one value")),
        (
            ("search", "--games", "no.npz", "--set", "games.most=1"),
            ("games.most: belongs to random games; leave it out with games.file",),
        ),
        (("search", "--precision", "5", "--set", "user.ties=lowest"), ("user.ties: quantal has no such parameter",)),
        (("search", "--set", "cost"), ("--set: expected SECTION.KEY=VALUE, got 'cost'",)),
        (
            ("search", "--set", "market.x=1"),
            ("market.x: no such key; expected", "games, protocol, user, solver, measure"),
        ),
        (("search", "--family", "hull", "--set", "games.mosst=1"), ("mosst",)),
        (("search", "--user", "sparsemax"), ("user.precision: sparsemax needs a value of it",)),
        (("search", "--user", "rational", "--precision", "4"), ("user.precision: rational has no such parameter",)),
        (("sweep", "competition", "--set", "protocol.cost=1"), ("protocol.cost: selection has no such parameter",)),
        (
            ("sweep", "competition", "--set", "user.kind=rational", "--set", "user.precision=5"),
            ("user.precision: rat",),
        ),
        (
            ("sweep", "competition", "--set", 'games.family=["hull","scaled"]', "--set", "games.most=[1,2]"),
            ("games.most: cannot be an axis, for hull has no such parameter",),
        ),
        (("sweep", "competition", "--set", "games.family=[hull]"), ("games.family", "words in a list need quotes")),
        (("sweep", "competition", "--count", "3", "--set", "games.count=1"), ("--count", "games.count")),
        (("sweep", "competition", "--set", "games.agent=1"), ("games.agent: no such key; did you mean games.agents?",)),
        (("tune", "transfers", "--set", "user.kind=rational"), ("user.kind", "no derivative")),
        (("tune", "transfers", "--set", "protocol.temperature=0.5"), ("protocol.temperature: pooled has no such",)),
        (("tune", "transfers", "--set", "profit_sharing.start=0.5"), ("profit_sharing is not among tune.mechanisms",)),
    ],
)
def test_slips_are_one_line(run, arguments, words):
    before = set(Path().iterdir())
    Path("broken.py").write_text("import math\nx = 1 / 0\n")
    Path("syntax.py").write_text("def\n")
    Path("taken.py").write_text("import emalign_jax as em\n\nclass P(em.AbstractProtocol):\n    name = 'pooled'\n")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("emalign: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert {path for path in set(Path().iterdir()) - before if path.is_dir()} == set(), "nothing was begun"
