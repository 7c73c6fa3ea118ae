"""Derivatives of equilibria, mechanisms, objectives and the tuning loop, each against an independent route."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.optimize import brentq
from scipy.special import expit

import emalign_jax as em
from emalign_jax import mechanisms
from emalign_jax.mechanisms.base import AbstractMechanism
from emalign_jax.play import smooth_play
from emalign_jax.tuning import blocks, restarts
from emalign_jax.tuning.loop import first_schemes
from emalign_jax.tuning.problem import make_problem, settle

USER = em.QuantalUser(5.0)
SIZE = {"agents": 2, "states": 2, "actions": 3}


def under(games, share):
    """The games in which `share` [...] of u is added to what agents want."""
    more = games.agent_utilities + share[..., None, None, None] * games.user_utility[..., None, :, :]
    return em.Game(*jnp.broadcast_arrays(games.prior), games.user_utility, more, check="shapes")


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
    trusted = (np.asarray(found.result).reshape(3, count) == em.Result.SMOOTH).all(0)
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
    both = (np.asarray(found.result) == em.Result.SMOOTH) & (np.asarray(played.result) == em.Result.SMOOTH)
    assert both.sum() >= 4
    np.testing.assert_allclose(unrolled[both], implicit[both], rtol=1e-4, atol=1e-7)
    # at the equilibrium from the first step on, but too short for the derivative to be its
    short, played = slopes(games, em.Pooled(), found.schemes, em.Unrolled(10, 0.03), zero, 0)
    assert (np.abs(short - implicit)[both] > 1e-3 * np.abs(implicit[both])).any()
    assert (np.asarray(played.result) == em.Result.NOT_REACHED).all()


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
    result = np.asarray(found.result)
    smooth = result == em.Result.SMOOTH
    assert np.isin(result, [em.Result.SMOOTH, em.Result.SINGULAR, em.Result.BOUNDARY, em.Result.NOT_REACHED]).all()
    assert smooth.sum() >= count / 4
    ends = [jax.jit(value)(jnp.full(count, x), start, solver)[1] for x in (h, -h)]
    near = smooth & np.array([np.asarray(end.result) == em.Result.SMOOTH for end in ends]).all(0)
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
    _, J = smooth_play.jacobian(jnp.zeros((2, 2, 2)), jnp.ones((2, 2, 2), bool), system)
    critical = -np.linalg.eigvals(np.asarray(J)).real.min()  # temperature adds to all but the gauge
    assert critical > 0
    precisions = jnp.array([1, 0.9]) / critical
    two = jax.tree.map(lambda x: jnp.concatenate([x, x]), game)
    found = em.solve(
        two, em.Pooled(), USER, em.SmoothPlay(precisions, steps=0), start=uniform, differentiation=em.Implicit()
    )
    assert found.result.tolist() == [em.Result.SINGULAR, em.Result.SMOOTH]


@pytest.mark.x64
def test_where_a_message_falls_out_of_use_the_derivative_is_not_trusted():
    """The best scheme of one prosecutor splits the prior into 0 and the belief at which a line from 0 touches his
    payoff; as the prior nears that belief, the innocent stop being acquitted, and her value has a kink."""
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
        found.append(
            em.solve(
                game, em.Pooled(), USER, em.SmoothPlay(np.inf, steps=0), start=start, differentiation=em.Implicit()
            )
        )
        np.testing.assert_allclose(found[-1].schemes, start, atol=1e-8)
    assert [int(one.result) for one in found] == [em.Result.SMOOTH, em.Result.BOUNDARY]


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
    check_grads(lambda p: em.payoffs(*_order(mechanism.apply(p, games, protocol, USER), schemes)), (params,), order=1)
    # the closed form of the pseudo-gradient is that of the payoffs, also through a channel
    slope = em.pseudo_gradient(at[0], schemes, at[1], at[2])
    whole = jax.jacrev(lambda s: em.payoffs(at[0], s, at[1], at[2]).agents)(schemes)
    own = np.array([[whole[n, i, n, i] for i in range(2)] for n in range(2)])
    np.testing.assert_allclose(slope, own, rtol=1e-8, atol=1e-12)


def _order(setting, schemes):
    games, protocol, user = setting
    return games, schemes, protocol, user


def test_a_report_of_nothing_and_of_all():
    """At share ~0 the report is noise: V_full is as before. She loses nothing by knowing it."""
    games = em.random_games(jax.random.key(1), 3, user_features=2, **SIZE)
    mechanism = mechanisms.Reporting()
    for share in (-40.0, 0.3, 40.0):
        new, _, _ = mechanism.apply({"share": jnp.asarray(share)}, games, em.Pooled(), USER)
        np.testing.assert_allclose(new.prior.sum((-3, -2, -1)), 1, atol=1e-6)
        full = em.coverage(
            em.Game(*map(np.asarray, (new.prior, new.user_utility, new.agent_utilities)))
        ).full_information
        np.testing.assert_allclose(full, em.coverage(games).full_information, atol=1e-5)


def test_objectives_are_what_numpy_computes():
    values = np.random.default_rng(0).normal(size=(3, 20))
    counted = np.ones_like(values, bool)
    counted[:, 4] = False
    values[:, 4] = np.nan
    kept = np.delete(values, 4, 1)
    value = lambda **how: float(em.Objective(**how)(jnp.asarray(values), jnp.asarray(counted)))  # noqa: E731
    assert value() == pytest.approx(kept.mean(), abs=1e-6)
    assert value(over_starts="worst") == pytest.approx(kept.min(0).mean(), abs=1e-6)
    assert value(over_games="quantile", level=0.3) == pytest.approx(np.quantile(kept.mean(0), 0.3), abs=1e-6)
    worst = np.sort(kept.mean(0))
    cvar = (worst[:3].sum() + 0.8 * worst[3]) / 3.8  # a fifth of 19 games
    assert value(over_games="cvar", level=0.2) == pytest.approx(cvar, abs=1e-6)
    for wrong in ({"over_games": "best"}, {"over_starts": "best"}, {"level": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            em.Objective(**wrong)


class Praise(AbstractMechanism):
    """A mechanism is one class: agents are told to care for her, `share` of u is added to what they want."""

    broken: str = ""

    def init(self, games):
        return jnp.asarray(0.1)

    def apply(self, params, games, protocol, user):
        share = {"slope": jnp.sqrt(params * 0), "value": params * jnp.nan}.get(self.broken, params)
        share = jnp.broadcast_to(share, games.batch_shape)
        if self.broken == "a game":
            share = share.at[1].set(jnp.nan)
        return under(games, share), protocol, user

    def describe(self, params):
        return {"share": params}


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    [pytest.param(name, marks=pytest.mark.nightly) for name in ("", "a game", "slope", "value")],
)
def test_a_new_mechanism_is_tuned_and_a_gradient_that_is_not_finite_is_skipped(broken):
    games = em.random_games(jax.random.key(3), 6, family="shared_bias", **SIZE)
    spoilt = em.Game(games.prior.at[2, 0, 0, 0].set(jnp.nan), games.user_utility, games.agent_utilities, check="shapes")
    tuned = em.tune(
        spoilt, em.Pooled(), USER, Praise(broken), solver=em.SmoothPlay(10.0, steps=100), key=jax.random.key(0), steps=4
    )
    assert tuned.result[0, 2] == em.Result.NOT_FINITE
    if broken == "a game":  # costs itself alone
        assert tuned.result[0, 1] == em.Result.NOT_FINITE
        assert (tuned.result[0, [0, 3, 4, 5]] == em.Result.SMOOTH).any()
    useless = broken in ("slope", "value")
    assert tuned.skipped == (4 if useless else 0)
    assert (tuned.values["share"] == np.asarray(0.1, tuned.values["share"].dtype)) == useless
    assert np.isfinite(tuned.history["objective"]).all()


@pytest.mark.nightly
def test_restarts_find_what_one_start_does_not():
    """Of a game's own parameters the best are kept for each game: more draws are never worth less to any, as valued in
    equilibria from the same schemes; and what is returned has the value it was chosen for."""
    games, key = (
        em.random_games(jax.random.key(3), 5, family="goal", alignment=0.1, **SIZE | {"agents": 1}),
        jax.random.key(0),
    )
    mechanism, solver = mechanisms.Transfers(1.0, start="nothing"), em.SmoothPlay(20.0)

    def value(restarts, draws):
        tuned = em.tune(games, em.Pooled(), USER, mechanism, solver=solver, key=key, steps=4, learning_rate=1e-9,
                        restarts=restarts, draws=draws)  # fmt: skip
        assert tuned.history["objective"].shape == (4, restarts)
        under = mechanism.apply(tuned.params, games, em.Pooled(), USER)
        found = em.solve(*under, solver, key=key, differentiation=em.Implicit())
        np.testing.assert_allclose(found.schemes, tuned.schemes[0], atol=1e-5)
        return np.asarray(found.user)

    one, few, many = value(1, 1), value(3, 3), value(2, 8)
    assert (few >= one - 1e-5).all()
    assert (many >= few - 1e-5).all()
    assert many.mean() > one.mean() + 0.02


@pytest.mark.nightly
def test_what_is_screened_and_tried_near_the_best_is_worth_what_it_is_said_to_be():
    """Against playing the points directly, in all games: halving leaves no game out, and nothing better is given up."""
    count, key = 40, jax.random.key(0)  # more than are looked at first
    games = em.random_games(jax.random.key(3), count, family="shared_bias", **SIZE)
    mechanism = mechanisms.UserPrecision(5.0, 1.0, 40.0)
    problem = make_problem(games, em.Selection(0.3), USER, mechanism, None, em.SmoothPlay(5.0), 1, 0.1)
    drawn = restarts.draw(problem, key, range(6))
    first = first_schemes(problem, key, 1, drawn)
    value = lambda points: np.asarray(points.user)[:, 0].mean(-1)  # noqa: E731
    kept = restarts.screen(problem, drawn, first, key, 2)
    near = restarts.polish(problem, kept, first, key, range(6, 11))
    for points in (kept, near):
        assert np.isin(points.params["precision"], drawn["precision"]).all() == (points is kept)
        again = restarts.play(problem, points.params, first)
        np.testing.assert_allclose(points.user, again.user, atol=1e-5)
        assert (np.diff(value(points)) <= 0).all()
    assert value(near)[0] >= value(kept)[0] > np.median(value(restarts.play(problem, drawn, first)))


def test_each_game_gets_its_own_setting_and_answer(monkeypatch):
    """Blocks of 64 of what is asked for, with a stand-in for the equilibrium that tells them apart."""

    def stand_in(games, protocol, user, solver, start, differentiation):
        told = np.asarray(games.prior)[:, 0, 0, 0] + np.asarray(user.precision)
        return em.Solution(start / 2, told, None, (np.asarray(start)[:, 0, 0, 0] > 0.5).astype(int), {}, None)

    monkeypatch.setattr(blocks, "solve", stand_in)
    games = em.random_games(jax.random.key(3), 30, **SIZE)
    mechanism = mechanisms.UserPrecision(5.0, 1.0, 40.0)
    problem = make_problem(games, em.Pooled(), USER, mechanism, None, em.SmoothPlay(5.0), 1, 0.1)
    params = {"precision": jnp.array([-1.0, 0.0, 2.0])}
    schemes = np.random.default_rng(0).random((3, 2, 30, 2, 2, 2))
    which = np.random.default_rng(1).random((3, 2, 30)) < 0.6
    moved, user, result = settle(problem, params, jnp.asarray(schemes), which)
    precisions = np.asarray(mechanism.describe(params)["precision"])
    told = np.broadcast_to(precisions[:, None, None] + np.asarray(games.prior)[:, 0, 0, 0], which.shape)
    np.testing.assert_allclose(user, np.where(which, told, np.nan), rtol=1e-6)
    np.testing.assert_array_equal(result, np.where(which, schemes[..., 0, 0, 0] > 0.5, -1))
    np.testing.assert_allclose(moved, np.where(which[..., None, None, None], 0.5, 1) * schemes, rtol=1e-6)


def test_bad_input_is_refused():
    games = em.random_games(jax.random.key(3), 2, **SIZE)
    for make, word in (
        (lambda: mechanisms.Transfers(-1.0), "budget"), (lambda: mechanisms.Transfers(1.0, "none"), "kind"),
        (lambda: mechanisms.UserPrecision(5.0, 6.0), "precision"), (lambda: mechanisms.Listing(1.0), "listing"),
        (lambda: mechanisms.Reporting(0.0), "reporting"), (lambda: mechanisms.MessageBudget(width=0.0), "width"),
        (lambda: em.SmoothPlay(-1.0), "agents_precision"), (lambda: em.Unrolled(rate=0.0), "rate"),
        (lambda: em.Implicit(0.5), "condition"), (lambda: em.best_transfers(games, -1.0), "budget"),
        (lambda: make_problem(games, em.Pooled(), USER, mechanisms.Reporting(), None, None, 1, 0.1), "reporting"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            make()
    for protocol, user, word in (
        (em.Selection(), USER, "protocol"), (em.Pooled(), em.RationalUser(), "user"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            em.solve(games, protocol, user, key=jax.random.key(0), differentiation=em.Implicit())
