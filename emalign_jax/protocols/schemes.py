"""Signaling schemes: [..., K, XB, M]; row x_B of agent i is a distribution over its messages.

In a conversation they are whole rules, [..., K, XB * H, M]: a row for each x_B and own history (see
`users/conversation_tree.py`).
"""

from __future__ import annotations

import math
from functools import partial
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from emalign_jax.games.game import Array, Game
from emalign_jax.internal.arguments import FINITE, integer, number
from emalign_jax.internal.float64 import in_float64
from emalign_jax.internal.transfers import fetch
from emalign_jax.internal.validation import as_float_array, as_key
from emalign_jax.protocols import AbstractProtocol

# Games drawn in one call of `numbered_schemes`.
DRAWN_TILE = 256
# Rows of a float32 softmax miss 1 by about 1e-7, rows in files may be rounded.
ROW_SUM_TOLERANCE = 1e-5


def random_schemes(
    key: jax.Array | SupportsIndex,
    games: int,
    agents: int,
    features: int,
    messages: int,
    *,
    spread: float = 1.0,
    first: int = 0,
) -> Float[jax.Array, "N K XB M"]:
    """Random schemes, softmax of normal logits.

    Args:
        key: a jax key, or an integer seed.
        games: their number N.
        agents: their number K.
        features: the number XB of values of x_B.
        messages: the number M of messages.
        spread: standard deviation of the logits.
        first: number of the first game; scheme n of the batch depends on (key, first + n) alone.

    Returns:
        [N, K, XB, M], in jax's default float dtype.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> em.random_schemes(0, games=10, agents=2, features=4, messages=3).shape
        (10, 2, 4, 3)
    """
    games, first = integer("games", games, 0), integer("first", first, 0)
    spread, shape = number("spread", spread, *FINITE), _sizes(agents=agents, features=features, messages=messages)
    return _softmax_of_normals(as_key(key), first + jnp.arange(games), shape, spread)


def _softmax_of_normals(key, numbers, shape, spread=1.0):
    """Computed from random integers and in float64: in float32 rounding depends on how the code is compiled, and play
    from schemes that differ by one rounding may end in another equilibrium."""
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)
    drawn = jax.vmap(lambda k: jax.random.bits(k, shape, jnp.uint32))(keys)

    def softmax(drawn, spread):
        uniform = (drawn.astype(spread.dtype) + 0.5) * 2.0**-31 - 1  # in (-1, 1)
        return jax.nn.softmax(spread * math.sqrt(2) * jax.scipy.special.erfinv(uniform), axis=-1)

    return in_float64(softmax, drawn, spread, dtype=jnp.result_type(float))


def numbered_schemes(
    key: jax.Array, first: int, games: int, agents: int, features: int, messages: int
) -> Float[np.ndarray, "N K XB M"]:
    """`random_schemes` of games first, first + 1, ... in float64, the same to the last bit in any batch.

    Compiled arithmetic may round differently in another batch size or another lane of a vector. So games are drawn in
    whole tiles, whose borders do not depend on the batch.
    """
    begin = first // DRAWN_TILE * DRAWN_TILE
    tiles = [_draw_tile(key, at, agents, features, messages) for at in range(begin, first + games, DRAWN_TILE)]
    drawn = np.concatenate(fetch(tiles)).astype(np.float64)[first - begin :][:games]
    return drawn / drawn.sum(-1, keepdims=True)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _draw_tile(key, first, agents, features, messages):
    return _softmax_of_normals(key, first + jnp.arange(DRAWN_TILE), (agents, features, messages))


def _sizes(**sizes) -> tuple[int, ...]:
    return tuple(integer(name, size, 1) for name, size in sizes.items())


