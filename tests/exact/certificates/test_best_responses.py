"""`best_response`: errors, units, exact arithmetic, agreement with `certify`, and failed LPs."""

from fractions import Fraction

import numpy as np
import pytest
from support.games import switched

import emalign_jax as em
from emalign_jax.lp.highs import KeptLP

pytestmark = pytest.mark.host_only

RATIONAL = em.RationalUser("agents")
QUANTAL = em.QuantalUser(6.0)
SETTINGS = [
    (em.Selection(), RATIONAL), (em.Pooled(), RATIONAL), (em.Selection(), QUANTAL), (em.Selection(0.2), QUANTAL),
    (em.Pooled(), QUANTAL),
]  # fmt: skip
IDS = ["selection-rational", "pooled-rational", "selection-quantal", "selection-soft", "pooled-quantal"]


def random_arrays(seed, K=2, XA=1, XB=2, A=3, M=3):
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(XA * XB * XB)).reshape(XA, XB, XB) * (0.1 + np.eye(XB))
    u, U = 1.5 * np.eye(A, XB) + 0.5 * rng.normal(size=(A, XB)), rng.normal(size=(K, A, XB))
    return prior / prior.sum(), u, U, rng.dirichlet(np.ones(M), (K, XB))


def ask(schemes=None, agent=0, game=None, protocol=None, user=RATIONAL, **options):
    game = em.catalog.two_prosecutors() if game is None else game
    schemes = em.no_information(2, 2, 2) if schemes is None else schemes
    return em.best_response(game, schemes, agent, protocol or em.Selection(), user, **options)


def batch():
    prior, u, U, _ = random_arrays(0)
    return em.Game(prior[None], u[None], U[None])


def malformed(field):
    prior, u, U, _ = random_arrays(0)
    arrays = {"prior": prior, "user_utility": u, "agent_utilities": U}
    arrays[field] = arrays[field] + (0.5 if field == "prior" else np.nan)
    return em.Game(**arrays, check="shapes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": batch()}, r"^game: expected one game, got a batch of \[1\]: take game\[k\]$"),
        ({"schemes": np.full((1, 2, 2, 2), 0.5)}, r"^schemes: "),
        ({"schemes": np.full((2, 2), 0.5)}, r"^schemes: expected shape"),
        ({"schemes": np.full((3, 2, 2), 0.5)}, r"^schemes: expected shape"),
        ({"schemes": np.full((2, 2, 2), 0.4)}, r"^schemes.*sum to 1"),
        ({"schemes": np.tile([-0.5, 1.5], (2, 2, 1))}, r"^schemes.*negative"),
        ({"schemes": np.full((2, 2, 2), np.nan)}, r"^schemes: expected finite numbers"),
        ({"agent": 2}, r"^agent: expected an index below K = 2, got 2$"),
        ({"agent": -1}, r"^agent: expected an integer >= 0, got -1$"),
        ({"bracket": 0.0}, r"^bracket: expected a number between 0 and 1"),
        ({"bracket": 1.0}, r"^bracket: "),
        ({"bracket": -1e-3}, r"^bracket: "),
        ({"bracket": np.nan}, r"^bracket: "),
        ({"game": malformed("prior")}, r"prior"),
        ({"game": malformed("user_utility")}, r"user_utility"),
        ({"game": malformed("agent_utilities")}, r"agent_utilities"),
        ({"protocol": em.Pooled(), "exact": True}, r"^exact: Pooled with RationalUser"),
        ({"user": QUANTAL, "exact": True}, r"^exact: Selection with QuantalUser"),
        ({"protocol": em.Selection(0.1)}, r"^temperature: "),
    ],
)
def test_one_clear_error_names_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        ask(**options)


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "user"), SETTINGS, ids=IDS)
@pytest.mark.parametrize("XA", [1, 2])
def test_the_scheme_attains_the_value_and_agrees_with_certify(protocol, user, XA):
    prior, u, U, schemes = random_arrays(3, XA=XA)
    game = em.Game(prior, u, U)
    # the bracket of `certify` is a tenth of its tolerance, so these two ask for the same work
    certificate = em.certify(game, schemes, protocol, user, tolerance=1e-3)
    for i in range(2):
        found = em.best_response(game, schemes, i, protocol, user, bracket=1e-4)
        assert found.value - certificate.agents[i] == pytest.approx(certificate.gain_lower[i], abs=1e-12)
        assert found.upper - certificate.agents[i] == pytest.approx(certificate.gain_upper[i], abs=1e-12)
        assert found.closed
        assert found.result == em.Result.CERTIFIED
        assert found.exact is None
        assert found.upper - found.value <= 1.0001e-4 * certificate.payoff_range[i] + 1e-8
        np.testing.assert_allclose(found.scheme.sum(1), 1, atol=1e-9)
        after = em.certify(game, switched(schemes, i, found.scheme), protocol, user)
        # ties go to the lowest index, so in Selection a rational user picks agent i only if it is worth slightly more
        if (type(protocol), user) != (em.Selection, RATIONAL):
            assert after.agents[i] == pytest.approx(found.value, abs=1e-5 if user is RATIONAL else 1e-9)
            assert after.gain_lower[i] <= found.upper - found.value + 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "user"), SETTINGS, ids=IDS)
