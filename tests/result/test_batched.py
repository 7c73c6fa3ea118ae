"""Results as objects: names, indices, iteration, codes by name, pytrees. Numbers are made by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.result import Batched
from emalign_jax.result.batched import axes_of

RESULTS = [
    em.Alignment, em.BestResponse, em.BestTransfers, em.Certificate, em.Coverage, em.EquilibriumBounds, em.Market,
    em.MarketValues, em.ObservedCertificate, em.ObservedSchemes, em.Premises, em.Solution, em.Stability, em.Trajectory,
    em.Tuned,
]  # fmt: skip
SIZES = {"K": 2, "XB": 3, "M": 4, "P": 5, "A": 2, "Y": 3}


def certificate(*batch, **more):
    rng = np.random.default_rng(len(batch))
    one, many = (lambda: np.asarray(rng.normal(size=batch))), (lambda: rng.normal(size=(*batch, 2)))
    no = np.zeros(batch, bool)
    codes = np.asarray(np.arange(int(np.prod(batch, dtype=int))).reshape(batch) % 3)
    return em.Certificate(
        one(), many(), many(), many(), no, np.abs(many()), np.asarray(one() + 9), one(), one(), one(), codes, no, **more
    )


def solution(*batch, starts=1, labels=None):
    rng = np.random.default_rng(0)
    proof = certificate(*batch, starts=starts, labels=labels)
    schemes = rng.dirichlet(np.ones(4), (*batch, 2, 3))
    told = np.zeros(batch, int)
    given = {"starts": starts, "labels": labels, "certificate": proof}
    return em.Solution(schemes, proof.user, proof.agents, proof.result, told, None, {"steps": 3}, **given)


@pytest.mark.parametrize("kind", RESULTS)
def test_every_field_of_numbers_says_its_axes(kind):
    assert issubclass(kind, Batched)
    assert not issubclass(kind, tuple)
    without = {"stats", "certificate", "trajectory", "labels", "starts", "equilibrium", "observed", "mean", "draws"}
    without |= {"exact", "params", "values", "history"}
    assert {field.name for field in dataclasses.fields(kind)} - without == set(axes_of(kind))


@pytest.mark.parametrize("index", [0, -1, slice(1, 3), [2, 0], np.array([True, False, True, True]), np.array(2), ...])
def test_an_index_takes_the_same_games_of_every_field(index):
    whole = solution(4)
    some = whole[index]
    for name in axes_of(em.Solution):
        if getattr(whole, name) is not None:
            np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[index], err_msg=name)
    np.testing.assert_array_equal(some.certificate.gain_upper, whole.certificate.gain_upper[index])
    assert some.stats == whole.stats
    assert isinstance(some.user, np.ndarray)


def test_length_and_iteration_end():
    found = solution(3)
    assert len(found) == 3
    assert [float(one.user) for one in found] == found.user.tolist()
    assert bool(found)
    assert not found[:0]
    assert list(found[:0]) == []
    with pytest.raises(IndexError, match=r"games with batch axes \[3\]: .* out of bounds"):
        found[3]
    for wrong in (len, iter):
        with pytest.raises(TypeError, match="this is of one game, not of a batch"):
            wrong(found[0])
    with pytest.raises(IndexError, match="there is nothing to index"):
        found[0][0]
    with pytest.raises(TypeError, match="has names, not positions"):
        _, _ = found[0].certificate


def test_starts_are_an_axis_until_one_is_taken():
    found = solution(2, 3, starts=2)
    assert found.has_starts
    assert found.certificate.has_starts
    assert len(found) == 2
    taken = ((1, 1), ((slice(None), 1), 2), ((..., slice(2)), 2), (([0, 1], [1, 2]), 1), (slice(1), 1))
    taken += (([1, 0], 2), (np.array([True, True]), 2), (([0, 1], slice(2)), 2), (np.ones((2, 3), bool), 1))
    for index, starts in taken:
        some = found[index]
        assert (some.starts, some.certificate.starts) == (starts, starts)
    np.testing.assert_array_equal(found[:, 1].user, found.user[:, 1])
    np.testing.assert_array_equal(found[found.ok].user, found.user[found.ok])


def test_axes_before_the_batch_axes_stay_where_they_are():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (4, 1, 3, 2)).astype(float)
    games = em.Game(np.full((4, 1, 3, 2), 1 / 6), rng.normal(size=(2, 2)), rng.normal(size=(4, 1, 2, 2)))
    observed = em.schemes_from_counts(counts)
    draws = jax.tree.map(lambda *x: np.stack(x), *[certificate(4), certificate(4)])
    draws = draws.replace(user=np.arange(8.0).reshape(2, 4))
    ends = rng.normal(size=(2, 4, 2))
    found = em.ObservedCertificate(
        observed, certificate(4), draws, ends[..., 0], ends, ends, ends, rng.normal(size=(4, 2)), solution(4)
    )
    for index in (2, [3, 1], slice(0, 2)):
        some = found[index]
        np.testing.assert_array_equal(some.agents, ends[:, index])
        np.testing.assert_array_equal(some.draws.user, draws.user[:, index])
        np.testing.assert_array_equal(some.observed.counts, counts[index])
    assert games.batch_shape == (4,)


def test_codes_by_name():
    found = certificate(4)
    assert found.result_names.tolist() == ["CERTIFIED", "UNREFUTED", "ABOVE_TOLERANCE", "CERTIFIED"]
    assert found.ok.tolist() == [True, True, False, True]
    assert em.Result[found[2].result_names] is em.Result.ABOVE_TOLERANCE
    assert not found[2].ok
    assert (repr(em.Result.FAILED), str(em.Result.FAILED)) == ("Result.FAILED", "FAILED")
    assert em.Derivative.SMOOTH.ok
    assert not em.Derivative.SINGULAR.ok


@pytest.mark.slow
def test_it_is_a_pytree():
    found = solution(3)
    moved = jax.tree.map(lambda x: x + 0, found)
    np.testing.assert_array_equal(moved.certificate.user, found.certificate.user)

    @jax.jit
    @jax.vmap
    def mapped(one):
        assert one.batch_shape == ()
        assert repr(one).startswith("Solution(")
        return one.replace(user=one.user * 2, certificate=None)

    twice = mapped(jax.tree.map(jnp.asarray, found.replace(stats={})))
    np.testing.assert_allclose(twice.user, 2 * found.user, rtol=1e-6)
    np.testing.assert_allclose(twice[1].schemes, found.schemes[1], rtol=1e-6)
    assert twice.result_names.tolist() == found.result_names.tolist()


def test_other_values_of_some_fields():
    found = certificate(3)
    assert found.replace(user=found.user + 1).user.tolist() == (found.user + 1).tolist()
    with pytest.raises(TypeError, match="usr"):
        found.replace(usr=1)


@pytest.mark.slow
def test_a_solution_stands_where_schemes_do():
    games = em.Game(np.full((1, 3, 2), 1 / 6), np.eye(2), np.stack([np.eye(2)] * 2))
    rules = np.full((2, 3, 4), 0.25)
    found = solution().replace(schemes=rules)
    protocol, user = em.Pooled(), em.QuantalUser(5.0)
    for call in (em.payoffs, em.certify):
        given = jax.tree.leaves(call(games, rules, protocol, user))
        for one, other in zip(given, jax.tree.leaves(call(games, found, protocol, user)), strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(em.pseudo_gradient(games, found, protocol, user).shape, (2, 3, 4))
    with pytest.raises(ValueError, match=r"schemes: expected an array .* or a Solution, got a Certificate"):
        em.certify(games, certificate(), protocol, user)
    with pytest.raises(ValueError, match="prior: expected real numbers, got a Game"):
        em.Game(games, np.eye(2), np.eye(2)[None])
