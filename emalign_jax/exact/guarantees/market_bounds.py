"""Lower bounds of all equilibria of one large game, and the transfers that lift them, by sparse LPs (sections 6.2, 6.3
and 6.7 of docs/model.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from emalign_jax.exact.obedience import recommendations
from emalign_jax.exact.obedience.program import assembled
from emalign_jax.exact.responses import by_agent
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.games.units import LP_ERROR
from emalign_jax.lp.highs import KeptLP, LPFailed
from emalign_jax.protocols.standard_units import StandardForm
from emalign_jax.users.rational import RationalUser


def least_value(game: ReducedGame, sets: Bool[np.ndarray, "R XA A"], agents: Sequence[int], obedience: bool) -> float:
    """The least user value over distributions that pay each of `agents` what full revelation pays it, with ties of the
    informed user in its favour.

    game:      one game in standard units.
    sets:      the recommendations, of one action for each type.
    obedience: whether the user must obey.
    The bound is proved by the LP's multipliers. V_full where the LP is infeasible: then every equilibrium is worth
    V_full (section 6.2 of docs/model.md). Raises `LPFailed` where HiGHS does not solve the LP.
    """
    user, payoffs = np.asarray(game.user), np.asarray(game.agents)[list(agents)]
    XB, R, K = user.shape[1], len(sets), len(payoffs)
    rule = RationalUser()
    floors = (by_agent(rule, game._replace(agents=payoffs)) * payoffs).sum((1, 2, 3))
    scale = 2.0 ** np.ceil(np.log2(XB))  # Each of a thousand states is worth a thousandth; see `lp.highs`.
    own, paid = recommendations.spread(user, sets), recommendations.spread(payoffs, sets)  # [XB, R], [K, XB, R]
    column = np.arange(XB * R).reshape(XB, R)
    row, col, entry = [np.repeat(np.arange(XB), R)], [column.ravel()], [np.ones(XB * R)]
    row.append(np.repeat(XB + np.arange(K), XB * R))
    col.append(np.tile(column.ravel(), K))
    entry.append(scale * paid.ravel())
    advantage, of = np.zeros((0, XB)), np.zeros(0, int)
    if obedience:
        of, xa, a, c = recommendations.comparisons(sets)
        advantage = units.relaxed(user, rule.tie_tolerance)[xa, :, a, c]  # [rows, XB]
        size = np.abs(advantage).max(1, keepdims=True)
        advantage = advantage / np.where(size > 0, size, 1)
        row.append(np.repeat(XB + K + np.arange(len(of)), XB))
        col.append(column.T[of].ravel())
        entry.append(advantage.ravel())
    lower = np.concatenate([np.ones(XB), scale * (floors - LP_ERROR), np.zeros(len(of))])
    upper = np.concatenate([np.ones(XB), np.full(K + len(of), np.inf)])
    rows, columns, entries = (np.concatenate(x) for x in (row, col, entry))
    matrix = assembled(rows, columns, entries, (len(lower), XB * R))
    solved = KeptLP(matrix, lower, upper, cost=-scale * own.ravel()).solve()
    full = float(user.max(-1).sum())
    if solved.status == "Infeasible":
        return full
    if not solved.optimal:
        raise LPFailed(f"HiGHS did not solve the LP of the guarantee: {solved.status}")
    # Weak duality holds for any multipliers >= 0. Those of the rows of obedience are for costs `scale` times as large.
    multipliers = np.maximum(-solved.row_dual[XB:], 0)
    weights, commands = multipliers[:K], multipliers[K:] / scale
    priced = own - np.tensordot(weights, paid, 1)
    np.subtract.at(priced.T, of, commands[:, None] * advantage)
    return min(float(priced.min(1).sum() + weights @ floors), full)


def least_budget_to(form: StandardForm, agents: Sequence[int], goal: float) -> float:
    """The least budget b of transfers t_i(a, x_A, x_B), |t_i| <= b in raw units, whose coverage bound is `goal`, in
    standard units.

    With weights w, transfers are best used to pay for the informed user's action and to charge for every other one.
    Cell c then needs slack_c >= g(a*) - g(a) - sum_i w_i (G_i(a*) - G_i(a)) - 2 b p_c sum_i w_i, and all slack together
    is V_full - goal. Divided by sum_i w_i, this is linear in w, b, slack and the size t of the user's utility.
    """
    from scipy import sparse  # Imported here because it takes a tenth of a second.

    game = form.game
    user, payoffs = game.user, game.agents[list(agents)]
    A, K, cells = user.shape[-1], len(payoffs), game.mass.size
    scale = 2.0 ** np.ceil(np.log2(cells))
    best = by_agent(RationalUser(ties="lowest"), game._replace(agents=payoffs[:1]))[0].argmax(-1)[..., None]

    def ahead(payoff):
        """[cells, A]: by how much the informed user's action is worth more than each."""
        chosen = np.take_along_axis(payoff, np.broadcast_to(best, (*payoff.shape[:-1], 1)), -1)
        return scale * (chosen - payoff).reshape(*payoff.shape[:-3], cells * A)

    other = (np.arange(A) != best).ravel() & np.repeat(game.mass.ravel() > 0, A)
    own = (ahead(payoffs) * form.agent_unit[list(agents)][:, None])[:, other]
    lost, mass, cell = (
        ahead(user)[other],
        scale * np.repeat(game.mass.ravel(), A)[other],
        np.repeat(np.arange(cells), A),
    )
    slack = sparse.csc_array((np.ones(other.sum()), (np.arange(other.sum()), cell[other])), shape=(other.sum(), cells))
    dense = sparse.csc_array(np.concatenate([own, -lost[None], 2 * mass[None]]).T)
    full = float(user.max(-1).sum())
    total = np.concatenate([np.zeros(K), [-scale * (full - goal), 0.0], np.ones(cells)])
    normal = np.concatenate([np.ones(K), np.zeros(2 + cells)])
    matrix = sparse.vstack([sparse.hstack([dense, slack]), sparse.csc_array(np.stack([total, normal]))]).tocsc()
    lower = np.concatenate([np.zeros(other.sum()), [-np.inf, 1.0]])
    upper = np.concatenate([np.full(other.sum(), np.inf), [0.0, 1.0]])
    cost = np.zeros(K + 2 + cells)
    cost[K + 1] = -1
    solved = KeptLP(matrix, lower, upper, cost=cost).solve()
    if not solved.optimal:
        raise LPFailed(f"HiGHS did not solve the LP of the least transfers: {solved.status}")
    return max(float(solved.x[K + 1]), 0.0)