@pytest.mark.parametrize(("unit", "offset"), [(1e-6, 0.0), (1e5, 0.0), (3.0, 100.0)])
def test_other_units(protocol, user, unit, offset):
    prior, u, U, schemes = random_arrays(4)
    plain = em.best_response(em.Game(prior, u, U), schemes, 1, protocol, user)
    shift = offset * np.array([1.0, -0.5])
    moved = float(prior.sum((0, 1)) @ shift)
    for of_user in (False, True):
        if of_user:
            game = em.Game(prior, unit * u + shift, U)
            other_user = em.QuantalUser(6.0 / unit) if user is QUANTAL else user
            other_protocol = em.Selection(0.2 * unit) if protocol == em.Selection(0.2) else protocol
            scale, zero = 1.0, 0.0
        else:
            game = em.Game(prior, u, unit * U + shift)
            other_user, other_protocol, scale, zero = user, protocol, unit, moved
        other = em.best_response(game, schemes, 1, other_protocol, other_user)
        close = 1e-6 * scale + 1e-10 * abs(zero)  # brackets are shares of the range, found by the same steps
        assert other.value == pytest.approx(scale * plain.value + zero, abs=close)
        assert other.upper == pytest.approx(scale * plain.upper + zero, abs=1e-4 * scale * 4 + close)
        assert other.closed == plain.closed
        assert other.result == plain.result


def test_exact_judge():
    """The prior is the float .3 or so: conviction with probability twice that, exactly."""
    for guilty in (0.3, 0.1, 0.45):
        game = em.catalog.judge(guilty)
        found = em.best_response(game, em.no_information(1, 2, 2), 0, em.Selection(), RATIONAL, exact=True)
        p = [Fraction(float(x)) for x in np.diag(game.prior[0])]
        assert found.exact == 2 * p[1]
        assert abs(float(found.exact) - found.value) <= 1e-12
        plain = em.best_response(game, em.no_information(1, 2, 2), 0, em.Selection(), RATIONAL)
        assert plain.exact is None
        assert plain.value == pytest.approx(found.value, abs=1e-12)


