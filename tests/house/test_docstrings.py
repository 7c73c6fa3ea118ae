"""Public docstrings: each says what it is in one line, names every argument, and has an example, which runs here."""

import doctest
import enum
import inspect
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import emalign_jax as em
from emalign_jax.mechanisms import MECHANISMS
from emalign_jax.protocols.base import PROTOCOLS
from emalign_jax.users.base import USERS

# What examples may use without importing it.
NAMES = {"em": em, "jax": jax, "jnp": jnp, "np": np}
# Modules whose names are public too.
MODULES = "catalog", "experiments", "families", "mechanisms", "plot"
# Examples that take more than half a second, mostly to compile, as figures do; of the nightly ones, half a minute.
SLOW = [
    "AbstractFamily", "AbstractProtocol", "AbstractSolver", "BestResponseDynamics", "FixedReplies", "GradientPlay",
    "Implicit", "Objective", "ObservedCertificate", "Payoffs", "QuantalUser", "RationalUser", "SampledConversation",
    "SampledGradient", "SampledPayoffs", "SmoothPlay", "SparsemaxUser", "Trajectory", "Unrolled", "certify_counts",
    "evaluate", "payoffs", "pseudo_gradient", "random_games", "random_schemes", "sampled_gradient",
    "sampled_payoffs", "solve", "values_against_size", "experiments.Found", "experiments.run", "families.Hull",
    "mechanisms.MessageBudget", "mechanisms.Reporting",
]  # fmt: skip
NIGHTLY = "Tuned", "tune", "plot.tuning"


def public() -> dict:
    """Functions and classes by their public names, each once."""
    found = {name: getattr(em, name) for name in em.__all__}
    for module in MODULES:
        members = vars(em.catalog) if module == "catalog" else getattr(em, module).__all__
        found |= {f"{module}.{name}": getattr(getattr(em, module), name) for name in members}
    named = {}
    for name, value in found.items():
        of_ours = isinstance(value, types.FunctionType | type) and value.__module__.startswith("emalign_jax")
        imported = name.startswith("catalog.") and getattr(value, "__module__", "") != em.catalog.__name__
        if of_ours and not imported and not name.rpartition(".")[2].startswith("_"):
            named.setdefault(id(value), (name, value))
    return dict(named.values())


PUBLIC = public()
CLASSES = {name: value for name, value in PUBLIC.items() if isinstance(value, type)}


def first_line(docstring: str | None) -> str:
    """What is wrong with the first line; "" if nothing is."""
    lines = (docstring or "").splitlines() or [""]
    if not lines[0].endswith((".", "?")):
        return f"expected a sentence on the first line, got {lines[0]!r}"
    return "" if len(lines) == 1 or lines[1] == "" else "expected an empty line after the first"


def named(docstring: str) -> set[str]:
    """The arguments that a docstring has an entry of, such as `first, of: numbers of games`."""
    entries = re.findall(r"^ {4}([*\w, `]+):(?: |$)", docstring, re.M)
    return {name.strip(" *`") for entry in entries for name in entry.split(",")}


def arguments(value) -> list[str]:
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return []
    kept = inspect.signature(value).parameters
    return [name for name in kept if not name.startswith("_")]


@pytest.mark.host_only
@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_says_what_it_is_and_what_it_takes(name):
    value = PUBLIC[name]
    docstring = inspect.getdoc(value) if value.__doc__ else ""
    assert first_line(docstring) == ""
    described = {entry for each in getattr(value, "__mro__", [value]) for entry in named(inspect.getdoc(each) or "")}
    assert [argument for argument in arguments(value) if argument not in described] == []
    assert ">>> " in docstring, "expected an example"


@pytest.mark.host_only
@pytest.mark.parametrize("name", CLASSES)
def test_public_methods_say_what_they_do(name):
    for member in vars(CLASSES[name]):
        value = getattr(CLASSES[name], member)
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            assert first_line(inspect.getdoc(value)) == "", member


@pytest.fixture(scope="module", autouse=True)
def names_are_forgotten():
    """Examples may define classes with names; tests of other modules must not see them."""
    registries = (em.FAMILIES, MECHANISMS, PROTOCOLS, USERS)
    before = [dict(registry) for registry in registries]
    yield
    for registry, names in zip(registries, before, strict=True):
        registry.clear()
        registry.update(names)


def failures(value, name: str) -> str:
    """What doctest says of the examples of a function, or of a class and its methods."""
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder().find(value, name, module=False, globs=dict(NAMES)):
        runner.run(test, out=said.append)
    return "".join(said)


def marked(name: str):
    marks = {"slow": name in [*SLOW, *NIGHTLY] or name.startswith("plot."), "nightly": name in NIGHTLY}
    return pytest.param(name, marks=[getattr(pytest.mark, mark) for mark, holds in marks.items() if holds])


@pytest.mark.parametrize("name", [marked(name) for name in PUBLIC])
def test_examples_print_what_they_say(name, empty_directory):
    assert failures(PUBLIC[name], name) == ""


@pytest.mark.host_only
def test_what_is_wrong_is_found():
    def wrong(first, second):
        """Adds.

        Args:
            first: a number.

        Example:
            >>> 1 + 1
            3
        """

    assert set(arguments(wrong)) - named(inspect.getdoc(wrong)) == {"second"}
    assert "Expected:\n    3\nGot:\n    2" in failures(wrong, "wrong")
    assert all(first_line(docstring) for docstring in (None, "Adds", "Adds.\nThen stops."))
