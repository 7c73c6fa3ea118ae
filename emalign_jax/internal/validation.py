"""Checks of the arguments of public functions: games, schemes, protocols, users, keys.

Each public function calls `checked` on its first lines, so that a slip (exchanged arguments, a class in place of an
instance, a word in place of a protocol) raises a `ValueError` that says what to write.
"""

from __future__ import annotations

import dataclasses
import inspect
import numbers
import operator
import os
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from emalign_jax.internal import arguments
from emalign_jax.internal.arguments import shown

Array = jax.Array | np.ndarray

# Seeds are smaller: of larger integers jax drops bits, or refuses them, depending on its settings.
SEEDS = 2**32
# Arguments that are numbers or arrays of numbers, and what is expected of them.
NUMBERS = {
    "gains": "a number or an array [..., K]",
    "budget": "a number or an array over the batch",
    "user_utility": "an array [..., A, Y]",
    "agent_utilities": "an array [..., K, A, Y]",
}
# The classes of which an argument must be an instance, and an example. Modules of the classes fill it by `describe`.
CLASSES: dict[str, tuple[tuple[type, ...], str]] = {}
BOOLEANS = "exact", "obedience", "verify", "smooth", "anonymous", "record"
OPTIONAL = ("key", "start", "solver", "mechanism", "objective", "differentiation")


def checked(**given: Any) -> tuple[Any, ...]:
    """The arguments, in the order in which they are given, which should be that of the caller's signature.

    An argument is checked by its name: schemes (an array, or an object with `.schemes`, such as a `Solution`), start
    (the same or a word), key (a jax key or an integer seed), numbers (see `NUMBERS`), True or False (see `BOOLEANS`), a
    function (progress), a path, or an instance (see `CLASSES`). Arguments with other names are not checked, and None is
    accepted where it stands for a default.
    Raises `ValueError` that says what to write.
    """
    return tuple(_check(name, value, tuple(given)) for name, value in given.items())


def _check(name: str, value: Any, names: tuple[str, ...]) -> Any:
    if value is None and name in OPTIONAL:
        return None
    if name in ("schemes", "start"):
        return value if name == "start" and isinstance(value, str) else _schemes(name, value, names)
    if name == "key":
        return _key(name, value, names)
    if name in NUMBERS:
        return _numbers(name, value, names)
    if name in BOOLEANS:
        return arguments.boolean(name, value)
    if name == "progress":
        return arguments.function(name, value)
    if name == "path" and not isinstance(value, str | os.PathLike):
        _refuse(name, value, names, "a path")
    return _an_instance(name, value, names) if name in CLASSES else value


def check_precision(**given: Any) -> None:
    """Raise `ValueError` that names the field if x64 is off and a number is too large for float32."""
    if jnp.result_type(float) == jnp.float64:
        return
    for path, leaf in jax.tree_util.tree_leaves_with_path(given):
        if not (isinstance(leaf, np.ndarray) and leaf.dtype == np.float64):
            continue
        large = leaf[np.isfinite(leaf) & (abs(leaf) > np.finfo(np.float32).max)]
        if large.size:
            name = getattr(path[-1], "name", None) or getattr(path[-1], "key", "")
            raise ValueError(
                f"{name}: {large[0]:g} is too large for float32, in which jax computes here: take a larger unit, or "
                'switch float64 on by jax.config.update("jax_enable_x64", True)'
            )


def as_key(key: Any) -> jax.Array:
    """A jax key from a key or an integer seed."""
    return _key("key", key, ())


def describe(names: tuple[str, ...], cls: type, example: str) -> None:
    """Register that arguments of these names must be instances of `cls`; several classes may share a name.

    example: for error messages, such as "a user such as em.RationalUser()".
    """
    for name in names:
        CLASSES[name] = ((*CLASSES.get(name, ((), ""))[0], cls), example)


def _classes(name: str) -> tuple[type, ...]:
    """The classes of which `name` takes instances; none before their modules are imported."""
    return CLASSES[name][0] if name in CLASSES else ()


def _an_instance(name: str, value: Any, names: tuple[str, ...]) -> Any:
    kinds, example = CLASSES[name]
    if isinstance(value, kinds):
        return value
    if isinstance(value, type) and issubclass(value, kinds):
        raise ValueError(f"{name}: got the class {value.__name__}, expected an instance: write {_call(value)}")
    if isinstance(value, str) and (named := _named(value, kinds)):
        raise ValueError(f"{name}: got the word {value!r}: write {_call(named)}")
    if name == "user" and isinstance(value, numbers.Real):
        written = "em.RationalUser()" if value == np.inf else f"em.QuantalUser({shown(value)})"
        raise ValueError(f"user: got the number {shown(value)}: write {written}")
    _refuse(name, value, names, example)


