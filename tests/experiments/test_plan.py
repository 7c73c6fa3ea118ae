"""Specifications and grids of them: what a TOML file or options mean, what is refused, and the configs that are
shipped."""

import inspect
import json
import math
import re
from pathlib import Path

import pytest

import emalign_jax as em
from emalign_jax.equilibrium.solver import default_start
from emalign_jax.exact import default_tolerance
from emalign_jax.experiments import plan, toml
from emalign_jax.experiments import specification as spec
from emalign_jax.experiments.grid import check
from emalign_jax.experiments.grid.block import modules, specification_of
from emalign_jax.experiments.specification import Specification

pytestmark = pytest.mark.host_only


def checked(text, path="grid.toml"):
    grid = plan.parse(text, path)
    check.check(grid, grid.cells(), check.block_size(grid))
    return grid


# what is meant


def test_a_list_is_an_axis_and_the_rest_is_default():
    grid = plan.parse("seed = [1, 2]\n[user]\nprecision = [5, 20.0, inf]\n", "x.toml")
    assert grid.axes == ("seed", "user.precision")
    cells = grid.cells()
    points = [(cell.specification.seed, cell.specification.user.precision) for cell in cells]
    assert points[:4] == [(1, 5), (1, 20), (1, math.inf), (2, 5)]
    assert all(set(cell.values) == set(spec.fields()) for cell in cells)
    assert grid.title == "x"


def test_a_cell_has_the_same_key_in_any_grid():
    alone = plan.parse('[games]\nfamily = "noise"\nagents = 3\n[user]\nprecision = 20', "a").cells()[0]
    grid = plan.parse(
        'title = "b"\nblock = 3\n[user]\nprecision = [inf, 20.0]\n[games]\nagents = [3, 2]\nfamily = ["goal", "noise"]',
        "b",
    )
    keys = {cell.key: cell for cell in grid.cells()}
    assert len(keys) == 8
    assert keys[alone.key].values == alone.values
    assert keys[alone.key].specification == alone.specification
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)


@pytest.mark.parametrize(
    "more",
    [
        "seed = 1", "[games]\ncount = 99", "[games]\nagents = 3", "[games]\nnoise = 0.5", "[user]\nties = 'lowest'",
        "[user]\nprecision = 5", "[user]\ntolerance = 0.5", "[protocol]\nkind = 'pooled'", "[solver]\nsteps = 3",
        "[solver]\ntolerance = 0.01", "[measure]\neps = false",
    ],
)  # fmt: skip
def test_whatever_differs_is_in_the_key(more):
    assert plan.parse("", "x").cells()[0].key != plan.parse(more, "x").cells()[0].key


@pytest.mark.parametrize(
    "said",
    [
        "seed = 0", "[games]\ncount = 100", "[games]\nuser_features = 1", "[user]\nprecision = inf",
        "[solver]\ntolerance = 1e-5", "[solver]\nstart = 'monopolist'", "title = 'T'", "block = 3",
    ],
)  # fmt: skip
def test_a_default_that_is_said_is_the_same_cell(said):
    assert plan.parse("", "x").cells()[0].key == plan.parse(said, "x").cells()[0].key


def test_what_a_cell_does_not_take_is_not_in_its_key():
    """So that the cell of the rational user, of pooled messages or of another family is that of any other grid."""
    grid = plan.parse(
        "[user]\nkind = ['rational', 'quantal']\nties = 'lowest'\nprecision = 5\n"
        "[protocol]\nkind = ['selection', 'pooled']",
        "x",
    )
    keys = {(cell.values["user.kind"], cell.values["protocol.kind"]): cell.key for cell in grid.cells()}
    for protocol in ("selection", "pooled"):
        rational = plan.parse(f"[user]\nkind = 'rational'\nties = 'lowest'\n[protocol]\nkind = '{protocol}'", "y")
        quantal = plan.parse(f"[user]\nkind = 'quantal'\nprecision = 5.0\n[protocol]\nkind = '{protocol}'", "y")
        assert keys["rational", protocol] == rational.cells()[0].key
        assert keys["quantal", protocol] == quantal.cells()[0].key


