"""The hull experiment against SciPy, brute force and planted answers."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import linprog, nnls
from support.hull import table

from emalign_jax.experiments.hull import removal, summary
from emalign_jax.experiments.hull.experiment import FITTED, METHODS, HullJob, run
from emalign_jax.experiments.hull.fits import Rule, best_single, evaluate, fit

pytestmark = pytest.mark.host_only

OFFSETS = ("none", "constant", "per_state")


def free_columns(A, Y, offset):
    """The offsets as columns [A Y, F] of a fit in free variables."""
    cells = np.arange(A * Y)
    if offset == "none":
        return np.zeros((A * Y, 0))
    if offset == "constant":
        return np.ones((A * Y, 1))
    return (cells[:, None] % Y == np.arange(Y)).astype(float)


def least_squares(user, agents, weights, offset):
    """RMS of the best fit: SciPy's NNLS, free variables as differences of two; simplex by trying all supports."""
    K, A, Y = agents.shape
    free = free_columns(A, Y, offset)
    if weights == "cone":
        return nnls(np.hstack([agents.reshape(K, -1).T, free, -free]), user.ravel())[1] / np.sqrt(A * Y)
    best = np.inf
    for size in range(1, K + 1):
        for support in map(list, combinations(range(K), size)):
            base = agents[support[0]].ravel()  # w_0 = 1 - the others
            rest = (agents[support[1:]].reshape(size - 1, A * Y) - base).T
            x = np.linalg.lstsq(np.hstack([rest, free]), user.ravel() - base)[0]
            w = x[: size - 1]
            if (w >= -1e-12).all() and w.sum() <= 1 + 1e-12:
                left = user.ravel() - base - np.hstack([rest, free]) @ x
                best = min(best, np.linalg.norm(left) / np.sqrt(A * Y))
    return best


def least_largest(user, agents, weights, offset):
    """The least sup-norm error: SciPy's interface to HiGHS."""
    K, A, Y = agents.shape
    fitted = np.hstack([agents.reshape(K, -1).T, free_columns(A, Y, offset)])
    one = np.ones((A * Y, 1))
    F = fitted.shape[1] - K
    total = {"A_eq": np.r_[np.ones(K), np.zeros(F + 1)][None], "b_eq": [1.0]} if weights == "simplex" else {}
    answer = linprog(
        np.r_[np.zeros(K + F), 1.0],
        A_ub=np.vstack([np.hstack([fitted, -one]), np.hstack([-fitted, -one])]),
        b_ub=np.r_[user.ravel(), -user.ravel()],
        bounds=[(0, None)] * K + [(None, None)] * F + [(0, None)],
        method="highs",
        **total,
    )
    return answer.fun


@pytest.mark.parametrize("norm", ["l2", "sup"])
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("weights", FITTED)
def test_fits_agree_with_scipy(weights, offset, norm):
    """Shared agents, tall and wide tables, one answer an item and several."""
    rng = np.random.default_rng([ord(weights[0]), ord(offset[0]), ord(norm[0])])
    for K, A, Y in ((1, 1, 9), (4, 1, 30), (5, 3, 8), (5, 2, 2)):
        user, agents = rng.normal(size=(3, A, Y)) + 2, rng.normal(size=(K, A, Y))
        user[0] = np.tensordot(rng.dirichlet(np.ones(K)), agents, 1)
        found = fit(user, agents, weights, Rule(offset, norm))
        assert found.solved.all()
        reference = least_squares if norm == "l2" else least_largest
        expected = [reference(u, agents, weights, offset) for u in user]
        np.testing.assert_allclose(found.error, expected, atol=1e-7)
        assert expected[0] < 1e-7, "in the hull"
        attained = Rule(offset, norm).best_error(np.tensordot(found.weights, agents, 1) - user)
        np.testing.assert_allclose(attained, expected, atol=1e-7)


