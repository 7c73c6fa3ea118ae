"""Every public function with one game, a batch of one, of none, and of several axes: as many answers, and the same."""

import jax
import numpy as np
import pytest
from support.nightly import one_in

import emalign_jax as em

RNG = np.random.default_rng(0)
PRIOR, USER, AGENTS = (
    RNG.dirichlet(np.ones(4), 6).reshape(6, 1, 2, 2),
    RNG.normal(size=(6, 2, 2)),
    RNG.normal(size=(6, 2, 2, 2)),
)
SCHEMES = RNG.dirichlet(np.ones(2), (2, 2))
SELECTION, RATIONAL = em.Selection(), em.RationalUser()
POOLED, QUANTAL = em.Pooled(), em.QuantalUser(5.0)
CONVERSATION, RULES = em.Conversation(2), RNG.dirichlet(np.ones(2), (2, 2 * 5))
QUICK = em.GradientPlay(steps=2, chunk=2)

CALLS = {
    "payoffs": lambda g: em.payoffs(g, SCHEMES, SELECTION, RATIONAL),
    "pseudo_gradient": lambda g: em.pseudo_gradient(g, SCHEMES, POOLED, QUANTAL),
    "certify": lambda g: em.certify(g, SCHEMES, SELECTION, RATIONAL),
    "certify, batched": lambda g: em.certify(g, SCHEMES, SELECTION, RATIONAL, lp="batched"),
    "certify, Pooled": lambda g: em.certify(g, SCHEMES, POOLED, RATIONAL),
    "solve": lambda g: em.solve(g, SELECTION, RATIONAL, start="monopolist")[:4],
    "solve, from given schemes": lambda g: em.solve(g, SELECTION, RATIONAL, start=SCHEMES, verify=False)[:4],
    "solve, unverified": lambda g: em.solve(g, POOLED, QUANTAL, QUICK, start=SCHEMES, verify=False)[:4],
    "solve, best responses": lambda g: em.solve(
        g, SELECTION, RATIONAL, em.BestResponseDynamics(), start="monopolist", lp="batched"
    )[:4],
    "stability": lambda g: em.stability(g)[:2],  # profiles are as long as the longest of the batch
    "stability, batched": lambda g: em.stability(g, lp="batched")[:2],
    "worst_case": em.worst_case,
    "coverage": em.coverage,
    "coverage, batched": lambda g: em.coverage(g, lp="batched", obedience=True),
    "premises": lambda g: em.premises(g, RULES, CONVERSATION, QUANTAL),
    "least_budget": em.least_budget,
    "best_transfers": lambda g: em.best_transfers(g, 0.1),
    "best_transfers, by action": lambda g: em.best_transfers(g, np.full(g.batch_shape, 0.1), kind="action"),
    "align": lambda g: em.align(g.user_utility, g.agent_utilities),
    "align, batched": lambda g: em.align(g.user_utility, g.agent_utilities, lp="batched"),
    "align, least squares": lambda g: em.align(g.user_utility, AGENTS[0], norm="l2", weights="cone", lp="batched"),
    "reduce_game": em.reduce_game,
}


def games(*shape):
    count = int(np.prod(shape))
    return em.Game(*(x[:count].reshape((*shape, *x.shape[1:])) for x in (PRIOR, USER, AGENTS)))


@pytest.mark.slow
@pytest.mark.parametrize("name", one_in(3, CALLS))
def test_batches_are_many_single_games(name):
    call = CALLS[name]
    whole, tolerance = jax.tree.leaves(call(games(2, 3))), 2e-5 if jax.config.jax_enable_x64 else 2e-4
    for shape in ((), (1,)):
        found = jax.tree.leaves(call(games(*shape)))
        for one, all_ in zip(found, whole, strict=True):
            flat = np.asarray(all_).reshape(6, *np.shape(all_)[2:])
            some = flat[: int(np.prod(shape))].reshape((*shape, *flat.shape[1:]))
            assert np.shape(one) == some.shape
            np.testing.assert_allclose(np.asarray(one, float), np.asarray(some, float), atol=tolerance)
    for shape in ((0,), (2, 0)):
        for none, all_ in zip(jax.tree.leaves(call(games(*shape))), whole, strict=True):
            assert np.shape(none) == (*shape, *np.shape(all_)[2:])


@pytest.mark.slow
def test_no_game_has_no_smooth_equilibrium():
    solver = em.SmoothPlay(5.0, steps=2, settle=0, newton=1)
    found = em.solve(games(0), POOLED, QUANTAL, solver, start=SCHEMES, differentiation=em.Implicit())
    arrays = found.schemes, found.user, found.agents, found.result
    assert [x.shape for x in arrays] == [(0, 2, 2, 2), (0,), (0, 2), (0,)]


@pytest.mark.slow
def test_starts_lead_the_batch():
    for shape in ((), (0,), (2, 3)):
        for verify in (True, False):
            found = em.solve(games(*shape), SELECTION, RATIONAL, QUICK, key=0, starts=2, verify=verify)
            assert found.user.shape == found.result.shape == (2, *shape)
            assert found.agents.shape == (2, *shape, 2)


def test_users_of_the_same_agents():
    joined = em.several_users(games(2, 3), anonymous=True)
    assert joined.batch_shape == (2,)
    np.testing.assert_array_equal(em.several_users(games(2, 3)[1], anonymous=True).prior, joined.prior[1])
    assert em.several_users(games(0, 3), anonymous=False).batch_shape == (0,)
    for empty, got in ((games(), "one game"), (games(0), "an empty one"), (games(2, 0), "an empty one")):
        with pytest.raises(ValueError, match=f"^games: expected a batch whose last axis is the users, got {got}"):
            em.several_users(empty, anonymous=True)


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_what_takes_one_axis_alone_says_so(shape):
    setting = games(*shape), POOLED, QUANTAL
    with pytest.raises(
        ValueError, match=r"^games: expected one batch axis|^games: every game is malformed.*there is none"
    ):
        em.tune(*setting, em.mechanisms.Transfers(), key=0, steps=1)
    with pytest.raises(ValueError, match=r"^games: expected one batch axis, of at least one game, got"):
        em.evaluate(*setting, None, None, em.SmoothPlay(), key=0)
