"""Deviation gains in Selection against brute force, and equilibria known by hand."""

import itertools

import numpy as np
import pytest
from support.games import check, deterministic, padded, random_game, switched

import emalign_jax as em
from emalign_jax.exact.checks.examination import examine

pytestmark = pytest.mark.host_only

RATIONAL = em.RationalUser("agents")
EXACT = 1e-7  # LP feasibility 1e-9, numbers of size 1


def candidates(rng, XB, count):
    """All deterministic schemes and `count` random ones, from nearly silent to nearly deterministic."""
    yield from deterministic(XB, XB)
    for k in range(count):
        yield rng.dirichlet(np.full(XB, 10.0 ** rng.uniform(-1.5, 1)), XB if k % 2 else 1) * np.ones((XB, 1))


def profiles(rng, exact, game):
    """A random profile, the monopolists', one holder at V_full, and random ones with sharp rows."""
    K, XB = game.agents, game.agent_features
    yield rng.dirichlet(np.ones(XB), (K, XB))
    yield rng.dirichlet(np.full(XB, 0.2), (K, XB))
    yield padded(*(exact.monopolist(i).scheme for i in range(K)))
    mixed = rng.dirichlet(np.ones(XB), (K, XB))
    mixed[rng.integers(K)] = np.eye(XB)
    yield mixed


@pytest.mark.slow
@pytest.mark.parametrize("XA", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_no_deviation_beats_the_upper_bound_and_the_supremum_is_approached(seed, XA):
    rng = np.random.default_rng(100 + seed)
    game = random_game(seed, K=3, XA=XA)
    exact = check(game, em.Selection(), RATIONAL)
    reveal = np.eye(3)
    for schemes in profiles(rng, exact, game):
        certificate = em.certify(game, schemes, em.Selection(), RATIONAL)
        _, before = exact.payoffs(schemes)
        for i, deviation in enumerate(examine(exact, schemes).deviations):
            tried = [exact.payoffs(switched(schemes, i, s))[1][i] - before[i] for s in candidates(rng, 3, 40)]
            # a brute-force scheme may use the tie tolerance, as far as that is immaterial
            assert max(tried) <= certificate.gain_upper[i] + 1e-6 * certificate.payoff_range[i]
            assert certificate.gain_upper[i] == pytest.approx(
                certificate.gain_lower[i], abs=1e-6 * certificate.payoff_range[i]
            )
            # a little full revelation beside the scheme makes the user pick the agent, and costs the agent little
            share = 1e-3
            mixed = np.concatenate([(1 - share) * deviation.scheme, share * reveal], axis=1)
            got = max(exact.payoffs(switched(schemes, i, s))[1][i] for s in (deviation.scheme, mixed)) - before[i]
            assert certificate.gain_lower[i] - got <= 2 * share * exact.payoff_range[i]


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_full_revelation_by_two_is_an_equilibrium(seed, K):
    game = random_game(seed, K=K, XA=2)
    certificate = em.certify(game, em.full_revelation(K, 3, 3), em.Selection(), RATIONAL)
    np.testing.assert_allclose(certificate.gain_upper, 0, atol=EXACT)
    assert certificate.user == pytest.approx(certificate.full_information, abs=EXACT)
    two = em.full_revelation(K, 3, 3)
    two[2:] = 1 / 3  # it takes no more than two
    np.testing.assert_allclose(em.certify(game, two, em.Selection(), RATIONAL).gain_upper, 0, atol=EXACT)


def tie_at_full_information():
    """At y = 0 the user is indifferent between actions 0, which agent 0 wants, and 1, which agent 1 wants; at y = 1
    action 2 is best."""
    agents = np.zeros((2, 3, 2))
    agents[0, 0, 0] = agents[1, 1, 0] = 1
    return em.Game(np.diag([0.6, 0.4])[None], np.array([[1.0, 0], [1, 0], [0, 1]]), agents)


def test_ties_at_full_information():
    """An offer of V_full cannot be outbid; an agent of lower index wins the tie (and .6 with it), a higher one not."""
    exact = check(tie_at_full_information(), em.Selection(), RATIONAL)
    silent, reveal = np.array([[1.0, 0], [1, 0]]), np.eye(2)
    second_holds = examine(exact, np.stack([silent, reveal]))
    np.testing.assert_allclose(second_holds.agents, [0, 0.6], atol=EXACT)
    np.testing.assert_allclose(second_holds.gains, [0.6, 0], atol=EXACT)
    taken = exact.payoffs(np.stack([reveal, reveal]))
    np.testing.assert_allclose(taken[1], [0.6, 0], atol=EXACT)  # agent 0 gains .6 by revealing too
    first_holds = examine(exact, np.stack([reveal, silent]))
    np.testing.assert_allclose(first_holds.agents, [0.6, 0], atol=EXACT)
    np.testing.assert_allclose(first_holds.gains, [0, 0], atol=EXACT)


def test_two_prosecutors():
    game = em.catalog.two_prosecutors()
    monopolist = check(game, em.Selection(), RATIONAL).monopolist(0).scheme
    certificate = em.certify(game, padded(monopolist, monopolist), em.Selection(), RATIONAL)
    assert certificate.user == pytest.approx(0.7, abs=EXACT)
    assert certificate.full_information == pytest.approx(1, abs=EXACT)
    np.testing.assert_allclose(certificate.agents, 0.6, atol=1e-6)  # the tie tolerance
    np.testing.assert_allclose(certificate.gain_upper, 0, atol=1e-6)
    assert certificate.result == em.Result.CERTIFIED


@pytest.mark.parametrize("holder", [0, 1])
def test_a_holder_lowers_its_offer_or_leaves_the_user_to_the_rival(holder):
    """One prosecutor reveals all and gets .3; an offer of .7 like the rival's, or that of the rival itself, pays .6."""
    game = em.catalog.two_prosecutors()
    exact = check(game, em.Selection(), RATIONAL)
    schemes = padded(*[exact.monopolist(0).scheme] * 2)
    schemes[holder] = np.eye(2)
    examined = examine(exact, schemes)
    np.testing.assert_allclose(examined.agents, 0.3, atol=EXACT)
    assert examined.gains[holder] == pytest.approx(0.3, abs=1e-6)
    assert examined.gains[1 - holder] == pytest.approx(0, abs=EXACT)  # no offer is worth more than 1 to the user
    # silence is worth .7 to the user too: it loses to a rival of lower index only
    silent = np.array([[1.0, 0], [1, 0]])
    expected = [0.0, 0.6][holder]
    assert exact.payoffs(switched(schemes, holder, silent))[1][holder] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["biased_advisers", "prosecutor_against_defender"])
