"""Random games of a family (docs/model.md, section 8).

Game i is drawn from `fold_in(key, i)` alone, so it does not depend on the size of the batch.
"""

from __future__ import annotations

from functools import partial
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from emalign_jax.games.families.base import FAMILIES, AbstractFamily, Draws
from emalign_jax.games.game import Game, reduce_game
from emalign_jax.internal import memory
from emalign_jax.internal.arguments import SHARE, choice, integer, number
from emalign_jax.internal.transfers import fetch
from emalign_jax.internal.validation import as_key, on_host

MAX_REDRAWS = 1000
# Memory that drawing takes for each number of a game.
BYTES_A_NUMBER = 80
# In Python and in specifications: most games in which x_B is worth less say nothing about competition.
INFORMATION_WORTH = 0.02
# Games are redrawn in blocks of this size, so that code is compiled for one size.
REDRAW_BLOCK = 1024
ARGUMENTS = (
    "count", "agents", "states", "actions", "user_features", "agent_features", "user_information", "agent_information",
    "information_worth",
)  # fmt: skip


def random_games(
    key: jax.Array | SupportsIndex,
    count: int,
    *,
    first: int = 0,
    family: str | AbstractFamily = "hull",
    agents: int = 5,
    states: int = 4,
    actions: int = 4,
    user_features: int = 1,
    agent_features: int | None = None,
    user_information: float = 0.5,
    agent_information: float = 1.0,
    information_worth: float = INFORMATION_WORTH,
    **knobs: Any,
) -> Game:
    """Random games of a family, one batch axis, in jax's default float dtype.

    Unless the family says otherwise ("quadratic"), the user's utilities are standard normal and the distribution of y
    is uniform on the simplex. Game i depends on the key and on its number, first + i, alone.

    Args:
        key: a jax key, or an integer seed.
        count: N, the number of games.
        first: number of the first game: games first, ..., first + count - 1 of a larger batch.
        family: a name in `em.FAMILIES`, or a family such as `em.families.Goal(alignment=0.3)`.
        agents: their number K.
        states: Y, the number of outcomes.
        actions: their number A.
        user_features: XA; 1: the user has no features.
        agent_features: XB; by default as many as states.
        user_information: in [0, 1]; x_A is y itself (modulo XA) with this probability, otherwise it is drawn from a
            random distribution given y.
        agent_information: the same of x_B; by default the agents see y.
        information_worth: redraw games in which V_full - V_none is below this share of the range of u; 0 takes every
            game.
        knobs: parameters of the family: noise ("hull", "noise", "shared_bias"), bias ("shared_bias", "goal", "opposed",
            "attributes", "quadratic"), alignment ("goal"), attributes ("attributes"), tilt ("quadratic"), and those of
            user-defined families. Knobs of other families are checked and have no effect.

    Returns:
        A `Game` [N].

    Raises:
        ValueError: names the argument and the rule.

    Example:
        >>> em.random_games(0, 2, family="goal", alignment=0.3, agents=3).agent_utilities.shape
        (2, 3, 4, 4)

    Source: section 8 of docs/model.md.
    """
    (key,) = on_host(key=as_key(key))
    features = states if agent_features is None else agent_features
    first = integer("first", first, 0)
    sees = {"user_information": user_information, "agent_information": agent_information}
    sizes = {"states": states, "actions": actions, "user_features": user_features, "agent_features": features}
    of = _family(family, knobs)
    _check_arguments({"count": count, "agents": agents, "information_worth": information_worth} | sizes | sees)
    draw = partial(
        _draw, key, family=of, sizes=(agents, states, actions, user_features, features),
        information=(user_information, agent_information),
    )  # fmt: skip
    require_room(count, agents=agents, family=of, **sizes)
    parts = draw(np.arange(first, first + count), 0)
    block = min(count, REDRAW_BLOCK)
    poor = np.flatnonzero(_information_worth(parts) < information_worth)
    for attempt in range(1, MAX_REDRAWS + 1):
        if not len(poor):
            dtype = jnp.result_type(float)
            labels = of.labels(agents, actions, states)
            return Game(*(jnp.asarray(np.asarray(part, dtype)) for part in parts), labels=labels)
        still = []
        for at in range(0, len(poor), block):
            some = poor[at : at + block]
            new = [x[: len(some)] for x in draw(first + np.resize(some, block), attempt)]
            for part, values in zip(parts, new, strict=True):
                part[some] = values
            still.append(some[_information_worth(new) < information_worth])
        poor = np.concatenate(still)
    raise ValueError(
        f"information_worth: {len(poor)} of {count} games were below {information_worth} in {MAX_REDRAWS} redraws; ask "
        "for less (0 takes every game), or make x_B more informative"
    )


