"""Every program that a GPU or a TPU would run lowers for both, without callbacks to the host; play has no float64."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.exact.concavification import cells, quantal
from emalign_jax.lp import simplex
from emalign_jax.play import step
from emalign_jax.play.gradient_play import GradientPlay

PLATFORMS = ("cuda", "tpu")
GAMES = 8
CALLS_OF_A_CPU = ("lapack", "callback", "__cpu")


def lowered(function, *arguments) -> str:
    """The program for all platforms, as text."""
    return jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).mlir_module()


def assert_runs_on_a_device(text):
    for word in CALLS_OF_A_CPU:
        assert word not in text


def test_a_call_of_the_cpu_is_seen():
    def asks_the_host(x):
        return jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    with pytest.raises((AssertionError, NotImplementedError)):  # jax itself refuses a callback for two platforms
        assert_runs_on_a_device(lowered(asks_the_host, jnp.ones(3)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "user"),
    [
        (em.Pooled(), em.QuantalUser(20.0)),
        (em.Selection(), em.RationalUser()),
        (em.Comparison(2), em.RationalUser()),
        (em.Conversation(2, 2), em.QuantalUser(5.0)),
    ],
    ids=["pooled", "selection", "comparison", "conversation"],
)
def test_play(protocol, user):
    games = em.random_games(0, GAMES, agents=3, states=3, actions=3)
    M = protocol.messages(games)
    reduced = em.reduce_game(games, np)
    tile = jax.tree.map(lambda x: jnp.asarray(np.moveaxis(x, 0, -1), jnp.float32), reduced)
    solver = GradientPlay(chunk=2)
    schedule = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32 if x.dtype.kind == "f" else jnp.int32),
                            solver.schedule(False))  # fmt: skip
    lanes = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, jnp.float32), GAMES), (protocol, user))
    schemes = jnp.full((GAMES, 3, protocol.rows(games, M), M), 1 / M, jnp.float32)

    def play(tile, lanes, schemes, schedule, taken):
        state = step.begin.__wrapped__(solver, schemes)
        return step.advance.__wrapped__(solver, tile, *lanes, state, schedule, taken)

    with jax.enable_x64(False), jax.default_matmul_precision("highest"):
        text = lowered(play, tile, lanes, schemes, schedule, jnp.zeros(GAMES, jnp.int32))
    assert_runs_on_a_device(text)
    assert "f64" not in text


@pytest.mark.slow
@pytest.mark.parametrize("points", [0, 4], ids=["optimum", "frontier"])
def test_linear_programs(points):
    options = {"equal": 2, "free": (), "lean": 1e-3, "limit": 20, "points": points, "tile": 4}
    shapes = (GAMES, 6), (GAMES, 5, 6), (GAMES, 5), (GAMES, 5)
    with jax.enable_x64(True):
        data = [jnp.ones(shape) for shape in shapes]
        text = lowered(functools.partial(simplex.solve.__wrapped__, **options), *data, jnp.zeros((GAMES, 2), jnp.int32))
    assert_runs_on_a_device(text)


def test_payoffs():
    games = em.random_games(0, GAMES, agents=2, states=2, actions=2)
    reduced = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), em.reduce_game(games, np))
    schemes = jnp.full((GAMES, 2, 2, 2), 0.5, jnp.float32)
    one = lambda game, profile: em.Pooled().payoffs(game, profile, em.QuantalUser(5.0))  # noqa: E731
    with jax.enable_x64(False):
        text = lowered(jax.vmap(one), reduced, schemes)
    assert_runs_on_a_device(text)
    assert "f64" not in text


STAGES = [
    f"{module.__name__}.{name}"
    for module in (cells, quantal)
    for name, value in vars(module).items()
    if hasattr(value, "stage")
]


@pytest.mark.slow
def test_bounds_and_searches_of_beliefs():
    """All stages of `concavification`, at the shapes with which a whole bound and a whole search call them."""
    B, T, A = 3, 2, 3
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        seen = []

        def lowering(module, name):
            stage = getattr(module, name).stage

            def call(*arguments, xp, **words):
                text = lowered(functools.partial(stage, xp=jnp, **words), *arguments)
                assert_runs_on_a_device(text)
                seen.append(f"{module.__name__}.{name}")
                return stage(*arguments, xp=jnp, **words)

            return call

        for place in STAGES:
            module = cells if place.startswith(cells.__name__) else quantal
            name = place.rsplit(".", 1)[1]
            patch.setattr(module, name, lowering(module, name))
        ones = functools.partial(jnp.full, fill_value=0.5)
        block = cells.Cells(
            ones((B, B, GAMES)), ones((B, T, GAMES)), ones((B, A, T, GAMES)), ones((B, A, T, GAMES)), ones((B, GAMES)),
            ones(GAMES), ones(GAMES),
        )  # fmt: skip
        cells.bound(block, jnp)
        setting = quantal.Setting(
            ones((B, T, GAMES, 1)), ones((B, A, T, GAMES, 1)), ones((B, A, T, GAMES, 1)), ones((GAMES, 1)),
            ones((GAMES, 1)), ones((B, GAMES, 1)),
        )  # fmt: skip
        patch.setattr(quantal, "NEWTON_STEPS", 1)
        quantal.ascend(setting, ones((B, GAMES, 4)), 0.1, jnp)
        quantal.payoffs(setting, ones((B, GAMES, 4)), xp=jnp)
    assert set(seen) == set(STAGES)
