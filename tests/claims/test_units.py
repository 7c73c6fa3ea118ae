"""Nothing depends on the units of utilities, on offsets that no choice changes, or on other games of the batch."""

import jax
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.equilibrium.monopolists import monopoly

SELECTION = (em.Selection(), em.RationalUser())


def games_and_profiles(count=12, agents=2):
    games = em.random_games(jax.random.key(3), count, family="noise", agents=agents, states=3, actions=3)
    games = em.Game(*(np.asarray(x, np.float64) for x in (games.prior, games.user_utility, games.agent_utilities)))
    prior = games.prior / games.prior.sum((1, 2, 3), keepdims=True)
    schemes = np.random.default_rng(0).dirichlet(np.ones(4) * 0.3, size=(count, agents, 3))
    return em.Game(prior, games.user_utility, games.agent_utilities), schemes


# what float64 can hold of the differences between actions beside an offset, times the LPs' tolerance in gains
@pytest.mark.slow
@pytest.mark.parametrize(
    ("unit", "offset", "tolerance"),
    [(1e-9, 0, 1e-6), (1e-6, 0, 1e-6), (1e6, 0, 1e-6), (1e19, 0, 1e-6), (1.0, 1e4, 1e-6), (1.0, 1e6, 1e-4)],
)
@pytest.mark.parametrize("who", ["user", "agents"])
def test_selection_in_other_units(unit, offset, tolerance, who):
    games, schemes = games_and_profiles()
    plain = em.certify(games, schemes, *SELECTION)
    per_state = offset * np.array([1.0, -0.5, 2.0])  # c(y)
    u, U = games.user_utility, games.agent_utilities
    changed = (
        em.Game(games.prior, unit * u + per_state, U)
        if who == "user"
        else em.Game(games.prior, u, unit * U + per_state)
    )
    other = em.certify(changed, schemes, *SELECTION)
    np.testing.assert_array_equal(other.result, plain.result)
    np.testing.assert_allclose(other.relative_gain, plain.relative_gain, atol=tolerance)
    np.testing.assert_allclose(other.normalised_value, plain.normalised_value, atol=tolerance)
    spread = np.ptp(changed.user_utility, axis=-2).max(-1)  # of actions, whatever the offset
    assert (other.guarantee <= other.user + 1e-5 * spread).all()
    assert (other.theorem <= other.user + 1e-5 * spread).all()


def test_silence_is_no_equilibrium_of_two_prosecutors_in_any_unit():
    game = em.catalog.two_prosecutors()
    silent = em.no_information(2, 2, 2)
    for unit in (1e-9, 1.0, 1e9):
        for u_offset in (0.0, 1e6):
            other = em.Game(
                game.prior, game.user_utility + np.array([0, u_offset]), unit * np.asarray(game.agent_utilities)
            )
            certificate = em.certify(other, silent, *SELECTION)
            assert certificate.result == em.Result.ABOVE_TOLERANCE
            np.testing.assert_allclose(certificate.relative_gain, 1, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [1e-6, pytest.param(1e6, marks=pytest.mark.nightly)])
def test_quantal_users_follow_if_their_precision_does(unit):
    games, schemes = games_and_profiles(4)
    scaled = em.Game(games.prior, unit * games.user_utility, games.agent_utilities)
    for protocol, other in ((em.Pooled(), em.Pooled()), (em.Selection(0.2), em.Selection(0.2 * unit))):
        plain = em.certify(games, schemes, protocol, em.QuantalUser(8.0))
        changed = em.certify(scaled, schemes, other, em.QuantalUser(8.0 / unit))
        np.testing.assert_allclose(changed.user, unit * plain.user, rtol=1e-9)
        np.testing.assert_allclose(changed.relative_gain, plain.relative_gain, atol=1e-6)


@pytest.mark.slow
def test_solve_in_other_units():
    games, _ = games_and_profiles(8)
    for unit, offset in ((1e-8, 0.0), (1.0, 1e6)):
        other = em.Game(games.prior, unit * games.user_utility + offset, unit * games.agent_utilities + offset)
        found = em.solve(other, *SELECTION, start="monopolist")
        assert (found.result < em.Result.ABOVE_TOLERANCE).all()
        assert np.nanmax(found.certificate.normalised_value) <= 1 + 1e-4  # NaN where information is worth nothing


def test_one_malformed_or_huge_game_leaves_the_derived_numbers_of_the_others_alone():
    games, schemes = games_and_profiles(3)
    good = em.certify(games, schemes, *SELECTION)
    prior, U = games.prior.copy(), games.agent_utilities.copy()
    prior[1, 0, 0, 0] = np.nan
    U[2] *= 1e19
    mixed = em.certify(em.Game(prior, games.user_utility, U, check="shapes"), schemes, *SELECTION)
    np.testing.assert_allclose(mixed.relative_gain[[0, 2]], good.relative_gain[[0, 2]], atol=1e-9)
    np.testing.assert_allclose(mixed.normalised_value[[0, 2]], good.normalised_value[[0, 2]], atol=1e-12)
    assert np.isnan(mixed.relative_gain[1]).all()


def test_an_action_that_a_tie_rule_never_plays():
    """The user has two copies of an action; the agent wants the second, which the lowest-index rule never plays."""
    u = np.array([[1.0, 0], [1, 0], [0, 1]])
    U = np.array([[[0.0, 0], [1, 1], [0, 0]]])
    game = em.Game(np.diag([0.5, 0.5])[None], u, U)
    certificate = em.certify(game, em.full_revelation(1, 2, 2), em.Selection(), em.RationalUser("lowest"))
    assert certificate.gain_lower == certificate.gain_upper == [0]
    assert certificate.payoff_range == [0]
    assert certificate.result == em.Result.CERTIFIED
    with pytest.raises(ValueError, match="tolerance"):
        em.certify(game, em.full_revelation(1, 2, 2), em.Selection(), em.RationalUser(tolerance=0.1))


@pytest.mark.slow
def test_monopoly_is_the_game_with_one_agent():
    judge = em.catalog.prosecutor_against_defender()
    alone = monopoly(judge, *SELECTION)
    # the prosecutor persuades, which is worth .7 to the user; for the defender silence, after which the user acquits,
    # is best
    np.testing.assert_allclose(alone.user, [0.7, 0.7], atol=1e-6)
    np.testing.assert_allclose(alone.agents, [0.6, 1.0], atol=1e-6)
    games, _ = games_and_profiles(6, agents=3)
    single = em.Game(games.prior, games.user_utility, games.agent_utilities[:, 1:2])
    found = em.solve(single, *SELECTION, start="monopolist")
    np.testing.assert_allclose(monopoly(games, *SELECTION).agents[:, 1], found.agents[:, 0], atol=1e-8)


def test_sizes_of_pooled_certificates_are_refused_before_work():
    games = em.random_games(jax.random.key(0), 2, agents=8)
    with pytest.raises(ValueError, match=r"^messages: the belief LP of 8 agents"):
        em.solve(games, em.Pooled(), em.QuantalUser(5.0), key=jax.random.key(0))
    schemes = np.full((8, 4, 4), 0.25)
    with pytest.raises(ValueError, match=r"M\^\(K-1\)"):
        em.certify(games, schemes, em.Pooled(), em.QuantalUser(5.0))
