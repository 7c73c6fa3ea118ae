"""The users' responses and the payoffs of Selection and Pooled, in NumPy float64.

This is independent of the code in `protocols/`, so that certificates check play. Only the tie rule of a rational user
is shared (`RationalUser.choose`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.users.base import AbstractUser, Options

Advantages = Callable[[], Any]  # Returns `units.advantages` of the options; called only where needed.


def is_known(user: AbstractUser) -> bool:
    """Whether the response is computed here: logit, or the best action by the tie rule of `RationalUser`."""
    return user.logit_precision is not None or user.obeys


def respond(
    user: Any,
    user_total: Float[np.ndarray, "*shape A"],
    mass: Float[np.ndarray, "*shape"],
    ahead: Advantages,
    favour_total: Float[np.ndarray, "*shape A"],
    favour_ahead: Advantages,
) -> Float[np.ndarray, "*shape A"]:
    """The distribution over actions at unnormalised beliefs.

    user_total, favour_total: mass times the expected utility of the user, and of the agent in whose favour ties may be
        broken.
    ahead, favour_ahead: return their advantages [*shape, A, A] (`units.advantages`).
    Raises `ValueError` for users other than exactly QuantalUser and RationalUser.
    """
    if not is_known(user):
        raise ValueError(f"user: the exact checks know QuantalUser and RationalUser, got {type(user).__name__}")
    if user.logit_precision is not None:
        with np.errstate(over="ignore", invalid="ignore"):  # A denormal mass makes the result NaN.
            precision: Any = np.asarray(user.precision, float)
            precision = precision.reshape(precision.shape + (1,) * (mass.ndim - precision.ndim))  # One for each game.
            rate = (precision / np.where(mass > 0, mass, np.inf))[..., None]
            weights = np.exp(rate * (user_total - user_total.max(-1, keepdims=True)))
        return weights / weights.sum(-1, keepdims=True)
    favour = Options(favour_total, favour_ahead()) if user.favours else None
    return type(user).choose(user, Options(user_total, ahead()), favour, np)


def weighed(weigh: Callable[[Any], Any], payoff: Float[np.ndarray, "*cells A"]) -> tuple[np.ndarray, Advantages]:
    """Totals of `payoff` [..., A] after each message, and their advantages. weigh: maps numbers by x_B [..., XB, n] to
    their sums over x_B, weighted by the probabilities of each message."""

    def ahead():
        A = payoff.shape[-1]
        found = weigh(units.advantages(payoff).reshape(*payoff.shape[:-1], A * A))
        return found.reshape(*found.shape[:-1], A, A)

    return weigh(payoff), ahead


def by_agent(
    user: AbstractUser, game: ReducedGame, weigh: Callable[[Any], Any] = lambda x: x
) -> Float[np.ndarray, "K *batch XA n A"]:
    """The distributions over actions, with ties in favour of each agent in turn. weigh: as in `weighed`; by default x_B
    is revealed."""
    mass, own_user, agents, _ = (np.asarray(x) for x in game)
    totals, ahead = weighed(weigh, own_user)
    sent = weigh(mass[..., None])[..., 0]
    return np.stack([respond(user, totals, sent, ahead, *weighed(weigh, own)) for own in np.moveaxis(agents, -4, 0)])


class SelectionTable(NamedTuple):
    """values: V [..., J], what the user gets under each scheme j; payoffs: O [..., K, J] of agent i under scheme j."""

    values: Float[np.ndarray, "*batch J"]
    payoffs: Float[np.ndarray, "*batch K J"]


def selection_table(
    game: ReducedGame,
    schemes: Float[np.ndarray, "*batch J XB M"],
    user: AbstractUser,
    favoured: Float[np.ndarray, "*batch J XA XB A"] | None = None,
) -> SelectionTable:
    """The table of J schemes, in one game or in a batch of games.

    favoured: the payoffs of the agent in whose favour ties may be broken under scheme j; None: agent j's.
    """
    mass, own_user, agents, welfare = (np.asarray(x) for x in game)
    sender = schemes[..., None, :, :]  # [..., J, 1, XB, M]; products of matrices, as `einsum` is slow for small ones
    heard = sender.swapaxes(-1, -2)
    totals, ahead = weighed(lambda x: heard @ x[..., None, :, :, :], own_user)  # Under scheme j.
    own, own_ahead = weighed(lambda x: heard @ x, agents if favoured is None else favoured)
    sent = mass[..., None, :, :] @ schemes
    response = respond(user, totals, sent, ahead, own, own_ahead)
    induced = sender @ response  # [..., J, XA, XB, A] the distribution over actions
    XA, XB, A = own_user.shape[-3:]
    flat = induced.reshape(*induced.shape[:-3], XA * XB * A)
    values = (flat @ welfare.reshape(*welfare.shape[:-3], XA * XB * A, 1))[..., 0]
    payoffs = agents.reshape(*agents.shape[:-3], XA * XB * A) @ flat.swapaxes(-1, -2)
    return SelectionTable(values, payoffs)


def choose(values: Float[np.ndarray, "K"], temperature: float, scale: float) -> Float[np.ndarray, "K"]:
    """The distribution over agents: softmax(V / temperature), or at temperature 0 the lowest index among the best.
    scale: the user's unit."""
    if temperature > 0:
        from scipy.special import softmax  # Imported here because it takes a tenth of a second.

        return softmax(values / temperature)
    return np.eye(len(values))[int((values >= values.max() - units.VALUE_TIE * scale).argmax())]


def pooled_payoffs(
    game: ReducedGame, schemes: Float[np.ndarray, "*batch K XB M"], user: AbstractUser
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch K"]]:
    """User value and agents' payoffs when the user sees every message, in one game or in a batch of games."""
    mass, own_user, agents, welfare = (np.asarray(x) for x in game)
    weights = np.ones((*schemes.shape[:-3], 1, schemes.shape[-2]))
    for scheme in np.moveaxis(schemes, -3, 0):
        joint = scheme.swapaxes(-1, -2)[..., :, None, :] * weights[..., None, :, :]
        weights = joint.reshape(*joint.shape[:-3], -1, joint.shape[-1])

    def weigh(payoff):  # [..., XA, N, n]
        return weights[..., None, :, :] @ payoff

    totals, ahead = weighed(weigh, own_user)
    sent = weigh(mass[..., None])[..., 0]
    each = [weighed(weigh, own) for own in np.moveaxis(agents, -4, 0)]
    responses = [respond(user, totals, sent, ahead, *own) for own in (each if user.favours else each[:1])]
    value = (responses[0] * weigh(welfare)).sum((-3, -2, -1))
    responses = responses if user.favours else responses * len(each)
    paid = [(response * own).sum((-3, -2, -1)) for response, (own, _) in zip(responses, each, strict=True)]
    return np.asarray(value), np.stack(paid, -1)
