"""A user in one file: the response by an independent route, its derivative, and what it takes part in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import emalign_jax as em
from emalign_jax.users.sparsemax import sparsemax

VALUES = np.array([[0.3, -0.2, 1.1, 0.9], [2.0, 0.1, 0.0, -3.0], [0.5, 0.5, 0.5, 0.5], [0.0, 0.05, -0.05, 0.01]])


@pytest.mark.parametrize("x", VALUES, ids=range(len(VALUES)))
def test_nearest_point_of_the_simplex(x):
    found = np.asarray(sparsemax(jnp.asarray(x)))
    rules = {"type": "eq", "fun": lambda p: p.sum() - 1}
    nearest = minimize(lambda p: ((p - x) ** 2).sum(), np.full(4, 0.25), bounds=[(0, 1)] * 4, constraints=rules)
    np.testing.assert_allclose(found, nearest.x, atol=1e-4)
    assert found.sum() == pytest.approx(1, abs=1e-6)


def test_derivative_is_that_of_differences():
    x, direction = jnp.asarray(VALUES[0]), np.array([0.3, -1.0, 0.7, 0.2])
    slope = jax.jvp(sparsemax, (x,), (jnp.asarray(direction, x.dtype),))[1]
    step = 1e-2  # piecewise linear: exact within a piece, but for rounding
    ends = [np.asarray(sparsemax(jnp.asarray(VALUES[0] + s * direction)), float) for s in (step, -step)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), atol=1e-4)


def test_clearly_worse_actions_are_never_taken():
    user = em.SparsemaxUser(2.0)
    options = em.Options(jnp.array([1.0, 0.49, 0.51]), None)
    assert user.respond(options, options)[1] == 0
    assert user.respond(options, options)[2] > 0


def test_it_forgoes_at_most_what_it_says():
    values = np.random.default_rng(0).normal(size=(2000, 3))
    user = em.SparsemaxUser(0.7)
    response = np.asarray(user.respond(em.Options(jnp.asarray(values), None), None), float)
    forgone = response * (values.max(-1, keepdims=True) - values)
    assert 0.9 * user.most_forgone < forgone.max() <= user.most_forgone + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [em.Pooled(), em.Selection(0.2), em.Conversation(2, 2)], ids=["P", "S", "C"])
def test_gradient_is_that_of_payoffs(protocol):
    game, user = em.catalog.prosecutor_against_defender(), em.SparsemaxUser(0.8)
    rows = protocol.rows(game, 2)
    schemes = np.random.default_rng(1).dirichlet([2.0, 2.0], (2, rows))
    whole = jax.jacrev(lambda s: em.payoffs(game, s, protocol, user).agents)(jnp.asarray(schemes))
    own = np.stack([whole[i, i] for i in range(2)])
    np.testing.assert_allclose(em.pseudo_gradient(game, schemes, protocol, user), own, atol=1e-5)
    assert np.abs(own).max() > 1e-3


@pytest.mark.slow
def test_played_and_never_wrongly_certified():
    solution = em.solve(em.catalog.two_prosecutors(), em.Pooled(), em.SparsemaxUser(4.0), key=0)
    assert solution.certificate.result in (em.Result.UNREFUTED, em.Result.ABOVE_TOLERANCE)
    assert np.isposinf(solution.certificate.gain_upper).all()


@pytest.mark.parametrize("precision", [0, -1.0, np.inf, np.nan])
def test_bad_precision(precision):
    with pytest.raises(ValueError, match=r"^precision: expected a finite number > 0"):
        em.SparsemaxUser(precision)