def _schemes(name: str, value: Any, names: tuple[str, ...]) -> Any:
    array = getattr(value, "schemes", value)
    if isinstance(array, (list, tuple)) or hasattr(array, "__array__"):
        return as_float_array(name, array)
    _refuse(name, value, names, "an array [..., K, XB, M] or a Solution")


def _numbers(name: str, value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, _classes("game")) and hasattr(value, name):
        raise ValueError(f"{name}: got a Game: write {name} = game.{name}")
    if _place(value) in (None, "schemes") and value is not None:
        return as_float_array(name, value)
    _refuse(name, value, names, NUMBERS[name])


def _key(name: str, value: Any, names: tuple[str, ...]) -> Any:
    expected = f"{name}: expected a key such as jax.random.key(0), or an integer seed"
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            if value.shape:
                raise ValueError(f"{expected}, got {list(value.shape)} keys: pass one of them")
            return value
        if value.dtype == np.uint32 and value.ndim == 1 and len(value) in (2, 4):  # of jax.random.PRNGKey
            return value
        if isinstance(value, Tracer) and value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer):
            return jax.random.key(value)
    if isinstance(value, (jax.Array, np.ndarray)) and (value.ndim or isinstance(value, Tracer)):
        raise ValueError(f"{expected}, got an array of shape {list(value.shape)} and dtype {value.dtype}")
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        seed = operator.index(value)
    except TypeError:
        _refuse(name, value, names, "a key such as jax.random.key(0), or an integer seed")
    if not 0 <= seed < SEEDS:
        raise ValueError(f"{expected} from 0 to {SEEDS - 1}, got {shown(seed)}")
    return jax.random.key(seed)


def _refuse(name: str, value: Any, names: tuple[str, ...], example: str) -> Any:
    """Raise `ValueError`; it says which argument takes such a value, if there is one."""
    what, right = shown(value), _place(value)
    if right is not None and right != name:
        order = f"; the order is {', '.join(names)}" if right in names else ""
        raise ValueError(f"{name}: expected {example}, got {what}, which is what `{right}` takes{order}")
    raise ValueError(f"{name}: expected {example}, got {what}")


def _place(value: Any) -> str | None:
    """The name of the argument that takes such a value; None if there is none."""
    cls = value if isinstance(value, type) else type(value)
    for name in ("games", "protocol", "user", "solver", "mechanism", "objective", "differentiation"):
        if issubclass(cls, _classes(name)):
            return name
    return "schemes" if isinstance(value, (np.ndarray, jax.Array)) or hasattr(value, "schemes") else None


def _named(word: str, kinds: tuple[type, ...]) -> type | None:
    """The class whose name is `word` or begins with it ("rational" for RationalUser)."""
    plain = word.lower().replace("_", "").replace(" ", "")
    for cls in (found for kind in kinds for found in _concrete(kind)):
        own = cls.__name__.lower()
        if plain and (plain == own or (len(plain) > 3 and own.startswith(plain))):
            return cls
    return None


def _concrete(cls: type) -> Iterator[type]:
    """The class and its subclasses, without abstract ones."""
    if not inspect.isabstract(cls):
        yield cls
    for below in cls.__subclasses__():
        yield from _concrete(below)


