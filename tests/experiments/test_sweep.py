"""Sweeps: configs, cells, what survives a kill, and the science at small size."""

import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.commands import ONE_THREAD

from emalign_jax.experiments.run_directory import LOCK
from emalign_jax.experiments.sweep import config as configs
from emalign_jax.experiments.sweep import directory, run, threshold
from emalign_jax.experiments.sweep.cell import block_rows, check, draw_games, setup
from emalign_jax.report import sweep_figures

pytestmark = pytest.mark.host_only

SMALL = """
block = 3
[games]
family = ["hull", "shared_bias"]
agents = [1, 2]
states = 3
actions = 3
count = 7
"""


def sweep(text, path):
    """The table of a config, computed in this process."""
    config = configs.parse(text, "small.toml")
    cells = config.cells()
    check(config, cells)
    (path / directory.PARTS).mkdir(parents=True, exist_ok=True)
    said = []
    parts = run.run(config, run.blocks(config, cells), path, warn=said.append, progress=lambda *_: None)
    return directory.write_table(path, parts), said


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    path = tmp_path_factory.mktemp("unbroken")
    return path, sweep(SMALL, path)[0]


def same(one, two):
    """Row by row, to the last bit; only seconds may differ."""
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"), check_exact=True)
    return True


# configs


def test_a_list_is_an_axis_and_the_rest_is_default():
    config = configs.parse("seed = [1, 2]\n[user]\nprecision = [5, 20.0, inf]\n", "x.toml")
    assert config.axes == ("seed", "user.precision")
    cells = config.cells()
    points = [(cell.values["seed"], cell.values["user.precision"]) for cell in cells]
    assert points[:4] == [(1, 5), (1, 20), (1, math.inf), (2, 5)]
    assert all(set(cell.values) == set(configs.options()) for cell in cells)
    assert config.title == "x"


def test_a_cell_has_the_same_key_in_any_grid():
    alone = configs.parse('[games]\nfamily = "noise"\nagents = 3\n[user]\nprecision = 20', "a").cells()[0]
    grid = configs.parse('[user]\nprecision = [inf, 20.0]\n[games]\nagents = [3, 2]\nfamily = ["goal", "noise"]', "b")
    keys = {cell.key: cell.values for cell in grid.cells()}
    assert len(keys) == 8
    assert keys[alone.key] == alone.values


def test_the_tolerance_of_a_cell_is_that_of_its_protocol_and_user():
    text = '[user]\nprecision = [20, inf]\nties = ["agents", "highest"]\n[protocol]\nkind = ["selection", "pooled"]\n'
    grid = configs.parse(text, "x")
    for cell in grid.cells():
        strict = cell.values["protocol.kind"] == "selection" and cell.values["user.precision"] == math.inf
        assert cell.values["solver.tolerance"] == (1e-5 if strict else 1e-3)
        assert setup(cell.values).solver.tolerance == cell.values["solver.tolerance"]
    assert grid.tolerances == (1e-5, 1e-3)
    assert grid.plain()["solver.tolerance"] is None
    given = configs.parse(text + "[solver]\ntolerance = 0.01", "x")
    assert given.tolerances == (0.01,)
    assert given.plain()["solver.tolerance"] == 0.01
    assert [configs.from_manifest(x.plain(), "x").cells() for x in (grid, given)] == [grid.cells(), given.cells()]


def test_the_default_tolerance_is_the_same_as_its_number():
    """So that what was begun with either goes on with the other."""
    for text, number in (("", 1e-5), ("[user]\nprecision = 20\n", 1e-3), ("[protocol]\ncompare = 2\n", 1e-3)):
        silent, said = (configs.parse(text + more, "x") for more in ("", f"[solver]\ntolerance = {number}"))
        assert silent.plain() == said.plain()
        assert silent.cells() == said.cells()


