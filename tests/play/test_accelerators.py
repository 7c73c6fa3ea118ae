"""Every program that a GPU or a TPU would run lowers for both, without calls of the host; play has no float64.

The programs are taken from calls of the package, with the arguments that these give them.
"""

import ast
import contextlib
import functools
import importlib
import re
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.exact.concavification import cells, quantal, type_bounds
from emalign_jax.internal import xla

PLATFORMS = ("cuda", "tpu")
GAMES = 8
CALLS_OF_A_HOST = ("lapack", "callback", "__cpu")
PACKAGE = Path(em.__file__).parent
JITS = {"jit", "filter_jit", "pmap", "filter_pmap"}
# The files that compile functions other than by a decorator: what compiles for others.
COMPILERS = {"internal/xla.py", "internal/float64.py"}


def lowered(function, *arguments, **words) -> str:
    """The program for all platforms, as text; what is no array is static."""
    is_array = lambda x: isinstance(x, jax.Array | np.ndarray | np.generic)  # noqa: E731
    arrays, rest = eqx.partition((arguments, words), is_array)
    leaves, tree = jax.tree.flatten(arrays)

    def program(*leaves):
        arguments, words = eqx.combine(jax.tree.unflatten(tree, leaves), rest)
        return eqx.filter(function(*arguments, **words), eqx.is_array)

    return jax.export.export(jax.jit(program), platforms=PLATFORMS)(*leaves).mlir_module()


def assert_runs_on_a_device(text):
    for word in CALLS_OF_A_HOST:
        assert word not in text


@contextlib.contextmanager
def lowering(*names, variant=lambda words: None):
    """Lower these programs when they are called inside the context: their texts, by name and variant.

    variant: of the keywords of a call; one call of each is lowered.
    """
    texts, options = {}, xla.options
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            home, _, attribute = name.rpartition(".")
            compiled = getattr(importlib.import_module(f"emalign_jax.{home}"), attribute)
            plain = getattr(compiled, "stage", None) or compiled.__wrapped__

            def call(*arguments, name=name, compiled=compiled, plain=plain, **words):
                if (name, variant(words)) not in texts and words.get("xp") is not np:
                    patch.setattr(xla, "options", lambda own=False: {})  # an accelerator has no options of a CPU
                    texts[name, variant(words)] = lowered(plain, *arguments, **words)
                    patch.setattr(xla, "options", options)
                return compiled(*arguments, **words)

            for module in [m for key, m in sys.modules.items() if key.startswith("emalign_jax.")]:
                for held in [key for key, value in vars(module).items() if value is compiled]:
                    patch.setattr(module, held, call)
        yield texts


def games(count=GAMES, **sizes):
    return em.random_games(0, count, **{"agents": 2, "states": 2, "actions": 2} | sizes)


def play(protocol, user, x64=False):
    def call():
        with jax.enable_x64(x64):
            em.solve(games(agents=3), protocol, user, em.GradientPlay(steps=2, chunk=2), key=0, verify=False)

    return call


def linear_programs():
    em.certify(games(), np.full((GAMES, 2, 2, 2), 0.5), em.Selection(), em.RationalUser(), lp="batched")


def beliefs():
    B, T, A = 3, 2, 3
    ones = functools.partial(jnp.full, fill_value=0.5)
    user = ones((B, A, T, GAMES))
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantal, "NEWTON_STEPS", 1)
        each = ones(GAMES)
        block = cells.Cells(ones((B, B, GAMES)), ones((B, T, GAMES)), user, user, ones((B, GAMES)), each, each)
        cells.bound(block, jnp)
        of = quantal.Setting(*(x[..., None] for x in (block.mass, user, user, user, each, each, block.price)))
        quantal.ascend(of, ones((B, GAMES, 4)), 0.1, jnp)
        quantal.payoffs(of, ones((B, GAMES, 4)), xp=jnp)


def best_rules():
    schemes = em.random_schemes(0, 2, 2, em.Conversation(2, 2).rows(games(2), 2), 2)
    em.certify(games(2), schemes, em.Conversation(2, 2), em.QuantalUser(5.0))