def full_revelation(agents: int, features: int, messages: int) -> Float[np.ndarray, "K XB M"]:
    """The schemes in which every agent sends message x_B.

    Args:
        agents: their number K.
        features: the number XB of values of x_B.
        messages: the number M of messages.

    Returns:
        [K, XB, M], NumPy float64.

    Raises:
        ValueError: if M < XB.

    Example:
        >>> em.full_revelation(1, 2, 3).tolist()
        [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]
    """
    agents, features, messages = _sizes(agents=agents, features=features, messages=messages)
    if messages < features:
        raise ValueError(f"messages: full revelation of XB = {features} features needs as many, got M = {messages}")
    return np.broadcast_to(np.eye(features, messages), (agents, features, messages)).copy()


def no_information(agents: int, features: int, messages: int) -> Float[np.ndarray, "K XB M"]:
    """The schemes in which every agent always sends message 0.

    Args:
        agents: their number K.
        features: the number XB of values of x_B.
        messages: the number M of messages.

    Returns:
        [K, XB, M], NumPy float64.

    Example:
        >>> em.no_information(1, 2, 3).tolist()
        [[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]
    """
    agents, features, messages = _sizes(agents=agents, features=features, messages=messages)
    scheme = np.zeros((agents, features, messages))
    scheme[..., 0] = 1
    return scheme


def to_logits(schemes: Float[Array, "*shape M"], floor: float) -> Float[jax.Array, "*shape M"]:
    """Logits of `schemes` mixed with the uniform distribution (weight `floor`), so that play can still move."""
    messages = schemes.shape[-1]
    logits = jnp.log((1 - floor) * jnp.asarray(schemes) + floor / messages)
    return logits - logits.max(-1, keepdims=True)


def check_shape(
    games: Game, shape: tuple[int, ...], protocol: AbstractProtocol | None = None, field: str = "schemes"
) -> None:
    """Raise `ValueError` if schemes of this shape do not fit `games`; without a protocol XB rows are expected."""
    rows, name = games.agent_features, "XB"
    if protocol is not None and protocol.conversation is not None and shape[-1:] == (0,):
        raise ValueError(f"{field}: expected shape [..., K = {games.agents}, rows, M] with M >= 1, got {list(shape)}")
    if protocol is not None and protocol.conversation is not None and len(shape) > 1 and shape[-1] >= 1:
        rows, name = protocol.rows(games, shape[-1]), f"rows = XB * H (M = {shape[-1]})"
    if len(shape) < 3 or shape[-3:-1] != (games.agents, rows) or shape[-1] < 1:
        raise ValueError(
            f"{field}: expected shape [..., K = {games.agents}, {name} = {rows}, M] with M >= 1, got {list(shape)}"
        )


def check_schemes(
    games: Game, schemes, protocol: AbstractProtocol | None = None, field: str = "schemes"
) -> Float[np.ndarray, "*batch K XB M"]:
    """`schemes` as float64, rows rescaled to sum to 1 exactly.

    Profiles with numbers that are not finite become NaN and are not refused, so that only their own game is lost.
    Raises `ValueError` if the shape does not fit `games`, or if a row is no distribution.
    """
    array = np.asarray(as_float_array(field, schemes), np.float64)
    check_shape(games, array.shape, protocol, field)
    try:
        np.broadcast_shapes(games.batch_shape, array.shape[:-3])
    except ValueError:
        raise ValueError(
            f"{field}: batch axes {list(array.shape[:-3])} do not fit those of the games, {list(games.batch_shape)}"
        ) from None
    finite = np.isfinite(array).all((-3, -2, -1), keepdims=True)
    sums = array.sum(-1, keepdims=True)
    for wrong, rule in (
        (finite & (array < 0), "must not be negative"),
        (finite & (abs(sums - 1) > ROW_SUM_TOLERANCE), f"must sum to 1 over M (within {ROW_SUM_TOLERANCE:g})"),
    ):
        if wrong.any():
            where = tuple(int(x) for x in np.argwhere(wrong)[0])
            what = array[where] if "negative" in rule else sums[where]
            raise ValueError(f"{field}{list(where[: array.ndim])}: got {what}, a row {rule}")
    return np.where(finite, array / np.where(finite, sums, 1), np.nan)