def test_games_do_not_depend_on_the_solver_or_the_user():
    base = '[games]\nfamily = "noise"\nagents = 2\ncount = 3\n'
    one = draw_games(configs.parse(base, "a").cells()[0].values)
    others = '[solver]\nmethod = "best_responses"\nstart = "random"\n[user]\nprecision = 7\n'
    two = draw_games(configs.parse(base + others, "a").cells()[0].values)
    np.testing.assert_array_equal(one.agent_utilities, two.agent_utilities)
    other_seed = draw_games(configs.parse("seed = 1\n" + base, "a").cells()[0].values)
    assert not np.array_equal(one.agent_utilities, other_seed.agent_utilities)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[games]\nfamly = 'hull'", ["games.famly", "did you mean games.family?"]),
        ("[gmes]\nfamily = 'hull'", ["[gmes]", "did you mean [games]?"]),
        ("family = 'hull'", ["family", "did you mean games.family?"]),
        ("[user]\nrounds = 2", ["user.rounds", "did you mean protocol.rounds?"]),
        ("[user]\nzzz = 2", ["user.zzz", "expected user.kind, user.precision, user.ties"]),
        ("games = 3", ["games", "expected a section [games]"]),
        ("[games]\nfamily = 'hul'", ["games.family", "hull, noise", "'hul'", "did you mean 'hull'?"]),
        ("[games]\nagents = 5000000000", ["games.agents", "expected an integer <= 2147483647, got 5000000000"]),
        ("[games]\nagents = 0", ["games.agents", "expected an integer >= 1, got 0"]),
        ("[games]\nagents = [1, 2.5]", ["games.agents", "expected an integer >= 1, got 2.5"]),
        ("[games]\nagents = true", ["games.agents", "expected an integer >= 1, got True"]),
        ("[games]\nagents = []", ["games.agents", "empty list"]),
        ("[games]\nagents = [2, 2]", ["games.agents", "expected distinct values"]),
        ("[games]\nagents = [[2]]", ["games.agents", "expected an integer >= 1, got [2]"]),
        ("[games]\nnoise = 'much'", ["games.noise", "expected a number, got 'much'"]),
        ("[games]\nnoise = nan", ["games.noise", "expected a number, got nan"]),
        ("[measure]\nstability = 1", ["measure.stability", "expected true or false, got 1"]),
        ("title = 3", ["title", "expected text in quotes, got 3"]),
        ("block = 0", ["block", "expected an integer >= 1, got 0"]),
        ("seed = -1", ["seed", "expected an integer >= 0, got -1"]),
        ("[games]\nagents = \ncount = 3", ["not TOML", "line 2"]),
        ("[games]\ncount = [" + ", ".join(map(str, range(1, 10_003))) + "]", ["games.count (10002)", "at most 10000"]),
    ],
)  # fmt: skip
def test_a_config_that_is_wrong_is_told_in_one_line(text, words):
    with pytest.raises(ValueError) as error:
        configs.parse(text, "grid.toml")
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
        ("[solver]\ntolerance = 0", ["solver.tolerance: expected a number between 0 and 1, got 0"]),
        ("[games]\nstates = 100\nactions = 50", ["actions"]),
    ],
)  # fmt: skip
def test_what_the_library_refuses_is_told_by_the_names_of_the_config(text, words):
    config = configs.parse(text, "grid.toml")
    with pytest.raises(ValueError) as error:
        check(config, config.cells())
    message = str(error.value)
    assert message.startswith("grid.toml: ")
    assert "--" not in message
    for word in words:
        assert word in message


@pytest.mark.slow
def test_games_that_cannot_be_drawn_are_told_by_file_key_and_cell(tmp_path):
    with pytest.raises(ValueError, match=r"^small\.toml: games\.information_worth: .* \(at games\.agents = 1\)$"):
        sweep("[games]\nagents = [1, 2]\nactions = 1\ncount = 1\n", tmp_path)


def test_a_config_may_begin_with_the_mark_that_windows_writes(tmp_path):
    (tmp_path / "x.toml").write_text('title = "X"', "utf-8-sig")
    assert configs.read(str(tmp_path / "x.toml")).title == "X"


@pytest.mark.slow
@pytest.mark.parametrize("name", configs.shipped())
def test_shipped_configs_can_be_done(name):
    config = configs.read(name)
    check(config, config.cells())
    assert config.title != name
    assert config.axes


