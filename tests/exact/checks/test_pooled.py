"""Best responses in Pooled: attained, not beaten by random deviations, and known cases."""

import itertools

import numpy as np
import pytest
from support.games import check, random_game, reduced, switched
from support.nightly import one_in

import emalign_jax as em
from emalign_jax.exact.checks.examination import examine
from emalign_jax.exact.responses import pooled_payoffs

pytestmark = pytest.mark.host_only

RATIONAL = em.RationalUser("agents")


def payoff(game, schemes, agent, scheme, user):
    """`agent`'s payoff from `scheme` (any number of messages) against the others' schemes."""
    return pooled_payoffs(reduced(game), switched(schemes, agent, scheme), user)[1][agent]


@pytest.mark.slow
@pytest.mark.parametrize("XA", [1, 2])
@pytest.mark.parametrize("seed", one_in(4, range(4)))
@pytest.mark.parametrize("user", [em.QuantalUser(2.0), em.QuantalUser(25.0), RATIONAL], ids=["L2", "L25", "rational"])
def test_gains_are_attained_and_never_beaten(user, seed, XA):
    rng = np.random.default_rng(seed)
    game = random_game(seed, XA=XA)
    schemes = rng.dirichlet(np.ones(3), (2, 3))
    certificate = em.certify(game, schemes, em.Pooled(), user)
    deviations = check(game, em.Pooled(), user).deviations(schemes, range(2))
    # a rational user's payoffs may use the tie tolerance (1e-6 of the range) on either side
    slack = 1e-5 if user is RATIONAL else 1e-8
    for i, deviation in enumerate(deviations):
        attained = payoff(game, schemes, i, deviation.scheme, user) - certificate.agents[i]
        assert attained == pytest.approx(certificate.gain_lower[i], abs=slack)
        tried = [
            payoff(game, schemes, i, rng.dirichlet(np.full(4, 10.0 ** rng.uniform(-1.5, 1)), 3), user)
            for _ in range(200)
        ]
        assert max(tried) - certificate.agents[i] <= certificate.gain_lower[i] + slack
        assert certificate.gain_lower[i] <= certificate.gain_upper[i]
        assert certificate.gain_lower[i] <= certificate.payoff_range[i] + slack


@pytest.mark.slow
@pytest.mark.parametrize("user", [em.QuantalUser(10.0), RATIONAL], ids=["quantal", "rational"])
def test_one_agent_is_a_monopolist(user):
    for seed in range(3):
        exact = check(random_game(seed, K=1), em.Pooled(), user)
        alone = exact.monopolist(0)
        for schemes in (em.no_information(1, 3, 3), em.full_revelation(1, 3, 3)):
            (deviation,) = exact.deviations(schemes, range(1))
            assert deviation.value == pytest.approx(alone.value, abs=1e-7)
        judge = check(em.catalog.judge(), em.Pooled(), RATIONAL).deviations(np.full((1, 2, 2), 0.5), range(1))
        assert judge[0].value == pytest.approx(0.6, abs=1e-5)


def test_when_the_other_tells_all_nothing_can_be_gained():
    certificate = em.certify(random_game(0), em.full_revelation(2, 3, 3), em.Pooled(), em.QuantalUser(7.0))
    np.testing.assert_allclose(certificate.gain_lower, 0, atol=1e-8)
    assert certificate.user == pytest.approx(certificate.full_information, abs=1e-12)


def partition(*groups):
    """The two-message scheme that tells which of two groups of four features x_B is in."""
    return np.eye(2)[[0 if x in groups else 1 for x in range(4)]]


@pytest.mark.slow
def test_few_messages():
    """With one bit each: babbling pays .5, full information 1. An agent with rich messages gains .5. One bit can
    single out one value: 1/4 * 1 + 3/4 * .5 = .625, so babbling is no equilibrium of the game with one bit either;
    two agents who single out different values (.75) are one. An aligned agent's payoff is convex in its scheme, so
    no scheme of two messages beats the 16 deterministic ones."""
    game = em.catalog.few_messages()
    bits = [np.eye(2)[list(s)] for s in itertools.product(range(2), repeat=4)]
    babbling = em.no_information(2, 4, 2)
    certificate = em.certify(game, babbling, em.Pooled(), RATIONAL)
    assert certificate.user == pytest.approx(0.5, abs=1e-12)
    np.testing.assert_allclose(certificate.gain_lower, 0.5, atol=1e-6)
    np.testing.assert_allclose(certificate.gain_upper, 0.5, atol=1e-6)
    assert max(payoff(game, babbling, 0, s, RATIONAL) for s in bits) == pytest.approx(0.625, abs=1e-6)

    single = np.stack([partition(0), partition(1)])
    assert em.certify(game, single, em.Pooled(), RATIONAL).user == pytest.approx(0.75, abs=1e-12)
    for i in range(2):
        assert max(payoff(game, single, i, s, RATIONAL) for s in bits) == pytest.approx(0.75, abs=1e-6)
    two_bits = np.stack([partition(0, 1), partition(0, 2)])
    assert em.certify(game, two_bits, em.Pooled(), RATIONAL).user == pytest.approx(1, abs=1e-12)


def test_each_agents_payoff_has_ties_in_its_favour():
    """The user is always indifferent: each agent's payoff is its own supremum, but guarantees need one distribution."""
    game = em.Game(np.full((1, 1, 1), 1.0), np.zeros((2, 1)), np.eye(2)[:, :, None])
    exact = check(game, em.Pooled(), RATIONAL)
    silent = np.ones((2, 1, 1))
    np.testing.assert_array_equal(examine(exact, silent).agents, [1, 1])
    np.testing.assert_array_equal(exact.common_response_payoffs(silent), [1, 0])


def test_an_x_b_that_next_to_never_happens_costs_no_certificate():
    """Beliefs that are kinks of it pay 1e10 times what it is worth, which HiGHS's dual method does not bear."""
    prior = np.array(
        [
            [3.75719011e-11, 9.99999954e-01, 4.50346263e-08],
            [1.06514934e-11, 1.09430585e-09, 0.0],
            [0.0, 0.0, 5.55941226e-12],
        ]
    )
    u = np.array(
        [[0.35351157, 0.76311324, -0.54247766], [-0.31150634, 0.03776263, -0.19245933],
         [-0.32470377, -0.78364921, 0.47036]]
    )  # fmt: skip
    U = np.array(
        [[0.17542325, -0.6450299, -1.9652823], [-0.54761479, -0.36577354, 0.61350681],
         [0.24882154, 1.29429791, -0.94982628]]
    )  # fmt: skip
    game = em.Game((prior / prior.sum())[None], u, np.stack([U, -U]))
    silent = np.ones((2, 3, 1))
    for ties in ("agents", "lowest", "highest", "uniform"):
        certificate = em.certify(game, silent, em.Pooled(), em.RationalUser(ties))
        assert certificate.result != em.Result.FAILED
        assert np.isfinite(certificate.payoff_range).all()
