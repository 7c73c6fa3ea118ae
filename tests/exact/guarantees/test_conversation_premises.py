"""What the paper's results assume, measured: the bound holds for every profile, and the parts are what they say."""

import jax
import numpy as np
import pytest
from support.nightly import one_in

import emalign_jax as em

pytestmark = pytest.mark.host_only

SIZE = {"states": 3, "actions": 4, "user_features": 2, "information_worth": 0.02}


def profiles(count, protocol, messages, family, seed, agents=2):
    games = em.random_games(jax.random.key(seed), count, family=family, agents=agents, **SIZE)
    rng = np.random.default_rng(seed)
    return games, rng.dirichlet(np.full(messages, 0.5), (count, agents, protocol.rows(games, messages)))


@pytest.mark.slow
@pytest.mark.parametrize("user", [em.QuantalUser(8.0), em.RationalUser("lowest"), em.RationalUser()], ids=str)
@pytest.mark.parametrize("size", one_in(2, [(1, 2), (1, 3), (2, 2)]), ids=str)
def test_the_bound_holds_for_every_profile(user, size):
    rounds, messages = size
    protocol = em.Conversation(rounds, 2)
    for family in ("hull", "noise"):
        games, schemes = profiles(6, protocol, messages, family, 5)
        found = em.premises(games, schemes, protocol, user)
        assert (found.result == em.Result.CERTIFIED).all()
        assert (found.bound <= found.user + 1e-7).all()
        np.testing.assert_allclose(found.user, em.payoffs(games, schemes, protocol, user).user, atol=1e-4)
        assert (found.switch_gain >= 0).all()


@pytest.mark.slow
def test_with_enough_words_the_user_learns_everything():
    protocol = em.Conversation(2, 2)
    for user in (em.QuantalUser(8.0), em.RationalUser()):
        games, schemes = profiles(5, protocol, 2, "noise", 1)
        found = em.premises(games, schemes, protocol, user)
        np.testing.assert_allclose(found.aligned_value, found.full_information, atol=1e-9)
        assert found.learns.all()
        np.testing.assert_allclose(found.eta, 0, atol=1e-12)
        np.testing.assert_allclose(found.total_variation, 0, atol=1e-6 if isinstance(user, em.RationalUser) else 1e-12)


def test_one_bit_by_hand():
    """Four equally likely values, guess right +1, wrong -1, safe .5; the aligned agent with one bit."""
    game = em.catalog.few_messages(1)
    silent = np.tile([1.0, 0.0], (1, 4, 1))
    found = em.premises(game, silent, em.Conversation(1, 1), em.RationalUser())
    assert not found.learns
    np.testing.assert_allclose(found.full_information, 1)
    np.testing.assert_allclose(found.aligned_value, 0.625, atol=1e-6)
    # after "not v" (probability 3/4) a guess is expected to pay -1/3 but pays 1 if it is right: an error of 4/3
    np.testing.assert_allclose(found.eta, [0.75 * 4 / 3], atol=1e-6)
    np.testing.assert_allclose(found.switch_gain, [0.125], atol=1e-6)
    np.testing.assert_allclose(found.regret, 0)


def test_regret_is_lamberts():
    games, schemes = profiles(2, em.Conversation(1, 1), 3, "noise", 2)
    found = em.premises(games, schemes, em.Pooled(), em.QuantalUser(8.0))
    w = found.regret * 8  # w e^w = (A - 1) / e
    np.testing.assert_allclose(w * np.exp(w), 3 / np.e)


@pytest.mark.slow
def test_the_bound_is_tight_in_the_hull_at_full_revelation():
    protocol = em.Conversation(1, 1)
    games, _ = profiles(4, protocol, 3, "hull", 3)
    found = em.premises(games, em.full_revelation(2, 3, 3), protocol, em.QuantalUser(30.0))
    np.testing.assert_allclose(found.bound + found.regret, em.payoffs(
        games, em.full_revelation(2, 3, 3), em.Pooled(), em.RationalUser()).user, atol=2e-4)  # fmt: skip


@pytest.mark.slow
def test_bad_games_cost_only_themselves():
    protocol = em.Conversation(1, 1)
    games, schemes = profiles(3, protocol, 2, "noise", 4)
    prior = np.array(games.prior)
    prior[1] = np.nan
    schemes[2] = np.nan
    games = em.Game(prior, games.user_utility, games.agent_utilities, check="shapes")
    found = em.premises(games, schemes, protocol, em.RationalUser())
    wanted = [em.Result.CERTIFIED, em.Result.MALFORMED, em.Result.MALFORMED]
    np.testing.assert_array_equal(found.result, wanted)
    np.testing.assert_array_equal(np.isfinite(found.bound), [True, False, False])


def test_refusals():
    games, schemes = profiles(1, em.Conversation(1, 1), 3, "noise", 4)
    with pytest.raises(ValueError, match="protocol: expected Conversation or Pooled, got Selection"):
        em.premises(games, schemes, em.Selection(), em.RationalUser())
    with pytest.raises(ValueError, match="schemes: expected shape"):
        em.premises(games, schemes, em.Conversation(2, 2), em.RationalUser())


@pytest.mark.slow
@pytest.mark.parametrize("ties", ["agents", "lowest", "uniform"])
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Conversation(1, 1), em.Conversation(2, 2)])
def test_the_bound_holds_where_ties_pay_every_agent(protocol, ties):
    """Silence is worth .5 to the user; ties for each agent count a payoff that only one of the two can have."""
    user = np.eye(2)
    game = em.Game(np.diag([0.5, 0.5])[None], user, user + np.eye(2)[:, :, None])
    silent = np.zeros((2, protocol.rows(game, 2), 2))
    silent[..., 0] = 1
    measured = em.premises(game, silent, protocol, em.RationalUser(ties))
    assert measured.user == pytest.approx(0.5)
    assert measured.bound <= measured.user + 1e-9
    assert measured.bound == pytest.approx(em.certify(game, silent, protocol, em.RationalUser(ties)).theorem)


@pytest.mark.parametrize(("to", "replies"), [("each", 4), ("all", 2)])
def test_given_replies_must_fit_one_agent_alone(to, replies):
    rng = np.random.default_rng(0)
    game = em.Game(rng.dirichlet(np.ones(8)).reshape(2, 2, 2), rng.random((2, 2)), rng.random((2, 2, 2)))
    protocol = em.Conversation(2, 2, to)
    schemes = rng.dirichlet(np.ones(2), (2, protocol.rows(game, 2)))
    user = em.FixedReplies(rng.dirichlet(np.ones(replies), (2, 4)), em.RationalUser())
    with pytest.raises(ValueError, match=r"^rule: expected shape .* with 1 agents"):
        em.premises(game, schemes, protocol, user)
