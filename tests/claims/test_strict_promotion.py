"""Sessions in which jax refuses to promote types by itself (`jax_numpy_dtype_promotion=strict`), with and without x64,
from NumPy's float64 and from float32: everything works, and gives what it gives in other sessions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.nightly import one_in

import emalign_jax as em

pytestmark = pytest.mark.host_only

RNG = np.random.default_rng(0)
FIELDS = RNG.dirichlet(np.ones(8), 2).reshape(2, 2, 2, 2), RNG.normal(size=(2, 2, 2)), RNG.normal(size=(2, 2, 2, 2))
SCHEMES, RULES = RNG.dirichlet(np.ones(2), (2, 2)), RNG.dirichlet(np.ones(2), (2, 10))
QUANTAL, RATIONAL = em.QuantalUser(5.0), em.RationalUser()
CONVERSATION = em.Conversation(2)
PROTOCOLS = {
    "pooled": em.Pooled(),
    "selection": em.Selection(),
    "soft selection": em.Selection(0.3),
    "comparison": em.Comparison(1),
    "soft comparison": em.Comparison(1, 0.3),
    "conversation": CONVERSATION,
    "with all": em.Conversation(2, to="all"),
    "selection, then conversation": em.Selection(then=CONVERSATION),
    "sampled": em.SampledConversation(2, samples=4),
}
USERS = {
    "quantal": QUANTAL,
    "agents": RATIONAL,
    "lowest": em.RationalUser("lowest"),
    "uniform": em.RationalUser("uniform"),
    "truthful": em.FixedReplies("truthful", QUANTAL),
    "questions": em.FixedReplies("questions", QUANTAL),
}
QUICK = em.GradientPlay(steps=2, chunk=2)
SHORT = em.SmoothPlay(5.0, steps=2, settle=1, newton=1)


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def strict(request):
    with jax.enable_x64(request.param), jax.numpy_dtype_promotion("strict"):
        yield


# in a session without x64 what is float64 is float32 before anything is traced
sessions = pytest.mark.parametrize(
    ("strict", "dtype"),
    [(False, "float32"), (True, "float32"), (True, "float64")],
    indirect=["strict"],
    ids=["x32-float32", "x64-float32", "x64-float64"],
)


def games(dtype):
    return em.Game(*(np.asarray(x) if dtype == "float64" else jnp.asarray(x, dtype) for x in FIELDS))


def rows(protocol):
    return SCHEMES if protocol.conversation is None else RULES


@pytest.mark.slow
@sessions
@pytest.mark.parametrize("name", one_in(2, PROTOCOLS))
def test_payoffs_and_slopes(name, dtype, strict):
    """Types are promoted where functions are traced, so that is enough."""
    protocol = PROTOCOLS[name]
    for word, user in USERS.items():
        fixed = isinstance(user, em.FixedReplies)
        if fixed and protocol.conversation is None:
            continue
        calls = [lambda g, s, user=user: em.payoffs(g, s, protocol, user)]
        if word == "quantal" or fixed:
            soft = protocol.smoothed(0.3)
            calls.append(lambda g, s, user=user, soft=soft: em.pseudo_gradient(g, s, soft, user))
            calls.append(lambda g, s, user=user, soft=soft: em.payoffs(g, s, soft, user))
        for call in calls:
            given = jax.tree.map(jnp.asarray, games(dtype)), jnp.asarray(rows(protocol), given_type(dtype))
            found = jax.tree.leaves(jax.eval_shape(call, *given))
            assert {str(x.dtype) for x in found} == {given_type(dtype)}


def given_type(dtype):
    return dtype if jax.config.jax_enable_x64 else "float32"


@pytest.mark.slow
def test_mixed_types_are_promoted_as_in_other_sessions(strict):
    for name in ("pooled", "selection"):
        mixed = em.Game(jnp.asarray(FIELDS[0], "float32"), FIELDS[1], jnp.asarray(FIELDS[2], "float32"))
        found = em.payoffs(mixed, SCHEMES, PROTOCOLS[name], RATIONAL)
        with jax.numpy_dtype_promotion("standard"):
            usual = em.payoffs(mixed, SCHEMES, PROTOCOLS[name], RATIONAL)
        for one, other in zip(found, usual, strict=True):
            assert one.dtype == other.dtype == given_type("float64")
            np.testing.assert_array_equal(one, other)


def check_play(name):
    user = QUANTAL if name == "sampled" else RATIONAL
    found = em.solve(games("float64"), PROTOCOLS[name].smoothed(0.3), user, QUICK, key=0, messages=2, verify=False)
    np.testing.assert_array_equal(found.result, em.Result.UNCHECKED)


@pytest.mark.slow
def test_play(strict):
    check_play("pooled")


@pytest.mark.nightly
@pytest.mark.parametrize("name", PROTOCOLS)
def test_play_of_all_protocols(name, strict):
    check_play(name)


@pytest.mark.parametrize("name", ["pooled", "selection", "comparison", "selection, then conversation"])
def test_certificates(name, strict):
    found = em.certify(games("float64"), rows(PROTOCOLS[name]), PROTOCOLS[name], RATIONAL)
    assert (found.result <= em.Result.UNCHECKED).all()


@pytest.mark.nightly
@pytest.mark.parametrize("user", ["quantal", "agents", "questions"])
def test_searched_best_responses(user, strict):
    assert np.isfinite(em.certify(games("float64"), RULES, CONVERSATION, USERS[user]).gain_lower).all()


@pytest.mark.slow
@pytest.mark.parametrize("differentiation", [em.Implicit(), em.Unrolled(steps=4)], ids=["implicit", "unrolled"])
@sessions
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("pooled", marks=pytest.mark.nightly),
        "soft selection",
        pytest.param("conversation", marks=pytest.mark.nightly),
    ],
)
def test_smooth_equilibria_and_their_derivatives(name, dtype, differentiation, strict):
    protocol = PROTOCOLS[name]

    def value(games, precision):
        user = em.QuantalUser(precision)
        found = em.solve(games, protocol, user, SHORT, start=rows(protocol), differentiation=differentiation)
        return found.user.sum()

    slopes = jax.eval_shape(jax.grad(value, (0, 1)), jax.tree.map(jnp.asarray, games(dtype)), jnp.asarray(5.0))
    assert slopes[0].prior.dtype == given_type(dtype)


@pytest.mark.nightly
def test_agents_who_are_not_smoothed(strict):
    plain = em.SmoothPlay(np.inf, steps=2)
    found = em.solve(games("float64"), em.Pooled(), QUANTAL, plain, start=SCHEMES, differentiation=em.Implicit())
    assert np.isfinite(found.user).all()


BATCHED = {
    "equilibrium set": lambda g: em.stability(g, lp="batched"),
    "coverage": lambda g: em.coverage(g, lp="batched"),
    "sup-norm fits": lambda g: em.align(g.user_utility, g.agent_utilities, lp="batched"),
    "least squares": lambda g: em.align(g.user_utility, FIELDS[2][0], norm="l2", lp="batched"),
    "least squares, cone": lambda g: em.align(g.user_utility, FIELDS[2][0], norm="l2", weights="cone", lp="batched"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BATCHED)
def test_what_is_solved_together(name):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("strict"):  # it has float64 of its own
        assert not BATCHED[name](games("float64")).fallback.any()


@pytest.mark.slow
def test_drawing(strict):
    assert em.random_games(0, 3, information_worth=0.02).prior.shape == (3, 1, 4, 4)
    assert em.random_schemes(0, 2, 2, 2, 2).shape == (2, 2, 2, 2)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("mechanism", "protocol"),
    [
        (em.mechanisms.Transfers(price=0.1), em.Pooled()),
        (em.mechanisms.UserPrecision(), em.Pooled()),
        (em.mechanisms.SelectionTemperature(), em.Selection(0.3)),
        (em.mechanisms.Reporting(), em.Pooled()),
        (em.mechanisms.Listing(price=0.1), em.Pooled()),
        (em.mechanisms.MessageBudget(price=0.1), em.Pooled()),
    ],
    ids=lambda x: type(x).__name__,
)
def test_mechanisms(mechanism, protocol, strict):
    for dtype in ("float32", "float64"):
        objective = em.Objective("cvar", 0.5)
        tuned = em.tune(games(dtype), protocol, QUANTAL, mechanism, objective, SHORT, key=0, steps=1, restarts=2)
        found = em.evaluate(games(dtype), protocol, QUANTAL, mechanism, tuned.params, SHORT, key=0)
        assert np.isfinite(found.user).all()
