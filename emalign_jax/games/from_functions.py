"""Games from functions: utilities u(a, y) on a grid of actions and of outcomes (section 8.3 of docs/model.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from emalign_jax.games.families.continuous import midpoints
from emalign_jax.games.game import Game
from emalign_jax.games.labels import Labels
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import integer, shown
from emalign_jax.internal.validation import as_float_array, as_key, on_host

# Memory that making a game takes for each number in it.
BYTES_A_NUMBER = 32
# Probabilities of a feature given y may miss 1 by rounding in float32.
SUM_TOLERANCE = 1e-5


def game_from_functions(
    user,
    agents,
    *,
    actions: Any,
    outcomes: Any = 20,
    points: int | None = None,
    key: Any = 0,
    agents_see: Any = None,
    user_sees: Any = None,
    labels: Labels | None = None,
) -> Game:
    """One game, in NumPy float64, whose utilities are functions of an action and an outcome.

    Given y, x_A and x_B are independent. The number N of outcomes is a parameter of the experiment:
    `values_against_size` shows what depends on it.

    Args:
        user: u(a, y). It is called once, with NumPy arrays that broadcast against each other: a [A, 1] and y [1, N],
            or [A, 1, D] and [1, N, D] where actions or outcomes are vectors; its answer must broadcast to [A, N]. A
            function of one pair becomes such a function by `numpy.vectorize`.
        agents: U_i(a, y), a list of such functions, or {name: function}, whose names become labels.
        actions: [A] or [A, D].
        outcomes: the number N of midpoints of equal cells of [0, 1], all equally likely; or a quadrature rule
            (points, weights), [N] or [N, D] and [N], weights >= 0, which are divided by their sum; or a function of
            (jax key, N) that draws [N] or [N, D].
        points: N, if `outcomes` is a function.
        key: of the draws, a jax key or an integer seed.
        agents_see: x_B: a function of y [N] or [N, D] that gives x(y) [N], whose different values, in order, become
            0, 1, ...; or likelihoods p(x | y) [N, X], whose rows add up to 1; or a number X <= N of groups of
            neighbouring outcomes, of (nearly) the same size. None: agents see y itself.
        user_sees: x_A, as `agents_see`. None: the user sees nothing.
        labels: `em.Labels`; None: the names of the agents.

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> loss, more = lambda a, y: -((a - y) ** 2), lambda a, y: a + 0 * y
        >>> game = em.game_from_functions(loss, {"seller": more}, actions=np.linspace(0, 1, 21), outcomes=10)
        >>> game.actions, game.outcomes, game.names("agents")
        (21, 10, ('seller',))

    Source: section 8.3 of docs/model.md.
    """
    on_host(key=None)  # refused where jax traces
    a = _grid("actions", actions)
    mapped = isinstance(agents, Mapping)
    functions = dict(agents) if mapped else dict(enumerate(agents)) if isinstance(agents, Sequence) else {}
    if not functions:
        raise ValueError(
            f"agents: expected a list of functions U_i(a, y), or a dictionary of them, got {shown(agents)}"
        )
    y, weights = _outcomes(outcomes, points, key, len(a) * (1 + len(functions)))
    N = len(y)
    _require(N * N if agents_see is None else N, "a prior of that size")
    u = _utility("user", user, a, y)
    own = np.stack([_utility(f"agents[{name!r}]", function, a, y) for name, function in functions.items()])
    seen_by_user = np.ones((N, 1)) if user_sees is None else _feature("user_sees", user_sees, y)
    seen_by_agents = np.eye(N) if agents_see is None else _feature("agents_see", agents_see, y)
    _require(seen_by_user.shape[1] * seen_by_agents.size, "a prior of that size")
    prior = np.einsum("y,yi,yj->ijy", weights, seen_by_user, seen_by_agents)
    if mapped:
        labels = labels or Labels()
        labels = labels if labels.agents else labels.replace(agents=tuple(functions))
    return Game(prior / prior.sum(), u, own, labels=labels)


def _grid(name: str, given: Any) -> np.ndarray:
    """[n] or [n, D], finite numbers."""
    array = np.asarray(as_float_array(name, given), np.float64)
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise ValueError(f"{name}: expected [n] or [n, D] numbers, got shape {list(array.shape)}")
    return _finite(name, array)


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all():
        at = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(f"{name}: must be finite, got {array[tuple(at)]} at {at}")
    return array


def _require(numbers: int, what: str) -> None:
    memory.require(BYTES_A_NUMBER * numbers, f"outcomes: {what}, {numbers} numbers,")


def _outcomes(given: Any, points: Any, key: Any, each: int) -> tuple[np.ndarray, Float[np.ndarray, "N"]]:
    """The outcomes [N] or [N, D], and their probabilities; each: numbers that each of them takes in the utilities."""
    if not callable(given) and points is not None:
        raise ValueError("points: goes with outcomes that are a sampler")
    if callable(given):
        if points is None:
            raise ValueError("points: expected the number of outcomes that the sampler draws, got None")
        N = integer("points", points, 1)
        _require(N * each, "utilities")
        drawn = _grid("outcomes", given(as_key(key), N))
        if len(drawn) != N:
            raise ValueError(f"outcomes: expected {N} points of the sampler, got {len(drawn)}")
        return drawn, np.full(N, 1 / N)
    if isinstance(given, tuple):
        if len(given) != 2:
            raise ValueError(f"outcomes: expected (points, weights), got {len(given)} arrays")
        y, weights = _grid("outcomes: points", given[0]), _grid("outcomes: weights", given[1])
        if weights.shape != y.shape[:1] or (weights < 0).any() or not weights.sum() > 0:
            raise ValueError(
                f"outcomes: weights: expected {len(y)} numbers >= 0, not all of them 0, got shape "
                f"{list(weights.shape)}, the least {weights.min():g}"
            )
        return y, weights / weights.sum()
    try:
        N = integer("outcomes", given, 1)
    except ValueError as error:
        raise ValueError(f"{error}; else (points, weights) or a sampler of (key, N)") from None
    _require(N * each, "utilities")
    return midpoints(N), np.full(N, 1 / N)


def _utility(name: str, function: Any, a: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "A N"]:
    if not callable(function):
        raise ValueError(f"{name}: expected a function of (a, y), got {shown(function)}")
    answer = np.asarray(as_float_array(name, function(a[:, None], y[None])), np.float64)
    try:
        table = np.broadcast_to(answer, (len(a), len(y)))
    except ValueError:
        raise ValueError(
            f"{name}: expected an array [A, N] = {[len(a), len(y)]} for a {list(a[:, None].shape)} and y "
            f"{list(y[None].shape)}, got shape {list(answer.shape)}"
        ) from None
    return _finite(name, table)


def _feature(name: str, given: Any, y: np.ndarray) -> Float[np.ndarray, "N X"]:
    """p(x | y)."""
    N = len(y)
    if not callable(given):
        X = integer(name, given, 1)
        if X > N:
            raise ValueError(f"{name}: expected at most as many cells as there are outcomes, {N}, got {X}")
        if y.ndim > 1:
            raise ValueError(f"{name}: outcomes are vectors, which have no order: give a function of y in place of {X}")
        _require(N * X, "features")
        table = np.zeros((N, X))
        table[np.argsort(y, kind="stable"), np.arange(N) * X // N] = 1
        return table
    answer = np.asarray(as_float_array(name, given(y)), np.float64)
    if answer.ndim not in (1, 2) or len(answer) != N or answer.size == 0:
        raise ValueError(
            f"{name}: expected x [N] or p(x | y) [N, X] of the {N} outcomes, got shape {list(answer.shape)}"
        )
    _finite(name, answer)
    if answer.ndim == 1:
        values, number = np.unique(answer, return_inverse=True)
        return np.eye(len(values))[number]
    wrong = np.flatnonzero((answer < 0).any(1) | (abs(answer.sum(1) - 1) > SUM_TOLERANCE))
    if len(wrong):
        n = wrong[0]
        raise ValueError(
            f"{name}: p(x | y) must be >= 0 and add up to 1, at outcome {n} the least is {answer[n].min():g} and the "
            f"sum {answer[n].sum():g}"
        )
    return answer / answer.sum(1, keepdims=True)
