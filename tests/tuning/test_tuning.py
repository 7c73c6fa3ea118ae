"""Objectives, restarts and the tuning loop, each against an independent route."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.games import with_share as under

import emalign_jax as em
from emalign_jax import mechanisms
from emalign_jax.mechanisms.base import AbstractMechanism
from emalign_jax.tuning import blocks, restarts
from emalign_jax.tuning.loop import first_schemes
from emalign_jax.tuning.problem import make_problem, settle

USER = em.QuantalUser(5.0)
SIZE = {"agents": 2, "states": 2, "actions": 3}


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
    """A mechanism is one class; this one adds `params` times u to the agents' utilities."""

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
    assert tuned.derivative[0, 2] == em.Derivative.NOT_FINITE
    if broken == "a game":  # costs itself alone
        assert tuned.derivative[0, 1] == em.Derivative.NOT_FINITE
        assert (tuned.derivative[0, [0, 3, 4, 5]] == em.Derivative.SMOOTH).any()
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
    near = restarts.near(problem, kept, first, key, range(6, 11))
    for points in (kept, near):
        assert np.isin(points.params["precision"], drawn["precision"]).all() == (points is kept)
        again = restarts.play_everywhere(problem, points.params, first)
        np.testing.assert_allclose(points.user, again.user, atol=1e-5)
        assert (np.diff(value(points)) <= 0).all()
    assert value(near)[0] >= value(kept)[0] > np.median(value(restarts.play_everywhere(problem, drawn, first)))


def test_each_game_gets_its_own_setting_and_answer(monkeypatch):
    """Blocks of 64 of what is asked for, with a stand-in for the equilibrium that tells them apart."""

    def stand_in(games, protocol, user, solver, start, differentiation):
        told = np.asarray(games.prior)[:, 0, 0, 0] + np.asarray(user.precision)
        code = (np.asarray(start)[:, 0, 0, 0] > 0.5).astype(int)
        return em.Solution(start / 2, told, np.zeros(np.shape(start)[:2]), code, code, code, {})

    monkeypatch.setattr(blocks, "solve", stand_in)
    games = em.random_games(jax.random.key(3), 30, **SIZE)
    mechanism = mechanisms.UserPrecision(5.0, 1.0, 40.0)
    problem = make_problem(games, em.Pooled(), USER, mechanism, None, em.SmoothPlay(5.0), 1, 0.1)
    params = {"precision": jnp.array([-1.0, 0.0, 2.0])}
    schemes = np.random.default_rng(0).random((3, 2, 30, 2, 2, 2))
    which = np.random.default_rng(1).random((3, 2, 30)) < 0.6
    moved, user, derivative = settle(problem, params, jnp.asarray(schemes), which)
    precisions = np.asarray(mechanism.describe(params)["precision"])
    told = np.broadcast_to(precisions[:, None, None] + np.asarray(games.prior)[:, 0, 0, 0], which.shape)
    np.testing.assert_allclose(user, np.where(which, told, np.nan), rtol=1e-6)
    np.testing.assert_array_equal(derivative, np.where(which, schemes[..., 0, 0, 0] > 0.5, -1))
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
