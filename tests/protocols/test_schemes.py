"""Schemes: named profiles, random ones, logits, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.protocols.schemes import check_schemes, to_logits


def test_full_revelation_lets_x_B_be_read_off():
    schemes = em.full_revelation(2, 3, 4)
    assert schemes.shape == (2, 3, 4)
    np.testing.assert_array_equal(schemes.sum(-1), 1)
    assert (schemes.argmax(-1) == np.arange(3)).all()
    schemes[0, 0] = 0  # a copy of its own for every agent
    assert schemes[1, 0].sum() == 1
    with pytest.raises(ValueError, match=r"^messages: full revelation of XB = 3 .* got M = 2"):
        em.full_revelation(2, 3, 2)


def test_no_information_is_the_same_for_every_x_B():
    schemes = em.no_information(2, 3, 4)
    np.testing.assert_array_equal(schemes.sum(-1), 1)
    assert (schemes == schemes[:, :1]).all()


@pytest.mark.slow
def test_random_schemes_are_distributions_and_do_not_depend_on_the_batch():
    key = jax.random.key(3)
    many, few = em.random_schemes(key, 5, 2, 3, 4), em.random_schemes(key, 2, 2, 3, 4)
    assert many.shape == (5, 2, 3, 4)
    assert (np.asarray(many) > 0).all()
    np.testing.assert_allclose(many.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(many[:2], few, atol=1e-6)  # the same up to vectorised rounding
    assert len(np.unique(np.asarray(many)[:, 0, 0, 0])) == 5


@pytest.mark.slow
def test_random_schemes_are_the_same_however_they_are_compiled():
    """To the last bit: play from schemes that differ by one rounding may end in another equilibrium. Before they were
    made of integers in float64, a quarter of these differed between the first two."""
    numbers = range(12)  # each compiles a program of its own
    with jax.enable_x64(False):
        eager = np.asarray(em.random_schemes(7, len(numbers), 2, 3, 4))
        compiled = jax.jit(lambda seed: em.random_schemes(seed, len(numbers), 2, 3, 4))(7)
        fused = jax.jit(lambda seed: jnp.log(em.random_schemes(seed, len(numbers), 2, 3, 4)))(7)
        alone = np.concatenate([em.random_schemes(7, 1, 2, 3, 4, first=n) for n in numbers])
    assert eager.dtype == np.float32
    np.testing.assert_array_equal(eager, compiled)
    np.testing.assert_array_equal(eager, alone)
    np.testing.assert_allclose(np.exp(fused), eager, rtol=1e-6)
    with jax.enable_x64(True):
        double = np.asarray(em.random_schemes(7, len(numbers), 2, 3, 4))
    np.testing.assert_array_equal(double.astype(np.float32), eager)
    logits = np.log(double) - np.log(double).mean(-1, keepdims=True)
    np.testing.assert_allclose(logits.std(), np.sqrt(3 / 4), rtol=0.1)  # of normal numbers less the mean of four


def test_spread_zero_is_uniform():
    np.testing.assert_allclose(em.random_schemes(jax.random.key(0), 1, 2, 3, 4, spread=0.0), 0.25, atol=1e-7)


@pytest.mark.parametrize("floor", [0.04, 1e-3])
def test_logits_are_those_of_the_mixture_with_the_uniform_distribution(floor):
    schemes = np.concatenate([em.full_revelation(1, 3, 3), np.full((1, 3, 3), 1 / 3)])
    logits = np.asarray(to_logits(schemes, floor))
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits.max(-1), 0, atol=1e-6)
    mixed = (1 - floor) * schemes + floor / 3
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), mixed, atol=1e-6)


def test_checked_schemes_are_float64_with_exact_rows():
    games = em.catalog.biased_advisers()
    rounded = em.random_schemes(jax.random.key(0), 5, 2, 2, 3)
    checked = check_schemes(games, np.asarray(rounded, np.float32))
    assert checked.dtype == np.float64
    np.testing.assert_allclose(checked.sum(-1), 1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(checked, rounded, atol=1e-6)


def test_profiles_with_nan_pass_and_cost_only_themselves():
    schemes = np.stack([em.full_revelation(2, 2, 2)] * 3)
    schemes[1, 0, 0, 0] = np.nan
    checked = check_schemes(em.catalog.biased_advisers(), schemes)
    assert np.isnan(checked[1]).all()
    np.testing.assert_array_equal(checked[[0, 2]], schemes[[0, 2]])


def cell(value):
    schemes = em.full_revelation(2, 2, 3)
    schemes[1, 0] = value
    return schemes


@pytest.mark.parametrize(
    ("schemes", "message"),
    [
        (np.ones((2, 2)), r"^schemes: expected shape \[\.\.\., K = 2, XB = 2, M\] with M >= 1, got \[2, 2\]"),
        (np.ones((3, 2, 2)), r"^schemes: expected shape .* got \[3, 2, 2\]"),
        (np.ones((2, 3, 2)), r"^schemes: expected shape .* got \[2, 3, 2\]"),
        (np.ones((2, 2, 0)), r"^schemes: expected shape .* got \[2, 2, 0\]"),
        (cell([1.5, -0.5, 0]), r"^schemes\[1, 0, 1\]: got -0\.5, a row must not be negative"),
        (cell([0.5, 0.4, 0]), r"^schemes\[1, 0, 0\]: got \[?0\.9\d*\]?, a row must sum to 1 over M"),
    ],
)
def test_bad_schemes(schemes, message):
    with pytest.raises(ValueError, match=message):
        check_schemes(em.catalog.biased_advisers(), schemes)


def test_batch_axes_must_broadcast():
    game = em.catalog.biased_advisers()
    games = jax.tree.map(lambda x: np.stack([x] * 3), game)
    schemes = np.stack([em.full_revelation(2, 2, 2)] * 2)
    with pytest.raises(ValueError, match=r"^schemes: batch axes \[2\] do not fit those of the games, \[3\]"):
        check_schemes(games, schemes)
    assert check_schemes(games, schemes[:, None]).shape == (2, 1, 2, 2, 2)