def test_the_config_of_the_readme_can_be_done():
    (text,) = re.findall(r"```toml\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.S)
    config = configs.parse(text, "README.md")
    check(config, config.cells())
    assert config.axes == ("games.agents", "games.bias", "user.precision")


def test_every_ablation_is_shipped():
    names = {"competition", "starts", "goals", "bias", "precision", "errors", "talk", "noise", "attention"}
    assert names <= set(configs.shipped())


# rows


@pytest.mark.slow
def test_rows_say_what_they_are(unbroken):
    _, rows = unbroken
    assert len(rows) == 4 * 7
    assert list(rows["game"][:7]) == list(range(7))
    assert rows.duplicated(["cell", "game", "start"]).sum() == 0
    assert (rows["games.agents"] == rows["agents"]).all()
    one, several = rows[rows["agents"] == 1], rows[rows["agents"] > 1]
    assert one["worst_equilibrium"].isna().all()
    assert several["worst_equilibrium"].notna().all()
    worth = rows["full_information"] - rows["no_information"]
    for name in ("best_monopolist", "worst_equilibrium", "guarantee", "theorem"):
        expected = (rows[name] - rows["no_information"]) / worth
        np.testing.assert_allclose(rows[f"normalised_{name}"], expected, atol=1e-12)
    for name in ("eps", "coverage_slack", "weighted_gain"):
        np.testing.assert_allclose(rows[f"normalised_{name}"], rows[name] / worth, atol=1e-12)
    assert (several["eps"][several["family"] == "hull"] < 1e-6).all()
    assert (several["eps"][several["family"] == "shared_bias"] > 1e-3).any()
    floor = rows["full_information"] - rows["coverage_slack"] - rows["weighted_gain"]
    assert (rows["user_value"] >= floor - 1e-6).all()


@pytest.mark.slow
def test_a_block_does_not_depend_on_what_was_done_before(unbroken):
    text = SMALL + '[solver]\nstart = "random"\nmethod = "best_responses"\n'
    config = configs.parse(text, "x")
    cell = next(c for c in config.cells() if c.values["games.agents"] == 2)
    games = draw_games(cell.values)
    one = block_rows(config, cell, games, 3)
    assert list(one["game"]) == [3, 4, 5]
    block_rows(config, cell, games, 0)
    assert same(one, block_rows(config, cell, games, 3))


def test_measures_can_be_left_out_and_columns_stay(unbroken):
    config = configs.parse(SMALL + "[measure]\nmonopoly = false\nstability = false\ncoverage = false\neps = false", "x")
    cell = config.cells()[1]
    rows = block_rows(config, cell, draw_games(cell.values), 6)
    assert list(rows.columns) == list(unbroken[1].columns)
    assert len(rows) == 1
    for name in ("best_monopolist", "worst_equilibrium", "coverage_slack", "eps"):
        assert rows[name].isna().all()


# what survives


@pytest.mark.slow
def test_what_is_there_is_kept_and_what_is_not_is_computed(unbroken, tmp_path):
    path, rows = unbroken
    parts = sorted((path / "parts").iterdir())
    (tmp_path / "parts").mkdir()
    for part in parts[::2]:
        (tmp_path / "parts" / part.name).write_bytes(part.read_bytes())
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts").iterdir()}
    again, said = sweep(SMALL, tmp_path)
    assert same(rows, again)
    assert not said
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items())
    assert len(list((tmp_path / "parts").iterdir())) == len(parts)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "another cell's"])
