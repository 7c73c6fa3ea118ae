"""Grids below the commands: rows, blocks and parts, what survives of them, and the science at small size."""

import json
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

import emalign_jax as em
from emalign_jax.experiments import plan
from emalign_jax.experiments.grid import block as blocks_of
from emalign_jax.experiments.grid import check, merge, threshold
from emalign_jax.experiments.grid import run as grids
from emalign_jax.experiments.run_parts import PARTS, Parts
from emalign_jax.experiments.specification import Specification, make
from emalign_jax.report.figures import phase
from emalign_jax.report.look import Look
from emalign_jax.result import columns

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


def planned(text):
    """The grid of a config, and its blocks, checked."""
    grid = plan.parse(text, "small.toml")
    cells, size = grid.cells(), check.block_size(grid)
    check.check(grid, cells, size)
    return grid, grids.blocks(cells, size)


def swept(text, path, **how):
    """The table of a config, computed in this process, and what was said."""
    grid, work = planned(text)
    said = []
    store = Parts(path, said.append)
    grids.compute(grid, work, store, **{"arrays": False} | how)
    merge.merge_rows(grid, work, store)
    return pd.read_parquet(path / grids.TABLE), said


def searched(specification, first, count):
    """Rows and schemes of a block."""
    return blocks_of.search(specification, blocks_of.draw(specification, first, count), first)[:2]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    path = tmp_path_factory.mktemp("unbroken")
    return path, swept(SMALL, path)[0]


def same(one, two):
    """Row by row, to the last bit; only seconds may differ."""
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), two.drop(columns="seconds"), check_exact=True)
    return True


def parts(path):
    return sorted((path / PARTS).iterdir())


# games


@pytest.mark.slow
def test_games_do_not_depend_on_the_solver_or_the_user():
    def drawn(text):
        return blocks_of.draw(plan.parse(text, "a").cells()[0].specification, 0, 3)

    base = '[games]\nfamily = "noise"\nagents = 2\n'
    others = '[solver]\nmethod = "best_responses"\nstart = "random"\n[user]\nprecision = 7\n'
    one, two, other_seed = (drawn(text) for text in (base, base + others, "seed = 1\n" + base))
    np.testing.assert_array_equal(one.agent_utilities, two.agent_utilities)
    assert not np.array_equal(one.agent_utilities, other_seed.agent_utilities)


def test_blocks_hold_all_games_once_in_order():
    grid = plan.parse("[games]\nagents = [1, 2]\ncount = 7\n", "x")
    for size in (1, 2, 3, 7, 100):
        work = grids.blocks(grid.cells(), size)
        games = [(block.number, n) for block in work for n in range(block.first, block.first + block.count)]
        assert games == [(number, n) for number in range(2) for n in range(7)]
        assert len({block.name for block in work}) == len(work)
        assert max(block.count for block in work) <= size


def test_the_size_of_a_block_is_the_same_on_every_machine(monkeypatch):
    """So that any can go on with what another has begun."""
    from emalign_jax.internal import memory

    sizes = []
    for free in (2**28, 2**40):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        monkeypatch.setattr(jax, "device_count", lambda free=free: free)
        texts = ("", "[measure]\nverify = false", "[measure]\nverify = [true, false]", "block = 5")
        sizes.append([check.block_size(plan.parse(text, "x")) for text in texts])
    assert sizes[0] == sizes[1] == [check.CHECKED, check.PLAYED, check.CHECKED, 5]


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
    made = next(c.specification for c in plan.parse(text, "x").cells() if c.values["games.agents"] == 2)
    rows, schemes = searched(made, 3, 3)
    assert list(rows["game"]) == [3, 4, 5]
    searched(made, 0, 3)
    again, once_more = searched(made, 3, 3)
    assert same(rows, again)
    np.testing.assert_array_equal(schemes, once_more)


@pytest.mark.slow
def test_measures_can_be_left_out_and_columns_stay(unbroken):
    grid = plan.parse(SMALL + "[measure]\nmonopoly = false\nstability = false\ncoverage = false\neps = false", "x")
    rows, _ = searched(grid.cells()[1].specification, 6, 1)
    assert list(rows.columns) == [column.name for column in columns.GAMES]
    assert list(unbroken[1].columns) == ["cell", *grid.axes, *rows.columns]
    assert len(rows) == 1
    for name in ("best_monopolist", "worst_equilibrium", "coverage_slack", "eps"):
        assert rows[name].isna().all()


