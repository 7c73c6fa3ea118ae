"""Markets from tables: known equilibria, blocks, resamples, subsets, resume, workers, bad input."""

import dataclasses
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.markets import copies, monopoly_by_linprog, opposed, table

import emalign_jax as em
from emalign_jax.experiments.hull.fits import Rule
from emalign_jax.experiments.market import block, experiment, summary
from emalign_jax.experiments.market.table import read

pytestmark = [pytest.mark.usefixtures("empty_directory"), pytest.mark.host_only]

ANSWERS = {"table.file": "t.csv", "table.answers": True, "table.target": "human"}
QUICK = {"market.bootstrap": 0, "market.subsets": 1, "market.without": False}


def save(user, agents, path="t.csv"):
    table(user, agents).to_csv(path, index=False)


def perform(out="m", **keys):
    made = experiment.prepare(None, ANSWERS | {name.replace("__", "."): value for name, value in keys.items()})
    return experiment.perform(made, Path(out), False, nullcontext(None), lambda *_: None)


def whole(found):
    return summary.whole(found.rows)


SIZES = [(50, 2, 3), (500, 4, 20)]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "A", "K"), SIZES)
def test_opposed_scorers_whose_hull_is_exact_reveal_all(n, A, K):
    user, agents = opposed(n, A, K)
    save(user, agents)
    row = whole(perform(**{"table.order": "given", "market.n": [2]} | QUICK))
    full, none = user.max(1).mean(), user.mean(0).max()
    np.testing.assert_allclose(
        [row["full"], row["none"], row["worst"], row["best"], row["guarantee"]],
        [full, none, full, full, full],
        atol=1e-6,
    )
    assert row["slack"] == pytest.approx(0, abs=1e-6)
    assert row["eps"] == pytest.approx(0, abs=1e-6)
    assert row["hull_error"] == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "A", "K"), SIZES)
def test_copies_of_a_biased_scorer_give_the_monopoly_value(n, A, K):
    user, agents = copies(n, A, K)
    save(user, agents)
    found = perform(**{"table.order": "given", "market.n": [2]} | QUICK)
    row, alone = whole(found), monopoly_by_linprog(user, agents[0])
    assert row["worst"] == pytest.approx(alone, abs=1e-6)
    assert row["best"] == pytest.approx(user.max(1).mean(), abs=1e-6)
    np.testing.assert_allclose(found.agents["monopoly"], alone, atol=1e-6)
    assert 0.01 < row["normalised_worst"] < 0.9, "an example that says something"
    pairs = found.rows.query("kind == 'subset'")
    np.testing.assert_allclose(pairs["worst"], alone, atol=1e-6)


@pytest.fixture
def small():
    """Ten prompts with three answers: two opposed scorers, a copy of the first and one of noise."""
    user, agents = opposed(10, 3, 2)
    noise = np.random.default_rng(9).normal(size=(1, 10, 3))
    save(user, np.concatenate([agents, agents[:1], noise]))
    return user


NAMED = {"table.agents": ["ai 0", "ai 2"], "market.bootstrap": 2, "market.subsets": 2, "market.target_value": 0.5}


@pytest.mark.slow
def test_who_leaves_and_who_enters(small):
    """ai 0 and ai 2 want the same; ai 1, their opposite, makes the hull exact."""
    found = perform(**NAMED)
    assert found.facts["entering"] == 2
    row = whole(found)
    assert row["worst"] < row["full"] - 0.01
    lines = summary.entering(found.rows).set_index("name")
    assert lines.loc["ai 1", "worst"] == pytest.approx(row["full"], abs=1e-6)
    all_ = perform("all", **{"market.bootstrap": 0, "market.subsets": 1, "table.agents": ["ai 0", "ai 1", "ai 2"]})
    gone = summary.agents(all_).set_index("name")["without"]
    assert gone["ai 1"] == pytest.approx(row["worst"], abs=1e-6)
    np.testing.assert_allclose(gone[["ai 0", "ai 2"]], row["full"], atol=1e-6)
    assert row["transfers"] >= 0
    assert found.rows.query("resample > 0 and kind == 'entering'").empty