def test_a_damaged_part_is_found_and_computed_again(unbroken, tmp_path, damage):
    path, rows = unbroken
    parts = sorted((path / "parts").iterdir())
    (tmp_path / "parts").mkdir()
    for part in parts:
        (tmp_path / "parts" / part.name).write_bytes(part.read_bytes())
    victim = tmp_path / "parts" / parts[0].name
    whole = bytearray(victim.read_bytes())
    if damage == "flipped":
        whole[np.random.default_rng().integers(len(whole))] ^= 1
    data = {"cut": whole[: len(whole) // 2], "empty": b"", "flipped": whole, "another cell's": parts[-1].read_bytes()}
    victim.write_bytes(data[damage])
    again, said = sweep(SMALL, tmp_path)
    assert same(rows, again)
    assert len(said) == 1
    assert str(victim) in said[0]
    assert "damaged" in said[0]
    assert len(list((tmp_path / "parts").iterdir())) == len(parts)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_table(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL + '[solver]\nmethod = "best_responses"\n')
    random = np.random.default_rng()
    kills = 0
    for longest in (3, 1, 1, 1):  # seconds; the first from the start, the others from where the work begins
        process, limit = start(tmp_path), time.monotonic() + 60
        while longest == 1 and process.poll() is None and time.monotonic() < limit and holder(tmp_path) != process.pid:
            time.sleep(0.02)
        time.sleep(random.uniform(0, longest))
        if process.poll() is None:
            kills += 1
            process.send_signal(signal.SIGKILL)
        process.wait()
    for name in ("out", "unbroken"):
        assert start(tmp_path, name).wait() == 0
    assert kills, "it was killed at least once"
    found = tmp_path / "out"
    assert same(pd.read_parquet(tmp_path / "unbroken/games.parquet"), pd.read_parquet(found / "games.parquet"))
    blocks = [sorted(p.name[:23] for p in (tmp_path / name / "parts").iterdir()) for name in ("out", "unbroken")]
    assert blocks[0] == blocks[1], "nothing twice, and no temporary left"
    assert not [p for p in found.iterdir() if p.name.startswith(".") and p.name != LOCK]


def holder(path):
    """The process that works on the directory, or did last."""
    lock = path / "out" / LOCK
    return int(lock.read_text() or 0) if lock.exists() else 0


def start(path, out="out"):
    command = [sys.executable, "-m", "emalign_jax", "sweep", "small.toml", "--out", out]
    with open(path / "said.txt", "a") as said:
        return subprocess.Popen(command, cwd=path, env=ONE_THREAD, stdout=said, stderr=said)


# science

SCIENCE = """
[games]
family = ["hull", "shared_bias"]
agents = [1, 2]
bias = 2.0
states = 3
actions = 3
count = 20
[solver]
method = "best_responses"
tolerance = 1e-5
"""


@pytest.fixture(scope="module")
def science(tmp_path_factory):
    return sweep(SCIENCE, tmp_path_factory.mktemp("science"))[0]


@pytest.mark.slow
def test_in_the_hull_every_equilibrium_is_full_information_up_to_the_certified_gain(science):
    rows = science.query("family == 'hull' and agents > 1")
    assert rows["ok"].all()
    assert (rows["normalised_coverage_slack"] < 1e-6).all()
    assert (rows["normalised_value"] >= 1 - rows["normalised_weighted_gain"] - 1e-6).all()
    assert (rows["normalised_worst_equilibrium"] >= 1 - 1e-6).all()
    assert rows["normalised_value"].min() > 0.99, "and those gains are small"
    alone = science.query("family == 'shared_bias' and agents == 1")
    assert alone["normalised_value"].mean() < 0.8, "one agent alone does not reveal all"


def test_under_a_shared_bias_competition_falls_short(science):
    rows = science.query("family == 'shared_bias' and agents > 1")
    assert rows["ok"].all()
    columns = ["normalised_value", "normalised_worst_equilibrium", "normalised_best_equilibrium"]
    means = rows.groupby("agents")[columns].mean()
    assert (means["normalised_value"] < 0.9).all()
    assert (means["normalised_worst_equilibrium"] < 0.8).all()
    np.testing.assert_allclose(means["normalised_best_equilibrium"], 1, atol=1e-6)
    alone = science.query("family == 'shared_bias' and agents == 1")["normalised_value"].mean()
    assert (means["normalised_value"] > alone + 0.05).all(), "though it helps"
    # no profile found is worse than the exact worst equilibrium
    assert (rows["user_value"] >= rows["worst_equilibrium"] - 1e-3).all()


@pytest.mark.slow
def test_where_competition_stops_helping_by_hand():
    """Shares regained 1, .6, .2 of a shortfall of .5: half at bias 1.25, in games that are all alike."""
    config = configs.parse("[games]\nbias = [0, 1.0, 2.0]\nagents = [1, 2]\n", "x")

    def thresholds(shares, spread=0.0):
        rows = pd.DataFrame(
            [
                {"family": "f", "agents": K, "game": n, "start": 0, "games.bias": bias}
                | {"normalised_worst_equilibrium": 0.5 + 0.5 * share + spread * (-1) ** n if K > 1 else np.nan}
                | {"normalised_best_monopolist": 0.5}
                for K in (1, 2) for n in range(40) for bias, share in zip((0.0, 1.0, 2.0), shares, strict=True)
            ]
        )  # fmt: skip
        return threshold.thresholds(config, rows)

    (stop,) = thresholds([1, 0.6, 0.2])
    assert stop[:2] == ("f", 2)
    assert stop[2:] == pytest.approx((1.25,) * 3)
    (wide,) = thresholds([1, 0.6, 0.2], 0.1)  # standard error .1 / sqrt(40), in shares twice that; slope .4 a unit
    half = 1.96 * 2 * 0.1 / np.sqrt(40) / 0.4
    assert wide[2:] == pytest.approx((1.25, 1.25 - half, 1.25 + half), abs=0.04)
    assert thresholds([0.4, 0.6, 0.2])[0].value == pytest.approx(1.25), "for good"
    assert thresholds([1, 0.9, 0.8])[0].value == np.inf
    assert thresholds([0.4, 0.3, 0.2])[0].value == -np.inf
    assert threshold.words(config, wide._replace(value=1.62, low=-np.inf, high=np.inf)) == "1.6 [< 0, > 2]"
    assert threshold.thresholds(configs.parse("[games]\nagents = [1, 2]", "x"), pd.DataFrame()) == []


def test_a_legend_names_what_any_panel_shows_and_on_which_side(science):
    rows = science.assign(**{"games.bias": np.where(science["game"] < 10, 1.0, 2.0)})
    held = (rows["family"] == "hull") | (rows["games.bias"] < 2)  # no boundary in the first panel
    rows = rows.assign(normalised_guarantee=np.where(held, 0.5, 0.0), normalised_theorem=-1.0)
    figure = sweep_figures.phase(rows, "games.bias", "games.agents", "t")
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "right: sharp guarantee vacuous in half of the games"
    ]


def test_keys_are_short_digests(unbroken):
    assert unbroken[1]["cell"].map(lambda key: bool(re.fullmatch("[0-9a-f]{16}", key))).all()
