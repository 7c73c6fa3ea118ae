"""Payoffs and pseudo-gradients of Pooled and Selection against loops and autodiff."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import conversations as brute

import emalign_jax as em

X64 = jax.config.jax_enable_x64
ATOL = 1e-12 if X64 else 5e-6  # payoffs: sums of 100 products of size 1 and below
GRADIENT = 1e-12 if X64 else 1e-3  # precision * payoff / posterior weights of about .01
XA, XB, Y, A, M = 2, 3, 4, 3, 3

payoffs, pseudo_gradient = jax.jit(em.payoffs), jax.jit(em.pseudo_gradient)


def make(agents, count=None, xa=XA, seed=0):
    rng = np.random.default_rng(seed)
    batch = () if count is None else (count,)
    prior = rng.dirichlet(np.ones(xa * XB * Y), batch).reshape(*batch, xa, XB, Y)
    game = em.Game(prior, rng.normal(size=(*batch, A, Y)), rng.normal(size=(*batch, agents, A, Y)))
    return game, rng.dirichlet(np.ones(M), (*batch, agents, XB))


USERS = [em.QuantalUser(4.0), *(em.RationalUser(ties) for ties in ("agents", "lowest", "uniform"))]
NAMES = ["quantal", "agents", "lowest", "uniform"]


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS, ids=NAMES)
@pytest.mark.parametrize("tied", [False, True])
def test_payoffs_by_loops(user, tied):
    game, schemes = make(2)
    if tied:  # dyadic numbers, so that ties are exact in float32 too; message 2 is never sent
        rng = np.random.default_rng(3)
        u, U = rng.integers(-1, 2, (A, Y)), rng.integers(-2, 3, (2, A, Y))
        prior = np.array([[4, 2, 2, 0], [1, 1, 1, 1], [2, 2, 0, 0]]) / 32
        game = em.Game(np.stack([prior, prior[::-1]]), u, U)
        schemes = np.stack([np.eye(3)[[0, 1, 1]], np.eye(3)[[0, 0, 1]]])
    for protocol, expected in (
        (em.Pooled(), brute.pooled(game, schemes, user)),
        (em.Selection(), brute.selection(game, schemes, user)),
        (em.Selection(0.3), brute.selection(game, schemes, user, 0.3)),
    ):
        got = payoffs(game, schemes, protocol, user)
        np.testing.assert_allclose(got.user, expected[0], atol=ATOL)
        np.testing.assert_allclose(got.agents, expected[1], atol=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("agents", [1, 2, 3, 6])  # many agents go another way
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection(0.2)], ids=["pooled", "selection"])
def test_pseudo_gradient_is_autodiff(agents, protocol):
    game, schemes = make(agents, seed=agents)
    user = em.QuantalUser(5.0)
    schemes = jnp.asarray(schemes)
    whole = jax.jit(jax.jacrev(lambda s: em.payoffs(game, s, protocol, user).agents))(schemes)  # [K, K, XB, M]
    own = np.stack([whole[i, i] for i in range(agents)])
    closed = pseudo_gradient(game, schemes, protocol, user)
    np.testing.assert_allclose(closed, own, rtol=0, atol=GRADIENT)
    assert np.abs(own).max() > 0.01


@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection(0.2)], ids=["pooled", "selection"])
def test_pseudo_gradient_is_finite_where_messages_are_never_sent(protocol):
    game, _ = make(2)
    gradient = pseudo_gradient(game, em.full_revelation(2, XB, M + 1), protocol, em.QuantalUser(5.0))
    assert np.isfinite(gradient).all()


def test_no_gradient_where_payoffs_jump():
    game, schemes = make(2)
    with pytest.raises(ValueError, match=r"^user: payoffs jump"):
        em.pseudo_gradient(game, schemes, em.Pooled(), em.RationalUser())
    for protocol, user in ((em.Selection(), em.QuantalUser(1.0)), (em.Selection(0.1), em.RationalUser())):
        with pytest.raises(ValueError, match=r"^(protocol|user|protocol, user): payoffs jump"):
            em.pseudo_gradient(game, schemes, protocol, user)


@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection()], ids=["pooled", "selection"])
@pytest.mark.parametrize("user", USERS, ids=NAMES)
def test_revelation_and_silence(protocol, user):
    game, _ = make(2)
    full = none = 0.0
    for xa in range(XA):
        for xb in range(XB):
            expected = game.user_utility @ game.prior[xa, xb]
            full += expected @ brute.choice(user, expected / game.prior[xa, xb].sum(), expected)
        expected = game.user_utility @ game.prior[xa].sum(0)
        none += expected @ brute.choice(user, expected / game.prior[xa].sum(), expected)
    np.testing.assert_allclose(payoffs(game, em.full_revelation(2, XB, M), protocol, user).user, full, atol=ATOL)
    np.testing.assert_allclose(payoffs(game, em.no_information(2, XB, M), protocol, user).user, none, atol=ATOL)


@pytest.mark.parametrize("user", USERS, ids=NAMES)
def test_one_agent_pooled_is_selection(user):
    game, schemes = make(1)
    pooled, selection = (payoffs(game, schemes, protocol, user) for protocol in (em.Pooled(), em.Selection()))
    chex.assert_trees_all_close(pooled, selection, atol=ATOL)


@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection(), em.Selection(0.3)], ids=["pooled", "sharp", "soft"])
@pytest.mark.parametrize("user", USERS[:2], ids=NAMES[:2])
def test_names_of_messages_and_agents_do_not_matter(protocol, user):
    game, schemes = make(3)
    base = payoffs(game, schemes, protocol, user)
    renamed = np.stack([s[:, order] for s, order in zip(schemes, ([1, 2, 0], [2, 1, 0], [0, 2, 1]), strict=True)])
    chex.assert_trees_all_close(payoffs(game, renamed, protocol, user), base, atol=ATOL)
    order = [2, 0, 1]
    shuffled = em.Game(game.prior, game.user_utility, game.agent_utilities[order])
    got = payoffs(shuffled, schemes[order], protocol, user)
    np.testing.assert_allclose(got.user, base.user, atol=ATOL)
    np.testing.assert_allclose(got.agents, base.agents[jnp.array(order)], atol=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_of_equally_good_agents_the_first_is_picked_and_has_the_ties(order):
    game = em.catalog.prosecutor_against_defender(0.5)  # if silent, both are worth 1/2 to the user
    game = em.Game(game.prior, game.user_utility, game.agent_utilities[order])
    got = payoffs(game, em.no_information(2, 2, 1), em.Selection(), em.RationalUser())
    np.testing.assert_allclose([got.user, *got.agents], [0.5, 1, 0], atol=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection(np.array([0.1, 0.4]))], ids=["pooled", "selection"])
def test_batch_axes_broadcast(protocol):
    games, _ = make(2, count=2)
    schemes = np.random.default_rng(9).dirichlet(np.ones(M), (5, 1, 2, XB))
    user = em.QuantalUser(np.array([2.0, 9.0]))
    got, slope = payoffs(games, schemes, protocol, user), pseudo_gradient(games, schemes, protocol, user)
    assert got.user.shape == (5, 2)
    assert got.agents.shape == (5, 2, 2)
    assert slope.shape == (5, 2, 2, XB, M)
    for s, n in ((0, 0), (4, 1)):
        one = em.Selection(protocol.temperature[n]) if isinstance(protocol, em.Selection) else protocol
        alone = (games[n], schemes[s, 0], one, em.QuantalUser(user.precision[n]))
        chex.assert_trees_all_close(jax.tree.map(lambda x, s=s, n=n: x[s, n], got), payoffs(*alone), atol=ATOL)
        np.testing.assert_allclose(slope[s, n], pseudo_gradient(*alone), atol=GRADIENT)


def test_wrong_shapes():
    game, schemes = make(2)
    for wrong in (schemes[:1], schemes[:, :2], schemes[..., :0]):
        with pytest.raises(ValueError, match=r"^schemes: expected shape \[\.\.\., K = 2, XB = 3, M\] with M >= 1, got"):
            em.payoffs(game, wrong, em.Pooled(), em.QuantalUser(1.0))
    games, _ = make(2, count=3)
    with pytest.raises(ValueError, match="broadcast"):
        em.payoffs(games, np.stack([schemes] * 2), em.Pooled(), em.QuantalUser(1.0))


def test_too_many_joint_messages_are_refused_before_any_work():
    game, _ = make(3)
    with pytest.raises(ValueError, match=r"^messages: 400 messages of 3 agents need .* bytes a game; the limit"):
        em.payoffs(game, em.full_revelation(3, XB, 400), em.Pooled(), em.QuantalUser(1.0))
    em.Selection().check(game, 400)  # linear in the agents


@pytest.mark.parametrize("temperature", [-0.1, np.nan, np.inf, np.array([0.1, -1.0])])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match=r"^temperature: expected a finite number >= 0, got"):
        em.Selection(temperature)
    with pytest.raises(ValueError, match=r"^temperature: expected all 0 or all > 0 over the batch"):
        em.Selection(np.array([0.0, 0.5]))


def test_another_precision_is_no_new_compilation():
    game, schemes = make(2)
    counted = jax.jit(chex.assert_max_traces(em.payoffs, n=1))
    low, high = (counted(game, schemes, em.Selection(t), em.QuantalUser(L)) for t, L in ((0.1, 1.0), (0.5, 30.0)))
    assert abs(low.user - high.user) > 0.01