def require_room(
    count: int,
    *,
    agents: int,
    states: int,
    actions: int,
    user_features: int = 1,
    agent_features: int | None = None,
    family: str | AbstractFamily = "hull",
    **_,
) -> None:
    """Raise `ValueError` if drawing so many games of this size would take more memory than is free.

    Args:
        count, agents, states, actions, user_features, agent_features, family: as in `random_games`.

    Example:
        >>> em.families.require_room(100, agents=3, states=4, actions=4)
    """
    features = states if agent_features is None else agent_features
    of = family if isinstance(family, AbstractFamily) else FAMILIES[family]()
    numbers = _needed(agents, states, actions, user_features, features, of) + user_features * features * states
    memory.require(
        BYTES_A_NUMBER * count * numbers,
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
    """A game of this size, as a batch of one, for checks of sizes before anything is drawn.

    Args:
        agents, states, actions, user_features, agent_features: as in `random_games`.

    Example:
        >>> em.families.any_game(agents=2).agent_utilities.shape
        (1, 2, 4, 4)
    """
    features = states if agent_features is None else agent_features
    prior = np.full((1, user_features, features, states), 1 / (user_features * features * states))
    utilities = np.random.default_rng(0).normal(size=(1, 1 + agents, actions, states))
    return Game(prior, utilities[:, 0], utilities[:, 1:])


def check_arguments(*, family: str = "hull", **given) -> None:
    """Raise `ValueError` for arguments that `random_games` would refuse.

    Args:
        family: the name of a family.
        given: other arguments of `random_games`; None stands for the default.

    Example:
        >>> em.families.check_arguments(family="goal", agents=3, alignment=0.3)
    """
    given = {name: value for name, value in given.items() if value is not None}
    _family(family, {name: value for name, value in given.items() if name not in ARGUMENTS})
    _check_arguments(given)


def _check_arguments(given: dict[str, Any]) -> None:
    for name in ("count", "agents", "states", "actions", "user_features", "agent_features"):
        if name in given:
            integer(name, given[name], 1)
    for name in ("user_information", "agent_information", "information_worth"):
        number(name, given.get(name, 0), *SHARE)


def _family(family: str | AbstractFamily, knobs: dict[str, Any]) -> AbstractFamily:
    """The family with its knobs set; knobs of other families are checked."""
    if isinstance(family, AbstractFamily):
        if knobs:
            raise ValueError(f"{next(iter(knobs))}: goes with the name of a family; this one has its knobs already")
        return family
    own, values = FAMILIES[choice("family", family, FAMILIES)], {}
    for name, value in knobs.items():
        having = [cls for cls in (own, *FAMILIES.values()) if name in cls.knobs()]
        if not having:
            known = ", ".join(own.knobs()) or "none"
            raise ValueError(f"{name}: no argument of random_games and no knob of a family; {family} has {known}")
        values[name] = having[0].checked(name, value)
    return own(**{name: value for name, value in values.items() if name in own.knobs()})


def _draw(key, index, attempt, *, family: AbstractFamily, sizes, information):
    """prior, user_utility and agent_utilities of games `index` at redraw `attempt`, in float64."""
    agents, states, actions, user_features, agent_features = sizes
    needed = _needed(agents, states, actions, user_features, agent_features, family)
    numbers = -(-needed // 256) * 256  # rounded up, so that few sizes are compiled
    draws = Draws(fetch(_uniforms(key, jnp.asarray(index), attempt, numbers)))
    count = len(index)
    outcome = np.broadcast_to(family.outcome_distribution(draws, states), (count, states))
    user_sees = _feature(draws, states, user_features, information[0])
    agent_sees = _feature(draws, states, agent_features, information[1])
    prior = np.einsum("nyx,nyz,ny->nxzy", user_sees, agent_sees, outcome)
    u = np.broadcast_to(np.asarray(family.user_utility(draws, actions, states), np.float64), (count, actions, states))
    own = np.asarray(family.agent_utilities(draws, u, agents), np.float64)
    if own.shape != (len(u), agents, actions, states):
        raise ValueError(
            f"agent_utilities: family {type(family).name!r} should give an array {[len(u), agents, actions, states]} "
            f"[N, K, A, Y], got {list(own.shape)}"
        )
    return prior / prior.sum((1, 2, 3), keepdims=True), np.array(u), own


def _needed(agents: int, states: int, actions: int, user_features: int, agent_features: int, family) -> int:
    """The number of uniform draws of a game."""
    seen = states * (1 + user_features + agent_features) + actions * states
    return seen + family.numbers(agents, actions, states)


@partial(jax.jit, static_argnames="count")
def _uniforms(key, index, attempt, count):
    """[N, count] draws in (0, 1); always float32, so that games are the same with x64 on and off."""

    def one(index):
        own = jax.random.fold_in(jax.random.fold_in(key, index), attempt)
        return jax.random.uniform(own, (count,), jnp.float32, minval=jnp.finfo(jnp.float32).tiny)

    return jax.vmap(one)(index)


def _feature(draws, states, size, share):
    """P(x | y) [N, Y, X]: y itself with probability `share`, else drawn from a random distribution given y."""
    itself = np.eye(size)[np.arange(states) % size]
    return share * itself + (1 - share) * draws.simplex(states, size)


def _information_worth(parts) -> np.ndarray:
    """V_full - V_none of a rational user, as a share of the range of the user's utility."""
    g = reduce_game(Game(*parts, check="shapes"), np).user
    full, none = g.max(-1).sum((-2, -1)), g.sum(-2).max(-1).sum(-1)
    return (full - none) / np.maximum(np.ptp(parts[1], axis=(-2, -1)), 1e-300)
