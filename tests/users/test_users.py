"""Users: the quantal distribution and its regret, the rational tie rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import lambertw

import emalign_jax as em

ROUNDING = 50 * float(jnp.finfo(jnp.result_type(float)).eps)  # sums of a few exponentials of size about 1


def options(values):
    """Where nothing is uncertain: one option beats another by the difference of their values."""
    values = jnp.asarray(values, float)
    return em.Options(values, jnp.maximum(values[..., :, None] - values[..., None, :], 0))


def respond(user, values, favour=None):
    return np.asarray(user.respond(options(values), options(np.zeros_like(values) if favour is None else favour)))


def regret(precision, values):
    q = respond(em.QuantalUser(precision), values).astype(float)
    return values.max(-1) - (q * values).sum(-1)


def test_quantal_response_by_hand():
    values = np.random.default_rng(0).normal(size=(7, 4))
    expected = np.array([[np.exp(3 * v) for v in row] for row in values])
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(respond(em.QuantalUser(3), values), expected, atol=ROUNDING)


def test_quantal_response_does_not_overflow():
    np.testing.assert_array_equal(respond(em.QuantalUser(1e6), [[5.0, -5.0, 4.0]]), [[1, 0, 0]])


@pytest.mark.slow
@pytest.mark.parametrize("actions", [2, 3, 10])
@pytest.mark.parametrize("precision", [0.5, 5.0, 40.0])
def test_regret_is_at_most_the_lambert_bound_which_is_attained(actions, precision):
    lambert = lambertw((actions - 1) / np.e).real
    bound = lambert / precision
    rng = np.random.default_rng(actions)
    random = rng.normal(size=(200, actions)) * rng.uniform(0.1, 10, (200, 1)) / precision
    # the worst case: all the others equal, 1 + W0((A - 1) / e) behind; and near it
    worst = np.where(np.arange(actions) == 1, 0.0, -(1 + lambert) / precision)
    near = worst * rng.uniform(0.9, 1.1, (200, actions))
    slack = ROUNDING * (1 + 1 / precision)
    assert regret(precision, random).max() <= bound + slack
    assert regret(precision, near).max() <= bound + slack
    np.testing.assert_allclose(regret(precision, worst), bound, rtol=10 * ROUNDING)
    assert bound < np.log(actions) / precision / 2


@pytest.mark.parametrize("precision", [0, -1, np.nan, np.inf, [5.0, 0.0], [np.nan, 1.0], jnp.array([1.0, -1.0])])
def test_bad_precision(precision):
    with pytest.raises(ValueError, match=r"^precision: expected a finite number > 0 .*, got"):
        em.QuantalUser(precision)


def test_precision_may_be_traced_and_mapped():
    values = jnp.array([0.2, 0.6, 0.1])
    each = jax.jit(jax.vmap(lambda L: em.QuantalUser(L).respond(options(values), options(values))))(
        jnp.array([1.0, 5.0])
    )
    for q, precision in zip(each, (1.0, 5.0), strict=True):
        np.testing.assert_allclose(q, respond(em.QuantalUser(precision), values), atol=ROUNDING)


@pytest.mark.parametrize(
    ("ties", "expected"),
    [
        ("agents", [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]),
        ("lowest", [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]),
        ("highest", [[0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]),
        ("uniform", [[1 / 2, 0, 1 / 2, 0], [1 / 3, 0, 1 / 3, 1 / 3], [0, 1, 0, 0]]),
    ],
)
def test_rational_tie_rules(ties, expected):
    values = [[2, 1, 2, 0], [2, 1, 2, 2], [0, 3, 1, 2]]
    favour = [[0, 9, 1, 0], [7, 9, 7, 6], [9, 0, 9, 9]]  # never enough for a worse action
    np.testing.assert_allclose(respond(em.RationalUser(ties), values, favour), expected, atol=ROUNDING)


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_tolerance_of_ties_is_relative_to_what_two_options_differ_by(unit):
    """Option 0 is ahead by 3 half the time and behind by 3 - d half the time: tied if d <= tolerance * (6 - d). A
    third option, however bad, changes nothing, nor does one that is never better."""
    user = em.RationalUser("uniform", tolerance=1e-3)
    for behind, tied in ((3 - 0.005, True), (3 - 0.007, False)):
        utility = unit * np.array([[3.0, 0.0, -1e6, 2.0], [0.0, behind, -1e6, 0.0]])  # in two cells
        ahead = np.maximum(utility[:, :, None] - utility[:, None, :], 0).sum(0) / 2
        expected = [0.5, 0.5, 0, 0] if tied else [1, 0, 0, 0]
        answer = user.respond(em.Options(jnp.asarray(utility.mean(0)), jnp.asarray(ahead)), options(np.zeros(4)))
        np.testing.assert_array_equal(answer, expected)


def test_ties_agents_is_the_supremum_over_best_actions():
    rng = np.random.default_rng(1)
    values, favour = rng.integers(0, 3, (50, 5)).astype(float), rng.normal(size=(50, 5))
    q = respond(em.RationalUser(), values, favour)
    best = [
        max(f for v, f in zip(*rows, strict=True) if v == max(rows[0])) for rows in zip(values, favour, strict=True)
    ]
    np.testing.assert_allclose((q * favour).sum(1), best, atol=4 * ROUNDING)


@pytest.mark.parametrize("ties", ["", "agent", "random", "Lowest"])
def test_bad_ties(ties):
    with pytest.raises(ValueError, match=r"^ties: expected one of agents, lowest, highest, uniform, got"):
        em.RationalUser(ties)


@pytest.mark.parametrize("tolerance", [-1e-9, 1.0, np.nan])
def test_bad_tolerance(tolerance):
    with pytest.raises(ValueError, match=r"^tolerance: expected a number in \[0, 1\), got"):
        em.RationalUser(tolerance=tolerance)


def test_smooth_stand_ins():
    quantal = em.QuantalUser(3.0)
    assert quantal.smoothed(jnp.array(9.0)) is quantal
    stand_in = em.RationalUser().smoothed(jnp.array(9.0))
    np.testing.assert_allclose(respond(stand_in, [0.0, 1.0]), respond(em.QuantalUser(9.0), [0.0, 1.0]))
