"""Certificates of counted messages, against agents that are known by hand and against certificates draw by draw."""

import numpy as np
import pytest
from support.games import batch_of, random_game

import emalign_jax as em

pytestmark = [pytest.mark.host_only, pytest.mark.x64]

SETTING = em.Selection(), em.RationalUser()
JUDGE = em.catalog.judge()  # innocent with probability .7


def test_a_prosecutor_who_tells_too_much():
    """Accuses a tenth of the innocent and all of the guilty: .37 are convicted where .6 could be."""
    counts = [[[90_000, 10_000], [0, 100_000]]]
    found = em.certify_counts(JUDGE, counts, *SETTING, draws=100)
    assert found.mean.agents == pytest.approx(0.37, abs=1e-4)
    assert found.mean.gain_lower == pytest.approx(0.23, abs=1e-4)
    assert found.mean.user == pytest.approx(0.93, abs=1e-4)
    assert found.user_after == pytest.approx(0.7, abs=1e-4)
    assert found.equilibrium.user == pytest.approx(0.7, abs=1e-4)
    assert found.equilibrium.result == em.Result.CERTIFIED
    for interval, truth in (
        (found.user, 0.93),
        (found.agents, 0.37),
        (found.gain, 0.23),
        (found.relative_gain, 0.23 / 0.6),
    ):
        low, high = np.ravel(interval)
        assert low < truth < high
        assert high - low < 0.01  # two standard errors of .7 x share accused, of 100,000 calls, are .0013


def test_intervals_are_those_of_the_draws():
    counts = np.random.default_rng(1).integers(0, 20, (2, 2, 2))
    game = em.catalog.prosecutor_against_defender()
    found = em.certify_counts(game, counts, *SETTING, draws=40, key=5, level=0.8, prior=0.5)
    drawn = em.schemes_from_counts(counts, prior=0.5).sample(5, 40)
    each = [em.certify(game, one, *SETTING, lp="highs") for one in drawn]
    user = np.sort([one.user for one in each])
    np.testing.assert_allclose(found.user, user[[3, 36]], atol=1e-8)  # .1 and .9 of 39, outwards
    gains = np.sort([one.gain_lower for one in each], 0)
    np.testing.assert_allclose(found.gain[0], gains[3], atol=1e-8)
    uppers = np.sort([one.gain_upper for one in each], 0)
    np.testing.assert_allclose(found.gain[1], uppers[36], atol=1e-8)
    assert (found.gain[0] <= found.gain[1]).all()
    assert found.draws.user.shape == (40,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "user"), [SETTING, (em.Pooled(), em.QuantalUser(5.0)), (em.Pooled(), em.RationalUser())]
)
def test_values_after_a_best_response(protocol, user):
    """By `best_response`, one game and agent at a time."""
    games = batch_of([random_game(seed, XB=2, A=2) for seed in range(3)])
    counts = np.random.default_rng(2).integers(1, 30, (3, 2, 2, 2))
    found = em.certify_counts(games, counts, protocol, user, draws=2)
    for k, i in np.ndindex(3, 2):
        best = em.best_response(games[k], found.observed.schemes[k], i, protocol, user)
        assert found.mean.agents[k, i] + found.mean.gain_lower[k, i] == pytest.approx(best.value, abs=2e-3)
        schemes = np.pad(found.observed.schemes[k], ((0, 0), (0, 0), (0, 2)))
        schemes[i] = 0
        schemes[i, :, : best.scheme.shape[1]] = best.scheme
        paid = em.certify(games[k], schemes, protocol, user)
        assert paid.agents[i] == pytest.approx(best.value, abs=2e-3)
        if abs(paid.user - found.user_after[k, i]) > 5e-3:  # another best response, worth as much to the agent
            assert found.mean.gain_lower[k, i] < 1e-3


@pytest.mark.slow
def test_one_agent_in_many_games_and_many_agents_in_one():
    games = batch_of([random_game(seed) for seed in range(3)])
    counts = np.random.default_rng(3).integers(0, 9, (2, 3, 2))
    whole = em.certify_counts(games, counts, *SETTING, draws=5)
    assert whole.gain.shape == (2, 3, 2)
    assert whole.draws.user.shape == (5, 3)
    alone = em.certify_counts(games[1], counts, *SETTING, draws=5)
    np.testing.assert_allclose(whole.gain[:, 1], alone.gain, atol=1e-7)
    np.testing.assert_allclose(whole.user_after[1], alone.user_after, atol=1e-6)
    several = em.certify_counts(games[1], np.stack([counts, counts[::-1]]), *SETTING, draws=5)
    assert several.user_after.shape == (2, 2)
    np.testing.assert_allclose(several.mean.user[0], alone.mean.user, atol=1e-9)


def test_refusals():
    for counts, words in (
        ([[[1, 2]]], r"counts: expected shape \[..., K = 1, XB = 2, M\]"),
        (np.ones((2, 2, 2)), r"counts: expected shape \[..., K = 1, XB = 2, M\]"),
    ):
        with pytest.raises(ValueError, match=words):
            em.certify_counts(JUDGE, counts, *SETTING)
    games = batch_of([JUDGE, JUDGE])
    with pytest.raises(ValueError, match=r"counts: batch axes \[3\] do not fit those of the games, \[2\]"):
        em.certify_counts(games, np.ones((3, 1, 2, 2)), *SETTING)
    with pytest.raises(ValueError, match="draws: expected an integer >= 2"):
        em.certify_counts(JUDGE, np.ones((1, 2, 2)), *SETTING, draws=1)