def test_exact_judge_in_other_units():
    """Units that are powers of two round nothing."""
    game = em.catalog.judge(0.25)
    other = em.Game(game.prior, 4.0 * game.user_utility, 2.0 * game.agent_utilities + 1.0)
    found = em.best_response(other, em.no_information(1, 2, 2), 0, em.Selection(), RATIONAL, exact=True)
    assert found.exact == 2
    assert found.value == pytest.approx(2, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_exact_agrees_with_the_float(seed):
    prior, u, U, schemes = random_arrays(seed, XB=3)
    game = em.Game(prior, u[:, :3], U)
    for i in range(2):
        found = em.best_response(game, schemes, i, em.Selection(), RATIONAL, exact=True)
        plain = em.best_response(game, schemes, i, em.Selection(), RATIONAL)
        assert found.value == pytest.approx(plain.value, abs=1e-8)
        assert found.closed
        if found.exact is not None:
            assert isinstance(found.exact, Fraction)
            assert abs(float(found.exact) - found.value) <= 1e-12


def test_an_exact_answer_is_absent_where_nothing_changes():
    game = em.catalog.two_prosecutors()
    found = em.best_response(game, em.full_revelation(2, 2, 2), 1, em.Selection(), RATIONAL, exact=True)
    assert found.exact is None
    assert found.value == pytest.approx(0.3, abs=1e-12)
    assert found.result == em.Result.CERTIFIED


@pytest.mark.slow
def test_an_open_bracket_is_said_to_be_open(monkeypatch):
    prior, u, U, schemes = random_arrays(5, XB=3)
    game = em.Game(prior, u, U)
    monkeypatch.setattr("emalign_jax.exact.checks.pooled.WORK", 1)
    found = em.best_response(game, schemes, 0, em.Pooled(), QUANTAL, bracket=1e-6)
    assert not found.closed
    assert found.result == em.Result.UNREFUTED
    monkeypatch.undo()
    again = em.best_response(game, schemes, 0, em.Pooled(), QUANTAL, bracket=1e-6)
    assert again.closed
    assert again.value <= found.upper + 1e-12


def fail(monkeypatch, when=lambda lp: True):
    solve = KeptLP.solve

    def failing(self):
        result = solve(self)
        if not when(self):
            return result
        return result._replace(optimal=False, value=np.nan, status="TimeLimit")

    monkeypatch.setattr(KeptLP, "solve", failing)


@pytest.mark.parametrize(("protocol", "user"), SETTINGS, ids=IDS)
@pytest.mark.parametrize("agent", [0, 1])
def test_a_failed_lp_is_never_a_silent_value(protocol, user, agent, monkeypatch):
    prior, u, U, schemes = random_arrays(6)
    fail(monkeypatch)
    found = em.best_response(em.Game(prior, u, U), schemes, agent, protocol, user)
    assert found.result == em.Result.FAILED
    assert not found.closed
    assert np.isnan(found.value)
    assert np.isnan(found.upper)
    assert found.exact is None


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "user"), SETTINGS, ids=IDS)
def test_a_failed_lp_costs_only_its_own_game(protocol, user, monkeypatch):
    games, profiles = zip(*((a[:3], a[3]) for a in (random_arrays(s) for s in (7, 8, 9))), strict=True)
    batch = em.Game(*(np.stack(x) for x in zip(*games, strict=True)))
    good = em.certify(batch, np.stack(profiles), protocol, user)
    done, prior = [], games[1][0].sum((0, 2))

    def is_of_the_second(lp):
        if user is RATIONAL and not isinstance(protocol, em.Pooled):
            return len(done) == 1
        bounds = np.array(lp._highs.getLp().row_lower_)  # games are searched side by side: by what the beliefs sum to
        return len(bounds) >= len(prior) and np.allclose(bounds[: len(prior)], prior)

    fail(monkeypatch, when=is_of_the_second)
    bad = em.certify(batch, np.stack(profiles), protocol, user, progress=done.append)
    assert bad.result[1] == em.Result.FAILED
    assert np.isnan(bad.user[1])
    assert np.isnan(bad.gain_lower[1]).all()
    assert np.isnan(bad.gain_upper[1]).all()
    for k in (0, 2):
        assert bad.result[k] == good.result[k]
        np.testing.assert_array_equal(bad.gain_upper[k], good.gain_upper[k])


@pytest.mark.slow
@pytest.mark.parametrize("small", [1e-9, 1e-11, 1e-13, 1e-15])
@pytest.mark.parametrize("user", [RATIONAL, QUANTAL], ids=["rational", "quantal"])
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection()], ids=["pooled", "selection"])
def test_a_feature_that_hardly_ever_happens(protocol, user, small):
    """Schemes stay probabilities and values close to those of the game without it."""
    prior, u, U, schemes = random_arrays(10, K=2, XB=2)
    rare = np.concatenate([(1 - small) * prior, np.full((1, 1, 2), small / 2)], axis=1)
    more = np.concatenate([schemes, schemes[:, :1]], axis=1)
    plain = em.best_response(em.Game(prior, u, U), schemes, 0, protocol, user)
    found = em.best_response(em.Game(rare, u, U), more, 0, protocol, user)
    assert np.isfinite(found.scheme).all()
    np.testing.assert_allclose(found.scheme.sum(1), 1, atol=1e-9)
    assert (found.scheme >= 0).all()
    assert found.value == pytest.approx(plain.value, abs=1e-5)
    assert found.closed
