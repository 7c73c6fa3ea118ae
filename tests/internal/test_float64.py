"""Functions in float64 in sessions without x64, and smoothed equilibria that do not depend on how they are compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax import Derivative
from emalign_jax.internal.float64 import in_float64

pytestmark = pytest.mark.host_only

# p(y = 0), how often x_B tells of each y, u [A, Y], U [K, A, Y] and P(first message | x_B) [K, XB] to start from: games
# in which float32 found one equilibrium alone and another one in a batch, or under `grad`, both called SMOOTH
RESTLESS = np.array([
    [0.8, 0.7, 1, -0.6, 0.6, -0.6, 0, -1.5, -0.8, 0.2, -0.4, 2.3, 0.7, 1.2, -0.1, 0.1, 0.1, 0.2, 0.3],
    [0.8, 0.8, 0.6, -0.1, -1.3, -1.4, 0.9, 1.2, 1.1, -1.1, -0.5, -1.8, -0.1, 1.3, 0.8, 0.1, 0.6, 0.7, 0.8],
    [0.3, 0.9, 0.9, 0.5, 1.4, 1, 1.3, 0.7, -1.1, 1.7, 0.5, -1.6, 1.7, -1.9, -0.3, 0.9, 0.1, 0.2, 0.2],
    [0.5, 1, 0.7, -0.3, 0.7, 0.5, -0.8, -0.7, -2, 0.7, -0.1, -0.7, 0.8, -1.1, -0.3, 0.5, 0.2, 0.4, 0.7],
    [0.5, 0.7, 0.7, -1.8, 0.2, 0.8, -1.4, -0.8, -1.9, 0.3, 0.8, 1.7, -0.8, 0.6, -1, 0.7, 0.2, 0.3, 0.4],
    [0.8, 0.7, 1, -1, 1.1, -0.7, 0.1, -0.8, 1.4, 0.7, 0.6, -1.8, -0.9, -0.1, -0.1, 0.2, 0.9, 0.2, 0.2],
    [0.6, 0.8, 0.8, -1.1, 0.6, -1.3, 1, 0.8, -2.3, 0.2, -0.5, 1.3, 0.3, -0.3, 0, 0.8, 0.8, 0.3, 0.3],
    [0.4, 1, 1, 1.1, -1.1, 0.5, 0.2, -1, -0.5, -1, -1.8, -1.3, -0.3, 0.8, 1.1, 0.3, 0.7, 0.7, 0.7],
    [0.8, 1, 0.9, -1.6, 0.6, -2.3, 1.7, -1.2, -0.8, -0.8, -1.6, 0.7, -1.1, -1.5, -1.1, 0.8, 0.6, 0.2, 0.3],
    [0.3, 0.6, 1, -0.1, 1.7, 1.1, 1.3, -0.1, 0.2, -1.5, -0.5, -0.5, 0, 0.6, -0.2, 0.6, 0.3, 0.2, 0.6],
    [0.3, 0.7, 0.6, -1.4, 0.1, 1.8, -1.1, 0.9, 0.8, 0, -0.6, -0.7, -0.3, -0.2, -0.7, 0.7, 0.6, 0.3, 0.4],
])  # fmt: skip


def restless():
    """prior [N, 1, 2, 2], u [N, 2, 2], U [N, 2, 2, 2] and starts [N, 2, 2, 2]."""
    (p, right, wrong), u, U, first = RESTLESS[:, :3].T, RESTLESS[:, 3:7], RESTLESS[:, 7:15], RESTLESS[:, 15:]
    prior = np.stack([p * right, (1 - p) * (1 - wrong), p * (1 - right), (1 - p) * wrong], -1).reshape(-1, 1, 2, 2)
    first = first.reshape(-1, 2, 2)
    return prior, u.reshape(-1, 2, 2), U.reshape(-1, 2, 2, 2), np.stack([first, 1 - first], -1)


def smooth(prior, u, U, start, differentiation, solver=None):
    solver = em.SmoothPlay(100.0) if solver is None else solver
    games = em.Game(*(jnp.asarray(x, jnp.float32) for x in (prior, u, U)), check="shapes")
    return em.solve(
        games, em.Pooled(), em.QuantalUser(20.0), solver, start=jnp.asarray(start, jnp.float32),
        differentiation=differentiation,
    )  # fmt: skip


def arrays(found):
    return found.schemes, found.user, found.agents, found.result


def user_value(u):
    """The user's value in all games, for a derivative, and all that was found."""
    prior, _, U, start = restless()
    found = smooth(prior, u, U, start, em.Implicit())
    return jnp.where(jnp.isfinite(found.user), found.user, 0).sum(), arrays(found)