@pytest.mark.slow
def test_a_resample_is_the_market_of_the_repeated_prompts(small):
    found = perform(**NAMED)
    made = experiment.prepare(None, ANSWERS | NAMED)
    repeats = block.counts(made.config.made, 10, 1)
    assert repeats.sum() == 10
    again = np.repeat(np.arange(10), repeats)
    frame = pd.read_csv("t.csv")
    order = made.table.market(made.config.made.table, 0)  # positions are drawn once, for the table
    user, agents = order.user[again], order.agents[again][:, :2]
    game = em.game_from_table(user, agents, order="given")
    row = found.rows.query("resample == 1 and kind == 'all'").iloc[0]
    same = em.stability(game)  # in which a prompt that is there twice is two
    assert row["full"] == pytest.approx(float(same.full_information), abs=1e-9)
    assert row["none"] == pytest.approx(float(same.no_information), abs=1e-9)
    assert row["full"] == pytest.approx(frame["human"].to_numpy().reshape(10, 3).max(1)[again].mean(), abs=1e-9)


def test_large_tables_are_resampled_on_request(monkeypatch):
    save(*opposed(6, 3, 2))
    assert experiment.prepare(None, ANSWERS).config.made.market.bootstrap == 10
    monkeypatch.setattr(experiment.config, "MOST_SCORES", 35)
    assert experiment.prepare(None, ANSWERS).config.made.market.bootstrap == 0
    assert experiment.prepare(None, ANSWERS | {"market.bootstrap": 3}).config.made.market.bootstrap == 3


def test_own_means_are_those_of_the_resample():
    rng = np.random.default_rng(0)
    ratings = pd.DataFrame(rng.integers(1, 6, (8, 4)), columns=["u", "a", "b", "c"])
    ratings.to_csv("r.csv", index=False)
    section = experiment.config.Table(file="r.csv", accept="own-mean", target="u")
    counts = np.array([2, 0, 1, 1, 0, 3, 1, 0])
    market = read(section).market(section, 0, counts)
    again = np.repeat(ratings.to_numpy(float), counts, axis=0)
    values = again - again.mean(0)
    np.testing.assert_allclose(np.repeat(market.user[:, 0], counts[counts > 0]), values[:, 0], atol=1e-12)
    np.testing.assert_allclose(np.repeat(market.agents[:, :, 0], counts[counts > 0], 0), values[:, 1:], atol=1e-12)
    assert market.prior @ market.user[:, 0] == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
def test_hull_errors_are_those_of_prompts_that_were_held_out(small):
    """By SciPy's NNLS on the training half: with an offset for each prompt only differences to its mean count."""
    from scipy.optimize import nnls

    made = experiment.prepare(None, ANSWERS | {"market.n": [2], "market.subsets": 1, "market.bootstrap": 0})
    found = experiment.perform(made, Path("m"), False, nullcontext(None), lambda *_: None)
    row = found.rows.query("kind == 'subset'").iloc[0]
    own, table_ = made.config.made, made.table
    some = np.sort(np.random.default_rng([own.seed, 0]).permutation(4)[:2])
    test = np.isin(np.arange(10), np.random.default_rng([own.seed, 0, 1]).permutation(10)[:5])
    user, agents = (x - x.mean(-1, keepdims=True) for x in (table_.user, table_.scores[:, some]))
    weights = nnls(agents[~test].transpose(0, 2, 1).reshape(-1, 2), user[~test].ravel())[0]
    left = user[test] - np.einsum("nka,k->na", agents[test], weights)
    assert row["hull_error"] == pytest.approx(np.sqrt((left**2).mean()), abs=1e-9)
    assert row["no_agent_error"] == pytest.approx(np.sqrt((user[test] ** 2).mean()), abs=1e-9)
    assert Rule("per_state", "l2") == block.RULE


