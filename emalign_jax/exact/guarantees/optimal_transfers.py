"""Optimal transfers to agents, by one float64 LP a game (section 6.7 of docs/model.md).

Transfers t_i(a) or t_i(a, y) are added to U_i and are bounded, |t_i| <= budget for all a and y. The weighted sum
S = sum_i w_i t_i ranges over |S| <= budget * sum_i w_i, so that both problems are linear in (w, S), although not in
(w, t).
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.exact.responses import respond
from emalign_jax.games import units
from emalign_jax.games.game import Game, faults
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import choice, shown
from emalign_jax.internal.validation import on_host
from emalign_jax.lp.highs import KeptLP, LPFailed
from emalign_jax.protocols import Pooled, Selection
from emalign_jax.protocols.base import reduce_for
from emalign_jax.protocols.standard_units import StandardForm, standard_form
from emalign_jax.result import Batched
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser

KINDS = ("action", "outcome")
WEIGHTS = ("simplex", "cone")
# A sum of weights below this counts as 0.
SMALLEST_WEIGHT = 1e-9
# Relative to the utilities: by how much the required transfers may vary with the outcome and still depend on the action
# alone.
MAX_VARIATION = 1e-7
# Relative to the utilities: a budget this small counts as 0.
ROUNDING = 64 * np.finfo(float).eps
# The LP of the least budget is solved again in smaller units while the budget is less than REFINE_BELOW of the unit.
MAX_SOLVES, REFINE_BELOW = 5, 0.1


class BestTransfers(Batched):
    """Transfers and what they guarantee; NaN where the game is malformed or its LP failed.

    Attributes:
        guarantee: [...] a lower bound of the user's value in every equilibrium under these transfers (coverage form).
        without: [...] the same bound without transfers.
        transfers: [..., K, A, Y], or [..., K, A, 1] if they depend on the action alone.
        weights: [..., K] the weights w that prove the guarantee.

    Example:
        >>> found = em.best_transfers(em.catalog.judge(), budget=1.0)
        >>> round(float(found.without), 3), round(float(found.guarantee), 3), found.transfers.shape
        (0.0, 1.0, (1, 2, 2))
    """

    guarantee: Float[np.ndarray, "*batch"]
    without: Float[np.ndarray, "*batch"]
    transfers: Float[np.ndarray, "*batch K A Z"]
    weights: Float[np.ndarray, "*batch K"]

    _code: ClassVar[str | None] = None

    def _headline(self) -> dict[str, Any]:
        return {"guarantee": self.guarantee, "without transfers": self.without}

    @property
    def ok(self) -> Any:
        """[...] whether the game was solved."""
        return np.isfinite(self.guarantee)


def least_budget(games: Game, *, kind: str = "outcome", weights: str = "simplex") -> Float[np.ndarray, "*batch"]:
    """The least budget of transfers with which every equilibrium is worth V_full to the user.

    With these transfers t_i, `|t_i|` at most the budget, u is in the hull of the U_i + t_i.

    Args:
        games: [...] games.
        kind: what transfers depend on: "action" or "outcome" (action and outcome). With "action" the budget is inf
            where no such transfers exist.
        weights: "simplex": u = sum_i w_i (U_i + t_i) + c(y) with weights w >= 0 of sum 1; "cone": of any sum > 0. With
            "cone" the budget is an infimum: transfers that make agents indifferent suffice, plus a little of u.

    Returns:
        [...] in units of the agents' utility; NaN where the game is malformed or its LP failed.

    Raises:
        ValueError: for an unknown word.

    Example:
        >>> round(float(em.least_budget(em.catalog.prosecutor_against_defender())), 6)
        0.5

    Source: section 6.7 of docs/model.md.
    """
    (games,) = on_host(games=games)
    choice("kind", kind, KINDS)
    choice("weights", weights, WEIGHTS)
    flat = flatten_games(games, games.batch_shape)
    found = []
    for p, u, U, fault in zip(flat.prior, flat.user_utility, flat.agent_utilities, faults(flat), strict=True):
        happens = np.asarray(p).sum((0, 1)) > 0  # Impossible outcomes need no transfers.
        u, U = (np.asarray(x, np.float64)[..., happens] for x in (u, U))
        found.append(np.nan if fault else _least(u, U, kind, weights))
    return np.array(found).reshape(games.batch_shape)


def best_transfers(games: Game, budget, user: AbstractUser | None = None, *, kind: str = "outcome") -> BestTransfers:
    """The transfers within a budget under which the guarantee is largest.

    The guarantee is V_full less the coverage slack (section 6.3 of docs/model.md; without obedience). It holds in
    Pooled, and in Selection with temperature 0. V_full does not change with transfers unless ties go to agents.

    Args:
        games: [...] games.
        budget: the largest transfer, in units of the agents' utility; a number or [...].
        user: RationalUser(ties="lowest") by default.
        kind: what transfers depend on: "action" or "outcome" (action and outcome).

    Returns:
        `BestTransfers`.

    Raises:
        ValueError: for an unknown word or a budget that is not finite and >= 0.

    Example:
        >>> game = em.catalog.two_prosecutors()
        >>> [round(float(em.best_transfers(game, budget).guarantee), 3) for budget in (0.0, 1.0)]
        [0.0, 1.0]

    Source: section 6.7 of docs/model.md.
    """
    user = RationalUser(ties="lowest") if user is None else user
    games, budget, user = on_host(games=games, budget=budget, user=user)
    choice("kind", kind, KINDS)
    budget = np.asarray(budget, np.float64)
    if not ((budget >= 0) & np.isfinite(budget)).all():
        raise ValueError(f"budget: expected finite numbers >= 0, got {shown(budget)}")
    batch = np.broadcast_shapes(games.batch_shape, budget.shape)
    flat, budgets = flatten_games(games, batch), np.broadcast_to(budget, batch).ravel()
    users: Any = batching.flatten(user, batch)
    # As in Pooled: with ties="agents" misread beliefs would make V_full depend on the agent.
    reduced, users = reduce_for(flat, Pooled(), users, np), users.plain
    K, A, Z = games.agents, games.actions, games.outcomes if kind == "outcome" else 1
    shapes = (), (), (K, A, Z), (K,)
    columns = [np.full((len(budgets), *shape), np.nan) for shape in shapes]
    for k, fault in enumerate(faults(flat)):
        if fault:
            continue
        one = batching.item(users, k)
        form = standard_form(reduced.at(k), Selection(), one)
        found = _best(form, np.asarray(flat.prior[k], np.float64), form.user, float(budgets[k]), kind)
        for column, value in zip(columns, found, strict=True):
            column[k] = value
    whole = (x.reshape((*batch, *shape)) for x, shape in zip(columns, shapes, strict=True))
    return BestTransfers(*whole, labels=games.labels)


def _least(u, U, kind, weights) -> float:
    """The least budget of one game, solved in smaller and smaller units until the budget is of the size of the unit:
    the agents' units may be much larger than the budget."""
    u, U = u - u.mean(0), U - U.mean(1, keepdims=True)  # Offsets c(y) are free.
    user_unit, unit = _spread(u), max(_spread(x) for x in U)
    if not unit > 0:  # All agents are indifferent.
        return 0.0 if weights == "cone" else _needed(u, U, np.full(len(U), 1 / len(U)), 1.0, kind)
    if weights == "simplex":  # With weights of sum 1 transfers are as large as u itself.
        unit = max(unit, user_unit)
    best = np.inf
    for refined in range(MAX_SOLVES):
        try:
            found = _solve_least(u, U, kind, weights, user_unit or 1.0, unit)
        except LPFailed:
            if not refined:
                return np.nan
            break
        needed = np.inf if found is None else _needed(u, U, *found, kind)
        if not needed < best:
            break
        best, refine = needed, 0 < needed < REFINE_BELOW * unit
        if not refine:
            break
        unit = needed
    return best


