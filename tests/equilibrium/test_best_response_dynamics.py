"""Exact best-response dynamics and outbidding."""

import numpy as np
import pytest
from support.games import check, random_game

import emalign_jax as em
from emalign_jax.equilibrium.best_response_dynamics import best_response_dynamics, fit, outbid
from emalign_jax.exact.checks.examination import examine

pytestmark = pytest.mark.host_only

RATIONAL = em.RationalUser("agents")
TOLERANCE = 1e-3


def starts(seed, exact, game, M):
    rng = np.random.default_rng(seed)
    yield rng.dirichlet(np.ones(M), (game.agents, game.agent_features))
    monopoly = np.stack([fit(exact.monopolist(i).scheme, M) for i in range(game.agents)])
    yield monopoly


@pytest.mark.parametrize("XA", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_outbid_ends_at_an_equilibrium(seed, XA):
    game = random_game(seed, K=3, XA=XA)
    exact = check(game, em.Selection(), RATIONAL)
    for schemes in starts(seed, exact, game, 4):  # XB + 1 messages
        given = schemes.copy()
        ended = outbid(exact, schemes, TOLERANCE)
        np.testing.assert_array_equal(schemes, given)  # the caller's array is left alone
        assert ended.schemes.shape == given.shape
        assert ended.steps < 100
        certificate = em.certify(game, ended.schemes, em.Selection(), RATIONAL, tolerance=TOLERANCE)
        assert certificate.result == em.Result.CERTIFIED
        assert ended.examined.user == pytest.approx(float(certificate.user), abs=1e-9)
        assert certificate.user >= exact.least_value - 1e-6  # the user can always ignore the messages


@pytest.mark.parametrize("name", ["two_prosecutors", "prosecutor_against_defender", "biased_advisers"])
def test_outbid_in_named_games(name):
    game = em.catalog.GAMES[name]()
    exact = check(game, em.Selection(), RATIONAL)
    for schemes in starts(1, exact, game, 3):
        ended = outbid(exact, schemes, TOLERANCE)
        certificate = em.certify(game, ended.schemes, em.Selection(), RATIONAL, tolerance=TOLERANCE)
        assert certificate.result == em.Result.CERTIFIED
        if name != "two_prosecutors":  # the only equilibrium value is V_full; a gain of 1e-3 leaves this much open
            assert certificate.user >= 1 - 0.02


def test_outbid_stops_when_told_and_never_harms_the_user():
    game = random_game(0, K=3)
    exact = check(game, em.Selection(), RATIONAL)
    (_, monopoly) = starts(0, exact, game, 4)
    whole = outbid(exact, monopoly, TOLERANCE)
    assert whole.steps >= 5  # else the following says nothing
    for most in range(1, whole.steps + 1):
        part = outbid(exact, monopoly, TOLERANCE, max_steps=most)
        assert part.steps <= most
        assert part.schemes.shape == monopoly.shape
        assert part.examined.user >= exact.least_value - 1e-6
        np.testing.assert_allclose(part.schemes.sum(-1), 1, atol=1e-9)
    np.testing.assert_allclose(part.schemes, whole.schemes, atol=1e-12)


@pytest.mark.parametrize("user", [RATIONAL, em.QuantalUser(10.0)], ids=["rational", "quantal"])
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection()], ids=["pooled", "selection"])
def test_best_response_dynamics_returns_the_best_it_met(protocol, user):
    certified, pooled = 0, isinstance(protocol, em.Pooled)
    seeds, most = (4, 8) if pooled else (2, 4)
    for seed in range(seeds):
        game = random_game(seed, K=2)
        exact = check(game, protocol, user)
        schemes = np.random.default_rng(seed).dirichlet(np.ones(4), (2, 3))
        given = schemes.copy()
        before = examine(exact, schemes).worst
        ended = best_response_dynamics(exact, schemes, TOLERANCE, max_steps=most)
        np.testing.assert_array_equal(schemes, given)
        assert ended.steps <= most
        assert ended.schemes.shape == given.shape
        assert ended.examined.worst <= before + 1e-9  # LPs start from where the last one ended
        assert examine(exact, ended.schemes).worst == pytest.approx(ended.examined.worst, abs=1e-9)
        certified += ended.examined.worst <= TOLERANCE
    # in Selection plain best responses outbid each other in tiny steps and go round: `outbid` is for that
    assert certified > 0 or not pooled


def test_best_response_dynamics_with_one_agent_takes_one_step():
    exact = check(em.catalog.judge(), em.Pooled(), em.QuantalUser(5.0))
    ended = best_response_dynamics(exact, np.full((1, 2, 2), 0.5), TOLERANCE)
    assert ended.steps == 1
    assert ended.examined.agents[0] == pytest.approx(0.38236599, abs=1e-8)


def test_too_few_messages_end_the_dynamics_where_they_are():
    """A best response that needs two messages cannot be played with one."""
    exact = check(em.catalog.judge(), em.Selection(), RATIONAL)
    silent = np.ones((1, 2, 1))
    for ended in (outbid(exact, silent, TOLERANCE), best_response_dynamics(exact, silent, TOLERANCE)):
        np.testing.assert_array_equal(ended.schemes, silent)
        assert ended.examined.gains[0] == pytest.approx(0.6, abs=1e-6)


def test_fit():
    scheme = np.array([[0.3, 0.0, 0.7], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(fit(scheme, 2), scheme[:, [0, 2]])
    np.testing.assert_array_equal(fit(scheme, 4), [[0.3, 0.7, 0, 0], [1, 0, 0, 0]])
    assert fit(scheme, 1) is None
