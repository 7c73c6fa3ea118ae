"""The certificate as a whole: batches, bad rows, units, errors, invariances."""

import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.equilibrium.monopolists import monopoly
from emalign_jax.exact.checks.one_by_one import OneByOne
from emalign_jax.exact.checks.selection_rational import SelectionRational
from emalign_jax.result.batched import axes_of

pytestmark = pytest.mark.host_only

RATIONAL = em.RationalUser("agents")
QUANTAL = em.QuantalUser(6.0)
SETTINGS = [(em.Selection(), RATIONAL), (em.Pooled(), RATIONAL), (em.Selection(), QUANTAL), (em.Pooled(), QUANTAL)]
IDS = ["selection-rational", "pooled-rational", "selection-quantal", "pooled-quantal"]
# HiGHS at 1e-9; a rational user's tie tolerance, 1e-6 of the range, may be used on one side and not on the other
LOOSE = 1e-5


def random_arrays(seed, count, K=2, XA=1, XB=2, A=3):
    """prior, u, U, schemes [count, ...] with M = 3."""
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(XA * XB * XB), count).reshape(count, XA, XB, XB) * (0.1 + np.eye(XB))
    prior /= prior.sum((1, 2, 3), keepdims=True)
    u, U = 1.5 * np.eye(A, XB) + 0.5 * rng.normal(size=(count, A, XB)), rng.normal(size=(count, K, A, XB))
    return prior, u, U, rng.dirichlet(np.ones(3), (count, K, XB))


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "user"), SETTINGS, ids=IDS)
def test_a_bad_game_and_a_bad_profile_cost_only_themselves(protocol, user):
    prior, u, U, schemes = random_arrays(0, 5)
    good = em.certify(em.Game(prior, u, U), schemes, protocol, user)
    U, schemes = U.copy(), schemes.copy()
    U[1, 0, 2, 1] = np.nan
    schemes[3, 1, 0, 0] = np.nan
    bad = em.certify(em.Game(prior, u, U, check="shapes"), schemes, protocol, user)
    assert bad.result[1] == em.Result.MALFORMED
    assert bad.result[3] == em.Result.MALFORMED
    assert not em.Result(int(bad.result[1])).ok
    for name in axes_of(em.Certificate):
        ours, theirs = getattr(bad, name), getattr(good, name)
        np.testing.assert_array_equal(ours[[0, 2, 4]], theirs[[0, 2, 4]])
        assert np.isfinite(theirs.astype(float)).all()
        if name in ("closed", "fallback"):
            assert not ours[[1, 3]].any()
        elif name != "result":
            assert np.isnan(ours[[1, 3]]).all()
    assert np.isnan(bad.relative_gain[1]).all()
    assert np.isnan(bad.normalised_value[3])


def test_result_codes():
    game = em.catalog.two_prosecutors()
    revealed = em.certify(game, em.full_revelation(2, 2, 2), em.Selection(), RATIONAL)
    assert revealed.result == em.Result.CERTIFIED
    assert em.Result(int(revealed.result)).ok
    silent = em.certify(game, em.no_information(2, 2, 2), em.Selection(), RATIONAL)
    assert silent.result == em.Result.ABOVE_TOLERANCE
    assert not em.Result(int(silent.result)).ok
    np.testing.assert_allclose(silent.gain_lower, 0.6, atol=1e-6)  # either would take over as the monopolist
    assert em.certify(game, em.no_information(2, 2, 2), em.Selection(), RATIONAL, tolerance=1.1).result == (
        em.Result.CERTIFIED
    )
    assert float(silent.normalised_value) == pytest.approx(0, abs=1e-9)
    assert float(revealed.normalised_value) == pytest.approx(1, abs=1e-9)
    negative = em.Game(np.array([[[1.5, -0.5]]]), np.eye(2), np.ones((1, 2, 2)), check="shapes")
    malformed = em.certify(negative, np.ones((1, 1, 1)), em.Selection(), RATIONAL)
    assert malformed.result == em.Result.MALFORMED
    assert all(r.message.endswith(".") for r in em.Result)


