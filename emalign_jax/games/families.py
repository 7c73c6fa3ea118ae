"""Families of random games (section 8 of docs/model.md).

Game i of a call is drawn from `fold_in(key, i)` alone: it is the same whatever the size of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from emalign_jax.games.game import Game, reduce_game
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import NOT_NEGATIVE, SHARE, integer, number, word
from emalign_jax.internal.validation import as_key, on_host

MAX_REDRAWS = 1000
BYTES = 80  # of memory that drawing takes for each number of a game
REDRAW_BLOCK = 1024  # games redrawn in one call, so that one size is compiled


class _Draws:
    """Hands out random numbers, [N, ...] for N games, from one row of uniform draws a game.

    One generator is quick to compile, one a distribution and shape is not; the rest is NumPy in float64.
    """

    def __init__(self, uniforms: np.ndarray):
        self._uniforms, self._used = uniforms.astype(np.float64), 0

    def uniform(self, *shape: int) -> np.ndarray:
        size = math.prod(shape)
        self._used += size
        return self._uniforms[:, self._used - size : self._used].reshape(-1, *shape)

    def normal(self, *shape: int) -> np.ndarray:
        from scipy.special import ndtri

        return ndtri(self.uniform(*shape))

    def exponential(self, *shape: int) -> np.ndarray:
        return -np.log(self.uniform(*shape))

    def simplex(self, *shape: int) -> np.ndarray:
        """Uniform on the simplex of the last axis."""
        draws = self.exponential(*shape)
        return draws / draws.sum(-1, keepdims=True)


# Each family takes the draws, u [N, A, Y] and its knobs, and gives U [N, K, A, Y].


def _hull(draws, u, agents, noise, bias, alignment):
    """U_i = u + noise whose mean under some random weights is zero: u lies in the hull, eps = 0."""
    own = noise * draws.normal(agents, *u.shape[1:])
    weights = draws.simplex(agents)
    return u[:, None] + own - (weights[:, :, None, None] * own).sum(1, keepdims=True)


def _noise(draws, u, agents, noise, bias, alignment):
    """U_i = u + independent noise."""
    return u[:, None] + noise * draws.normal(agents, *u.shape[1:])


def _shared_bias(draws, u, agents, noise, bias, alignment):
    """U_i = u + one bias common to all + own noise, half as large: the hull fails systematically."""
    common = bias * draws.normal(1, *u.shape[1:])
    return u[:, None] + common + 0.5 * noise * draws.normal(agents, *u.shape[1:])


def _goal(draws, u, agents, noise, bias, alignment):
    """U_i = alignment * u + (1 - alignment) * margin_i(a): a profit on the actions that are agent i's own."""
    actions = u.shape[1]
    owner = np.floor(agents * draws.uniform(1, actions))
    margin = bias * draws.exponential(1, actions)
    profit = np.where(owner == np.arange(agents)[:, None], margin, 0)  # [N, K, A]
    return alignment * u[:, None] + (1 - alignment) * profit[..., None]


