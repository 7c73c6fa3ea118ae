"""Exact transfers, and several users: LPs against other LPs."""

import jax
import numpy as np
import pytest

import emalign_jax as em

pytestmark = pytest.mark.host_only


@pytest.mark.slow
@pytest.mark.parametrize("user", [em.RationalUser("lowest"), em.QuantalUser(5.0)], ids=["rational", "quantal"])
def test_the_best_transfers_guarantee_what_coverage_says_of_the_game_with_them(user):
    games = em.random_games(jax.random.key(0), 4, family="shared_bias", agents=3, states=3, actions=3)
    least = em.least_budget(games)
    before = -np.inf
    for kind in ("action", "outcome"):
        best = em.best_transfers(games, 0.3, user, kind=kind)
        assert np.abs(best.transfers).max() <= 0.3
        paid = em.Game(games.prior, games.user_utility, np.asarray(games.agent_utilities) + best.transfers)
        for game, bound in ((paid, best.guarantee), (games, best.without)):
            found = em.coverage(game, user=user)
            np.testing.assert_allclose(found.full_information - found.slack, bound, atol=1e-6)
        assert (best.guarantee >= before - 1e-9).all()  # payments by outcome can do all that payments by action can
        before = best.guarantee
    whole = em.best_transfers(games, least, user)
    if isinstance(user, em.RationalUser):  # in the hull every equilibrium is worth V_full
        np.testing.assert_allclose(whole.guarantee, em.coverage(games, user=user).full_information, atol=1e-6)


def test_the_least_budget_is_the_distance_from_the_hull():
    games = em.random_games(jax.random.key(1), 5, family="noise", agents=3)
    least = em.least_budget(games)
    distance = em.align(games.user_utility, games.agent_utilities, offset="per_state").error
    np.testing.assert_allclose(least, distance, atol=1e-7)
    assert (em.least_budget(games, weights="cone") <= least + 1e-9).all()
    assert np.isinf(em.least_budget(games, kind="action")).all()  # noise that depends on a and y
    # margins by action alone are offset by payments by action alone
    goal = em.random_games(jax.random.key(1), 5, family="goal", agents=3, alignment=0.5)
    margins = em.least_budget(goal, kind="action", weights="cone")
    assert np.isfinite(margins).all()


@pytest.mark.slow
@pytest.mark.parametrize("user", [em.RationalUser("lowest"), em.QuantalUser(5.0)], ids=["rational", "quantal"])
def test_babbling_is_an_equilibrium_for_anonymous_users_and_not_for_personal_ones(user):
    users = em.catalog.two_users()
    for anonymous in (True, False):
        joined = em.several_users(users, anonymous=anonymous)
        assert joined.agent_features == (2 if anonymous else 4)
        found = em.certify(joined, em.no_information(2, joined.agent_features, 2), em.Pooled(), user)
        if anonymous:
            assert found.gain_upper.max() < 1e-4
            assert found.result == em.Result.CERTIFIED
        else:
            # each agent gains by revealing all to its own user, whose probability is 1/2
            alone = em.certify(users[0], em.no_information(2, 2, 2), em.Pooled(), user)
            worth = (alone.full_information - alone.no_information) / 2
            np.testing.assert_allclose(found.gain_lower, worth, atol=1e-6)
    with pytest.raises(ValueError, match="games"):
        em.several_users(users[0], anonymous=True)
