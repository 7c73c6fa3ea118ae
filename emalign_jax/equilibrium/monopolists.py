"""Every agent as a monopolist: the reference that competition is compared with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.exact.checks.base import check_for, make_check
from emalign_jax.games.game import Game, faults, reduce_game
from emalign_jax.protocols import AbstractProtocol
from emalign_jax.users.base import AbstractUser


class Monopoly(NamedTuple):
    """user:   [..., K] the user's value if agent i is the only agent and sends its best scheme
    agents: [..., K] that agent's payoff then

    Float64; NaN for malformed games."""

    user: Float[np.ndarray, "*batch K"]
    agents: Float[np.ndarray, "*batch K"]


def monopoly(games: Game, protocol: AbstractProtocol, user: AbstractUser, messages: int | None = None) -> Monopoly:
    """Every agent as a monopolist, by its best response in the game without the other agents.

    messages: of an agent in a conversation; None: as many as x_B has values.
    Exact, except in conversations and where no exact check is registered: there the result is the best that the search
    of the check finds.
    """
    flat = flatten_games(games, games.batch_shape)
    reduced = reduce_game(flat, np)
    bad = np.reshape(faults(games), -1)
    N, K = len(bad), games.agents
    value, payoff = np.full((N, K), np.nan), np.full((N, K), np.nan)
    user.check(games.of_one_agent, protocol, games.agent_features if messages is None else messages)
    pairs = [(k, i) for k in np.flatnonzero(bad == "") for i in range(K)]
    together = check_for(protocol, user).games_at_once
    for at in range(0, len(pairs), together):
        some = pairs[at : at + together]
        alone = [reduced._replace(agents=reduced.agents[:, i : i + 1]) for _, i in some]
        checks = [make_check(game, k, protocol, user, messages) for game, (k, _) in zip(alone, some, strict=True)]
        type(checks[0]).prepare_monopolists(checks)
        for check, (k, i) in zip(checks, some, strict=True):
            best = check.monopolist(0)
            if best.status == "Optimal":
                form = check.form
                value[k, i] = form.user_unit * check.payoffs(best.scheme[None])[0] + form.user_zero
                payoff[k, i] = form.agent_unit[0] * best.value + form.agent_zero[0]
    return Monopoly(value.reshape((*games.batch_shape, K)), payoff.reshape((*games.batch_shape, K)))
