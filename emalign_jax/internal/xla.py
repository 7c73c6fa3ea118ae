"""Compilation for the machine at hand."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.experimental.xla_metadata import set_xla_metadata

WIDE = {"xla_cpu_prefer_vector_width": 512}  # AVX-512 where there is one: XLA takes half of it unless told
# and sums of its own, not of a library, for a call of that cannot be inside a kernel
OWN = WIDE | {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def options(own: bool = False) -> dict[str, Any]:
    """Of XLA: nothing on an accelerator, or where this XLA does not know the words."""
    chosen = OWN if own else WIDE
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=chosen)(0.0)
    except Exception:  # whatever this version of XLA says to an option that it does not know
        return {}
    return chosen


def one_kernel(fun: Callable[..., Any], *args) -> Any:
    """fun(*args) inside a compiled function, on a CPU as one kernel on one core.

    XLA runs a loop of small steps there as a graph of kernels, handed to a pool of threads one by one: more work than
    the arithmetic, and in the way of callers who have a thread a core. It knows better for loops over up to a kilobyte,
    which it marks as calls to be emitted whole (`SmallWhileLoopHoistingPass`); these are its marks, for any size.
    Only for what has every sum written out: XLA's own sums are slow in there, and some operations are impossible
    (`jax.errors.JaxRuntimeError` when compiled).
    """
    if not options(True):
        return fun(*args)

    def unmarked(*args):
        with set_xla_metadata(inlineable=None, xla_cpu_small_call=None):
            return fun(*args)

    with set_xla_metadata(inlineable="false", xla_cpu_small_call="true"):
        return jax.jit(unmarked)(*args)


def filter_jit(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit` for what may use `one_kernel`."""
    return _at_first_call(fun, eqx.filter_jit, True)


def jit(fun: Callable[..., Any], **static) -> Callable[..., Any]:
    """`jax.jit` with vectors as wide as there are."""
    return _at_first_call(fun, functools.partial(jax.jit, **static), False)


def _at_first_call(fun, wrap, own):
    """Importing starts no backend; threads share what is made."""
    lock, made = threading.Lock(), []

    @functools.wraps(fun)
    def call(*args, **kwargs):
        with lock:
            if not made:
                made.append(wrap(fun, compiler_options=options(own)))
        return made[0](*args, **kwargs)

    return call


def update_of(optimizer, *args):
    """optimizer.update(*args): optax multiplies its integer counts by floats, which a session of strict promotion of
    types (`jax_numpy_dtype_promotion`) refuses."""
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(*args)
