"""Smoothed equilibria and their derivatives, against central differences, unrolled play and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from support.games import with_share as under

import emalign_jax as em
from emalign_jax.play import smooth_play

USER = em.QuantalUser(5.0)
SIZE = {"agents": 2, "states": 2, "actions": 3}


def slopes(games, protocol, start, differentiation, shares, steps):
    def value(share):
        found = em.solve(
            under(games, share), protocol, USER, em.SmoothPlay(10.0, steps=steps), start=start,
            differentiation=differentiation,
        )  # fmt: skip
        return found.user.sum(), found

    return jax.jit(jax.grad(value, has_aux=True))(shares)


@pytest.mark.x64
@pytest.mark.parametrize(
    "protocol", [em.Pooled(), pytest.param(em.Selection(0.3), marks=pytest.mark.nightly)], ids=["pooled", "selection"]
)
def test_implicit_derivatives_are_central_differences(protocol):
    count, h = 8, 1e-5
    games = em.random_games(jax.random.key(7), count, family="shared_bias", **SIZE)
    start = em.random_schemes(jax.random.key(0), count, 2, 2, 2)
    three = jax.tree.map(lambda x: jnp.concatenate([x] * 3), games)
    shares = jnp.repeat(jnp.array([0.0, h, -h]), count)
    slope, found = slopes(three, protocol, jnp.concatenate([start] * 3), em.Implicit(), shares, 300)
    at, up, down = np.asarray(found.user).reshape(3, count)
    trusted = (np.asarray(found.derivative).reshape(3, count) == em.Derivative.SMOOTH).all(0)
    assert trusted.mean() >= 0.75
    numeric = (up - down)[trusted] / (2 * h)
    np.testing.assert_allclose(np.asarray(slope)[:count][trusted], numeric, rtol=1e-4, atol=1e-7)
    paid = em.payoffs(games, found.schemes[:count], protocol, USER)  # what is returned is what the schemes pay
    np.testing.assert_allclose(at, paid.user, rtol=1e-12)


@pytest.mark.nightly
@pytest.mark.x64
def test_unrolled_play_has_the_same_derivatives():
    games = em.random_games(jax.random.key(7), 6, family="shared_bias", **SIZE)
    start = em.random_schemes(jax.random.key(0), 6, 2, 2, 2)
    zero = jnp.zeros(6)
    implicit, found = slopes(games, em.Pooled(), start, em.Implicit(), zero, 300)
    unrolled, played = slopes(games, em.Pooled(), found.schemes, em.Unrolled(3000, 0.03), zero, 0)
    both = (np.asarray(found.derivative) == em.Derivative.SMOOTH) & (
        np.asarray(played.derivative) == em.Derivative.SMOOTH
    )
    assert both.sum() >= 4
    np.testing.assert_allclose(unrolled[both], implicit[both], rtol=1e-4, atol=1e-7)
    # at the equilibrium from the first step on, but too short for the derivative to be its
    short, played = slopes(games, em.Pooled(), found.schemes, em.Unrolled(10, 0.03), zero, 0)
    assert (np.abs(short - implicit)[both] > 1e-3 * np.abs(implicit[both])).any()
    assert (np.asarray(played.derivative) == em.Derivative.NOT_REACHED).all()


@pytest.mark.nightly
@pytest.mark.x64
@pytest.mark.parametrize("family", ["hull", "noise"])
def test_agents_who_are_not_smoothed(family):
    """What is called smooth has the derivative that central differences have, and agents gain nothing at all by other
    schemes that use the same messages: the exact certificate says so where full information is all they can want."""
    count, h = 12, 1e-5
    games = em.random_games(jax.random.key(3), count, family=family, **SIZE)
    solver = em.SmoothPlay(np.inf)

    def value(share, start, solver):
        found = em.solve(under(games, share), em.Pooled(), USER, solver, start=start, differentiation=em.Implicit())
        return found.user.sum(), found

    start = em.random_schemes(jax.random.key(0), count, 2, 2, 2)
    slope, found = jax.jit(jax.grad(value, has_aux=True))(jnp.zeros(count), start, solver)
    derivative = np.asarray(found.derivative)
    smooth = derivative == em.Derivative.SMOOTH
    assert np.isin(
        derivative, [em.Derivative.SMOOTH, em.Derivative.SINGULAR, em.Derivative.BOUNDARY, em.Derivative.NOT_REACHED]
    ).all()
    assert smooth.sum() >= count / 4
    ends = [jax.jit(value)(jnp.full(count, x), start, solver)[1] for x in (h, -h)]
    near = smooth & np.array([np.asarray(end.derivative) == em.Derivative.SMOOTH for end in ends]).all(0)
    numeric = np.asarray(ends[0].user - ends[1].user) / (2 * h)
    np.testing.assert_allclose(np.asarray(slope)[near], numeric[near], rtol=1e-3, atol=1e-5)
    schemes = np.asarray(found.schemes, np.float64)
    gain = em.certify(games, schemes / schemes.sum(-1, keepdims=True), em.Pooled(), USER).gain_lower.max(-1)
    if family == "hull":  # every equilibrium is worth V_full there
        full = em.coverage(games, user=USER).full_information
        settled = smooth & (gain < 1e-6)
        np.testing.assert_allclose(np.asarray(found.user)[settled], full[settled], atol=1e-4)


@pytest.mark.slow
@pytest.mark.x64
def test_where_babbling_turns_unstable_the_system_is_singular():
    """Uniform schemes are an equilibrium at every precision of the agents; where an eigenvalue of dF/dz crosses 0,
    other equilibria branch off."""
    game = em.random_games(jax.random.key(2), 1, family="hull", **SIZE)
    uniform = np.full((2, 2, 2), 0.5)
    system = smooth_play.System(em.reduce_game(game[0]), em.Pooled(), USER, jnp.asarray(0.0))
    J = jax.jit(lambda z: smooth_play.jacobian(z, jnp.ones((2, 2, 2), bool), system)[1])(jnp.zeros((2, 2, 2)))
    critical = -np.linalg.eigvals(np.asarray(J)).real.min()  # temperature adds to all but the gauge
    assert critical > 0
    precisions = jnp.array([1, 0.9]) / critical
    two = jax.tree.map(lambda x: jnp.concatenate([x, x]), game)
    solver = em.SmoothPlay(precisions, steps=0, settle=0, newton=0)  # nothing moves them
    found = em.solve(two, em.Pooled(), USER, solver, start=uniform, differentiation=em.Implicit())
    assert found.derivative.tolist() == [em.Derivative.SINGULAR, em.Derivative.SMOOTH]


@pytest.mark.slow
@pytest.mark.x64
def test_where_a_message_falls_out_of_use_the_derivative_is_not_trusted():
    """The best scheme of one prosecutor splits the prior into belief 0 and the belief at which a line from 0 touches
    the payoff; where the prior is that belief the message of acquittal is no longer sent, and V has a kink."""
    L = USER.precision
    payoff = lambda mu: expit(L * (2 * mu - 1))  # noqa: E731
    touch = lambda mu: payoff(mu) - payoff(0) - mu * 2 * L * payoff(mu) * (1 - payoff(mu))  # noqa: E731
    mu = brentq(touch, 0.5, 1 - 1e-9)
    found = []
    for acquitted in (0.3, 1e-4):
        guilty = mu * (1 - acquitted) / (1 - mu * acquitted)
        prior = np.array([1 - guilty, guilty]) * np.eye(2)[None]  # [1, x_B, y]
        game = em.Game(prior, np.eye(2), np.array([[[0.0, 0.0], [1.0, 1.0]]]))
        start = np.array([[[acquitted, 1 - acquitted], [0.0, 1.0]]])
        solver = em.SmoothPlay(np.inf, steps=0)
        found.append(em.solve(game, em.Pooled(), USER, solver, start=start, differentiation=em.Implicit()))
        np.testing.assert_allclose(found[-1].schemes, start, atol=1e-8)
    assert [int(one.derivative) for one in found] == [em.Derivative.SMOOTH, em.Derivative.BOUNDARY]
