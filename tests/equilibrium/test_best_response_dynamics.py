"""Exact best-response dynamics and outbidding."""

import numpy as np
import pytest
from support.games import batch_of, check, checks, random_game

import emalign_jax as em
from emalign_jax.equilibrium.best_response_dynamics import best_response_dynamics, outbid
from emalign_jax.exact.obedience.fewer_messages import fit

pytestmark = pytest.mark.host_only

RATIONAL = em.RationalUser("agents")
TOLERANCE = 1e-3


def one(dynamics, game, protocol, user, schemes, **options):
    """The dynamics of one game: where they end, their examination and their number of steps."""
    ended = dynamics(
        checks(game, protocol, user, messages=schemes.shape[-1]), np.zeros(1, int), schemes[None], TOLERANCE, **options
    )
    return ended.schemes[0], ended.examined.rows(0), int(ended.steps[0])


def starts(seed, exact, game, M):
    rng = np.random.default_rng(seed)
    yield rng.dirichlet(np.ones(M), (game.agents, game.agent_features))
    monopoly = np.stack([fit(exact.monopolist(i).scheme, M) for i in range(game.agents)])
    yield monopoly


@pytest.mark.slow
@pytest.mark.parametrize("XA", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_outbid_ends_at_an_equilibrium(seed, XA):
    game = random_game(seed, K=3, XA=XA)
    exact = check(game, em.Selection(), RATIONAL)
    for schemes in starts(seed, exact, game, 4):  # XB + 1 messages
        given = schemes.copy()
        found, examined, steps = one(outbid, game, em.Selection(), RATIONAL, schemes)
        np.testing.assert_array_equal(schemes, given)  # the caller's array is left alone
        assert found.shape == given.shape
        assert steps < 100
        certificate = em.certify(game, found, em.Selection(), RATIONAL, tolerance=TOLERANCE)
        assert certificate.result == em.Result.CERTIFIED
        unit, zero = (float(x[0]) for x in checks(game, em.Selection(), RATIONAL).form_of([0])[3:5])
        assert unit * examined.user + zero == pytest.approx(float(certificate.user), abs=1e-9)
        assert certificate.user >= exact.least_value - 1e-6  # the user can always ignore the messages


@pytest.mark.slow
@pytest.mark.parametrize("XA", [1, 2])
def test_outbidding_on_frontiers_is_outbidding_by_highs(XA):
    """Two routes: frontiers of all games by the batched simplex, and an LP of HiGHS for each best response."""
    games = batch_of([random_game(seed, K=3, XA=XA) for seed in range(12)])
    schemes = np.random.default_rng(0).dirichlet(np.ones(4), (12, 3, 3))
    at = np.arange(12)
    ends = []
    for lp in ("batched", "highs"):
        exact = checks(games, em.Selection(), RATIONAL, messages=4, lp=lp)
        ended = outbid(exact, at, schemes, TOLERANCE)
        assert (ended.examined.worst <= TOLERANCE).all()
        certificate = em.certify(
            games, ended.schemes, em.Selection(), RATIONAL, tolerance=1.001 * TOLERANCE, lp="highs"
        )
        assert (certificate.result == em.Result.CERTIFIED).all()
        np.testing.assert_allclose(certificate.relative_gain, ended.examined.relative, atol=1e-6)
        ends.append(ended)
    np.testing.assert_allclose(ends[0].examined.user, ends[1].examined.user, atol=1e-3)


@pytest.mark.parametrize("name", ["two_prosecutors", "prosecutor_against_defender", "biased_advisers"])
def test_outbid_in_named_games(name):
    game = em.catalog.GAMES[name]()
    for schemes in starts(1, check(game, em.Selection(), RATIONAL), game, 3):
        found, *_ = one(outbid, game, em.Selection(), RATIONAL, schemes)
        certificate = em.certify(game, found, em.Selection(), RATIONAL, tolerance=TOLERANCE)
        assert certificate.result == em.Result.CERTIFIED
        if name != "two_prosecutors":  # the only equilibrium value is V_full; a gain of 1e-3 leaves this much open
            assert certificate.user >= 1 - 0.02


@pytest.mark.slow
def test_outbid_stops_when_told_and_never_harms_the_user():
    game = random_game(0, K=3)
    exact = check(game, em.Selection(), RATIONAL)
    (_, monopoly) = starts(0, exact, game, 4)
    setting = game, em.Selection(), RATIONAL, monopoly
    whole, _, steps = one(outbid, *setting)
    assert steps >= 5  # else the following says nothing
    for most in range(1, steps + 1):
        part, _, taken = one(outbid, *setting, max_steps=most)
        assert taken <= most
        assert part.shape == monopoly.shape
        assert exact.payoffs(part)[0] >= exact.least_value - 1e-6
        np.testing.assert_allclose(part.sum(-1), 1, atol=1e-9)
    np.testing.assert_allclose(part, whole, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("user", [RATIONAL, em.QuantalUser(10.0)], ids=["rational", "quantal"])
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection()], ids=["pooled", "selection"])
def test_best_response_dynamics_returns_the_best_it_met(protocol, user):
    certified, pooled = 0, isinstance(protocol, em.Pooled)
    seeds, most = (4, 8) if pooled else (2, 4)
    for seed in range(seeds):
        game = random_game(seed, K=2)
        schemes = np.random.default_rng(seed).dirichlet(np.ones(4), (2, 3))
        given = schemes.copy()
        exact, at = checks(game, protocol, user, messages=4), np.zeros(1, int)
        before = exact.examine(at, schemes[None]).worst[0]
        ended = best_response_dynamics(exact, at, schemes[None], TOLERANCE, max_steps=most)
        np.testing.assert_array_equal(schemes, given)
        assert ended.steps[0] <= most
        assert ended.schemes[0].shape == given.shape
        assert ended.examined.worst[0] <= before + 1e-9  # LPs start from where the last one ended
        # Gains are known as well as a comparison with the tolerance needs.
        worst = exact.examine(at, ended.schemes).worst[0]
        assert 0.7 * worst - 1e-9 <= ended.examined.worst[0] <= worst + 1e-9 or worst <= TOLERANCE
        certified += ended.examined.worst[0] <= TOLERANCE
    # in Selection plain best responses outbid each other in tiny steps and go round: `outbid` is for that
    assert certified > 0 or not pooled


def test_best_response_dynamics_with_one_agent_takes_two_steps_at_most():
    game = em.catalog.judge()
    schemes, _, steps = one(best_response_dynamics, game, em.Pooled(), em.QuantalUser(5.0), np.full((1, 2, 2), 0.5))
    assert 1 <= steps <= 2
    exact = check(game, em.Pooled(), em.QuantalUser(5.0))
    assert exact.payoffs(schemes)[1][0] == pytest.approx(0.38236599, abs=1e-5)


def test_too_few_messages_end_the_dynamics_where_they_are():
    """A best response that needs two messages cannot be played with one."""
    silent = np.ones((1, 2, 1))
    for dynamics in (outbid, best_response_dynamics):
        schemes, examined, _ = one(dynamics, em.catalog.judge(), em.Selection(), RATIONAL, silent)
        np.testing.assert_array_equal(schemes, silent)
        assert examined.relative[0] > 0.1


def test_fit():
    scheme = np.array([[0.3, 0.0, 0.7], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(fit(scheme, 2), scheme[:, [0, 2]])
    np.testing.assert_array_equal(fit(scheme, 4), [[0.3, 0.7, 0, 0], [1, 0, 0, 0]])
    assert fit(scheme, 1) is None
