"""Every agent as a monopolist: the reference that competition is compared with."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from emalign_jax.equilibrium.solution import Solution
from emalign_jax.equilibrium.solver import solve
from emalign_jax.exact.certificates.certificate import GAMES_AT_ONCE, flatten_games
from emalign_jax.exact.checks.one_by_one import make_checks
from emalign_jax.games.game import Game, faults
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import integer
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.protocols.base import reduce_for
from emalign_jax.users.base import AbstractUser


def single_agents(
    games: Game, protocol: AbstractProtocol, user: AbstractUser, solver: Any = None, *, messages: int | None = None,
    of: int = 0,
) -> Solution:  # fmt: skip
    """Each agent alone with the user, and one whose utility is the user's, with certificates.

    games:    a batch [N]; solver, messages, of: as in `solve`
    Returns the solutions [K + 1, N] of these games of one agent, those with the aligned agent last.
    """
    aligned = np.asarray(games.user_utility)[:, None]
    each = np.moveaxis(np.concatenate([games.agent_utilities, aligned], 1), 1, 0)[:, :, None]
    prior, utility = (np.broadcast_to(x, (len(each), *np.shape(x))) for x in (games.prior, games.user_utility))
    alone = Game(prior, utility, each, check="shapes")
    many = of * len(each)
    return solve(alone, protocol.with_one_agent, user, solver, start="monopolist", messages=messages, of=many)


class Monopoly(NamedTuple):
    """user:   [..., K] the user's value if agent i is the only agent and sends its best scheme
    agents: [..., K] that agent's payoff then

    Float64; NaN for malformed games."""

    user: Float[np.ndarray, "*batch K"]
    agents: Float[np.ndarray, "*batch K"]


def monopoly(
    games: Game, protocol: AbstractProtocol, user: AbstractUser, messages: int | None = None, *, of: int | None = None
) -> Monopoly:
    """Every agent as a monopolist, by its best response in the game without the other agents.

    messages: of an agent in a conversation; None: as many as x_B has values.
    of:       the total number of games, if these are one block of them; see `solve`.
    Exact, except in conversations and where no exact check is registered: there the result is the best that the search
    of the check finds.
    """
    messages = games.agent_features if messages is None else messages
    user.check(games.of_one_agent, protocol, messages)
    flat, shape = flatten_games(games, games.batch_shape), games.batch_shape
    sound = np.reshape(faults(games) == "", -1)
    modules = [batching.flatten(module, shape) for module in (protocol, user)]
    N, K = len(sound), games.agents
    sizes = {"messages": messages, "rows": protocol.rows(games.of_one_agent, messages), "lp": "auto"}
    sizes["count"] = max(N, 0 if of is None else integer("of", of, 0))
    found = np.full((2, N, K), np.nan)
    for first in range(0, N, GAMES_AT_ONCE):
        some = slice(first, first + GAMES_AT_ONCE)
        asked = np.flatnonzero(sound[some])
        if len(asked):
            here, who = jax.tree.map(lambda x, some=some: x[some], modules)
            checks = make_checks(reduce_for(flat[some], here, who, np), sound[some], here, who, **sizes)
            found[:, first + asked] = checks.monopoly(asked)
    return Monopoly(*found.reshape((2, *shape, K)))
