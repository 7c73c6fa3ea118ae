"""Schemes from counts, against Dirichlet and Beta distributions by hand, and the adapter that counts."""

import numpy as np
import pytest
from scipy import stats

import emalign_jax as em

pytestmark = pytest.mark.host_only


def test_posterior_of_hand_made_counts():
    counts = [[[8, 2, 0], [0, 0, 0]], [[0, 0, 5], [1, 1, 1]]]
    found = em.schemes_from_counts(counts, prior=0.5, level=0.9)
    third = 1 / 3
    expected = [[[8.5 / 11.5, 2.5 / 11.5, 0.5 / 11.5], [third] * 3], [[0.5 / 6.5, 0.5 / 6.5, 5.5 / 6.5], [third] * 3]]
    np.testing.assert_allclose(found.schemes, expected, rtol=1e-15)
    np.testing.assert_array_equal(found.unseen, [[False, True], [False, False]])
    for end, limits in ((0.05, found.lower), (0.95, found.upper)):
        assert limits[0, 0, 1] == pytest.approx(stats.beta(2.5, 9).ppf(end), abs=1e-12)
        assert limits[1, 0, 2] == pytest.approx(stats.beta(5.5, 1).ppf(end), abs=1e-12)
        assert limits[0, 1, 0] == pytest.approx(stats.beta(0.5, 1).ppf(end), abs=1e-12)  # the prior alone
    assert (found.counts, found.prior, found.level)[1:] == (0.5, 0.9)
    only = em.schemes_from_counts(np.full((1, 2, 1), 3))  # one message: nothing is unknown
    assert (only.schemes == 1).all()
    assert (only.lower == 1).all()
    assert (only.upper == 1).all()


@pytest.mark.parametrize("prior", [1.0, 0.5, 0.2])
def test_draws_have_the_posterior(prior):
    counts = np.array([[[6, 1, 0], [0, 0, 0]]])
    found = em.schemes_from_counts(counts, prior=prior)
    drawn = found.sample(3, 4000)
    assert drawn.shape == (4000, 1, 2, 3)
    np.testing.assert_allclose(drawn.sum(-1), 1, atol=1e-12)
    assert (drawn >= 0).all()
    # the first entry is Beta; p-values of a right sampler are below 1e-4 once in 10,000 seeds
    for row, total in ((0, 7), (1, 0)):
        own = counts[0, row, 0] + prior
        assert stats.kstest(drawn[:, 0, row, 0], stats.beta(own, total + 3 * prior - own).cdf).pvalue > 1e-4
    np.testing.assert_array_equal(drawn, found.sample(3, 4000))
    assert (drawn[:5] != found.sample(4, 5)).any()


def test_batches_are_their_parts():
    counts = np.random.default_rng(0).integers(1, 9, (3, 2, 2, 2))
    whole = em.schemes_from_counts(counts)
    for k in range(3):
        part = em.schemes_from_counts(counts[k])
        for column in ("schemes", "lower", "upper", "unseen"):
            np.testing.assert_array_equal(getattr(whole, column)[k], getattr(part, column))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([[[1, -1], [2, 2]]], r"counts\[0, 0, 1\]: expected a whole number >= 0, got -1"),
        ([[[1, 0.5], [2, 2]]], r"counts\[0, 0, 1\]: expected a whole number >= 0, got 0.5"),
        ([[[1, np.nan], [2, 2]]], r"counts\[0, 0, 1\]: expected a whole number >= 0, got nan"),
        ([[[1, np.inf], [2, 2]]], r"counts\[0, 0, 1\]: expected a whole number >= 0, got inf"),
        ([[[1, 2], [2, 2]], [[0, 0], [0, 0]]], r"counts\[1\]: nothing is counted of this agent"),
        ([[1, 2], [2, 2]], r"counts: expected shape \[..., K, XB, M\]"),
        (np.zeros((1, 2, 0)), r"counts: expected shape \[..., K, XB, M\] with M >= 1"),
        ([["a", "b"]], "counts: expected real numbers"),
    ],
)
def test_counts_that_are_none(counts, words):
    with pytest.raises(ValueError, match=words):
        em.schemes_from_counts(counts)


