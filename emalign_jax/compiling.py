"""Compilation for the machine at hand."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.experimental.xla_metadata import set_xla_metadata

# AVX-512 where there is one: XLA takes half of it unless told. Sums stay XLA's own, for calls of a library end a kernel
CPU = {"xla_cpu_prefer_vector_width": 512, "xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def options() -> dict[str, Any]:
    """Of XLA: nothing on an accelerator, or where this XLA does not know the words."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=CPU)(0.0)
    except Exception:  # whatever this version of XLA says to an option that it does not know
        return {}
    return CPU


def one_kernel(fun: Callable[..., Any], *args) -> Any:
    """fun(*args) inside a compiled function, on a CPU as one kernel on one core.

    XLA runs a loop of small steps there as a graph of kernels, handed to a pool of threads one by one: more work than
    the arithmetic, and in the way of callers who have a thread a core. It knows better for loops over up to a kilobyte,
    which it marks as calls to be emitted whole (`SmallWhileLoopHoistingPass`); these are its marks, for any size.
    Only for what has every sum written out: XLA's own sums are slow in there, and some operations are impossible
    (`jax.errors.JaxRuntimeError` when compiled).
    """
    if not options():
        return fun(*args)

    def unmarked(*args):
        with set_xla_metadata(inlineable=None, xla_cpu_small_call=None):
            return fun(*args)

    with set_xla_metadata(inlineable="false", xla_cpu_small_call="true"):
        return jax.jit(unmarked)(*args)


def filter_jit(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit` with `options()`."""
    return _at_first_call(fun, eqx.filter_jit)


def jit(fun: Callable[..., Any], **static) -> Callable[..., Any]:
    """`jax.jit` with `options()`."""
    return _at_first_call(fun, functools.partial(jax.jit, **static))


def _at_first_call(fun, wrap):
    """Importing starts no backend; threads share what is made."""
    lock, made = threading.Lock(), []

    @functools.wraps(fun)
    def call(*args, **kwargs):
        with lock:
            if not made:
                made.append(wrap(fun, compiler_options=options()))
        return made[0](*args, **kwargs)

    return call