def test_opposed_agents_cannot_settle_below_full_information(name):
    game = em.catalog.GAMES[name]()
    exact = check(game, em.Selection(), RATIONAL)
    monopoly = [exact.monopolist(i).scheme for i in range(2)]
    silent = np.ones((2, 1))
    rng = np.random.default_rng(0)
    below = [padded(a, b) for a, b in itertools.product([*monopoly, silent], repeat=2)]
    below += list(rng.dirichlet([0.3, 0.3], (10, 2, 2)))
    count = 0
    for schemes in below:
        certificate = em.certify(game, schemes, em.Selection(), RATIONAL)
        if certificate.user < 1 - 1e-3:
            count += 1
            # M(v) - sum f_i(v) has slope 1 in v at least, and one of two agents has half of the gap
            assert certificate.gain_lower.max() > 0.2 * (1 - certificate.user)
    assert count >= 10
    both = em.certify(game, em.full_revelation(2, 2, 2), em.Selection(), RATIONAL)
    np.testing.assert_allclose(both.gain_upper, 0, atol=EXACT)


def test_three_messages_for_two_features():
    """M = XB is not enough in Selection, because being worth v to the user is one more row of the belief LP.

    Two states are equally likely. A middle action is worth .6 to the user in both, so it is taken at beliefs in
    [.4, .6], and the agent wants only this action. The best scheme worth v = .8 to the user reveals y half of the
    time and otherwise sends "middle": it has beliefs {0, 1/2, 1} and pays 2.5 (1 - v) = .5. Of two messages one
    must be "middle", at best at belief .6 or .4 beside a revealing one. That is worth 2/3 to the user, so at
    v = .8 the agent gets 0.
    """
    user = np.array([[1.0, 0], [0, 1], [0.6, 0.6]])
    agents = np.array([[[0.0, 0], [0, 0], [1, 1]], [[0.0, 0], [0, 0], [0, 0]]])
    game = em.Game(np.diag([0.5, 0.5])[None], user, agents)
    exact = check(game, em.Selection(), RATIONAL)
    found = exact.at_least(0, 0.8)
    assert found.value == pytest.approx(0.5, abs=EXACT)
    assert (found.scheme.max(0) > 1e-9).sum() == 3

    # two-message schemes on a grid of 401 x 401 that pay the agent anything are worth less than v by .1 at least
    first, second = np.meshgrid(np.linspace(0, 1, 401), np.linspace(0, 1, 401))  # P(message 0 | y)
    own = worth = 0.0
    for a, b in ((first, second), (1 - first, 1 - second)):
        totals = np.stack([a, b, 0.6 * (a + b)]) / 2
        middle = totals[2] >= totals.max(0) - 1e-12
        own, worth = own + middle * (a + b) / 2, worth + totals.max(0)
    assert worth[own > 0].max() == pytest.approx(2 / 3, abs=1e-3)
    assert own[worth >= 0.8 - 1e-9].max() == 0
    # so against a rival worth .8 the deviation gain is .5, which no profile with M = XB = 2 attains
    rival = np.array([[0.8, 0.2], [0.2, 0.8]])
    examined = examine(exact, np.stack([np.full((2, 2), 0.5), rival]))
    assert examined.user == pytest.approx(0.8, abs=EXACT)
    assert examined.gains[0] == pytest.approx(0.5, abs=EXACT)
    assert em.Selection().messages(game) == 3