def test_options_change_what_a_file_says():
    grid = plan.parse("[games]\nagents = [1, 2]\ncount = 3\n", "x.toml", {"games.agents": 4, "user.precision": [5, 6]})
    assert grid.axes == ("user.precision",)
    assert grid.grid["games.agents"] == (4,)
    assert grid.grid["games.count"] == (3,)
    with pytest.raises(ValueError, match=r"^games\.agents: expected >= 1, got 0$"):  # not of the file
        plan.parse("[games]\nagents = 2", "x.toml", {"games.agents": 0})
    with pytest.raises(ValueError, match=r"^x\.toml: games\.agents: expected >= 1, got 0$"):
        plan.parse("[games]\nagents = 0", "x.toml", {"games.count": 3})


def test_the_tolerance_of_a_cell_is_that_of_its_protocol_and_user():
    text = "[user]\nprecision = [20, inf]\n[protocol]\nkind = ['selection', 'pooled']\n"
    grid = plan.parse(text, "x")
    for cell in grid.cells():
        strict = cell.values["protocol.kind"] == "selection" and cell.values["user.precision"] == math.inf
        assert cell.specification.solver.tolerance == (1e-5 if strict else 1e-3)
        assert modules(cell.specification)[2].tolerance == cell.specification.solver.tolerance
    assert grid.tolerances == (1e-5, 1e-3)
    assert grid.plain()["solver.tolerance"] is None
    given = plan.parse(text + "[solver]\ntolerance = 0.01", "x")
    assert given.tolerances == (0.01,)
    assert given.plain()["solver.tolerance"] == 0.01
    for one in (grid, given):
        again = plan.from_manifest(json.loads(json.dumps(one.plain(), allow_nan=False)), "x")
        assert [cell.key for cell in again.cells()] == [cell.key for cell in one.cells()]
        assert (again.axes, again.title) == (one.axes, one.title)


def test_the_default_tolerance_is_the_same_as_its_number():
    """So that what was begun with either goes on with the other."""
    for text, number in (("", 1e-5), ("[user]\nprecision = 20\n", 1e-3), ("[protocol]\ncompare = 2\n", 1e-3)):
        silent, said = (plan.parse(text + more, "x") for more in ("", f"[solver]\ntolerance = {number}"))
        assert silent.plain() == said.plain()
        assert [cell.key for cell in silent.cells()] == [cell.key for cell in said.cells()]


def test_agents_start_as_monopolists_where_they_can_be_searched_exactly():
    starts = {"": "monopolist", "[protocol]\nkind = 'pooled'": "random", "[measure]\nverify = false": "random"}
    starts |= {"[solver]\nstart = 'random'": "random"}
    for text, start in starts.items():
        assert plan.parse(text, "x").cells()[0].specification.solver.start == start


def test_a_user_who_replies_sees_something():
    for text, features in (("", 1), ("[protocol]\nrounds = 2", 3), ("[protocol]\nkind = 'conversation'", 3)):
        assert plan.parse(text, "x").cells()[0].specification.games.user_features == features
    given = plan.parse("[games]\nuser_features = 2\n[protocol]\nrounds = 2", "x")
    assert given.cells()[0].specification.games.user_features == 2


def test_the_order_of_axes_is_not_that_in_which_a_file_is_written():
    one = plan.parse("seed = [1, 2]\n[user]\nprecision = [5, 6]\n[games]\nnoise = [1, 2]\nbias = [1, 2]", "x")
    two = plan.parse("[games]\nbias = [1, 2]\nnoise = [1, 2]\n[user]\nprecision = [5, 6]", "x", {"seed": [1, 2]})
    assert one.axes == two.axes == ("seed", "games.bias", "games.noise", "user.precision")
    assert [cell.key for cell in one.cells()] == [cell.key for cell in two.cells()]
    assert plan.from_manifest(dict(sorted(one.plain().items())), "x").axes == one.axes


# what workers are sent

SENT = (
    "", "[user]\nprecision = 5", "[user]\nprecision = inf", "[games]\nnoise = 0.1\ncount = 7\nagent_information = 1",
    "[user]\nkind = 'sparsemax'\nprecision = 0.3", "[user]\ntolerance = 1e-7",
    "[protocol]\nkind = 'conversation'\nrounds = 2", "[protocol]\ncompare = 2",
    "[measure]\nverify = false", "[solver]\ntolerance = 0.1\nmethod = 'best_responses'",
)  # fmt: skip