@pytest.mark.parametrize("norm", ["l2", "sup"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_held_out_errors_and_the_best_agent_by_hand(offset, norm):
    rng = np.random.default_rng(4)
    user, agents, w = rng.normal(size=(2, 3, 6)), rng.normal(size=(4, 3, 6)), rng.dirichlet(np.ones(4), 2)
    test = np.array([0, 1, 0, 0, 1, 0], bool)
    rule = Rule(offset, norm)
    split = evaluate(w, user, agents, test, rule)

    def centre(x, axis=None):
        return x.mean(axis) if norm == "l2" else (x.max(axis) + x.min(axis)) / 2

    def error(x):
        return np.sqrt((x**2).mean()) if norm == "l2" else np.abs(x).max()

    for t in range(2):
        misfit = np.tensordot(w[t], agents, 1) - user[t]
        train, held = misfit[:, ~test], misfit[:, test]
        if offset == "constant":  # what is best on the training items
            train, held = train - centre(train), held - centre(train)
        elif offset == "per_state":  # only differences between answers count
            train, held = train - centre(train, 0), held - centre(held, 0)
        np.testing.assert_allclose([split.in_sample[t], split.held_out[t]], [error(train), error(held)], rtol=1e-12)
    singles = [[evaluate(np.eye(4)[[k]], u[None], agents, test, rule).in_sample[0] for k in range(4)] for u in user]
    chosen = best_single(user[..., ~test], agents[..., ~test], rule)
    assert chosen.argmax(1).tolist() == np.argmin(singles, 1).tolist()


@pytest.mark.slow
def test_fits_do_not_see_the_items_held_out():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(7, 1, 24))
    job = HullJob(table(values), sizes=(2, 6), subsets=1, seed=3)
    order, test = job.subset(0)
    assert test.sum() == job.tests == 7
    assert sorted(order) == list(range(7))
    other = values + 5 * test * rng.normal(size=values.shape)
    before, after = (run(dataclasses.replace(job, table=table(v))) for v in (values, other))
    np.testing.assert_array_equal(before.errors["in_sample"], after.errors["in_sample"])
    assert before.weights.equals(after.weights)
    assert (before.errors["held_out"] != after.errors["held_out"]).all()


def test_questions_are_held_out_whole():
    values = np.random.default_rng(0).normal(size=(5, 1, 30))
    job = HullJob(table(values, item=np.repeat(np.arange(10), 3)), test_share=0.3)
    _, test = job.subset(0)
    assert test.reshape(10, 3).all(1).sum() == 3
    assert (test.reshape(10, 3).all(1) == test.reshape(10, 3).any(1)).all()


@pytest.mark.slow
def test_every_person_is_a_target_in_turn_and_never_an_agent_of_their_own():
    values = np.random.default_rng(0).normal(size=(9, 1, 12))
    job = HullJob(table(values), sizes=(1, 3, 8), subsets=4)
    outcome = run(job)
    counts = outcome.errors.groupby(["offset", "method", "agents", "target"]).size()
    assert (counts == 4).all()
    assert len(counts) == 2 * 9 * 3 * len(METHODS)
    chosen, test = job.chosen(2, np.arange(9)), job.subset(2)[1]
    for n in job.sizes:
        met = sorted(t for group in job.groups(chosen, n, test) for t in group.members)
        assert met == list(range(9))
        for agents, members, columns in job.groups(chosen, n, test):
            assert (len(agents), columns.all()) == (n, True)
            assert not set(agents) & set(members)
    for other in (job.subset(1), dataclasses.replace(job, seed=1).subset(0)):
        assert (job.subset(0)[0] != other[0]).any()
        assert (job.subset(0)[1] != other[1]).any()
    few = dataclasses.replace(job, targets=3)
    assert [len(part) for part in few.assignment()] == [3] * 4
    many = HullJob(table(np.zeros((3000, 1, 4))), subsets=20)
    assert sorted(np.concatenate(many.assignment())) == list(range(3000)), "each once where all each time is too much"


@pytest.mark.slow
def test_a_planted_hull_is_found():
    rng = np.random.default_rng(8)
    agents, w = rng.normal(size=(12, 60)), np.zeros(12)
    w[[2, 5, 9]] = 0.5, 0.3, 0.2
    values = np.vstack([agents, w @ agents + 3])[:, None]
    job = HullJob(table(values, targets=[12]), sizes=(1, 3, 12), subsets=5)
    outcome = run(job)
    lines = summary.curves(job, outcome.errors)
    at = lines[lines["offset"] == "constant"].set_index(["method", "agents"])["held_out"]
    assert at["simplex", 12] < 1e-9
    assert at["cone", 12] < 1e-9
    assert min(at["mean", 12], at["best single", 12]) > 0.3
    assert lines.set_index(["offset", "method", "agents"])["held_out"]["none", "simplex", 12] > 1, (
        "the target is 3 higher"
    )
    assert "beat the plain mean" in summary.verdict(job, lines)
    found = outcome.weights.set_index("agent")
    np.testing.assert_allclose(found["mean_weight"][[f"p{k}" for k in range(12)]], w, atol=1e-9)
    assert found["share_used"].to_dict() == {f"p{k}": float(w[k] > 0) for k in range(12)}
    left = removal.leave_out(job)
    covered = summary.coverage(dataclasses.replace(job, tolerance=1e-6), left)
    assert (covered["covered"], covered["covered_without_any_one"]) == (1, 0)


@pytest.mark.slow
def test_agents_of_nothing_but_noise_are_not_credited_beyond_the_mean():
    rng = np.random.default_rng(6)
    for shift in (0.0, 1.0):  # noise alone, and noise about a truth that all share
        values = shift * rng.normal(size=50) + rng.normal(size=(16, 50))
        job = HullJob(table(values[:, None]), sizes=(5, 15), subsets=20, offsets=("constant",), targets=3)
        lines = summary.curves(job, run(job).errors)
        part = lines[lines["method"] == "simplex"].set_index(["offset", "agents"])
        assert (part["over_mean_low"] <= 0).all()
        assert (part["over_mean"][:, 15] < 0).all(), "with 35 items, 15 weights fit noise"
        assert (part["in_sample"] < part["held_out"]).loc[:, 15].all()
        assert "beat the plain mean" not in summary.verdict(job, lines)
        assert ("beat no agent" in summary.verdict(job, lines)) == (shift > 0)


@pytest.mark.slow
def test_curves_are_means_and_no_agent_is_the_offset():
    values = np.random.default_rng(2).normal(size=(5, 1, 20)) + 2
    job = HullJob(table(values), sizes=(1, 4), subsets=3)
    errors = run(job).errors
    lines = summary.curves(job, errors).set_index(["offset", "method", "agents"])
    for key, group in errors.groupby(["offset", "method", "agents"]):
        assert lines["held_out"][key] == pytest.approx(group["held_out"].mean(), rel=1e-12)
        assert lines["fits"][key] == len(group) == 15
    for t, n in zip((0, 3), job.sizes, strict=True):  # the best number is the mean of the items fitted to
        at = errors.query(f"offset == 'constant' and method == 'cone' and agents == {n} and target == {t}")
        for s, alone in zip(at["subset"], at["no_agent"], strict=True):
            test = job.subset(s)[1]
            assert alone == pytest.approx(np.sqrt(((values[t, 0, test] - values[t, 0, ~test].mean()) ** 2).mean()))
    for (offset, n), group in errors.loc[errors["method"] == "simplex"].groupby(["offset", "agents"]):
        gains = group["no_agent"] - group["held_out"]
        mean, half = summary.band(gains.to_numpy(), group["subset"].to_numpy(), group["target"].to_numpy())
        line = lines.loc[(offset, "simplex", n)]
        ends = line[["over_none", "over_none_low", "over_none_high"]].astype(float)
        np.testing.assert_allclose(ends, [mean, mean - half, mean + half], rtol=1e-12)
    assert (lines["over_mean"][:, "mean"] == 0).all()


def test_bands_cover_the_mean_of_subsets_and_targets():
    """Values a_s + b_t + noise, mean 0: the 95 % band holds 0 about as often as it says."""
    rng = np.random.default_rng(0)
    S, T, repeats, inside = 20, 15, 400, 0
    subset, target = (axis.ravel() for axis in np.indices((S, T)))
    for _ in range(repeats):
        values = (rng.normal(size=(S, 1)) + rng.normal(size=(1, T)) + rng.normal(size=(S, T))).ravel()
        mean, half = summary.band(values, subset, target)
        inside += abs(mean) <= half
    assert 0.92 < inside / repeats < 0.99  # standard error .011; values taken for independent give about .4
    mean, half = summary.band(np.array([1.0, 2.0, 4.0]), np.arange(3), np.zeros(3, int))  # one target: over subsets
    assert (mean, half) == pytest.approx((7 / 3, 4.302653 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)))
    assert np.isnan(summary.band(np.array([1.0]), np.zeros(1), np.zeros(1))[1])


@pytest.mark.slow
def test_nine_hundred_targets():
    rng = np.random.default_rng(0)
    people = rng.normal(size=(1000, 8)) @ rng.normal(size=(8, 500)) + rng.normal(size=(1000, 500))
    user, agents = people[100:, None], people[:100, None]
    for weights in FITTED:
        found = fit(user, agents, weights, Rule("constant", "l2"))
        assert found.solved.all()
        assert found.gap.max() < 1e-9
        for t in (0, 450, 899):
            if weights == "cone":
                assert found.error[t] == pytest.approx(least_squares(user[t], agents, "cone", "constant"), abs=1e-7)