def test_other_bad_arguments():
    for word, value in (("prior", 0.0), ("prior", np.inf), ("level", 1.0), ("level", 0.0)):
        with pytest.raises(ValueError, match=f"{word}: expected"):
            em.schemes_from_counts([[[1, 2]]], **{word: value})
    with pytest.raises(ValueError, match="n: expected an integer >= 1"):
        em.schemes_from_counts([[[1, 2]]]).sample(0, 0)


# the adapter


def test_an_agent_known_by_hand():
    asked = []

    def agent(x):
        asked.append(x)
        return ("no", "yes")[x > 1]

    found = em.counts_from_agent(agent, 3, 4)
    assert asked == [0] * 4 + [1] * 4 + [2] * 4
    np.testing.assert_array_equal(found.counts, [[[4, 0], [4, 0], [0, 4]]])
    assert found.words == ("no", "yes")
    given = em.counts_from_agent(agent, 3, 1, words=["maybe", "yes", "no"])
    np.testing.assert_array_equal(given.counts, [[[0, 0, 1], [0, 0, 1], [0, 1, 0]]])


def test_integers_stand_for_themselves_and_agents_share_words():
    found = em.counts_from_agent([lambda x: 2, lambda x: np.int64(x)], 2, 3)
    np.testing.assert_array_equal(found.counts, [[[0, 0, 3], [0, 0, 3]], [[3, 0, 0], [0, 3, 0]]])
    assert found.words == (0, 1, 2)
    mixed = em.counts_from_agent([lambda x: x, lambda x: (1, "b")], ["prompt one", "prompt two"], 1)
    assert mixed.words == ("prompt one", "prompt two", (1, "b"))
    assert mixed.counts.shape == (2, 2, 3)


def test_errors_are_told_with_agent_state_and_call():
    calls = []

    def agent(x):
        calls.append(x)
        if len(calls) in (2, 5):
            raise TimeoutError("no answer")
        return x

    with pytest.raises(ValueError, match=r"agent 0, state 0 \(left\), call 1: TimeoutError: no answer"):
        em.counts_from_agent(agent, ["left", "right"], 3)
    calls.clear()
    found = em.counts_from_agent(agent, ["left", "right"], 3, most_errors=2)
    np.testing.assert_array_equal(found.counts, [[[2, 0], [0, 2]]])
    assert found.errors[1] == "agent 0, state 1 (right), call 1: TimeoutError: no answer"
    for answer, words in (
        (None, "expected an integer from 0"),
        ([1], "expected an integer from 0"),
        (np.nan, "expected an integer from 0"),
        (-1, "expected an integer from 0"),
        (10**9, "expected an integer from 0"),
    ):
        with pytest.raises(ValueError, match=rf"agent 1, state 0 \(0\), call 0: {words}"):
            em.counts_from_agent([lambda x: 0, lambda x, answer=answer: answer], 2, 1)
    with pytest.raises(ValueError, match=r"agent 0, state 1 \(1\), call 0: expected one of words, got 1"):
        em.counts_from_agent(lambda x: x, 2, 1, words=(0, "b"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], 2, 1), "agent: expected a function"),
        ((abs, 0, 1), "states: expected an integer >= 1"),
        ((abs, [], 1), "states: expected a number or a list"),
        ((abs, "abc", 1), "states: expected an integer >= 1"),
        ((abs, 2, 0), "n: expected an integer >= 1"),
    ],
)
def test_arguments_of_the_adapter(arguments, words):
    with pytest.raises(ValueError, match=words):
        em.counts_from_agent(*arguments)
    with pytest.raises(ValueError, match="words: expected a list of different messages"):
        em.counts_from_agent(abs, 2, 1, words=("a", "a"))
