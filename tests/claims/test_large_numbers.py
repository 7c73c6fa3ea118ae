"""Numbers that float64 holds and float32 does not: one error that names the field, or a result code; never a warning
(the suite makes every warning an error), and the other games of the batch as they are without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.nightly import one_in

import emalign_jax as em
from emalign_jax.users.quantal import logit

pytestmark = pytest.mark.host_only

RNG = np.random.default_rng(0)
PRIOR, USER, AGENTS = (
    RNG.dirichlet(np.ones(4), 3).reshape(3, 1, 2, 2),
    RNG.normal(size=(3, 2, 2)),
    RNG.normal(size=(3, 2, 2, 2)),
)
SCHEMES, RULES = RNG.dirichlet(np.ones(2), (2, 2)), RNG.dirichlet(np.ones(2), (2, 10))
SELECTION, RATIONAL = em.Selection(), em.RationalUser()
POOLED, QUANTAL = em.Pooled(), em.QuantalUser(5.0)
QUICK = em.GradientPlay(steps=4, chunk=2)
PURE = {
    "payoffs": lambda g: em.payoffs(g, SCHEMES, SELECTION, RATIONAL),
    "pseudo_gradient": lambda g: em.pseudo_gradient(g, SCHEMES, POOLED, QUANTAL),
    "sampled_payoffs": lambda g: em.sampled_payoffs(
        g, RULES, em.SampledConversation(2, samples=4), em.FixedReplies("babbling", QUANTAL)
    ),
}


def games(unit=1.0, who="user"):
    """The second of three has utilities of this size."""
    user, agents = USER.copy(), AGENTS.copy()
    (user if who == "user" else agents)[1] *= unit
    return em.Game(PRIOR, user, agents)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["user", "agent"])
@pytest.mark.parametrize("name", PURE)
def test_pure_functions_refuse_what_float32_cannot_hold(name, who):
    field = "user_utility" if who == "user" else "agent_utilities"
    with jax.enable_x64(False), pytest.raises(ValueError, match=f"^{field}: .* is too large for float32.*larger unit"):
        PURE[name](games(1e60, who))
    with jax.enable_x64(True):
        found, plain = jax.tree.leaves(PURE[name](games(1e60, who))), jax.tree.leaves(PURE[name](games()))
        for one, other in zip(found, plain, strict=True):
            np.testing.assert_array_equal(one[::2], other[::2])


def test_parameters_are_named():
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"^precision: 1e\+60 is too large for float32"):
            em.payoffs(games(), SCHEMES, POOLED, em.QuantalUser(1e60))
        with pytest.raises(ValueError, match=r"^temperature: 1e\+60 is too large for float32"):
            em.payoffs(games(), SCHEMES, em.Selection(1e60), QUANTAL)
        with pytest.raises(ValueError, match=r"^schemes: .*e\+9\d is too large for float32"):
            em.payoffs(games(), 1e99 * SCHEMES, POOLED, QUANTAL)


CODES = {
    "play": lambda g: em.solve(g, POOLED, QUANTAL, QUICK, key=0, verify=False),
    "search": lambda g: em.solve(g, SELECTION, RATIONAL, start="monopolist"),
    "certificate": lambda g: em.certify(g, SCHEMES, SELECTION, RATIONAL),
    "guarantee": em.coverage,
    "equilibrium set": em.stability,
}


@pytest.mark.slow
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("unit", [1e99, 1e-99])
@pytest.mark.parametrize("name", CODES)
def test_games_of_any_size_cost_only_themselves(name, unit, x64):
    with jax.enable_x64(x64):
        plain = CODES[name](games())
        for who in ("user", "agent"):
            found = CODES[name](games(unit, who))
            np.testing.assert_array_equal(found.result[::2], plain.result[::2])
            if name != "play":  # a quantal user of 1e99 is one of precision 1e99
                np.testing.assert_array_equal(found.result, plain.result)
            elif unit > 1 and who == "user":
                assert found.result[1] == em.Result.FAILED


@pytest.mark.slow
@pytest.mark.parametrize("who", ["user", "agent"])
@pytest.mark.parametrize("protocol", [POOLED, em.Selection(0.1)], ids=["pooled", "soft selection"])
def test_utilities_too_small_to_divide_by_are_nothing(protocol, who):
    plain, tiny = (em.certify(games(unit, who), SCHEMES, protocol, QUANTAL) for unit in (1.0, 1e-320))
    np.testing.assert_array_equal(tiny.result[::2], plain.result[::2])
    assert tiny.result[1] in (em.Result.CERTIFIED, em.Result.ABOVE_TOLERANCE)
    transfers = em.best_transfers(games(1e-320, who), 0.1)
    assert np.isfinite(transfers.guarantee).all()


@pytest.mark.slow
def test_a_smooth_equilibrium_that_float32_cannot_hold_is_a_code():
    solver = em.SmoothPlay(5.0, steps=2, settle=0, newton=1)
    with jax.enable_x64(False):
        solve = lambda g: em.solve(g, POOLED, QUANTAL, solver, start=SCHEMES, differentiation=em.Implicit())  # noqa: E731
        found, plain = solve(games(1e60, "agent")), solve(games())
    assert found.derivative[1] == em.Derivative.NOT_FINITE
    assert np.isnan(found.user[1])
    np.testing.assert_array_equal(found.result[::2], plain.result[::2])
    np.testing.assert_array_equal(found.user[::2], plain.user[::2])


@pytest.mark.slow
@pytest.mark.parametrize("x64", one_in(2, [False, True]))
def test_sharp_users_and_choices_tend_to_the_best(x64):
    """A rate beyond 1 / eps, at which rounding times rate is no small number."""
    with jax.enable_x64(x64):
        rational = em.payoffs(games(), SCHEMES, POOLED, em.RationalUser("lowest"))
        picked = em.payoffs(games(), SCHEMES, SELECTION, QUANTAL)
        met = em.payoffs(games(), SCHEMES, em.Comparison(1), QUANTAL)
        for rate in (1e9, 1e15, 1e30, 1e37) + ((1e60, 1e300) if x64 else ()):
            sharp = em.payoffs(games(), SCHEMES, POOLED, em.QuantalUser(rate))
            np.testing.assert_allclose(sharp.user, rational.user, rtol=1e-5)
            np.testing.assert_allclose(sharp.agents, rational.agents, rtol=1e-5)
            soft = em.payoffs(games(), SCHEMES, em.Selection(1 / rate), QUANTAL)
            np.testing.assert_allclose(soft.agents, picked.agents, rtol=1e-5)
            soft = em.payoffs(games(), SCHEMES, em.Comparison(1, 1 / rate), QUANTAL)
            np.testing.assert_allclose(soft.agents, met.agents, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.x64
@pytest.mark.parametrize("values", [RNG.normal(size=(3, 4)), np.ones((2, 3)), np.array([[1.0, 1.0, 0.0]])])
@pytest.mark.parametrize("rate", one_in(2, [0.1, 30.0]))
def test_logit_is_softmax_with_its_derivatives(values, rate):
    rate, plain = jnp.asarray(rate), lambda v, r: jax.nn.softmax(r * v, -1)
    np.testing.assert_allclose(logit(values, rate), plain(values, rate), rtol=1e-13)
    for slope in (jax.jacrev, jax.jacfwd, lambda f: jax.jacfwd(jax.jacrev(f)), lambda f: jax.jacrev(f, 1)):
        np.testing.assert_allclose(slope(logit)(values, rate), slope(plain)(values, rate), atol=1e-11)
    met = np.arange(values.shape[-1]) > 0
    some = jnp.where(met, values, -jnp.inf)
    np.testing.assert_allclose(logit(values, rate, met), plain(some, rate), rtol=1e-13)
    slope = jax.jacrev(lambda v: logit(v, rate, met))(values)
    np.testing.assert_allclose(
        slope, jax.jacrev(lambda v: plain(jnp.where(met, v, -jnp.inf), rate))(values), atol=1e-12
    )
