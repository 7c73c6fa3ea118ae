"""Tables with missing cells: agents by overlap, fits on what all rated, nothing filled in, nothing held out seen."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.hull import table

from emalign_jax.experiments.hull import removal, summary, tables
from emalign_jax.experiments.hull.experiment import HullJob, run
from emalign_jax.experiments.hull.fits import Rule, fit
from emalign_jax.experiments.hull.overlap import by_overlap
from emalign_jax.experiments.run_parts import Parts

pytestmark = pytest.mark.host_only


def test_agents_of_a_table_by_hand():
    there = np.array(
        [
            [1, 1, 1, 1, 1, 0],  # the target
            [1, 1, 1, 0, 0, 1],  # shares 3
            [0, 0, 1, 1, 1, 1],  # shares 3, later in the order than the first, earlier than the last
            [1, 1, 0, 0, 0, 1],  # shares 2, both with the first
            [1, 0, 0, 0, 0, 1],
        ],
        bool,
    )
    assert by_overlap(there, 0, np.array([1, 2, 3, 4]), 4, 1).tolist() == [1, 3, 4]
    assert by_overlap(there, 0, np.array([4, 3, 2, 1]), 4, 1).tolist() == [2, 1]
    assert by_overlap(there, 0, np.array([4, 3, 1, 2]), 4, 2).tolist() == [1, 3]
    assert by_overlap(there, 0, np.array([4, 3, 1, 2]), 1, 2).tolist() == [1]
    assert by_overlap(there, 0, np.array([1, 2, 3, 4]), 4, 4).tolist() == []


def sparse(people=14, items=60, share=0.25, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(people, 3)) @ rng.normal(size=(3, items)) + 0.3 * rng.normal(size=(people, items))
    values[rng.random(values.shape) < share] = np.nan
    return values[:, None]


def test_fits_are_those_of_the_common_items():
    """Each row of errors from the table itself: agents one by one, the common items, and the fit on them alone."""
    values = sparse()
    job = HullJob(table(values, overlap=8), sizes=(1, 3), subsets=2, offsets=("constant",), seed=5)
    errors = run(job).errors
    assert not errors[["in_sample", "held_out", "no_agent"]].isna().any(axis=None)
    there, rule, seen = ~np.isnan(values[:, 0]), Rule("constant", "l2"), 0
    for s in range(2):
        order, test = job.subset(s)
        for t in range(14):
            common, agents = there[t].copy(), []
            for n in (1, 2, 3):
                counts = {k: (common & there[k] & ~test).sum() for k in order if k != t and k not in agents}
                best = max(counts, key=lambda k: counts[k])  # the first of the order where several are as good
                agents.append(best)
                common &= there[best]
                row = errors.query("subset == @s and target == @t and agents == @n and method == 'simplex'")
                if n == 2:
                    continue
                enough = counts[best] >= 8 and (common & test).sum() >= 2
                assert len(row) == enough
                if not enough:
                    break
                train, held = values[..., common & ~test], values[..., common & test]
                assert row[["items", "test_items"]].values.tolist() == [[train.shape[-1], held.shape[-1]]]
                found = fit(train[[t]], train[agents], "simplex", rule)
                misfit = np.tensordot(found.weights[0], held[agents], 1) - held[t]
                misfit -= (np.tensordot(found.weights[0], train[agents], 1) - train[t]).mean()
                assert row["in_sample"].item() == pytest.approx(found.error[0], abs=1e-9)
                assert row["held_out"].item() == pytest.approx(np.sqrt((misfit**2).mean()), abs=1e-9)
                alone = np.sqrt(((held[t] - train[t].mean()) ** 2).mean())
                assert row["no_agent"].item() == pytest.approx(alone, abs=1e-12)
                seen += 1
    assert seen > 30


def test_agents_and_weights_do_not_see_the_items_held_out():
    """Other ratings there, and other people who rated there."""
    values = sparse(seed=1)
    job = HullJob(table(values, overlap=8), sizes=(1, 3), subsets=1)
    test, rng = job.subset(0)[1], np.random.default_rng(2)
    other = np.where(test & (rng.random(values.shape) < 0.8), rng.normal(size=values.shape), values)
    changed = dataclasses.replace(job, table=table(other, overlap=8))
    for t, agents in job.chosen(0, np.arange(14)).items():
        assert changed.chosen(0, np.arange(14))[t].tolist() == agents.tolist()
    keys = ["offset", "method", "agents", "target"]
    before, after = (run(one).errors.set_index(keys) for one in (job, changed))
    both = before.index.intersection(after.index)
    assert len(both) > 100
    np.testing.assert_array_equal(before.loc[both, "in_sample"], after.loc[both, "in_sample"])
    assert (before.loc[both, "held_out"] != after.loc[both, "held_out"]).any()


def test_a_table_without_gaps_gives_the_same_as_ever():
    values = np.random.default_rng(4).normal(size=(6, 1, 15))
    whole = HullJob(table(values), sizes=(1, 4), subsets=2)
    keys = ["offset", "method", "agents", "subset", "target"]
    one, other = (
        run(dataclasses.replace(whole, table=table(values, overlap=n))).errors.sort_values(keys) for n in (None, 3)
    )
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True), rtol=1e-9)


def test_who_is_covered_is_asked_on_the_common_items():
    values = sparse(seed=3)
    job = HullJob(table(values, overlap=8), sizes=(2,), offsets=("constant",))
    left, rule = removal.leave_out(job), Rule("constant", "l2")
    chosen = job.chosen(0, np.arange(14))
    assert len(left) > 5
    for row in left.to_dict("records"):
        agents = chosen[row["target"]][:2]
        common = ~np.isnan(values[[row["target"], *agents], 0]).any(0)
        user, others = values[[row["target"]]][..., common], values[agents][..., common]
        assert row["items"] == common.sum()
        assert row["no_agent"] == pytest.approx(user.std(), rel=1e-9)
        assert row["error"] == pytest.approx(fit(user, others, "simplex", rule).error[0], abs=1e-9)
        assert row["without_one"] == pytest.approx(max((agent - user[0]).std() for agent in others), abs=1e-6)
    covered = summary.coverage(job, left)
    assert covered["covered"] == (left["error"] <= 0.8 * left["no_agent"]).mean()
    assert covered["relative"]
    absolute = summary.coverage(dataclasses.replace(job, tolerance=1.0), left)
    assert absolute["covered"] == (left["error"] <= 1).mean()


def test_how_many_agents_half_of_the_targets_have():
    values = np.full((5, 1, 40), np.nan)
    values[:3] = np.random.default_rng(0).normal(size=(3, 1, 40))
    values[3, 0, :14] = values[4, 0, 26:] = 1.0 * np.arange(14)
    job = HullJob(table(values, overlap=15), subsets=1, sizes=(1, 2, 3, 4))
    assert job.available == 2, "the three who rated all have each other, the others have too few items"
    assert run(dataclasses.replace(job, sizes=(1, 2))).errors["target"].nunique() == 3


def test_parts_of_another_run_are_not_taken(tmp_path):
    values = np.random.default_rng(4).normal(size=(5, 1, 12))
    job = HullJob(table(values), sizes=(1, 4), subsets=2)
    other = dataclasses.replace(job, seed=1)
    fresh, first = run(other), run(job, kept=Parts(tmp_path))
    parts = sorted(path.name for path in (tmp_path / "parts").iterdir())
    again = run(job, lambda what, done, total: None, Parts(tmp_path))
    pd.testing.assert_frame_equal(again.errors, first.errors)
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == parts
    pd.testing.assert_frame_equal(run(other, kept=Parts(tmp_path)).errors, fresh.errors)
    assert len(list((tmp_path / "parts").iterdir())) == 2 * len(parts)


@pytest.mark.usefixtures("empty_directory")
def test_files_keep_everyone():
    frame = pd.DataFrame({"user": [1, 1, 1, 2, 2, 3], "item": list("abcbca"), "rating": [1.0, 2, 3, 4, 5, 6]})
    frame.to_csv("t.csv", index=False)
    found = tables.read(Path("t.csv"), tables.Options(overlap=2))
    expected = [[1, 2, 3], [np.nan, 4, 5], [6, np.nan, np.nan]]
    np.testing.assert_array_equal(found.utilities[:, 0], expected)
    assert [found.names[t] for t in found.targets] == ["1", "2"], "3 has one rating, which does not vary"
    np.testing.assert_array_equal(found.there, ~np.isnan(expected))
    assert found.notes[0].startswith("66.7% of the cells are there")
    poll = pd.DataFrame(
        [(q, o, g, s) for q in "xy" for o, s in (("a", 0.25), ("b", 0.75)) for g in "FGH" if (q, g) != ("y", "H")],
        columns=["question", "option", "group", "share"],
    )
    poll.to_csv("p.csv", index=False)
    found = tables.read(Path("p.csv"), tables.Options(overlap=1))
    np.testing.assert_array_equal(found.there, [[1, 1], [1, 1], [1, 0]])
    np.testing.assert_allclose(found.utilities[2, 0], [0.25, 0.75, np.nan, np.nan])
    np.savez("t.npz", user_utility=np.ones((2, 3)), agent_utilities=np.ones((2, 2, 3)))
    with pytest.raises(ValueError, match=r"t\.npz: --overlap: an \.npz has no missing cells"):
        tables.read(Path("t.npz"), tables.Options(overlap=2))
