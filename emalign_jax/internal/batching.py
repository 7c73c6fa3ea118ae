"""Parameters of protocols and users over batches: each leaf is one value for all games, or has leading batch axes."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Module = TypeVar("Module")


def flatten(module: Module, batch: tuple[int, ...], xp=np) -> Module:
    """`module` with every leaf broadcast to `batch` and flattened to one batch axis, before its own axes
    (`module.axes()`)."""
    check_fits(module, batch)

    def flat(x, core):
        x = xp.asarray(x)
        own = x.shape[x.ndim - core :]
        return xp.broadcast_to(x, (*batch, *own)).reshape(-1, *own)

    return jax.tree.map(flat, module, _axes(module))


def check_fits(module: Any, batch: tuple[int, ...]) -> None:
    """Raise `ValueError` where the batch axes of a parameter do not broadcast with those of the games."""

    def check(x, core):
        axes = np.shape(x)[: np.ndim(x) - core]
        try:
            np.broadcast_shapes(axes, batch)
        except ValueError:
            raise ValueError(
                f"{type(module).__name__}: expected one value for all games or batch axes that broadcast to those of "
                f"the games, {list(batch)}, got {list(axes)}"
            ) from None

    jax.tree.map(check, module, _axes(module))


def index_parts(index: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """`index` of batch axes of this shape as a tuple of what NumPy and jax take: numbers, slices, arrays, masks.

    Raises `IndexError` where it is out of range, which jax would clip.
    """
    if not shape:
        raise IndexError("this is one game, not a batch: there is nothing to index")
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple(np.asarray(part, None if part else int) if isinstance(part, list) else part for part in parts)
    if not any(isinstance(part, Tracer) for part in parts):
        parts = tuple(np.asarray(part) if isinstance(part, jax.Array) else part for part in parts)
        try:
            np.broadcast_to(False, shape)[parts]
        except IndexError as error:
            raise IndexError(f"games with batch axes {list(shape)}: {error}") from None
    return parts


def take(x: Any, parts: tuple[Any, ...], core: int) -> Any:
    """The entries of `x` at the parts of an index of its batch axes, which `core` axes of its own follow."""
    if any(part is Ellipsis for part in parts):  # it must not reach beyond the batch axes
        parts = (*parts, *(slice(None),) * core)
    return x[parts]


def common_dtype(*arrays) -> Any:
    """The dtype of results computed from all of these, by jax's standard promotion of types."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*arrays)


def cast(tree: Any, dtype) -> Any:
    """A tree of jax arrays with its floats as `dtype`; integers, such as seeds and steps, are kept."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def item(module: Module, index: Any) -> Module:
    """`module` for element `index` of the flattened batch; leaves with one value for all games are kept."""

    def pick(x, core):
        if np.ndim(x) == core or np.size(x) == np.prod(np.shape(x)[np.ndim(x) - core :], dtype=int):
            return x if np.ndim(x) == core else np.reshape(x, np.shape(x)[np.ndim(x) - core :])
        return np.reshape(x, (-1, *np.shape(x)[np.ndim(x) - core :]))[index]

    return jax.tree.map(pick, module, _axes(module))


def _axes(module):
    return module.axes() if hasattr(module, "axes") else jax.tree.map(lambda _: 0, module)