@pytest.mark.parametrize("text", SENT)
def test_a_specification_is_the_same_at_a_worker(text):
    """Its keys, its modules, and which keys were given, for only those are the parameters of a class."""
    made = plan.parse(text, "x").cells()[0].specification
    sent = made.model_dump_json(exclude_unset=True)
    again = specification_of(sent)
    assert spec.flat(again) == spec.flat(made)
    assert again.model_dump_json(exclude_unset=True) == sent
    assert str(modules(again)) == str(modules(made))
    for one, other in zip(
        (again.games, again.protocol, again.user), (made.games, made.protocol, made.user), strict=True
    ):
        assert one.extra == other.extra


def test_infinity_is_sent():
    for precision in (math.inf, 1e308, 5e-324, 0.1 + 0.2):
        made = spec.make(Specification, {"user.precision": precision})
        assert specification_of(made.model_dump_json(exclude_unset=True)).user.precision == precision
    made = Specification.model_validate({"user": {"kind": "quantal", "loss": -math.inf}})  # of a plugin
    assert specification_of(made.model_dump_json(exclude_unset=True)).user.extra == {"loss": -math.inf}


# what is refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[games]\nfamly = 'hull'", ["games.famly", "did you mean games.family?"]),
        ("[gmes]\nfamily = 'hull'", ["[gmes]", "did you mean [games]?"]),
        ("family = 'hull'", ["family", "did you mean games.family?"]),
        ("[user]\nrounds = 2", ["user.rounds", "did you mean protocol.rounds?"]),
        ("market = 2", ["market: no such key; expected title, block, seed, games.family"]),
        ("[user]\nzzz = 2", ["user.zzz", "expected user.kind, user.precision, user.ties"]),
        ("games = 3", ["games", "expected a section [games]"]),
        ("[games]\nfamily = 'hul'", ["games.family", "hull, noise", "'hul'", "did you mean 'hull'?"]),
        ("[games]\nfamily = 3", ["games.family: expected text, got 3"]),
        ("[games]\nagents = 5000000000", ["games.agents: expected <= 2147483647, got 5000000000"]),
        ("[games]\nagents = 0", ["games.agents: expected >= 1, got 0"]),
        ("[games]\nagents = [1, 2.5]", ["games.agents: expected an integer, got 2.5"]),
        ("[games]\nagents = true", ["games.agents: expected an integer, got True"]),
        ("[games]\nagents = []", ["games.agents", "empty list"]),
        ("[games]\nagents = [2, 2]", ["games.agents", "expected distinct values"]),
        ("[games]\nagents = [[2]]", ["games.agents: expected an integer, got a list"]),
        ("[games]\nagents = 2026-01-01", ["games.agents: expected an integer, got a date"]),
        ("[games]\nnoise = 'much'", ["games.noise: expected a number, got 'much'"]),
        ("[games]\nnoise = nan", ["games.noise: expected a number, got nan"]),
        ("[games]\nfile = 'g.npz'", ["games.file: expected the name of one file"]),
        ("[games]\ndigest = 'abc'", ["games.digest: is computed; leave it out"]),
        ("[measure]\nstability = 1", ["measure.stability: expected true or false, got 1"]),
        ("[solver]\nmethod = 'luck'", ["solver.method: expected 'play' or 'best_responses', got 'luck'"]),
        ("[user]\nties = 'mine'", ["user.ties: expected 'agents', 'lowest', 'highest' or 'uniform', got 'mine'"]),
        ("[user]\nprecision = 5\nties = 'lowest'", ["user.ties: quantal has no such parameter"]),
        ("[user]\nprecision = 'inff'", ["user.precision: expected a number, got 'inff'"]),
        ("[user]\ntolerance = [{a = 1}]", ["user.tolerance: expected a number, a word, true or false, got a dict"]),
        ("title = 3", ["title", "expected text in quotes, got 3"]),
        ("block = 0", ["block: expected >= 1, got 0"]),
        ("block = [1, 2]", ["block: expected an integer, got a list"]),
        ("seed = -1", ["seed: expected >= 0, got -1"]),
        ("seed = 4294967296", ["seed: expected <= 4294967295, got 4294967296"]),
        ("[games]\nagents = \ncount = 3", ["not TOML", "line 2"]),
        ("[games]\ncount = [" + ", ".join(map(str, range(1, 10_003))) + "]", ["games.count (10002)", "at most 10000"]),
    ],
)  # fmt: skip
def test_a_config_that_is_wrong_is_told_in_one_line(text, words):
    with pytest.raises(ValueError) as error:
        plan.parse(text, "grid.toml")
    message = str(error.value)
    assert message.startswith("grid.toml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[games]\nnoise = [1, -1]", ["games.noise: expected a finite number >= 0, got -1", "at games.noise = -1"]),
        ("[games]\nalignment = 2", ["games.alignment: expected a number in [0, 1], got 2"]),
        ("[user]\nprecision = -3", ["user.precision: expected a number > 0 or inf, got -3"]),
        ("[protocol]\nkind = 'pooled'\ntemperature = 1", ["protocol.temperature: belongs to protocol.kind selection"]),
        ("[protocol]\ntemperature = 0.1", ["protocol.temperature: ", "rational user needs temperature 0"]),
        ("[protocol]\ntemperature = inf", ["protocol.temperature: expected a finite number >= 0"]),
        ("[protocol]\nreplies = 2", ["protocol.replies: needs protocol.rounds of 2 or more"]),
        ("[user]\nreply_rule = 'babbling'", ["user.reply_rule: babbling needs a conversation"]),
        ("[solver]\ntolerance = 0", ["solver.tolerance: expected a number between 0 and 1, got 0"]),
        ("[solver]\nmethod = 'best_responses'\nextrapolation = 'optimistic'", ["solver.extrapolation: belongs to"]),
        ("[solver]\nmethod = 'best_responses'\n[measure]\nverify = false", ["measure.verify: ", "exact checks"]),
        ("[protocol]\ncompare = 3\n[games]\nagents = [4, 2]", ["protocol.compare: ", "(at games.agents = 2)"]),
        ("[games]\nstates = 100\nactions = 50", ["actions"]),
    ],
)  # fmt: skip
def test_what_the_library_refuses_is_told_by_the_names_of_the_config(text, words):
    with pytest.raises(ValueError) as error:
        checked(text)
    message = str(error.value)
    assert message.startswith("grid.toml: ")
    assert "--" not in message
    for word in words:
        assert word in message


