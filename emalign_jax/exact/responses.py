"""The users' responses and every protocol's payoffs once more, in NumPy float64.

Written apart from `protocols/` on purpose: certificates share no code with the play that they check, but for the rule
by which a rational user breaks ties, which has one meaning and so one place (`RationalUser.choose`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.base import AbstractUser, Options
from emalign_jax.users.quantal import QuantalUser
from emalign_jax.users.rational import RationalUser

Ahead = Callable[[], Any]  # by how much each option beats each other one, computed where it is needed


def respond(
    user: AbstractUser,
    user_total: Float[np.ndarray, "*shape A"],
    mass: Float[np.ndarray, "*shape"],
    ahead: Ahead,
    favour_total: Float[np.ndarray, "*shape A"],
    favour_ahead: Ahead,
) -> Float[np.ndarray, "*shape A"]:
    """The distribution over actions at unnormalised beliefs: total = mass times the expected utility.

    ahead, favour_ahead: [*shape, A, A] the advantages of the actions over each other, to the user and to the agent in
        whose favour ties may be broken (`units.as_good`).
    """
    if type(user) is QuantalUser:  # of a subclass nothing is known
        with np.errstate(over="ignore", invalid="ignore"):  # at a mass of 1e-320, which then shows as NaN
            rate = float(user.precision) / np.where(mass > 0, mass, np.inf)[..., None]
            distribution = np.exp(
                rate * (user_total - user_total.max(-1, keepdims=True))
            )  # scipy's softmax takes twice as long
        return distribution / distribution.sum(-1, keepdims=True)
    if type(user) is not RationalUser:
        raise ValueError(f"user: the exact checks know QuantalUser and RationalUser, got {type(user).__name__}")
    favour = Options(favour_total, favour_ahead()) if user.favours else None
    return user.choose(Options(user_total, ahead()), favour, np)


def weighed(weigh: Callable[[Any], Any], payoff: Float[np.ndarray, "*cells A"]) -> tuple[np.ndarray, Ahead]:
    """Totals of payoffs [..., A] after each message, and their advantages; weigh: the sum over x_B of [..., n]."""

    def ahead():
        A = payoff.shape[-1]
        found = weigh(units.advantages(payoff).reshape(*payoff.shape[:-1], A * A))
        return found.reshape(*found.shape[:-1], A, A)

    return weigh(payoff), ahead


def by_agent(
    user: AbstractUser, game: ReducedGame, weigh: Callable[[Any], Any] = lambda x: x
) -> Float[np.ndarray, "K XA n A"]:
    """The distributions over actions, ties as each agent would have them; weigh: as in `weighed`, of one game. By
    default x_B is revealed."""
    mass, own_user, agents = (np.asarray(x) for x in game)
    totals, ahead = weighed(weigh, own_user)
    sent = weigh(mass[..., None])[..., 0]
    return np.stack([respond(user, totals, sent, ahead, *weighed(weigh, own)) for own in agents])


class SelectionTable(NamedTuple):
    """values: V [K] of the user under each agent; payoffs: O [K, K] of agent i under scheme j."""

    values: Float[np.ndarray, "K"]
    payoffs: Float[np.ndarray, "K K"]


def selection_table(game: ReducedGame, schemes: Float[np.ndarray, "K XB M"], user: AbstractUser) -> SelectionTable:
    mass, own_user, agents = (np.asarray(x) for x in game)
    totals, ahead = weighed(lambda x: np.einsum("jbm,xbn->jxmn", schemes, x), own_user)  # under each scheme j
    own, own_ahead = weighed(lambda x: np.einsum("jbm,jxbn->jxmn", schemes, x), agents)  # of j
    sent = np.einsum("jbm,xb->jxm", schemes, mass)
    distribution = respond(user, totals, sent, ahead, own, own_ahead)
    agents_totals = np.einsum("jbm,ixba->jixma", schemes, agents)  # [K, K, XA, M, A] of agent i under scheme j
    return SelectionTable(
        (distribution * totals).sum((1, 2, 3)), np.einsum("jxma,jixma->ij", distribution, agents_totals)
    )


def choose(values: Float[np.ndarray, "K"], temperature: float, scale: float) -> Float[np.ndarray, "K"]:
    """The distribution over agents: softmax(V / temperature), or the lowest index among the best; scale: the unit of
    the user's utility."""
    if temperature > 0:
        from scipy.special import softmax  # a tenth of a second that importing the package need not cost

        return softmax(values / temperature)
    return np.eye(len(values))[int((values >= values.max() - units.VALUE_TIE * scale).argmax())]


def pooled_payoffs(
    game: ReducedGame, schemes: Float[np.ndarray, "K XB M"], user: AbstractUser
) -> tuple[float, Float[np.ndarray, "K"]]:
    """User value and agents' payoffs [K] when the user sees every message."""
    weights = np.ones((1, schemes.shape[1]))
    for scheme in schemes:
        weights = np.concatenate([weights * scheme[:, s] for s in range(scheme.shape[1])])

    def weigh(payoff):  # [XA, N, n]
        return np.tensordot(weights, payoff, (1, 1)).swapaxes(0, 1)

    totals, ahead = weighed(weigh, np.asarray(game.user))
    mass = np.asarray(game.mass) @ weights.T
    each = [weighed(weigh, own) for own in np.asarray(game.agents)]
    distributions = [respond(user, totals, mass, ahead, *own) for own in (each if user.favours else each[:1])]
    value = float((distributions[0] * totals).sum())
    distributions = distributions if user.favours else distributions * len(each)
    return value, np.array(
        [(distribution * own).sum() for distribution, (own, _) in zip(distributions, each, strict=True)]
    )
