"""Games under mechanisms: derivatives by their parameters, and what reports tell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import emalign_jax as em
from emalign_jax import mechanisms

USER = em.QuantalUser(5.0)
SIZE = {"agents": 2, "states": 2, "actions": 3}
MECHANISMS = {
    "precision": (mechanisms.UserPrecision(), em.Pooled()),
    "temperature": (mechanisms.SelectionTemperature(), em.Selection(0.3)),
    "reporting": (mechanisms.Reporting(), em.Pooled()),
    "listing": (mechanisms.Listing(), em.Pooled()),
    "listing, selection": (mechanisms.Listing(), em.Selection(0.3)),
    "messages": (mechanisms.MessageBudget(), em.Pooled()),
    "transfers": (mechanisms.Transfers(0.5), em.Pooled()),
    "transfers by action": (mechanisms.Transfers(0.5, "action"), em.Pooled()),
}


@pytest.mark.x64
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("listing", "transfers") else pytest.mark.nightly) for name in MECHANISMS],
)
def test_payoffs_under_a_mechanism_are_smooth_in_its_parameters(name):
    mechanism, protocol = MECHANISMS[name]
    games = em.random_games(jax.random.key(1), 2, user_features=2, **SIZE)
    mechanism.check(games, protocol, USER)
    params = mechanism.init(games)
    at = mechanism.apply(params, games, protocol, USER)
    M, rows = at[1].messages(at[0]), at[1].rows(at[0], at[1].messages(at[0]))
    schemes = em.random_schemes(jax.random.key(2), 2, 2, rows, M)

    @jax.jit
    def paid(params):
        games_, protocol_, user = mechanism.apply(params, games, protocol, USER)
        return em.payoffs(games_, schemes, protocol_, user)

    check_grads(paid, (params,), order=1)
    # the closed form of the pseudo-gradient is that of the payoffs, also through a channel
    slope = em.pseudo_gradient(at[0], schemes, at[1], at[2])
    whole = jax.jit(jax.jacrev(lambda s: em.payoffs(at[0], s, at[1], at[2]).agents))(schemes)
    own = np.array([[whole[n, i, n, i] for i in range(2)] for n in range(2)])
    np.testing.assert_allclose(slope, own, rtol=1e-8, atol=1e-12)


class Paid(em.Selection):
    """A subclass with payoffs of its own: the selected agent is paid 1 more."""

    def payoffs(self, game, schemes, user):
        paid = super().payoffs(game, schemes, user)
        return em.Payoffs(paid.user, paid.agents + 1)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [em.Selection(0.5), em.Comparison(2, 0.5), Paid(0.5)], ids=lambda p: p.title)
def test_a_temperature_leaves_the_protocol_what_it_is(protocol):
    games = em.random_games(jax.random.key(1), 2, agents=3, states=2, actions=3)
    mechanism = mechanisms.SelectionTemperature(start=0.25)
    mechanism.check(games, protocol, USER)
    _, changed, _ = mechanism.apply(mechanism.init(games), games, protocol, USER)
    assert type(changed) is type(protocol)
    np.testing.assert_allclose(changed.temperature, 0.25, rtol=1e-6)
    assert not changed.sharp
    assert protocol.temperature == 0.5
    schemes = em.random_schemes(2, 2, 3, 2, 3)
    same = {em.Selection: em.Selection(0.25), em.Comparison: em.Comparison(2, 0.25), Paid: Paid(0.25)}[type(protocol)]
    for one, other in zip(*(em.payoffs(games, schemes, p, USER) for p in (changed, same)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.slow
def test_a_temperature_is_set_behind_a_channel():
    games = em.random_games(jax.random.key(1), 2, **SIZE)
    both = mechanisms.Several((mechanisms.Listing(), mechanisms.SelectionTemperature(start=0.25)))
    protocol = em.Selection(0.5)
    both.check(games, protocol, USER)
    under = both.apply(both.init(games), games, protocol, USER)
    one = mechanisms.Listing().apply(both.init(games)[0], games, em.Selection(0.25), USER)
    schemes = em.random_schemes(2, 2, 2, 2, under[1].messages(games))
    paid, expected = (em.payoffs(setting[0], schemes, setting[1], USER) for setting in (under, one))
    np.testing.assert_allclose(paid.agents, expected.agents, rtol=1e-5)
    other = em.payoffs(one[0], schemes, mechanisms.Listing().apply(both.init(games)[0], games, protocol, USER)[1], USER)
    assert np.abs(np.asarray(paid.agents) - np.asarray(other.agents)).max() > 1e-4


@pytest.mark.slow
def test_a_report_of_nothing_and_of_all():
    """At a share of about 0 the report is noise: V_full is as before. The user loses nothing by knowing it."""
    games = em.random_games(jax.random.key(1), 3, user_features=2, **SIZE)
    mechanism = mechanisms.Reporting()
    for share in (-40.0, 0.3, 40.0):
        new, _, _ = mechanism.apply({"share": jnp.asarray(share)}, games, em.Pooled(), USER)
        np.testing.assert_allclose(new.prior.sum((-3, -2, -1)), 1, atol=1e-6)
        full = em.coverage(
            em.Game(*map(np.asarray, (new.prior, new.user_utility, new.agent_utilities)))
        ).full_information
        np.testing.assert_allclose(full, em.coverage(games).full_information, atol=1e-5)