@pytest.mark.slow
def test_equilibria_do_not_depend_on_how_they_are_compiled():
    prior, u, U, start = restless()
    with jax.enable_x64(False):
        found = smooth(prior, u, U, start, em.Implicit())
        (_, under_grad), slope = jax.jit(jax.value_and_grad(user_value, has_aux=True))(jnp.asarray(u, jnp.float32))
        assert found.schemes.dtype == found.user.dtype == slope.dtype == jnp.float32
        assert found.derivative.dtype == jnp.int32
    assert (np.asarray(found.derivative) == Derivative.SMOOTH).mean() > 0.5
    for mine, its in zip(arrays(found), under_grad, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(its), rtol=0, atol=1e-6)


@pytest.mark.nightly
def test_equilibria_do_not_depend_on_how_they_are_batched_or_on_the_session():
    prior, u, U, start = restless()
    u32 = jnp.asarray(u, jnp.float32)
    with jax.enable_x64(False):
        (_, found), slope = jax.jit(jax.value_and_grad(user_value, has_aux=True))(u32)
        one = jax.jit(lambda *game: arrays(smooth(*game, em.Implicit())))
        alone = [one(*(jnp.asarray(x[n], jnp.float32) for x in (prior, u, U, start))) for n in range(len(u))]
    for mine, its in zip(found, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.stack(its), rtol=0, atol=1e-6)
    with jax.enable_x64(True):  # from the same numbers
        (_, wide), wide_slope = jax.jit(jax.value_and_grad(user_value, has_aux=True))(u32)
    np.testing.assert_array_equal(found[3], wide[3])
    np.testing.assert_allclose(np.asarray(found[0]), np.asarray(wide[0]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(slope), np.asarray(wide_slope), rtol=1e-4, atol=1e-5)


def awkward(x, share, count):
    """Sums that float32 loses, a linear system, a loop, integers, a choice; derivatives of all of it."""
    matrix = jnp.eye(3, dtype=x.dtype) + 0.999999 * jnp.outer(x, x) / (x @ x)
    lost = (1e9 + x) - 1e9
    moved, _ = jax.lax.scan(lambda z, _: (jnp.tanh(z + share * lost), None), x, None, length=5)
    kept, _ = jax.lax.scan(jax.checkpoint(lambda z, _: (jnp.sin(z) + x, None)), x, None, length=4)
    solved = jnp.linalg.solve(matrix, moved + kept)
    best = jnp.argmax(solved)
    return {"y": solved * count, "best": best, "top": solved[best]}


FORMS = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "vmap of jit": lambda f: lambda *a: jax.vmap(jax.jit(f), (0, None, None))(jnp.stack([a[0], 2 * a[0]]), *a[1:])[0],
    "vmap inside": lambda f: lambda *a: jax.jit(jax.vmap(f, (None, 0, None)))(a[0], jnp.stack([a[1], -a[1]]), a[2])[0],
    "scan": lambda f: lambda *a: jax.lax.scan(lambda _, x: (None, f(x, *a[1:])), None, a[0][None])[1][0],
}
SLOPES = {
    "grad of jit": lambda f: lambda *a: jax.grad(lambda *a: jax.jit(f)(*a).sum())(*a),
    "jit of grad": lambda f: jax.jit(jax.grad(lambda *a: f(*a).sum())),
    "vmap of grad": lambda f: (
        lambda *a: jax.vmap(jax.grad(lambda *a: jax.jit(f)(*a).sum()), (0, None, None))(a[0][None], *a[1:])[0]
    ),
    "checkpoint": lambda f: jax.grad(lambda *a: jax.checkpoint(jax.jit(f))(*a).sum()),
    "forward": lambda f: lambda *a: jax.jit(jax.jacfwd(f))(*a).sum(0),
    "backward": lambda f: lambda *a: jax.jacrev(jax.jit(f))(*a).sum(0),
    "forward over vmap": lambda f: (
        lambda *a: jax.jacfwd(lambda x: jax.vmap(lambda y: f(y, *a[1:]))(x[None])[0])(a[0]).sum(0)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", [*FORMS, *SLOPES])
def test_float64_survives_every_transformation(form):
    arguments = np.array([0.3, -1.1, 0.7], np.float32), np.float32(0.25), np.int32(3)
    as_float64 = arguments[0].astype(np.float64), np.float64(arguments[1]), 3
    with jax.enable_x64(True):
        truth = np.asarray(awkward(*as_float64)["y"])
        if form in SLOPES:
            truth = np.asarray(jax.jacfwd(lambda x: awkward(x, *as_float64[1:])["y"])(as_float64[0]).sum(0))
    with jax.enable_x64(False):
        x, share, count = map(jnp.asarray, arguments)
        single = lambda *a: in_float64(awkward, *a, dtype=jnp.float32)["y"]  # noqa: E731
        got = {**FORMS, **SLOPES}[form](single)(x, share, count)
        assert got.dtype == jnp.float32
        whole = in_float64(awkward, x, share, count, dtype=jnp.float32)
        assert (whole["best"].dtype, whole["top"].dtype) == (jnp.int32, jnp.float32)
        narrow = np.asarray(awkward(x, share, count)["y"]) if form == "plain" else None
    np.testing.assert_allclose(np.asarray(got), truth, rtol=2e-7)
    if narrow is not None:
        assert not np.allclose(narrow, truth, rtol=1e-3)  # or the test would show nothing


@pytest.mark.nightly
@pytest.mark.slow
def test_derivatives_in_a_session_without_x64_are_those_with_it():
    """Implicit in both modes, Unrolled backward; by the game, the user and the agents' precision."""
    prior, u, U, start = (x[:2] for x in restless())

    def value(parameters, differentiation, steps):
        u, precision, agents = parameters
        games = em.Game(*(jnp.asarray(x, u.dtype) for x in (prior, u, U)), check="shapes")
        solver = em.SmoothPlay(agents, steps=steps, tolerance=1e-6)
        return em.solve(
            games, em.Pooled(), em.QuantalUser(precision), solver, start=jnp.asarray(start, u.dtype),
            differentiation=differentiation,
        ).user.sum()  # fmt: skip

    for how, mode, steps in (
        (em.Implicit(), jax.grad, 100), (em.Implicit(), jax.jacfwd, 100), (em.Unrolled(300, 0.1), jax.grad, 0),
    ):  # fmt: skip
        found = []
        for x64, dtype in ((True, np.float64), (False, np.float32)):
            with jax.enable_x64(x64):
                at = tuple(jnp.asarray(np.asarray(x, np.float32), dtype) for x in (u, 5.0, 10.0))
                found.append(jax.tree.map(np.asarray, mode(lambda p, h=how, s=steps: value(p, h, s))(at)))
        for wide, single in zip(*found, strict=True):
            assert single.dtype == np.float32
            np.testing.assert_allclose(single, wide, rtol=1e-4, atol=1e-5)
