"""Compiler options for this machine."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata

from emalign_jax.internal.transfers import noted

# Vectors as wide as those of AVX-512, if the CPU has it; the default is half of that.
WIDE = {"xla_cpu_prefer_vector_width": 512}
# In addition, sums by XLA's own code, because calls of a library cannot be inside a kernel.
OWN = WIDE | {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def options(own: bool = False) -> dict[str, Any]:
    """Options for XLA; none on an accelerator, or if this version of XLA does not know them."""
    chosen = OWN if own else WIDE
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=chosen)(0.0)
    except Exception:  # raised for an unknown option, of a type that depends on the version
        return {}
    return chosen


def one_kernel(fun: Callable[..., Any], *args) -> Any:
    """fun(*args) inside a compiled function, on a CPU as one kernel on one core.

    On a CPU XLA runs a loop of small steps as a graph of kernels, each of which is handed to a pool of threads. This
    costs more than the arithmetic, and disturbs callers that use one thread for each core. XLA marks loops over up to a
    kilobyte as calls to be compiled as a whole (`SmallWhileLoopHoistingPass`); here the same marks are set for any
    size. Only for functions with every sum written out (`sums.py`): XLA's own sums are slow inside a kernel, and some
    operations are not possible (`jax.errors.JaxRuntimeError` when compiled).
    """
    if not options(True):
        return fun(*args)

    def unmarked(*args):
        with set_xla_metadata(inlineable=None, xla_cpu_small_call=None):
            return fun(*args)

    with set_xla_metadata(inlineable="false", xla_cpu_small_call="true"):
        return jax.jit(unmarked)(*args)


def filter_jit(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit` for functions that may use `one_kernel`."""
    return _at_first_call(fun, eqx.filter_jit, True)


def jit(fun: Callable[..., Any], **static) -> Callable[..., Any]:
    """`jax.jit` with the widest vectors of the CPU."""
    return _at_first_call(fun, functools.partial(jax.jit, **static), False)


def stage(*static: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of functions of arrays with a keyword `xp`: run as they are with NumPy, compiled with `jax.numpy`.

    static: further keywords that are no arrays.

    One long computation is written as several such functions, whose results are stored. XLA on a CPU puts cheap
    arithmetic into all loops that use it; of a long chain with several uses of each number it computes most numbers
    many times (a tenth of the speed in `concavification/cells.py`).
    """

    def decorate(fun):
        compiled = jit(fun, static_argnames=("xp", *static))

        @functools.wraps(fun)
        def call(*args, xp, **kwargs):
            return (fun if xp is np else compiled)(*args, xp=xp, **kwargs)

        setattr(call, "stage", fun)  # noqa: B010 - tests compile it for other platforms
        return call

    return decorate


def _at_first_call(fun, wrap, own):
    """Compile `fun` at the first call, so that importing a module starts no backend; threads share the result."""
    lock, made = threading.Lock(), []

    @functools.wraps(fun)
    def call(*args, **kwargs):
        with lock:
            if not made:
                made.append(noted(fun, wrap(fun, compiler_options=options(own))))
        return made[0](*args, **kwargs)

    return call


def update_of(optimizer, *args):
    """optimizer.update(*args) with the standard promotion of types: optax multiplies integers by floats, which sessions
    with strict promotion (`jax_numpy_dtype_promotion`) refuse."""
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(*args)