def _call(cls: type) -> str:
    """The call that makes an instance, with the required arguments."""
    needed = [
        name
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    package, folder = (*cls.__module__.split("."), "")[:2]
    where = "" if package != "emalign_jax" else "em.mechanisms." if folder == "mechanisms" else "em."
    return f"{where}{cls.__name__}({', '.join(needed)})"


def as_float_array(field: str, value) -> Array:
    """`value` as an array of floats. Raises `ValueError` if it is no array of real numbers."""
    if isinstance(value, jax.Array):
        if jnp.issubdtype(value.dtype, jnp.floating):
            return value
        if jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == bool:
            return value.astype(jnp.result_type(float))
        raise ValueError(f"{field}: expected real numbers, got dtype {value.dtype}")
    if isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{field}: expected real numbers, got {value}")
    if isinstance(value, eqx.Module):  # a game or a result, through which NumPy would iterate
        raise ValueError(f"{field}: expected real numbers, got {shown(value)}")
    if _masked(value):
        raise ValueError(f"{field}: expected an array without a mask, got a masked array: fill in what is missing")
    try:
        array = np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        raise ValueError(f"{field}: expected an array, got a list of traced ones: write jnp.stack") from None
    except ValueError:
        raise ValueError(f"{field}: expected a rectangular array of numbers, got ragged rows") from None
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype.kind != "f":
        what = f"dtype {array.dtype}" if array.ndim or np.iscomplexobj(array) else shown(value)
        raise ValueError(f"{field}: expected real numbers, got {what}")
    if array.dtype.itemsize > 8:  # jax has no longer floats
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(np.float64)
    return array


def _masked(value: Any) -> bool:
    """Whether `value` is a masked array, or a list with one in it."""
    return isinstance(value, np.ma.MaskedArray) or (isinstance(value, (list, tuple)) and any(map(_masked, value)))


def float_parameter(name: str, value: Any, expected: str, holds: Any) -> Array:
    """A number, or an array of numbers over the batch, if `holds` is true of all. Traced values are not checked."""
    array = as_float_array(name, value)
    if isinstance(array, Tracer):
        return array
    array = array if isinstance(array, jax.Array) else np.asarray(array, np.float64)
    wrong = np.asarray(array)[~holds(np.asarray(array))]
    if wrong.size:
        raise ValueError(f"{name}: expected {expected}, got {wrong.flat[0]}")
    return array


def described(module: Any) -> str:
    """The class of a module and its parameters that are single numbers or words, as a title has it."""
    fields = {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}
    plain = [
        f"{name} {x}" if isinstance(x, str) else f"{name} {float(x):g}"
        for name, x in fields.items()
        if isinstance(x, str | numbers.Real) or getattr(x, "shape", None) == ()
    ]
    return type(module).__name__ + (f" ({', '.join(plain)})" if plain else "")


def parameter(name: str, default: float, expected: str, holds: Any) -> Any:
    """A field of a protocol, user or mechanism: a finite number, or an array of them over the batch.

    What is given is checked when the module is made; what is traced is not looked at.

    Args:
        name: of the field.
        default: its value where none is given.
        expected: what it has to be, in words, such as "a number > 0".
        holds: the same as a function of an array, elementwise: `lambda x: x > 0`.

    Raises:
        ValueError: for anything else, when the module is made.

    Example:
        >>> class Taxed(em.AbstractMechanism):
        ...     rate: jax.Array = em.parameter("rate", 0.1, "a number in [0, 1]", lambda x: (x >= 0) & (x <= 1))
        ...     init = apply = describe = None
        >>> Taxed(rate=2.0)
        Traceback (most recent call last):
            ...
        ValueError: rate: expected a number in [0, 1], got 2.0
    """
    convert = lambda value: float_parameter(name, value, expected, lambda x: np.isfinite(x) & holds(x))  # noqa: E731
    return eqx.field(default=default, converter=convert)


def setting(name: str, default: Any, check: Any, *rule: Any) -> Any:
    """A static field of a module, converted by `check(name, value, *rule)`; None is kept if it is the default."""
    convert = lambda value: None if value is default is None else check(name, value, *rule)  # noqa: E731
    words = {"words": rule[0]} if check is arguments.choice else {}
    return eqx.field(static=True, default=default, converter=convert, metadata=words)


def on_host(**given: Any) -> tuple[Any, ...]:
    """`checked`, for functions that compute on the host in float64 and cannot be traced.

    Raises `ValueError` under jit, vmap and grad that says what to use instead.
    """
    traced = [name for name, value in given.items() if any(isinstance(x, Tracer) for x in jax.tree.leaves(value))]
    if traced or isinstance(jnp.zeros(()), Tracer):
        raise ValueError(
            f"{(traced or [*given])[0]}: traced, but this computes on the host: call it outside of jit, vmap and grad; "
            "inside take em.payoffs, em.pseudo_gradient or em.solve(..., em.SmoothPlay(), "
            "differentiation=em.Implicit())"
        )
    return checked(**given)


def optimizer_of(name: str, value: Any) -> Any:
    """`value`, which must be an optax transformation."""
    if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        raise ValueError(f"{name}: expected an optax transformation such as optax.adam(0.1), got {shown(value)}")
    return value
