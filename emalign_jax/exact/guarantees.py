"""What the theorem promises the user (section 6 of the model).

At a given profile both bounds hold, equilibrium or not, from what each agent would gain by switching to full
revelation; with no gains they bound every equilibrium. The public `worst_case` and `coverage` are in `coverage.py`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.lp import KeptLP
from emalign_jax.game import ReducedGame

ROUNDING = 1e-9  # of an agent's stake: the law at hand pays its floors up to that
CLOSED = 1e-7  # of her stake: how far the multipliers' bound may be from the LP's value


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
    half = np.concatenate([span, np.tile(np.eye(Y), (A, 1))], axis=1)
    rows = np.empty((2, cells, K + Y + 1))
    rows[:, :, :-1] = half
    rows[0, :, -1], rows[1, :, -1] = 1, -1
    target = user_utility.ravel()
    lp = KeptLP(
        rows.reshape(2 * cells, -1),
        np.concatenate([target, np.full(cells, -np.inf)]),
        np.concatenate([np.full(cells, np.inf), target]),
        cost=-np.concatenate([reveal_gains, np.zeros(Y), [2.0]]),
        col_lower=np.concatenate([np.zeros(K), np.full(Y, -np.inf), [0.0]]),
    )
    result = lp.solve()
    return Theorem(full_information + result.value, float(result.x[-1]), result.x[:K])


class WorstLaw(NamedTuple):
    """The worst user value over all laws over actions that pay the agents their floors.

    value:    no such law pays her less: what the multipliers prove, whatever HiGHS did; NaN unless solved
    weights:  [K] multipliers of the floors, >= 0
    commands: [XA, A, A] multipliers of obedience, of playing a rather than c at x_A (0 where it is not asked for)
    left:     [XA, XB] what a cell is worth to her at the least, net of what the multipliers pay for: the value is
              its sum plus weights @ floors
    status:   "Optimal", "Open" if the multipliers do not prove the LP's value, or what HiGHS said instead
    exact:    the LP's value as a rational, if that was asked for
    """

    value: float
    weights: Float[np.ndarray, "K"]
    commands: Float[np.ndarray, "XA A A"]
    left: Float[np.ndarray, "XA XB"]
    status: str
    exact: Fraction | None = None


def worst_law(
    game: ReducedGame, floors: Float[np.ndarray, "K"], *, obedience_slack: float | None, exact: bool = False
) -> WorstLaw:
    """Minimise her value over laws q[a | x_A, x_B] that pay agent i at least floors[i] (his payoff under full
    revelation less his gain from it).

    obedience_slack: by how much (in utility) a rational user may miss her best action, her tie tolerance;
        None for a user who is not rational.
    """
    XA, XB, A = game.user.shape
    K, cells = len(game.agents), XA * XB
    total = np.zeros((cells, cells, A))
    total[np.arange(cells), np.arange(cells)] = 1
    rows = [total.reshape(cells, -1), game.agents.reshape(K, -1)]
    given_way = floors - ROUNDING * np.ptp(game.agents, axis=-1).sum((1, 2))
    advantage = game.user[..., :, None] - game.user[..., None, :]  # [XA, XB, a, c]
    advantage = advantage + (obedience_slack or 0.0) * game.mass[..., None, None]
    size = np.abs(advantage).max(1)  # [XA, a, c]
    used = (size > 0) & ~np.eye(A, dtype=bool) & (obedience_slack is not None)
    if used.any():
        xa, a, c = np.nonzero(used)
        row = np.zeros((len(xa), XA, XB, A))
        row[np.arange(len(xa)), xa, :, a] = advantage[xa, :, a, c] / size[used][:, None]
        rows.append(row.reshape(-1, cells * A))
    lower = np.concatenate([np.ones(cells), given_way, np.zeros(used.sum())])
    upper = np.concatenate([np.ones(cells), np.full(K + used.sum(), np.inf)])
    result = KeptLP(np.concatenate(rows), lower, upper, cost=-game.user.ravel(), exact=exact).solve()
    commands = np.zeros((XA, A, A))
    if not result.optimal:
        return WorstLaw(np.nan, np.full(K, np.nan), commands, np.full((XA, XB), np.nan), result.status)
    multipliers = np.maximum(-result.row_dual[cells:], 0)
    weights = multipliers[:K]
    commands[used] = multipliers[K:] / size[used]
    paid = np.einsum("k,kxba->xba", weights, game.agents) + np.einsum("xac,xbac->xba", commands, advantage)
    left = (game.user - paid).min(-1)
    value = float(left.sum() + weights @ floors)  # any multipliers >= 0 prove this of the floors themselves
    open_by = abs(left.sum() + weights @ given_way + result.value)
    closed = open_by <= CLOSED * max(float(np.ptp(game.user, axis=-1).sum()), 1e-300)
    return WorstLaw(
        value if closed else np.nan, weights, commands, left, "Optimal" if closed else "Open",
        None if result.exact is None else -result.exact,
    )  # fmt: skip