def test_a_config_may_begin_with_the_mark_that_windows_writes(tmp_path):
    (tmp_path / "x.toml").write_text('title = "X"', "utf-8-sig")
    assert plan.plan(plan.document(str(tmp_path / "x.toml")), "x").title == "X"


# configs that are shipped


@pytest.mark.slow
@pytest.mark.parametrize("name", toml.shipped())
def test_shipped_configs_can_be_done(name):
    grid = plan.plan(plan.document(name), name)
    check.check(grid, grid.cells(), check.block_size(grid))
    assert grid.title != name
    assert grid.axes


def test_the_config_of_the_how_to_can_be_done():
    page = Path(__file__).parents[2] / "docs" / "guides" / "sweeps.md"
    (text,) = re.findall(r"```toml\n(.*?)```", page.read_text(), re.S)
    assert checked(text, "sweeps.md").axes == ("games.agents", "games.bias", "user.precision")


def test_every_ablation_is_shipped():
    names = {"competition", "starts", "goals", "bias", "precision", "errors", "talk", "noise", "attention"}
    assert names <= set(toml.shipped())


def test_python_and_the_command_line_start_alike():
    """The defaults of `em.solve`, `em.certify` and `em.random_games` are those of a specification."""
    worth = inspect.signature(em.random_games).parameters["information_worth"].default
    for kind, start in (("selection", "monopolist"), ("pooled", "random"), ("conversation", "random")):
        (cell,) = plan.plan({"protocol.kind": kind, "user.precision": 20.0}, "").cells()
        made = cell.specification
        protocol, user, _ = modules(made)
        assert made.solver.start == default_start(protocol, True) == start
        assert made.solver.tolerance == default_tolerance(protocol, user)
        assert made.games.information_worth == worth == 0.02
    assert default_start(em.Comparison(2), True) == "monopolist"
    assert default_start(em.Selection(), False) == "random"
