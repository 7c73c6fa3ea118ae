"""What the theorem promises the user at a given profile (section 6 of the model).

Both bounds hold for every profile, equilibrium or not, from what each agent would gain by switching to
full revelation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.lp import KeptLP
from emalign_jax.game import ReducedGame


class Theorem(NamedTuple):
    """value: V_full - 2 eps - sum_i w_i e_i, with the weights and offset that make it largest."""

    value: float
    eps: float
    weights: Float[np.ndarray, "K"]


def theorem_bound(
    user_utility: Float[np.ndarray, "A Y"],
    agent_utilities: Float[np.ndarray, "K A Y"],
    full_information: float,
    reveal_gains: Float[np.ndarray, "K"],
) -> Theorem:
    """The 2 eps form: minimise 2 eps + sum_i w_i e_i over w >= 0 and offsets c(y), where
    |sum_i w_i U_i + c - u| <= eps everywhere. NaN where the LP is not solved."""
    K, A, Y = agent_utilities.shape
    # offsets are free, so take the mean out of each outcome: large ones would cost the LP its precision
    user_utility = user_utility - user_utility.mean(0)
    agent_utilities = agent_utilities - agent_utilities.mean(1, keepdims=True)
    cells = A * Y
    span = agent_utilities.reshape(K, cells).T
    offset = np.tile(np.eye(Y), (A, 1))
    one = np.ones((cells, 1))
    target = user_utility.ravel()
    lp = KeptLP(
        np.block([[span, offset, one], [span, offset, -one]]),
        np.concatenate([target, np.full(cells, -np.inf)]),
        np.concatenate([np.full(cells, np.inf), target]),
        cost=-np.concatenate([reveal_gains, np.zeros(Y), [2.0]]),
        col_lower=np.concatenate([np.zeros(K), np.full(Y, -np.inf), [0.0]]),
    )
    result = lp.solve()
    return Theorem(full_information + result.value, float(result.x[-1]), result.x[:K])


def sharp_bound(
    game: ReducedGame, payoff_floors: Float[np.ndarray, "K"], *, obedience_slack: float | None
) -> tuple[float, str]:
    """The worst user value over all laws q[a | x_A, x_B] that pay agent i at least payoff_floors[i]
    (his payoff under full revelation less his gain from it).

    obedience_slack: by how much (in utility) a rational user may miss her best action, her tie tolerance;
        None for a user who is not rational.
    Returns the value (NaN unless optimal) and HiGHS's word."""
    XA, XB, A = game.user.shape
    K = len(game.agents)
    total = np.zeros((XA * XB, XA * XB, A))
    total[np.arange(XA * XB), np.arange(XA * XB)] = 1
    rows = [total.reshape(XA * XB, -1), game.agents.reshape(K, -1)]
    # the law at hand attains the floors up to rounding
    lower = [np.ones(XA * XB), payoff_floors - 1e-9 * np.ptp(game.agents, axis=-1).sum((1, 2))]
    upper = [np.ones(XA * XB), np.full(K, np.inf)]
    if obedience_slack is not None:
        advantage = game.user[..., :, None] - game.user[..., None, :]  # [XA, XB, a, b]
        advantage += obedience_slack * game.mass[..., None, None]
        row = np.einsum("xbac,xz,ad->xaczbd", advantage, np.eye(XA), np.eye(A)).reshape(XA * A * A, -1)
        size = np.abs(row).max(1, keepdims=True)
        row = (row / np.where(size > 0, size, 1))[size[:, 0] > 0]
        rows.append(row)
        lower.append(np.zeros(len(row)))
        upper.append(np.full(len(row), np.inf))
    lp = KeptLP(np.concatenate(rows), np.concatenate(lower), np.concatenate(upper), cost=-game.user.ravel())
    result = lp.solve()
    return -result.value, result.status
