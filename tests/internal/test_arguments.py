"""Slips in the arguments of public functions: one `ValueError` each that says what to write; seeds for keys."""

import inspect
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em

pytestmark = pytest.mark.host_only

# functions as users call them, because the tests' checks of annotations would raise before the package does
PUBLIC = {name: getattr(em, name) for name in em.__all__}  # imported at first use
PLAIN = SimpleNamespace(**{name: inspect.unwrap(f) for name, f in PUBLIC.items() if inspect.isfunction(f)})
SELECTION, POOLED = em.Selection(), em.Pooled()
RATIONAL, QUANTAL = em.RationalUser(), em.QuantalUser(5.0)
TRANSFERS = em.mechanisms.Transfers(start="nothing")
SILENT = em.no_information(2, 3, 3)


@pytest.fixture(scope="module")
def games():
    return em.random_games(3, 2, agents=2, states=3, actions=3)


GAME = r"expected a Game such as em.Game\(prior, user_utility, agent_utilities\)"
WRONG = {
    "games and schemes": (
        lambda g: PLAIN.payoffs(SILENT, g, POOLED, QUANTAL),
        f"games: {GAME}, got a ndarray, which is",
    ),
    "user and protocol": (
        lambda g: PLAIN.certify(g, SILENT, RATIONAL, SELECTION),
        "protocol: expected a protocol such as .*, got a RationalUser, which is what `user` takes; the order is games, "
        "schemes, protocol, user",
    ),
    "all moved": (
        lambda g: PLAIN.pseudo_gradient(g, POOLED, QUANTAL, SILENT),
        "schemes: .* which is what `protocol` takes",
    ),
    "agent and schemes": (
        lambda g: PLAIN.best_response(g[0], 0, SILENT, SELECTION, RATIONAL),
        "schemes: expected an array",
    ),
    "protocol first": (lambda g: PLAIN.solve(SELECTION, g, RATIONAL, key=0), f"games: {GAME}, got a Selection"),
    "key as solver": (
        lambda g: PLAIN.solve(g, SELECTION, RATIONAL, jax.random.key(0)),
        "solver: expected a solver such as",
    ),
    "protocol as gains": (
        lambda g: PLAIN.worst_case(g, SELECTION),
        r"gains: expected a number or an array \[..., K\], got a Sel",
    ),
    "user and protocol of a guarantee": (
        lambda g: PLAIN.coverage(g, 0.0, SELECTION, RATIONAL),
        "user: expected a user such as",
    ),
    "games and budget": (lambda g: PLAIN.best_transfers(0.1, g), f"games: {GAME}, got 0.1"),
    "solver as objective": (
        lambda g: PLAIN.tune(g, POOLED, QUANTAL, TRANSFERS, em.SmoothPlay(), key=0),
        "objective: .* got a SmoothPlay",
    ),
    "class of a protocol": (
        lambda g: PLAIN.payoffs(g, SILENT, em.Pooled, QUANTAL),
        r"protocol: got the class Pooled.* write em.Pooled\(\)",
    ),
    "class with arguments": (
        lambda g: PLAIN.premises(g, SILENT, em.Conversation, QUANTAL),
        r"protocol: got the class .* write em.Conversation\(rounds\)",
    ),
    "class of a user": (
        lambda g: PLAIN.solve(g, SELECTION, em.QuantalUser, key=0),
        r"user: got the class .* em.QuantalUser\(precision\)",
    ),
    "class of a solver": (
        lambda g: PLAIN.solve(g, SELECTION, RATIONAL, em.GradientPlay, key=0),
        r"solver: .* em.GradientPlay\(\)",
    ),
    "class of a mechanism": (
        lambda g: PLAIN.evaluate(g, POOLED, QUANTAL, em.mechanisms.Transfers, None, em.SmoothPlay(), key=0),
        r"mechanism: got the class Transfers.* em.mechanisms.Transfers\(\)",
    ),
    "word for a protocol": (
        lambda g: PLAIN.payoffs(g, SILENT, "pooled", QUANTAL),
        r"protocol: got the word 'pooled': write em.Pooled\(\)",
    ),
    "word for a user": (
        lambda g: PLAIN.payoffs(g, SILENT, POOLED, "rational"),
        r"user: got the word .* em.RationalUser\(\)",
    ),
    "no such word": (
        lambda g: PLAIN.payoffs(g, SILENT, "chat", QUANTAL),
        "protocol: expected a protocol such as .* got 'chat'",
    ),
    "number for a user": (
        lambda g: PLAIN.payoffs(g, SILENT, POOLED, 20.0),
        r"user: got the number 20.0: write em.QuantalUser\(20.0\)",
    ),
    "infinity for a user": (lambda g: PLAIN.payoffs(g, SILENT, POOLED, np.inf), r"user: .* write em.RationalUser\(\)"),
    "nothing for schemes": (
        lambda g: PLAIN.certify(g, None, SELECTION, RATIONAL),
        "schemes: expected an array .* got None",
    ),
    "an array for games": (lambda g: PLAIN.stability(SILENT), f"games: {GAME}, got a ndarray"),
    "an array for users": (lambda g: PLAIN.several_users(SILENT, anonymous=True), f"games: {GAME}"),
    "games for a utility": (
        lambda g: PLAIN.align(g, SILENT),
        "user_utility: got a Game: write user_utility = game.user_utility",
    ),
    "path and games": (
        lambda g: PLAIN.save_games(g, "games.npz"),
        "path: expected a path, got a Game, which is what `games` takes; the order is path, games",
    ),
    "path and schemes": (lambda g: PLAIN.save_schemes("schemes.npz", g), "schemes: expected an array .* got a Game"),
    "tree": (
        lambda g: PLAIN.transcript_tree(g[0], SILENT, RATIONAL, em.Conversation(2)),
        "protocol: .* got a RationalUser",
    ),
    "no sampled protocol": (
        lambda g: PLAIN.sampled_payoffs(g, SILENT, POOLED, QUANTAL),
        "protocol: expected a SampledConv",
    ),
    "user of replies": (
        lambda g: em.FixedReplies.__init__.__wrapped__(object(), "truthful", em.RationalUser),
        "acting: .*got the class",
    ),
    "word for a key": (
        lambda g: PLAIN.random_games("0", 2),
        "key: expected a key such as .* or an integer seed, got '0'",
    ),
    "a truth for a key": (lambda g: PLAIN.random_schemes(True, 2, 2, 2, 2), "key: .* got True"),
    "no key": (lambda g: PLAIN.tune(g, POOLED, QUANTAL, TRANSFERS, key=None), "key: .* got None"),
    "a negative seed": (lambda g: PLAIN.solve(g, SELECTION, RATIONAL, key=-1), "key: .* from 0 to 4294967295, got -1"),
    "several keys": (lambda g: PLAIN.random_games(jax.random.split(jax.random.key(0)), 2), r"key: .* got \[2\] keys"),
    "key and count": (
        lambda g: PLAIN.random_games(2, jax.random.key(0)),
        "count: expected an integer >= 1, got a PRNGKeyArray$",
    ),
    "half a message": (lambda g: PLAIN.no_information(2, 2, 2.5), "messages: expected an integer >= 1, got 2.5"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_slip_is_answered_by_what_to_write(name, games):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=f"^{message}"):
        call(games)


COMPLEX = {
    "payoffs": lambda g: em.payoffs(g, SILENT * 1j, POOLED, QUANTAL),
    "certify": lambda g: em.certify(g, SILENT + 0j, SELECTION, RATIONAL),
    "best_response": lambda g: em.best_response(g[0], SILENT + 0j, 0, SELECTION, RATIONAL),
    "solve from": lambda g: em.solve(g, SELECTION, RATIONAL, start=SILENT + 0j),
    "solve smoothly from": lambda g: em.solve(
        g, POOLED, QUANTAL, em.SmoothPlay(), start=SILENT + 0j, differentiation=em.Implicit()
    ),
    "premises": lambda g: em.premises(g, jnp.asarray(SILENT + 0j), POOLED, QUANTAL),
    "gains": lambda g: em.worst_case(g, 1j),
    "budget": lambda g: em.best_transfers(g, [1j]),
    "table": lambda g: em.align(np.ones((2, 2)) * 1j, np.ones((2, 2, 2))),
    "precision": lambda g: em.QuantalUser(np.asarray(1j)),
    "temperature": lambda g: em.Selection(jnp.asarray(1j)),
    "rule": lambda g: em.FixedReplies(np.ones((1, 1, 1)) + 0j, RATIONAL),
    "file": lambda g: em.save_schemes("schemes.npz", SILENT + 0j),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers_are_refused(name, games):
    with pytest.raises(ValueError, match=r"expected (a rectangular array of|real) numbers"):
        COMPLEX[name](games)


@pytest.mark.slow
def test_an_integer_seed_is_a_key(games):
    same = em.random_games(jax.random.key(3), 2, agents=2, states=3, actions=3)
    np.testing.assert_array_equal(games.prior, same.prior)
    for seed in (np.int64(3), np.array(3), jnp.asarray(3), jax.random.PRNGKey(3)):
        np.testing.assert_array_equal(em.random_games(seed, 2, agents=2, states=3, actions=3).prior, same.prior)
    np.testing.assert_array_equal(em.random_schemes(7, 2, 2, 3, 3), em.random_schemes(jax.random.key(7), 2, 2, 3, 3))
    assert em.random_schemes(2**32 - 1, 1, 1, 1, 1).shape == (1, 1, 1, 1)
    traced = jax.jit(lambda seed: em.random_schemes(seed, 2, 2, 3, 3))(7)
    np.testing.assert_allclose(traced, em.random_schemes(7, 2, 2, 3, 3), rtol=1e-6)
    start = em.solve(games, SELECTION, QUANTAL, em.GradientPlay(steps=2, chunk=2), key=5, verify=False)
    other = em.solve(games, SELECTION, QUANTAL, em.GradientPlay(steps=2, chunk=2), key=jax.random.key(5), verify=False)
    np.testing.assert_array_equal(start.schemes, other.schemes)


@pytest.mark.slow
def test_a_solution_stands_for_its_schemes(games):
    found = em.solve(games, SELECTION, RATIONAL, start="monopolist")
    np.testing.assert_allclose(em.payoffs(games, found, SELECTION, RATIONAL).user, found.user, rtol=1e-5)
    np.testing.assert_array_equal(em.certify(games, found, SELECTION, RATIONAL).user, found.user)
    np.testing.assert_allclose(em.solve(games, SELECTION, RATIONAL, start=found).user, found.user, atol=1e-9)


ON_HOST = {
    "solve": lambda g: em.solve(g, SELECTION, RATIONAL, key=0),
    "certify": lambda g: em.certify(g, SILENT, SELECTION, RATIONAL),
    "best_response": lambda g: em.best_response(g[0], SILENT, 0, SELECTION, RATIONAL),
    "stability": em.stability,
    "worst_case": em.worst_case,
    "coverage": em.coverage,
    "premises": lambda g: em.premises(g, SILENT, POOLED, QUANTAL),
    "align": lambda g: em.align(g.user_utility, g.agent_utilities),
    "least_budget": em.least_budget,
    "best_transfers": lambda g: em.best_transfers(g, 1.0),
    "several_users": lambda g: em.several_users(g, anonymous=True),
    "transcript_tree": lambda g: em.transcript_tree(g[0], SILENT, em.Conversation(1, 1), QUANTAL),
    "tune": lambda g: em.tune(g, POOLED, QUANTAL, TRANSFERS, key=0),
    "evaluate": lambda g: em.evaluate(g, POOLED, QUANTAL, None, None, em.SmoothPlay(), key=0),
    "random_games": lambda key: em.random_games(key, 2),
    "save_games": lambda g: em.save_games("games.npz", g),
    "save_schemes": lambda g: em.save_schemes("schemes.npz", g.prior),
}


@pytest.mark.parametrize("name", ON_HOST)
def test_what_computes_on_the_host_says_what_to_take_under_jit(name, games):
    """Traced games, and games that the compiled function only refers to."""
    call, given = ON_HOST[name], jax.random.key(0) if name == "random_games" else jax.tree.map(jnp.asarray, games)
    batch = jax.random.split(given, 2) if name == "random_games" else jax.tree.map(lambda x: x[None], given)
    for transformed, argument in ((jax.jit(call), given), (jax.vmap(call), batch), (jax.jit(lambda _: call(given)), 0)):
        with pytest.raises(ValueError, match=r"traced, but this computes on the host: .* inside take em\.payoffs"):
            transformed(argument)


def test_the_value_of_a_certificate_has_no_gradient_and_says_so(games):
    def value(prior):
        return em.worst_case(em.Game(prior, games.user_utility, games.agent_utilities)).sum()

    with pytest.raises(ValueError, match=r"^games: traced"):
        jax.grad(value)(jnp.asarray(games.prior))
