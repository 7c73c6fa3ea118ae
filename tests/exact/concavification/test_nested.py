"""Nested concavification: its tree of splits and events, and one end by itself."""

import itertools

import jax
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.exact.concavification.by_user import belief_lps, concavify
from emalign_jax.exact.concavification.nested import Nesting, nested_optimum
from emalign_jax.exact.concavification.problems import monopoly_problem

pytestmark = pytest.mark.host_only

WORK = 10**7


def problem_of(seed, user, features=3):
    games = em.random_games(seed, 1, agents=1, user_features=2, agent_features=features, actions=3, family="noise")
    return monopoly_problem(jax.tree.map(lambda x: x[0], em.reduce_game(games, np)), 0, user)


@pytest.mark.parametrize("splits", [True, False])
def test_fold_by_loops(splits):
    nesting = Nesting((2, 3, 2), splits)
    price = np.random.default_rng(0).normal(size=(12, 4))
    by_end = {end: price[n] for n, end in enumerate(itertools.product(range(2), range(3), range(2)))}
    for level, combine in ((2, splits), (1, not splits), (0, splits)):
        merged = {}
        for end, row in by_end.items():
            merged.setdefault(end[:level], []).append(row)
        by_end = {end: np.max(rows, 0) if combine else np.sum(rows, 0) for end, rows in merged.items()}
    np.testing.assert_allclose(nesting.fold(price), by_end[()], atol=1e-14)
    assert nesting.ends == 12
    assert nesting.copies == (3 if splits else 4)


def test_flows_are_split_and_copied():
    split, at = Nesting((2, 3), True).flows()
    assert [(whole, list(parts)) for whole, parts in split] == [(0, [1, 2])]
    assert list(at) == [1, 1, 1, 2, 2, 2]
    split, at = Nesting((2, 3), False).flows()
    assert [(whole, list(parts)) for whole, parts in split] == [(0, [1, 2, 3]), (0, [4, 5, 6])]
    assert list(at) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("user", [em.QuantalUser(10.0), em.RationalUser()], ids=["quantal", "rational"])
def test_one_end_is_a_belief_lp(user):
    """Whether it is split once more, and an event happens twice, in each of which as much is paid."""
    problem = problem_of(6, user, features=2)
    plain = concavify(problem, np.eye(2), bracket=1e-4, work=WORK)
    twice = jax.tree.map(lambda x: np.repeat(x, 4, 0), problem)
    for nesting, times in ((Nesting((1, 1), True), 1), (Nesting((2, 2), True), 2), (Nesting((2, 2), False), 2)):
        problems = twice if times == 2 else problem
        found = nested_optimum(problems, nesting, width=1e-4, work=WORK)
        assert found.value == pytest.approx(times * plain.value[0], abs=1e-6)
        assert found.value <= found.upper <= found.value + 1e-4
        # What is proved of a given payoff.
        present = found.value - 1e-3
        near = nested_optimum(problems, nesting, width=2e-3, present=present, work=WORK)
        assert near.upper <= present + 2e-3


def test_a_value_has_its_price():
    problem = problem_of(6, em.QuantalUser(10.0), features=2)
    lps = belief_lps(problem, np.zeros((1, 0, 2)))
    free, most = lps.best(np.zeros(1, int)), concavify(problem._replace(own=problem.welfare), np.eye(2)).value[0]
    least = lps.payoffs(problem, (free.scheme[0] * problem.target[0][:, None]).T[None])[1].sum()
    for share in (0.0, 0.5):
        asked = least + share * (most - least)
        lps.restrict(asked, np.inf)
        expected = lps.best(np.zeros(1, int), np.array([1e-6]), WORK)
        found = nested_optimum(problem, Nesting((1, 1), True), width=1e-6, work=WORK, at_least=asked)
        assert found.value == pytest.approx(expected.value[0], abs=1e-5)
        assert expected.value[0] - 1e-6 <= found.upper <= expected.upper[0] + 1e-5
        assert found.value < free.value[0] - 1e-4 or share == 0
    with pytest.raises(ValueError, match="rational"):
        nested_optimum(problem_of(1, em.RationalUser()), Nesting((1, 1), True), at_least=0.0)