def _spread(utility: Float[np.ndarray, "A Y"]) -> float:
    """Largest difference between two actions."""
    return float(np.ptp(utility, axis=0).max(initial=0.0))


def _needed(u, U, w, scale, kind) -> float:
    """The least budget with which sum_i w_i (U_i + t_i) = scale * u up to an offset; inf where there is none."""
    gap = scale * u - np.tensordot(w, U, 1)
    if _spread(gap) <= ROUNDING * (scale * np.abs(u).max() + w @ np.abs(U).max((1, 2))):
        return 0.0
    if kind == "outcome":
        return _spread(gap) / 2
    gap = gap - gap[:1]
    varies = np.ptp(gap, axis=1).max(initial=0.0)
    if varies > MAX_VARIATION * max(scale * _spread(u), max(w_i * _spread(x) for w_i, x in zip(w, U, strict=True))):
        return np.inf
    return float(np.ptp(gap.mean(1)) / 2)


def _solve_least(u, U, kind, weights, user_unit: float, unit: float):
    """(weights, scale) that minimise the budget subject to scale * u + c - sum_i w_i U_i = S with |S| <= budget and
    sum w = 1, or None. Columns, in `unit`: w [K], scale of u, c [Y], S by action [A] (kind "action" alone), budget."""
    K, A, Y = U.shape
    base = np.concatenate(
        [-U.reshape(K, -1).T / unit, u.reshape(-1, 1) / user_unit, np.tile(np.eye(Y), (A, 1))], 1
    )  # [A Y, K + 1 + Y]
    n = base.shape[1]
    if kind == "action":
        base = np.concatenate([base, -np.repeat(np.eye(A), Y, 0), np.zeros((A * Y, 1))], 1)
        bound = np.zeros((2, A, n + A + 1))
        bound[0, :, n : n + A], bound[1, :, n : n + A] = np.eye(A), -np.eye(A)
        bound[:, :, -1] = -1
        rows, low, high = [base, *bound], [np.zeros(A * Y), np.full(2 * A, -np.inf)], [np.zeros(A * Y), np.zeros(2 * A)]
    else:
        one = np.ones((A * Y, 1))
        rows = [np.concatenate([base, -one], 1), np.concatenate([-base, -one], 1)]
        low, high = [np.full(2 * A * Y, -np.inf)], [np.zeros(2 * A * Y)]
    columns = rows[0].shape[1]
    total = np.zeros((1, columns))
    total[0, :K] = 1
    lower = np.full(columns, -np.inf)
    lower[: K + 1], lower[-1] = 0, 0
    upper = np.full(columns, np.inf)
    if weights == "simplex":
        lower[K] = upper[K] = user_unit / unit
    cost = np.zeros(columns)
    cost[-1] = -1
    solved = KeptLP(
        np.concatenate([*rows, total]), np.concatenate([*low, [1.0]]), np.concatenate([*high, [1.0]]),
        cost=cost, col_lower=lower, col_upper=upper,
    ).solve()  # fmt: skip
    if solved.status == "Infeasible":
        return None
    if not solved.optimal:
        raise LPFailed(f"HiGHS did not solve the LP of the least budget: {solved.status}")
    w = np.maximum(solved.x[:K], 0)
    return w / w.sum(), 1.0 if weights == "simplex" else max(float(solved.x[K]), 0.0) * unit / user_unit