@pytest.mark.slow
def test_broadcasting():
    """[N] games against [S, N, ...] schemes, one game against [S, N, ...]; progress counts them all."""
    prior, u, U, _ = random_arrays(1, 3)
    schemes = np.random.default_rng(1).dirichlet(np.ones(2), (2, 3, 2, 2))
    games, done = em.Game(prior, u, U), []
    both = em.certify(games, schemes, em.Selection(), RATIONAL, progress=done.append)
    assert sum(done) == 6
    assert both.user.shape == both.result.shape == (2, 3)
    assert both.gain_lower.shape == both.relative_gain.shape == (2, 3, 2)
    for s, n in np.ndindex(2, 3):
        one = em.certify(games[n], schemes[s, n], em.Selection(), RATIONAL)
        for name in axes_of(em.Certificate):
            np.testing.assert_array_equal(getattr(both, name)[s, n], getattr(one, name))
    single = em.certify(games[2], schemes, em.Selection(), RATIONAL)
    np.testing.assert_array_equal(single.gain_lower[:, 2], both.gain_lower[:, 2])


@pytest.mark.slow
def test_a_user_may_differ_by_game():
    prior, u, U, schemes = random_arrays(2, 2)
    games = em.Game(prior, u, U)
    both = em.certify(games, schemes, em.Pooled(), em.QuantalUser(np.array([2.0, 20.0])))
    for k, precision in enumerate((2.0, 20.0)):
        one = em.certify(games[k], schemes[k], em.Pooled(), em.QuantalUser(precision))
        np.testing.assert_array_equal(both.gain_lower[k], one.gain_lower)
        assert both.user[k] == one.user


@pytest.mark.parametrize(("protocol", "user"), SETTINGS, ids=IDS)
def test_an_agent_to_whom_nothing_matters(protocol, user):
    """The agent's payoff range is 0: its relative gain is 0, not NaN, and no obstacle to a certificate."""
    prior, u, U, _ = random_arrays(3, 1)
    U[0, 1] = 0
    certificate = em.certify(em.Game(prior, u, U), np.eye(2)[None, None].repeat(2, 1), protocol, user)
    assert certificate.payoff_range[0, 1] == 0
    assert certificate.relative_gain[0, 1] == 0
    assert np.isfinite(certificate.relative_gain).all()


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "user"), SETTINGS[:2], ids=IDS[:2])
def test_no_message_changes_the_action(protocol, user):
    """One action is best at every belief: ranges of 1e-16 are rounding errors, and no unit to divide others by."""
    prior, _, U, schemes = random_arrays(7, 6, XA=2)
    u = np.broadcast_to(np.array([[0.3, 0.2], [0.9, 0.7], [0.1, 0.4]]), (6, 3, 2))
    certificate = em.certify(em.Game(prior, u, U), schemes, protocol, user)
    np.testing.assert_array_equal(certificate.payoff_range, 0)
    np.testing.assert_array_equal(certificate.relative_gain, 0)
    np.testing.assert_array_equal(certificate.result, em.Result.CERTIFIED)


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "user"), SETTINGS, ids=IDS)
def test_names_of_messages_mean_nothing(protocol, user):
    prior, u, U, schemes = random_arrays(5, 3)
    games = em.Game(prior, u, U)
    before = em.certify(games, schemes, protocol, user)
    renamed = schemes.copy()
    renamed[:, 0] = schemes[:, 0][..., [2, 0, 1]]
    renamed[:, 1] = schemes[:, 1][..., [1, 0, 2]]
    more = np.concatenate([renamed, np.zeros((3, 2, 2, 1))], -1)  # and one that is never sent
    after = em.certify(games, more, protocol, user)
    for name in axes_of(em.Certificate):
        ours, theirs = getattr(after, name).astype(float), getattr(before, name).astype(float)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=LOOSE, err_msg=name)


