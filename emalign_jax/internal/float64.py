"""Pure JAX functions in float64, whatever the session's default.

Inside `jax.enable_x64(True)` a function can be traced in float64. But JAX transposes, batches and lowers the trace
later, outside of the context, where it reduces it to float32. So the trace is kept in one primitive, and every rule of
the primitive enters the context. Derivatives are linear functions in float64, in the same primitive. Their residuals
from the forward pass are passed on as integers of 32 bits, which no rule of JAX changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


def in_float64(fun: Callable[..., Any], *args: Any, dtype: Any) -> Any:
    """fun(*args) with every float of the arguments as float64, and every float of the result as `dtype`.

    fun: from pytrees of arrays to a pytree of arrays; it may close over constants only.

    The call can be compiled, batched and differentiated like `fun`, in sessions with and without x64.
    """
    leaves, tree = jax.tree.flatten(args)
    leaves = [jnp.asarray(x) for x in leaves]
    x64 = jnp.zeros(()).dtype == jnp.float64
    whole = jnp.int64 if x64 else jnp.int32
    trees = []

    def flat(*leaves):
        out, out_tree = jax.tree.flatten(fun(*jax.tree.unflatten(tree, [_as(x, jnp.float64) for x in leaves])))
        trees.append(out_tree)
        return [_as(_as(jnp.asarray(x), dtype), whole, jnp.signedinteger) for x in out]

    out = flat(*leaves) if x64 else _bind(flat, *leaves)
    return jax.tree.unflatten(trees[-1], out)


def _as(x, dtype, kind: Any = jnp.floating):
    return x.astype(dtype) if jnp.issubdtype(x.dtype, kind) else x


# `linear` is the number of its last arguments in which the function is linear; 0 for functions that are not linear.
_float64 = Primitive("in_float64")
_float64.multiple_results = True


def _bind(fun: Callable[..., Any], *args: Any, linear: int = 0) -> list[Any]:
    """`fun`, of arrays to a list of arrays, traced in float64."""
    return _float64.bind(*args, jaxpr=_trace(fun, *map(jax.typeof, args)), linear=linear)


def _trace(fun, *avals) -> ClosedJaxpr:
    with jax.enable_x64(True):
        return jax.make_jaxpr(fun)(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in avals))


def _call(*args, jaxpr, linear):
    with jax.enable_x64(True):
        return jax.jit(jaxpr_as_fun(jaxpr))(*args)


def _lower(ctx, *args, jaxpr, linear):
    with jax.enable_x64(True):
        return mlir.lower_fun(jaxpr_as_fun(jaxpr), multiple_results=True)(ctx, *args)


def _batch(args, dims, *, jaxpr, linear):
    batched = jax.vmap(jaxpr_as_fun(jaxpr), tuple(dims), 0)
    out = _bind(batched, *args, linear=linear)
    return out, [0] * len(out)


def _jvp(primals, tangents, *, jaxpr, linear):
    fun, n = jaxpr_as_fun(jaxpr), len(primals)
    moves = [k for k in range(n) if type(tangents[k]) is not ad.Zero]
    floats = [k for k, x in enumerate(jaxpr.out_avals) if jnp.issubdtype(x.dtype, jnp.inexact)]
    handed = []

    def forward(*args):
        def of_moving(*moving):
            every = list(args)
            for k, x in zip(moves, moving, strict=True):
                every[k] = x
            out = fun(*every)
            return [out[k] for k in floats], out

        _, along, out = jax.linearize(of_moving, *(args[k] for k in moves), has_aux=True)
        kept, tree = jax.tree.flatten(along)
        handed.append((tree, [x.dtype for x in kept]))
        return [*out, *map(_pack, kept)]

    def linear_part(*args):
        tree, dtypes = handed[-1]
        kept = [_unpack(x, dtype) for x, dtype in zip(args, dtypes, strict=False)]
        return jax.tree.unflatten(tree, kept)(*args[len(kept) :])

    out = _bind(forward, *primals)
    out, kept = out[: len(jaxpr.out_avals)], out[len(jaxpr.out_avals) :]
    moved = _bind(linear_part, *kept, *(tangents[k] for k in moves), linear=len(moves))
    slopes: list[Any] = [ad.Zero(jax.typeof(x).to_tangent_aval()) for x in out]
    for k, x in zip(floats, moved, strict=True):
        slopes[k] = x
    return out, slopes


def _transpose(cotangents, *args, jaxpr, linear):
    fun = jaxpr_as_fun(jaxpr)
    known, unknown = args[: len(args) - linear], args[len(args) - linear :]
    given = [x.instantiate() if type(x) is ad.Zero else x for x in cotangents]
    shapes = [jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in unknown]

    def back(*args):
        fixed, given = args[: len(known)], args[len(known) :]
        return list(jax.linear_transpose(lambda *x: fun(*fixed, *x), *shapes)(list(given)))

    return [None] * len(known) + _bind(back, *known, *given, linear=len(given))


def _pack(x):
    """Numbers of 64 bits as pairs of integers of 32 bits, which are the same in all sessions."""
    wide = x.dtype.itemsize == 8
    return jax.lax.bitcast_convert_type(x, np.uint32) if wide else x


def _unpack(x, dtype):
    return jax.lax.bitcast_convert_type(x, dtype) if np.dtype(dtype).itemsize == 8 else x


_float64.def_impl(_call)
_float64.def_abstract_eval(lambda *_, jaxpr, linear: list(jaxpr.out_avals))
mlir.register_lowering(_float64, _lower)
batching.primitive_batchers[_float64] = _batch
ad.primitive_jvps[_float64] = _jvp
ad.primitive_transposes[_float64] = _transpose