class _Secured(NamedTuple):
    """The guarantee that weights and a weighted sum of transfers prove, in standard units."""

    value: float
    weights: Float[np.ndarray, "K"]
    paid: Float[np.ndarray, "A Z"]


class _Problem:
    """One game in standard units: guarantees by transfers within a budget."""

    def __init__(self, form: StandardForm, prior, user, kind: str):
        self.form, game = form, form.game
        XA, XB, A = game.user.shape
        cells, (K, Y) = XA * XB, (len(game.agents), prior.shape[-1])
        ahead = functools.partial(units.advantages, game.user)
        nothing = np.zeros((XA, XB, A))
        user_total, mass = np.asarray(game.user), np.asarray(game.mass)
        informed = respond(user, user_total, mass, ahead, nothing, functools.partial(units.advantages, nothing))
        self.informed, self.g = informed.reshape(cells, A), game.welfare.reshape(cells, A)  # The distribution over a*.
        self.p = prior.reshape(cells, Y) if kind == "outcome" else prior.sum(-1).reshape(cells, 1)
        self.step = self.informed[:, None, :] - np.eye(A)  # [cells, a, b]: from playing a to the informed response
        self.lost = np.einsum("cab,cb->ca", self.step, self.g)
        self.own = np.einsum("cab,kcb->cak", self.step, game.agents.reshape(K, cells, A))
        self.full = float((self.informed * self.g).sum())

    def best(self, budget: float) -> _Secured | None:
        """The largest guarantee, by an LP with columns w [K], S [A, Z] and slack [cells]: minimise the sum of slack
        subject to |S| <= sum_i w_i budget / unit_i and, for all cells and actions,
        slack >= g(a*) - g(a) - sum_i w_i (G_i(a*) - G_i(a)) - (S(a*) - S(a))."""
        (cells, A, K), Z = self.own.shape, self.p.shape[1]
        limit = budget / self.form.agent_unit
        moved = np.einsum("cab,cz->cabz", self.step, self.p).reshape(cells * A, A * Z)
        pays = np.concatenate([self.own.reshape(cells * A, K), moved, np.repeat(np.eye(cells), A, 0)], 1)
        bound = np.zeros((2, A * Z, pays.shape[1]))
        bound[0, :, K : K + A * Z], bound[1, :, K : K + A * Z] = np.eye(A * Z), -np.eye(A * Z)
        bound[:, :, :K] = -limit
        low = np.concatenate([self.lost.ravel(), np.full(2 * A * Z, -np.inf)])
        high = np.concatenate([np.full(cells * A, np.inf), np.zeros(2 * A * Z)])
        lower = np.concatenate([np.zeros(K), np.full(A * Z, -np.inf), np.zeros(cells)])
        cost = np.concatenate([np.zeros(K + A * Z), -np.ones(cells)])
        solved = KeptLP(np.concatenate([pays, *bound]), low, high, cost=cost, col_lower=lower).solve()
        if not solved.optimal:
            return None
        weights = np.maximum(solved.x[:K], 0)
        weights = np.where(weights.sum() < SMALLEST_WEIGHT, 0, weights)
        most = float(weights @ limit)
        return self.secured(weights, np.clip(solved.x[K : K + A * Z].reshape(A, Z), -most, most))

    def secured(self, weights, paid) -> _Secured:
        moved = np.einsum("cab,bz,cz->ca", self.step, paid, self.p)
        slack = (self.lost - self.own @ weights - moved).max(1)
        return _Secured(self.full - float(np.maximum(slack, 0).sum()), weights, paid)


def _best(form: StandardForm, prior, user, budget: float, kind: str):
    """The fields of `BestTransfers` for one game."""
    problem = _Problem(form, prior, user, kind)
    K, Z = len(form.agent_unit), problem.p.shape[1]
    try:
        without, found = problem.best(0.0), problem.best(budget)
    except LPFailed:
        without = found = None
    if without is None or found is None:
        return np.nan, np.nan, np.full((K, form.game.user.shape[-1], Z), np.nan), np.full(K, np.nan)
    best = max(found, without, key=lambda secured: secured.value)
    each = best.weights / form.agent_unit
    happens = problem.p.sum(0) > 0
    transfers = best.paid * happens / each.sum() if each.sum() > 0 else np.zeros_like(best.paid)
    raw = (float(form.user_unit * secured.value + form.user_zero) for secured in (best, without))
    transfers = np.broadcast_to(np.clip(transfers, -budget, budget), (K, *best.paid.shape))
    return *raw, transfers, form.user_unit * each