def _opposed(draws, u, agents, noise, bias, alignment):
    """Pairs U = u + b, u - b of opposite biases; an odd last agent has a bias that nobody opposes."""
    half = bias * draws.normal((agents + 1) // 2, *u.shape[1:])
    both = np.stack([half, -half], axis=2).reshape(len(u), -1, *u.shape[1:])
    return u[:, None] + both[:, :agents]


FAMILIES: dict[str, Callable] = {
    "hull": _hull,
    "noise": _noise,
    "shared_bias": _shared_bias,
    "goal": _goal,
    "opposed": _opposed,
}


def random_games(
    key: jax.Array | SupportsIndex,
    count: int,
    *,
    first: int = 0,
    family: str = "hull",
    agents: int = 5,
    states: int = 4,
    actions: int = 4,
    user_features: int = 1,
    agent_features: int | None = None,
    user_information: float = 0.5,
    agent_information: float = 1.0,
    noise: float = 1.0,
    bias: float = 1.0,
    alignment: float = 0.5,
    information_worth: float = 0.0,
) -> Game:
    """`count` random games [count, ...] in jax's default float dtype.

    The user's utilities are standard normal, the law of y is uniform on the simplex.

    first:             number of the first game: games first, ..., first + count - 1 of a larger batch
    family:            one of FAMILIES
    agents, states, actions: K, Y, A
    user_features, agent_features: XA (1: the user knows nothing) and XB (default: as many as states)
    user_information, agent_information: in [0, 1]; x is y itself (modulo its size) with this probability,
                       else a draw from a random law given y. The agents see y by default.
    noise:             standard deviation of the agents' own noise ("hull", "noise", "shared_bias")
    bias:              size of the bias ("shared_bias", "opposed") or of the margins ("goal")
    alignment:         share of u in "goal"
    information_worth: redraw games in which V_full - V_none is below this share of the range of u
    Raises `ValueError` that names the argument and the rule.
    """
    (key,) = on_host(key=as_key(key))
    features = states if agent_features is None else agent_features
    first = integer("first", first, 0)
    knobs = {"noise": noise, "bias": bias, "alignment": alignment, "information_worth": information_worth}
    sees = {"user_information": user_information, "agent_information": agent_information}
    sizes = {"states": states, "actions": actions, "user_features": user_features, "agent_features": features}
    _check_arguments({"count": count, "family": family, "agents": agents} | sizes | sees | knobs)
    draw = partial(
        _draw, key, family=family, sizes=(agents, states, actions, user_features, features),
        knobs=(user_information, agent_information, noise, bias, alignment),
    )  # fmt: skip
    require_room(
        count, agents=agents, states=states, actions=actions, user_features=user_features, agent_features=features
    )
    parts = draw(np.arange(first, first + count), 0)
    block = min(count, REDRAW_BLOCK)
    poor = np.flatnonzero(_worth(parts) < information_worth)
    for attempt in range(1, MAX_REDRAWS + 1):
        if not len(poor):
            return Game(*(jnp.asarray(part, dtype=jnp.result_type(float)) for part in parts))
        still = []
        for at in range(0, len(poor), block):
            some = poor[at : at + block]
            new = [x[: len(some)] for x in draw(first + np.resize(some, block), attempt)]
            for part, values in zip(parts, new, strict=True):
                part[some] = values
            still.append(some[_worth(new) < information_worth])
        poor = np.concatenate(still)
    raise ValueError(
        f"information_worth: {len(poor)} of {count} games were below {information_worth} in {MAX_REDRAWS} redraws; ask "
        "for less, or make x_B more informative"
    )


def require_room(
    count: int,
    *,
    agents: int,
    states: int,
    actions: int,
    user_features: int = 1,
    agent_features: int | None = None,
    **_,
) -> None:
    """Raise `ValueError` where drawing so many games of this size would take more memory than is at hand."""
    features = states if agent_features is None else agent_features
    numbers = _needed(agents, states, actions, user_features, features) + user_features * features * states
    memory.require(
        BYTES * count * numbers,
        f"count: {count} games with agents {agents}, states {states}, actions {actions}, user_features "
        f"{user_features}, agent_features {features}",
    )


def any_game(
    *,
    agents: int = 5,
    states: int = 4,
    actions: int = 4,
    user_features: int = 1,
    agent_features: int | None = None,
    **_,
) -> Game:
    """A game of this size, as a batch of one, for checks of sizes before anything is drawn."""
    features = states if agent_features is None else agent_features
    prior = np.full((1, user_features, features, states), 1 / (user_features * features * states))
    utilities = np.random.default_rng(0).normal(size=(1, 1 + agents, actions, states))
    return Game(prior, utilities[:, 0], utilities[:, 1:])


def check_arguments(**given) -> None:
    """Raise `ValueError` for what `random_games` cannot take, naming the argument and the rule; the others may be left
    out, and None means a default."""
    _check_arguments({name: value for name, value in given.items() if value is not None})


def _check_arguments(given: dict[str, Any]) -> None:
    word("family", given.get("family", "hull"), FAMILIES)
    for name in ("count", "agents", "states", "actions", "user_features", "agent_features"):
        if name in given:
            integer(name, given[name], 1)
    for name in ("user_information", "agent_information", "alignment", "information_worth"):
        number(name, given.get(name, 0), *SHARE)
    for name in ("noise", "bias"):
        number(name, given.get(name, 0), *NOT_NEGATIVE)


def _draw(key, index, attempt, *, family, sizes, knobs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """prior, user_utility and agent_utilities of games `index` at redraw `attempt`, in float64."""
    agents, states, actions, user_features, agent_features = sizes
    user_information, agent_information, noise, bias, alignment = knobs
    needed = _needed(agents, states, actions, user_features, agent_features)
    count = -(-needed // 256) * 256  # rounded up: few sizes to compile
    draws = _Draws(np.asarray(_uniforms(key, jnp.asarray(index), attempt, count)))
    outcome = draws.simplex(states)
    user_sees = _feature(draws, states, user_features, user_information)
    agent_sees = _feature(draws, states, agent_features, agent_information)
    prior = np.einsum("nyx,nyz,ny->nxzy", user_sees, agent_sees, outcome)
    u = draws.normal(actions, states)
    return prior / prior.sum((1, 2, 3), keepdims=True), u, FAMILIES[family](draws, u, agents, noise, bias, alignment)


def _needed(agents: int, states: int, actions: int, user_features: int, agent_features: int) -> int:
    """Uniform draws of a game."""
    table = actions * states
    return states * (1 + user_features + agent_features) + (agents + 2) * table + agents + 2 * actions


@partial(jax.jit, static_argnames="count")
def _uniforms(key, index, attempt, count):
    """[N, count] draws in (0, 1); always float32, so that games are the same with x64 on and off."""

    def one(index):
        own = jax.random.fold_in(jax.random.fold_in(key, index), attempt)
        return jax.random.uniform(own, (count,), jnp.float32, minval=jnp.finfo(jnp.float32).tiny)

    return jax.vmap(one)(index)


def _feature(draws, states, size, share):
    """P(x | y) [N, Y, X]: y itself with probability `share`, else a random law given y."""
    itself = np.eye(size)[np.arange(states) % size]
    return share * itself + (1 - share) * draws.simplex(states, size)


def _worth(parts) -> np.ndarray:
    """What x_B is worth to a rational user, as a share of the range of her utility."""
    _, g, _ = reduce_game(Game(*parts, check="shapes"), np)
    full, none = g.max(-1).sum((-2, -1)), g.sum(-2).max(-1).sum(-1)
    return (full - none) / np.maximum(np.ptp(parts[1], axis=(-2, -1)), 1e-300)