def payoffs():
    em.payoffs(games(), np.full((GAMES, 2, 2, 2), 0.5, np.float32), em.Pooled(), em.QuantalUser(5.0))


def smooth_play():
    em.solve(games(), em.Pooled(), em.QuantalUser(5.0), em.SmoothPlay(10.0), key=0, differentiation=em.Implicit())


def tuning():
    em.tune(games(2), em.Pooled(), em.QuantalUser(5.0), em.mechanisms.Transfers(), key=0, steps=2)


def fits():
    rng = np.random.default_rng(0)
    agents = rng.normal(size=(80, 2, 2))
    for weights in ("simplex", "cone"):
        em.align(rng.normal(size=(70, 2, 2)), agents, weights=weights, norm="l2")


PLAYED = ("play.step.begin", "play.step.advance")
STAGES = tuple(
    f"exact.concavification.{module.__name__.rsplit('.', 1)[1]}.{name}"
    for module in (cells, quantal, type_bounds)
    for name, value in vars(module).items()
    if hasattr(value, "stage") and value.__module__ == module.__name__
)
SETTINGS = {
    "pooled": (em.Pooled(), em.QuantalUser(20.0)),
    "selection": (em.Selection(), em.RationalUser()),
    "comparison": (em.Comparison(2), em.RationalUser()),
    "conversation": (em.Conversation(2, 2), em.QuantalUser(5.0)),
    "selection then conversation": (em.Selection(then=em.Conversation(2, 2)), em.RationalUser()),
    "sparsemax": (em.Pooled(), em.SparsemaxUser(5.0)),
}
# What runs each program.
RUNS = {name: (play(*setting), PLAYED) for name, setting in SETTINGS.items()} | {
    "with x64": (play(*SETTINGS["pooled"], x64=True), PLAYED),
    "draws": (play(*SETTINGS["pooled"]), ("games.families.drawing._uniforms", "protocols.schemes._draw_tile")),
    "linear programs": (linear_programs, ("lp.simplex.solve",)),
    "beliefs": (beliefs, STAGES),
    "best rules": (best_rules, ("play.ascent._ascend",)),
    "payoffs": (payoffs, ("protocols.batched_payoffs.compiled",)),
    "smooth play": (smooth_play, ("play.differentiable._solve",)),
    "tuning": (tuning, ("tuning.loop._step", "tuning.problem._under")),
    "fits": (fits, ("lp.least_squares._project", "lp.least_squares._pivot")),
}


def mentions(node, names):
    return [x for x in ast.walk(node) if {getattr(x, "id", None), getattr(x, "attr", None)} & names]


def compiled_functions():
    """Names of all functions of the package with a decorator that compiles them; nothing else may compile."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree, place = ast.parse(path.read_text()), path.relative_to(PACKAGE)
        if place.as_posix() in COMPILERS:
            continue
        left = len(mentions(tree, JITS))
        for node in ast.walk(tree):
            for decorator in getattr(node, "decorator_list", []):
                left -= len(mentions(decorator, JITS))
                if mentions(decorator, JITS | {"stage"}):
                    yield ".".join([*place.with_suffix("").parts, node.name])
        assert not left, f"{place} compiles a function without a decorator"


def test_every_compiled_program_is_lowered_here():
    assert set(compiled_functions()) == {name for _, names in RUNS.values() for name in names}


def test_a_call_of_the_host_is_seen():
    def asks_the_host(x):
        return jax.pure_callback(lambda y: y, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    with pytest.raises((AssertionError, NotImplementedError)):  # jax itself refuses a callback for two platforms
        assert_runs_on_a_device(lowered(asks_the_host, jnp.ones(3)))


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_lowers(run):
    call, names = RUNS[run]
    with lowering(*names, variant=lambda words: words.get("points", 0) > 0) as texts:
        call()
    assert {name for name, _ in texts} == set(names)
    for (name, _), text in texts.items():
        assert_runs_on_a_device(text)
        if name in PLAYED and run == "with x64":  # a number a game at most: Adam's powers of its decays
            assert not re.search(r"tensor<\d+x\d+x[\dx]*f64>", text)
        elif name in PLAYED:
            assert "f64" not in text
    if run == "linear programs":
        assert len(texts) == 2  # optima and frontiers