@pytest.mark.slow
def test_the_bracket_is_ordered():
    prior, u, U, schemes = random_arrays(6, 3)
    for protocol, user in SETTINGS:
        c = em.certify(em.Game(prior, u, U), schemes, protocol, user)
        assert (c.gain_lower >= 0).all()
        assert (c.gain_lower <= c.gain_upper).all()
        assert (c.no_information <= c.full_information + 1e-9).all() or user is QUANTAL
        assert c.closed.all()
        open_ = c.gain_upper - c.gain_lower
        assert (open_ <= 1e-4 * c.payoff_range + 5e-6).all()  # a tenth of the tolerance; the last game has no range
        if isinstance(protocol, em.Selection) and user is RATIONAL:
            np.testing.assert_array_equal(open_, 0)


def test_errors():
    game = em.catalog.two_prosecutors()
    for schemes, message in (
        (np.full((3, 2, 2), 0.5), r"K = 2, XB = 2.*got \[3, 2, 2\]"),
        (np.full((2, 2), 0.5), "expected shape"),
        (np.array([[[1.5, -0.5]] * 2] * 2), "must not be negative"),
        (np.full((2, 2, 2), 0.4), "must sum to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            em.certify(game, schemes, em.Selection(), RATIONAL)
    prior, u, U, schemes = random_arrays(0, 3)
    with pytest.raises(ValueError, match=r"batch axes \[2\] do not fit .* \[3\]"):
        em.certify(em.Game(prior, u, U), schemes[:2], em.Selection(), RATIONAL)


def test_a_size_beyond_the_obedience_lp():
    """5^6 recommendations: refused by name; a quantal user is no such problem."""
    game = em.Game(np.full((6, 2, 2), 1 / 24), np.eye(5, 2), np.ones((2, 5, 2)))
    with pytest.raises(ValueError, match=r"XA = 6.*31250 columns.*limit is 4096.*quantal"):
        em.certify(game, np.full((2, 2, 2), 0.5), em.Selection(), RATIONAL)
    assert np.isfinite(em.certify(game, np.full((2, 2, 2), 0.5), em.Selection(), QUANTAL).user)


def test_a_temperature_needs_a_quantal_user():
    game = em.catalog.two_prosecutors()
    with pytest.raises(ValueError, match=r"temperature 0"):
        em.certify(game, np.full((2, 2, 2), 0.5), em.Selection(0.1), RATIONAL)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 70], ids=["by HiGHS", "in a batch"])
@pytest.mark.parametrize(
    ("protocol", "user", "message"),
    [
        (em.Selection(0.1), em.RationalUser(), "temperature: the exact check of Selection with a rational user needs"),
        (em.Selection(), em.RationalUser(tolerance=1e-3), "tolerance: the exact check of Selection needs a tie"),
    ],
    ids=["temperature", "tolerance"],
)
def test_where_the_method_is_not_exact(protocol, user, message, count):
    games = em.random_games(0, count, agents=2, states=2, actions=2)
    for call in (
        lambda: em.certify(games, em.random_schemes(1, count, 2, 2, 2), protocol, user),
        lambda: em.solve(games, protocol, user, key=0),
        lambda: monopoly(games, protocol, user),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.slow
@pytest.mark.host_only
def test_memory_of_checks_is_given_back(monkeypatch):
    """So many checks are kept at a time as their class says, and each game has its certificate."""
    games = em.random_games(0, 7, agents=2, states=2, actions=2)
    schemes = em.random_schemes(1, 7, 2, 2, 2)
    whole = em.certify(games, schemes, em.Selection(), em.RationalUser("lowest"))
    kept, release = [], OneByOne.release

    def released(self, at):
        kept.append(len(self._made))
        release(self, at)

    monkeypatch.setattr(OneByOne, "release", released)
    monkeypatch.setattr(SelectionRational, "games_at_once", 3)
    told = []
    again = em.certify(games, schemes, em.Selection(), em.RationalUser("lowest"), progress=told.append)
    assert kept == [3, 3, 1]
    assert sum(told) == 7
    for name in axes_of(em.Certificate):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name), err_msg=name)
