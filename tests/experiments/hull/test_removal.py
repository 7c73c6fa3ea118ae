"""Removing agents: branch and bound against all removals, one by one."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
from support.hull import table

from emalign_jax.experiments.hull import removal, summary
from emalign_jax.experiments.hull.experiment import HullJob
from emalign_jax.experiments.hull.fits import Rule, fit

pytestmark = pytest.mark.host_only


def worst_without(user, agents, rule, many):
    """The largest error over all sets of `many` removed, refitted one by one."""
    K = len(agents)
    if many >= K:
        return np.inf
    return max(
        fit(user[None], agents[[k for k in range(K) if k not in gone]], "simplex", rule).error[0]
        for gone in combinations(range(K), many)
    )


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "sup"])
def test_leave_out_is_exact_where_it_says_so(norm):
    values = np.random.default_rng(9).normal(size=(9, 1, 14))
    job = HullJob(table(values, targets=[0, 4, 8]), sizes=(8,), norm=norm)
    left = removal.leave_out(job)
    assert left["without_five_exact"].all()
    for row, t in zip(left.to_dict("records"), (0, 4, 8), strict=True):
        agents, rule = np.delete(values, t, 0), Rule("constant", norm)
        np.testing.assert_allclose(row["error"], fit(values[[t]], agents, "simplex", rule).error[0], atol=1e-8)
        np.testing.assert_allclose(row["without_one"], worst_without(values[t], agents, rule, 1), atol=1e-8)
        np.testing.assert_allclose(row["without_five_lower"], worst_without(values[t], agents, rule, 5), atol=1e-8)
        assert row["without_five_lower"] == row["without_five_upper"]
    assert (left["error"] <= left["without_one"] + 1e-12).all()
    assert (left["without_one"] <= left["without_five_lower"] + 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 9])
def test_leave_five_out_is_bracketed_where_it_is_not_exact(n, monkeypatch):
    values = np.random.default_rng(22).normal(size=(n + 1, 1, 16))
    job = HullJob(table(values, targets=[0, 5]), sizes=(n,))
    monkeypatch.setattr(removal, "REFITS", {"l2": 0})
    left = removal.leave_out(job)
    for row, t in zip(left.to_dict("records"), (0, 5), strict=True):
        worst = worst_without(values[t], np.delete(values, t, 0), Rule("constant", "l2"), 5)
        assert row["without_five_lower"] <= worst + 1e-9
        assert worst <= row["without_five_upper"] + 1e-9
        assert not row["without_five_exact"]
        singles = sorted(Rule("constant", "l2").best_error(np.delete(values, t, 0) - values[t]))
        assert row["without_five_upper"] == pytest.approx(singles[5]), "one of the best six is left"
    covered = summary.coverage(dataclasses.replace(job, tolerance=float(left["without_five_lower"].mean())), left)
    assert covered["covered_without_any_five_lower"] <= covered["covered_without_any_five_upper"]


@pytest.mark.slow
def test_a_proof_that_fails_makes_no_exact_answer(monkeypatch):
    values = np.random.default_rng(9).normal(size=(9, 1, 14))
    job, solve = HullJob(table(values, targets=[0]), sizes=(8,)), removal.fit

    def some(user, agents, *others):  # every refit fails, whichever agent is removed
        return solve(user, agents, *others).replace(solved=np.full(len(user), len(agents) == 8))

    monkeypatch.setattr(removal, "fit", some)
    for refits in (removal.REFITS["l2"], 0):
        monkeypatch.setattr(removal, "REFITS", {"l2": refits})
        left = removal.leave_out(job)
        assert left["error"].notna().all()
        assert left[["without_one", "without_five_upper"]].isna().all(axis=None)
        assert not left["without_five_exact"].any()


def test_all_agents_removed_is_no_cover():
    values = np.random.default_rng(9).normal(size=(6, 1, 16))
    left = removal.leave_out(HullJob(table(values), sizes=(5,)))
    assert left["without_five_lower"].isna().all(), "five of five is no question"
    left = removal.leave_out(HullJob(table(values), sizes=(1,)))
    assert (left["without_one"] == np.inf).all()


@pytest.mark.parametrize("offset", ["none", "constant"])
@pytest.mark.parametrize("norm", ["l2", pytest.param("sup", marks=pytest.mark.slow)])
def test_all_removals_of_small_tables(norm, offset):
    rng, rule = np.random.default_rng([len(norm), len(offset)]), Rule(offset, norm)
    for K, Y, many in ((1, 5, 1), (3, 6, 2), (6, 4, 5), (7, 20, 2), (7, 5, 3), (6, 30, 5)):
        agents = rng.normal(size=(K, 1, Y))
        for user in (rng.normal(size=(1, Y)), agents[0] + 0.01, agents[:2].mean(0)):  # outside, a corner, an edge
            worst = worst_without(user, agents, rule, many)
            low, high = removal.worst_without(user, agents, rule, many)
            assert low == high
            assert low == pytest.approx(worst, rel=1e-7, abs=1e-7)


def test_copies_of_an_agent_must_all_go():
    """Of three copies of the only good agent two may go at no cost, and what is left then is the others' best."""
    good = np.array([[0.1, -0.1, 0.1, -0.1]])
    agents = np.stack([good] * 3 + [10 * good] * 4)
    found = [removal.worst_without(0 * good, agents, Rule("none", "l2"), many) for many in (1, 2, 3)]
    np.testing.assert_allclose(found, [[0.1, 0.1], [0.1, 0.1], [1, 1]], atol=1e-6)


@pytest.mark.slow
def test_sixty_five_agents_are_exact():
    """Five of 65, where ten carry all weight, against all removals of those."""
    rng = np.random.default_rng(3)
    good, user = rng.normal(size=(10, 1, 40)), np.zeros((1, 40))
    good[..., 0] = 0
    agents = np.concatenate([good, rng.normal(size=(55, 1, 40))])
    agents[10:, 0, 0] = 1e5
    low, high = removal.worst_without(user, agents, Rule("none", "l2"), 5)
    assert low == high == pytest.approx(worst_without(user, good, Rule("none", "l2"), 5), rel=1e-7)


def test_a_search_that_is_stopped_is_a_bracket(monkeypatch):
    rng, rule, kinds = np.random.default_rng(1), Rule("constant", "l2"), set()
    for _ in range(3):
        user, agents = rng.normal(size=(1, 30)), rng.normal(size=(9, 1, 30))
        worst = worst_without(user, agents, rule, 3)
        fourth = np.sort(rule.best_error(agents - user))[3]
        for refits in (*range(1, 80, 9), 400):
            monkeypatch.setattr(removal, "REFITS", {"l2": refits})
            low, high = removal.worst_without(user, agents, rule, 3)
            assert low <= worst * (1 + 1e-7)
            assert worst <= high * (1 + 1e-7)
            kinds.add("exact" if low == high else "one of four is left" if np.isclose(high, fourth) else "slack")
            assert refits < 400 or low == high
    assert kinds == {"exact", "one of four is left", "slack"}
