"""The users' responses and every protocol's payoffs once more, in NumPy float64.

Written apart from `protocols/` on purpose: certificates share no code with the play that they check.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.game import ReducedGame
from emalign_jax.users import AbstractUser, QuantalUser, RationalUser

VALUE_TIE = 1e-9  # user values closer than this, relative to her range, are equal


def respond(
    user: AbstractUser,
    user_total: Float[np.ndarray, "*shape A"],
    mass: Float[np.ndarray, "*shape"],
    favour: Float[np.ndarray, "*shape A"],
    scale: float,
) -> Float[np.ndarray, "*shape A"]:
    """The law over actions at unnormalised beliefs: total = mass times the expected utility."""
    if isinstance(user, QuantalUser):
        with np.errstate(over="ignore", invalid="ignore"):  # at a mass of 1e-320, which then shows as NaN
            rate = float(user.precision) / np.where(mass > 0, mass, np.inf)[..., None]
            law = np.exp(rate * (user_total - user_total.max(-1, keepdims=True)))  # scipy's softmax takes twice as long
        return law / law.sum(-1, keepdims=True)
    if not isinstance(user, RationalUser):
        raise ValueError(f"user: the exact checks know QuantalUser and RationalUser, got {type(user).__name__}")
    tied = user_total >= user_total.max(-1, keepdims=True) - user.tolerance * scale * mass[..., None]
    if user.ties == "uniform":
        return tied / tied.sum(-1, keepdims=True)
    rank = np.where(tied, favour, -np.inf) if user.ties == "agents" else tied
    return np.eye(user_total.shape[-1])[rank.argmax(-1)]


def value_scale(game: ReducedGame) -> float:
    """Largest difference between two actions to the user in any cell (x_A, x_B) that can happen."""
    happens = game.mass > 0
    return float((np.ptp(game.user[happens], axis=-1) / game.mass[happens]).max(initial=0.0))


class SelectionTable(NamedTuple):
    """values: V [K] of the user under each agent; payoffs: O [K, K] of agent i under scheme j."""

    values: Float[np.ndarray, "K"]
    payoffs: Float[np.ndarray, "K K"]


def selection_table(
    game: ReducedGame, schemes: Float[np.ndarray, "K XB M"], user: AbstractUser, scale: float
) -> SelectionTable:
    mass, own_user, agents = (np.asarray(x) for x in game)
    totals = np.einsum("jbm,xba->jxma", schemes, own_user)  # [K, XA, M, A] under each scheme j
    agents_totals = np.einsum("jbm,ixba->jixma", schemes, agents)  # [K, K, XA, M, A] of agent i under scheme j
    sent = np.einsum("jbm,xb->jxm", schemes, mass)
    each = np.arange(len(schemes))
    law = respond(user, totals, sent, agents_totals[each, each], scale)
    return SelectionTable((law * totals).sum((1, 2, 3)), np.einsum("jxma,jixma->ij", law, agents_totals))


def choose(values: Float[np.ndarray, "K"], temperature: float, scale: float) -> Float[np.ndarray, "K"]:
    """Her law over agents: softmax(V / temperature), or the lowest index among the best."""
    if temperature > 0:
        from scipy.special import softmax  # a tenth of a second that importing the package need not cost

        return softmax(values / temperature)
    return np.eye(len(values))[int((values >= values.max() - VALUE_TIE * scale).argmax())]


def pooled_payoffs(
    game: ReducedGame, schemes: Float[np.ndarray, "K XB M"], user: AbstractUser, scale: float
) -> tuple[float, Float[np.ndarray, "K"]]:
    """User value and agents' payoffs [K] when she sees every message."""
    weights = np.ones((1, schemes.shape[1]))
    for scheme in schemes:
        weights = np.concatenate([weights * scheme[:, s] for s in range(scheme.shape[1])])
    totals = np.tensordot(weights, game.user, (1, 1)).swapaxes(0, 1)  # [XA, N, A]
    mass = np.asarray(game.mass) @ weights.T
    agents_totals = np.tensordot(weights, game.agents, (1, 2)).transpose(1, 2, 0, 3)
    laws = [respond(user, totals, mass, own, scale) for own in agents_totals]
    value = float((laws[0] * totals).sum())
    return value, np.array([(law * own).sum() for law, own in zip(laws, agents_totals, strict=True)])