# what survives


def copied(path, to, which=slice(None)):
    (to / PARTS).mkdir()
    for part in parts(path)[which]:
        (to / PARTS / part.name).write_bytes(part.read_bytes())


@pytest.mark.slow
def test_what_is_there_is_kept_and_what_is_not_is_computed(unbroken, tmp_path):
    path, rows = unbroken
    copied(path, tmp_path, slice(None, None, 2))
    kept = {part: part.stat().st_mtime_ns for part in parts(tmp_path)}
    told = []
    again, said = swept(SMALL, tmp_path, progress=told.append)
    assert same(rows, again)
    assert not said
    assert all(part.stat().st_mtime_ns == when for part, when in kept.items())
    names = [[part.name.rpartition("-")[0] for part in parts(where)] for where in (path, tmp_path)]
    assert names[0] == names[1]
    assert (told[0].done, told[-1].done, told[-1].total) == (len(rows) - _computed(told), len(rows), len(rows))
    assert 0 < _computed(told) < len(rows)
    assert told[-1].certified <= _computed(told), "of what was computed now"


def _computed(told):
    return told[-1].done - told[0].done


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "another cell's", "another block's"])
def test_a_damaged_part_is_found_and_computed_again(unbroken, tmp_path, damage):
    path, rows = unbroken
    copied(path, tmp_path)
    victim, others = parts(tmp_path)[0], parts(tmp_path)[1:]
    whole, key = bytearray(victim.read_bytes()), victim.name.split("-")[0]
    if damage == "flipped":
        whole[np.random.default_rng().integers(len(whole))] ^= 1
    own = [part.read_bytes() for part in others if part.name.startswith(key)]
    foreign = [part.read_bytes() for part in others if not part.name.startswith(key)]
    data = {"cut": whole[: len(whole) // 2], "empty": b"", "flipped": whole}
    data |= {"another cell's": foreign[0], "another block's": own[0]}
    victim.write_bytes(data[damage])
    again, said = swept(SMALL, tmp_path)
    assert same(rows, again)
    assert len(said) == 1
    assert str(victim) in said[0]
    assert "damaged" in said[0]
    assert len(parts(tmp_path)) == len(parts(path))


@pytest.mark.slow
def test_a_block_with_rows_but_without_arrays_is_computed_again(tmp_path):
    """A search keeps games and schemes too; it may be killed between the two files of a part."""
    grid, work = planned("[games]\nagents = 2\nstates = 2\nactions = 2\ncount = 4\n[solver]\nmethod = 'best_responses'")
    store = Parts(tmp_path)
    grids.compute(grid, work, store)
    assert sorted(part.suffix for part in parts(tmp_path)) == [".npz", ".parquet"]
    before = {part: part.read_bytes() for part in parts(tmp_path) if part.suffix == ".npz"}
    for part in before:
        part.unlink()
    grids.compute(grid, work, Parts(tmp_path))
    assert {part: part.read_bytes() for part in parts(tmp_path) if part.suffix == ".npz"} == before


@pytest.mark.slow
def test_what_a_worker_refuses_names_the_file_and_the_point():
    made = make(Specification, {"games.actions": 1, "games.count": 1})
    text = made.model_dump_json(exclude_unset=True)
    with pytest.raises(ValueError, match=r"^x\.toml: games\.information_worth: .* \(at seed = 3\)$"):
        blocks_of.compute(text, 0, 1, None, ("x.toml: ", " (at seed = 3)"))


@pytest.mark.slow
def test_games_that_cannot_be_drawn_are_told_by_file_key_and_cell(tmp_path):
    with pytest.raises(ValueError, match=r"^small\.toml: games\.information_worth: .* \(at games\.agents = 1\)$"):
        swept("[games]\nagents = [1, 2]\nactions = 1\ncount = 1\n", tmp_path)


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
    return swept(SCIENCE, tmp_path_factory.mktemp("science"))[0]


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


@pytest.mark.slow
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
    grid = plan.parse("[games]\nbias = [0, 1.0, 2.0]\nagents = [1, 2]\n", "x")

    def thresholds(shares, spread=0.0):
        rows = pd.DataFrame(
            [
                {"family": "f", "agents": K, "game": n, "start": 0, "games.bias": bias}
                | {"normalised_worst_equilibrium": 0.5 + 0.5 * share + spread * (-1) ** n if K > 1 else np.nan}
                | {"normalised_best_monopolist": 0.5}
                for K in (1, 2) for n in range(40) for bias, share in zip((0.0, 1.0, 2.0), shares, strict=True)
            ]
        )  # fmt: skip
        return threshold.thresholds(grid, rows)

    (stop,) = thresholds([1, 0.6, 0.2])
    assert stop[:2] == ("f", 2)
    assert stop[2:] == pytest.approx((1.25,) * 3)
    (wide,) = thresholds([1, 0.6, 0.2], 0.1)  # standard error .1 / sqrt(40), in shares twice that; slope .4 a unit
    half = 1.96 * 2 * 0.1 / np.sqrt(40) / 0.4
    assert wide[2:] == pytest.approx((1.25, 1.25 - half, 1.25 + half), abs=0.04)
    assert thresholds([0.4, 0.6, 0.2])[0].value == pytest.approx(1.25), "for good"
    assert thresholds([1, 0.9, 0.8])[0].value == np.inf
    assert thresholds([0.4, 0.3, 0.2])[0].value == -np.inf
    assert threshold.words(grid, wide._replace(value=1.62, low=-np.inf, high=np.inf)) == "1.6 [< 0, > 2]"
    assert threshold.thresholds(plan.parse("[games]\nagents = [1, 2]", "x"), pd.DataFrame()) == []


@pytest.mark.slow
def test_a_legend_names_what_any_panel_shows_and_on_which_side(science):
    rows = science.assign(**{"games.bias": np.where(science["game"] < 10, 1.0, 2.0)})
    held = (rows["family"] == "hull") | (rows["games.bias"] < 2)  # no boundary in the first panel
    rows = rows.assign(normalised_guarantee=np.where(held, 0.5, 0.0), normalised_theorem=-1.0)
    figure = phase.figure(rows, "games.bias", "games.agents", "t", Look())
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "right: sharp guarantee vacuous in half of the games"
    ]


# trajectories


@pytest.mark.slow
@pytest.mark.x64
def test_trajectories_are_kept_on_request(empty_directory):
    small = {"games.agents": [1, 2], "games.states": 2, "games.actions": 2, "games.count": 3, "solver.starts": 2}
    small |= {"games.family": "shared_bias", "block": 2, "solver.method": "best_responses"}
    plain = em.experiments.run(small, out="plain")
    found = em.experiments.run(small | {"measure.trajectory": True}, out="kept")
    assert not Path("plain/trajectories.parquet").exists()
    names = ["games.agents", "game", "start"]
    same(plain.rows.drop(columns="cell"), found.rows.drop(columns="cell"))
    steps = pd.read_parquet("kept/trajectories.parquet")
    assert list(steps) == ["cell", "games.agents", *(column.name for column in columns.TRAJECTORIES)]
    last = steps.groupby(names, sort=False).last()
    assert (last["move"] == "RETURNED").all()
    assert (steps.groupby(names)["step"].max() + 1 == steps.groupby(names).size()).all()
    rows = found.rows.set_index(names)
    for name in ("user_value", "normalised_value"):
        np.testing.assert_allclose(last[name].to_numpy(float), rows[name].to_numpy(float), atol=1e-12)
    np.testing.assert_allclose([max(one) for one in last["relative_gain"]], rows["relative_gain"], atol=1e-12)
    assert (steps["holder"].between(0, steps["agents"] - 1)).all()
    assert "trajectories.parquet" in json.loads(Path("kept/manifest.json").read_text())["files"]
    # of cells of a sweep that ask for them
    both = em.experiments.run(small | {"games.agents": 2, "measure.trajectory": [False, True]}, out="axis")
    assert len(both.rows) == 12
    some = pd.read_parquet("axis/trajectories.parquet")
    assert some["measure.trajectory"].all()
    assert len(some) == (steps["agents"] == 2).sum()
