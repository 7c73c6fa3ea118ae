"""Every agent as a monopolist: the reference that competition is compared with."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from emalign_jax.exact.certificates.certificate import GAMES_AT_ONCE, flatten_games
from emalign_jax.exact.checks.one_by_one import make_checks
from emalign_jax.games.game import Game, faults, reduce_game
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import integer
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users.base import AbstractUser


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
            here = jax.tree.map(lambda x, some=some: x[some], modules)
            checks = make_checks(reduce_game(flat[some], np), sound[some], *here, **sizes)
            found[:, first + asked] = checks.monopoly(asked)
    return Monopoly(*found.reshape((2, *shape, K)))
