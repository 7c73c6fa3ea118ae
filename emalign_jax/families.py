"""Families of random games (section 8 of the model).

Game i of a call is drawn from `fold_in(key, i)` alone: it is the same whatever the size of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from emalign_jax.game import Game, reduce_game

MAX_REDRAWS = 1000


def _hull(key, u, agents, noise, bias, alignment):
    """U_i = u + noise whose mean under some random weights is zero: u lies in the hull, eps = 0."""
    key_noise, key_weights = jax.random.split(key)
    own = noise * jax.random.normal(key_noise, (agents, *u.shape), u.dtype)
    weights = _simplex(key_weights, (agents,), u.dtype)
    return u + own - (weights[:, None, None] * own).sum(0)


def _noise(key, u, agents, noise, bias, alignment):
    """U_i = u + independent noise."""
    return u + noise * jax.random.normal(key, (agents, *u.shape), u.dtype)


def _shared_bias(key, u, agents, noise, bias, alignment):
    """U_i = u + one bias common to all + own noise, half as large: the hull fails systematically."""
    key_bias, key_noise = jax.random.split(key)
    common = bias * jax.random.normal(key_bias, u.shape, u.dtype)
    return u + common + 0.5 * noise * jax.random.normal(key_noise, (agents, *u.shape), u.dtype)


def _goal(key, u, agents, noise, bias, alignment):
    """U_i = alignment * u + (1 - alignment) * margin_i(a): a profit on the actions that are agent i's own."""
    key_owner, key_margin = jax.random.split(key)
    owner = jax.random.randint(key_owner, (u.shape[0],), 0, agents)
    margin = bias * jax.random.exponential(key_margin, (u.shape[0],), u.dtype)
    profit = jnp.where(owner == jnp.arange(agents)[:, None], margin, 0)  # [K, A]
    return alignment * u + (1 - alignment) * profit[:, :, None]


def _opposed(key, u, agents, noise, bias, alignment):
    """Pairs U = u + b, u - b of opposite biases; an odd last agent has a bias that nobody opposes."""
    half = bias * jax.random.normal(key, ((agents + 1) // 2, *u.shape), u.dtype)
    both = jnp.stack([half, -half], axis=1).reshape(-1, *u.shape)
    return u + both[:agents]


FAMILIES: dict[str, Callable] = {
    "hull": _hull,
    "noise": _noise,
    "shared_bias": _shared_bias,
    "goal": _goal,
    "opposed": _opposed,
}


def random_games(
    key: jax.Array,
    count: int,
    *,
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
    if family not in FAMILIES:
        raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, got {family!r}")
    features = states if agent_features is None else agent_features
    sizes = {"count": count, "agents": agents, "states": states, "actions": actions}
    for name, value in (sizes | {"user_features": user_features, "agent_features": features}).items():
        if value < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {value}")
    shares = {"user_information": user_information, "agent_information": agent_information, "alignment": alignment}
    for name, value in (shares | {"information_worth": information_worth}).items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a number in [0, 1], got {value}")
    for name, value in {"noise": noise, "bias": bias}.items():
        if not 0 <= value < np.inf:
            raise ValueError(f"{name}: expected a finite number >= 0, got {value}")
    draw = partial(
        _draw, key, family=family, sizes=(agents, states, actions, user_features, features),
        knobs=jnp.array([user_information, agent_information, noise, bias, alignment]),
    )  # fmt: skip
    games = Game(*draw(jnp.arange(count), jnp.zeros(count, int)))
    if information_worth == 0:
        return games
    parts = [np.array(x) for x in (games.prior, games.user_utility, games.agent_utilities)]
    poor = np.flatnonzero(_worth(games) < information_worth)
    for attempt in range(1, MAX_REDRAWS + 1):
        if not len(poor):
            return Game(*(jnp.asarray(x) for x in parts))
        rows = np.resize(poor, 1 << (len(poor) - 1).bit_length())  # a power of two: few sizes to compile
        again = Game(*draw(jnp.asarray(rows), jnp.full(len(rows), attempt)), check="shapes")[: len(poor)]
        for part, new in zip(parts, (again.prior, again.user_utility, again.agent_utilities), strict=True):
            part[poor] = new
        poor = poor[_worth(again) < information_worth]
    raise ValueError(
        f"information_worth: {len(poor)} of {count} games were below {information_worth} in {MAX_REDRAWS} redraws; ask for "
        "less, or make x_B more informative"
    )


@partial(jax.jit, static_argnames=("family", "sizes"))
def _draw(key, index, attempt, *, family, sizes, knobs):
    agents, states, actions, user_features, agent_features = sizes
    user_information, agent_information, noise, bias, alignment = knobs
    dtype = knobs.dtype

    def one(index, attempt):
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, index), attempt), 5)
        outcome = _simplex(keys[0], (states,), dtype)
        sees = [
            _feature(k, states, size, share, dtype)
            for k, size, share in (
                (keys[1], user_features, user_information),
                (keys[2], agent_features, agent_information),
            )
        ]
        prior = sees[0].T[:, None, :] * sees[1].T[None, :, :] * outcome
        u = jax.random.normal(keys[3], (actions, states), dtype)
        return prior / prior.sum(), u, FAMILIES[family](keys[4], u, agents, noise, bias, alignment)

    return jax.vmap(one)(index, attempt)


def _feature(key, states, size, share, dtype):
    """P(x | y) [Y, X]: y itself with probability `share`, else a random law given y."""
    itself = jnp.eye(size, dtype=dtype)[jnp.arange(states) % size]
    return share * itself + (1 - share) * _simplex(key, (states, size), dtype)


def _simplex(key, shape, dtype):
    """Uniform on the simplex of the last axis."""
    draws = jax.random.exponential(key, shape, dtype)
    return draws / draws.sum(-1, keepdims=True)


def _worth(games: Game) -> np.ndarray:
    """What x_B is worth to a rational user, as a share of the range of her utility."""
    _, g, _ = reduce_game(games, np)
    full, none = g.max(-1).sum((-2, -1)), g.sum(-2).max(-1).sum(-1)
    return (full - none) / np.maximum(np.ptp(np.asarray(games.user_utility, float), axis=(-2, -1)), 1e-300)