@pytest.mark.slow
def test_it_goes_on_where_it_stopped_and_workers_change_nothing(small, monkeypatch):
    keys = ANSWERS | NAMED | {"market.n": [2]}
    steps = []
    expected = em.experiments.run(keys, kind="market", out="whole", progress=lambda _, *at: steps.append(at))
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == ((0, 300), (300, 300))
    compute, numbers = block.compute, []

    def until(data, text, number, progress=None):
        numbers.append(number)
        if number == 2 and len(numbers) == 3:
            raise KeyboardInterrupt
        return compute(data, text, number)

    monkeypatch.setattr(block, "compute", until)
    with pytest.raises(KeyboardInterrupt):
        em.experiments.run(keys, kind="market", out="again")
    assert {path.name.split("-")[1] for path in Path("again/parts").iterdir()} == {"00000", "00001"}
    found = em.experiments.run(keys, kind="market", out="again")
    assert numbers == [0, 1, 2, 2]
    assert found.fresh
    assert not Path("again/parts").exists()
    monkeypatch.setattr(block, "compute", compute)
    spread = em.experiments.run(keys, kind="market", out="spread", workers=2)
    for other in (found, spread):
        pd.testing.assert_frame_equal(other.rows.drop(columns="seconds"), expected.rows.drop(columns="seconds"))
        pd.testing.assert_frame_equal(other.agents, expected.agents)
    shutil.move("t.csv", "u.csv")  # it may lie elsewhere
    told = em.experiments.run(keys | {"table.file": "u.csv"}, kind="market", out="again")
    assert not told.fresh
    with pytest.raises(ValueError, match=r"market\.subsets is 2 there and 3 now"):
        em.experiments.run(keys | {"table.file": "u.csv", "market.subsets": 3}, kind="market", out="again")
    Path("p.py").write_text("")
    with pytest.raises(ValueError, match="plugin: a market has a rational user"):
        em.experiments.run(keys | {"table.file": "u.csv"}, kind="market", plugin=["p.py"])


@pytest.mark.slow
def test_where_information_is_worth_nothing_it_is_said(small):
    """The first answer is best to all prompts, in the given order."""
    user, agents = opposed(10, 3, 2)
    user[:, 0] = user.max(1) + 0.1
    save(user, agents)
    found = perform(**{"table.order": "given"} | QUICK)
    assert whole(found)["worthless"]
    assert "Information is worth nothing to human" in summary.render(found)
    assert np.isnan(found.rows["normalised_worst"]).all()
    assert summary.document(found)["warning"]


def test_rows_with_missing_values_are_left_out_and_counted():
    user, agents = opposed(10, 3, 3)
    frame = table(user, agents)
    frame.loc[4, "ai 1"] = np.nan
    frame.loc[[13, 29], "human"] = np.nan
    frame.sample(frac=1, random_state=0).to_csv("t.csv", index=False)
    section = experiment.config.Table(file="t.csv", answers=True, target="human")
    found = read(section)
    assert len(found) == 7
    assert found.notes == ("3 of 10 prompts, with all their answers, left out: without a value of human (2), ai 1 (1)",)
    kept = {tuple(np.round(np.sort(row), 9)) for row in found.user}
    assert kept == {tuple(np.round(np.sort(user[k]), 9)) for k in (0, 2, 3, 5, 6, 7, 8)}
    some = read(section.model_copy(update={"agents": ("ai 0", "ai 2")}))
    assert (len(some), some.agents, some.names) == (8, 2, ("ai 0", "ai 2")), "ai 1 misses a value, so it cannot enter"


def test_answers_are_found_whatever_the_order_of_rows():
    user, agents = opposed(6, 3, 2)
    frame = table(user, agents)
    frame.sample(frac=1, random_state=3).to_csv("t.csv", index=False)
    found = read(experiment.config.Table(file="t.csv", answers=True, target="human"))
    for mine, scores in zip(found.user, found.scores.transpose(0, 2, 1), strict=True):
        k = int(np.argmin(abs(user - mine[0]).min(1)))
        for u, own in zip(mine, scores, strict=True):
            np.testing.assert_allclose(own, agents[:, k, int(np.argmin(abs(user[k] - u)))], rtol=1e-12)


def test_an_archive_is_the_same_market():
    user, agents = opposed(6, 3, 2)
    np.savez("t.npz", user_utility=user.T, agent_utilities=agents.transpose(0, 2, 1))
    found = read(experiment.config.Table(file="t.npz", answers=True))
    np.testing.assert_array_equal(found.user, user)
    np.testing.assert_array_equal(found.scores, agents.transpose(1, 0, 2))
    np.savez("r.npz", user_utility=user.T[:1], agent_utilities=agents.transpose(0, 2, 1)[:, :1])
    found = read(experiment.config.Table(file="r.npz", accept=0.0))
    np.testing.assert_array_equal(found.user, user[:, 0])
    np.testing.assert_array_equal(found.scores, agents[:, :, 0].T)


def test_the_table_travels_to_other_processes():
    user, agents = opposed(6, 3, 2)
    save(user, agents)
    made = read(experiment.config.Table(file="t.csv", answers=True, target="human"))
    import io

    with np.load(io.BytesIO(block.sent(made)), allow_pickle=False) as archive:
        again = block.unpack(dict(archive))
    for field in dataclasses.fields(made):
        mine, theirs = getattr(made, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(mine, theirs)
        assert type(mine) is type(theirs)
