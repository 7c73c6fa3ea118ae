"""The LPs of many sup-norm fits at once, by the batched simplex of `lp`.

    minimise  eps + prices @ w   subject to   |sum_i w_i U_i + c - u| <= eps everywhere,  w >= 0 (simplex: of sum 1)

They are solved in their dual form, which has one row for each agent instead of one for each cell: over q = q+ - q- with
sum |q| <= 1 and q orthogonal to offsets. The weights and q are proposals; the caller evaluates the bounds they prove.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from emalign_jax.exact.alignment.residuals import Rule, size_of
from emalign_jax.lp import batched_lp


class Proposal(NamedTuple):
    """The answers of N LPs; NaN where the simplex did not end optimal.

    weights: [N, K]
    dual:    [N, A, Y] the q of `residuals.dual_bound`
    value:   [N] of the LP
    proved:  [N] whether the LP's residuals and gap are within tolerance
    """

    weights: Float[np.ndarray, "N K"]
    dual: Float[np.ndarray, "N A Y"]
    value: Float[np.ndarray, "N"]
    proved: Bool[np.ndarray, "N"]


def shape(K: int, A: int, Y: int, rule: Rule) -> tuple[int, int]:
    """Rows and columns of the LP of one fit."""
    return len(_free(A, Y, rule)) + K + 1, 2 * A * Y + rule.simplex


def propose(
    user: Float[np.ndarray, "N A Y"],
    agents: Float[np.ndarray, "N K A Y"],
    rule: Rule,
    prices: Float[np.ndarray, "N K"] | None = None,
    size: tuple[int, int] = (0, 0),
) -> Proposal:
    """Proposed fits. The users' tables (on the simplex: the agents' tables less the user's) must be of size about 1.

    prices: added to the objective as prices @ weights; 0 by default.
    size:   see `batched_lp.maximise`.
    """
    N, K, A, Y = agents.shape
    tables = agents - user[:, None] if rule.simplex else agents
    unit = size_of(tables, "sup")
    unit = np.where(unit > 0, unit, 1.0)
    flat = (tables / unit[..., None, None]).reshape(N, K, A * Y)
    free = _free(A, Y, rule)
    k = len(free)
    q = np.concatenate([np.broadcast_to(free, (N, *free.shape)), -flat, np.ones((N, 1, A * Y))], 1)
    rows = np.concatenate([q, -q], 2)
    rows[:, -1] = 1
    right = np.zeros((N, k + K + 1))
    right[:, -1] = 1
    if prices is not None:
        right[:, k : k + K] = prices / unit
    if rule.simplex:  # The last variable is min_i <q, U_i - u>.
        level = np.zeros((N, k + K + 1, 1))
        level[:, k : k + K, 0] = 1 / unit
        rows = np.concatenate([rows, level], 2)
        cost, level_at = np.eye(rows.shape[2])[-1:], (rows.shape[2] - 1,)
    else:
        flat_user = user.reshape(N, -1)
        cost, level_at = np.concatenate([-flat_user, flat_user], 1), ()
    # A column of each offset is a basis of its row.
    first = np.broadcast_to(free.argmax(1), (N, k)).astype(np.int32) if k else None
    found = batched_lp.maximise(cost, rows, right, equal=k, free=level_at, first=first, size=size)
    dual = (found.x[:, : A * Y] - found.x[:, A * Y : 2 * A * Y]).reshape(N, A, Y)
    return Proposal(np.maximum(found.dual[:, k : k + K], 0) / unit, dual, found.value, found.proved)


def _free(A: int, Y: int, rule: Rule) -> np.ndarray:
    """A basis [k, A Y] of the offsets, to which q is orthogonal."""
    if rule.offset == "none":
        return np.zeros((0, A * Y))
    return np.ones((1, A * Y)) if rule.offset == "constant" else np.tile(np.eye(Y), (1, A))
