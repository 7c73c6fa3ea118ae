"""What transfers to agents can do for the user, exactly: the yardstick of tuned ones (section 6.7 of docs/model.md).

Transfers t_i(a) or t_i(a, y) are added to U_i and are bounded, |t_i| <= budget at every event. Weighted sums of them,
S = sum_i w_i t_i, range over |S| <= budget * sum_i w_i, so both problems are linear in (w, S), although not in (w, t).
Float64, one LP a game.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.certificates.certificate import flatten_games
from emalign_jax.exact.responses import respond
from emalign_jax.games import units
from emalign_jax.games.game import Game, ReducedGame, faults, reduce_game
from emalign_jax.internal import batching
from emalign_jax.internal.arguments import choice, shown
from emalign_jax.internal.validation import on_host
from emalign_jax.lp.highs import KeptLP, LPFailed
from emalign_jax.protocols import Selection
from emalign_jax.protocols.standard_units import StandardForm, standard_form
from emalign_jax.users.base import AbstractUser
from emalign_jax.users.rational import RationalUser

KINDS = ("action", "outcome")
WEIGHTS = ("simplex", "cone")
NO_WEIGHT = 1e-9  # agents of less weight in all cannot be paid to matter
NOT_BY_ACTION = 1e-7  # of the utilities: what may be left that varies with the outcome
ROUNDING = 64 * np.finfo(float).eps  # of the utilities: a budget of no more is none
REFINEMENTS, COARSE = 5, 0.1  # solves in smaller units, where the budget is less than this share of the unit


class BestTransfers(NamedTuple):
    """guarantee: [...] user value in every equilibrium under these transfers is at least this (the coverage form)
    without:   [...] the same with no transfers
    transfers: [..., K, A, Y], or [..., K, A, 1] by action; NaN where the game is malformed or its LP failed
    weights:   [..., K] of the certificate
    """

    guarantee: Float[np.ndarray, "*batch"]
    without: Float[np.ndarray, "*batch"]
    transfers: Float[np.ndarray, "*batch K A Z"]
    weights: Float[np.ndarray, "*batch K"]


def least_budget(games: Game, *, kind: str = "outcome", weights: str = "simplex") -> Float[np.ndarray, "*batch"]:
    """The least budget [...] whose transfers bring u into the hull of the U_i + t_i, so that every equilibrium is worth
    V_full to her.

    weights: "simplex": u = sum_i w_i (U_i + t_i) + c(y) with weights of sum 1; "cone": of any sum > 0. The latter is an
        infimum: where agents can be paid into indifference for less, it is enough to do so and add a little of u.
    kind: "action" or "outcome", what transfers may depend on; inf where no payment by action alone does it
    Raises `ValueError` for an unknown word; NaN where the game is malformed or its LP failed.
    """
    (games,) = on_host(games=games)
    choice("kind", kind, KINDS)
    choice("weights", weights, WEIGHTS)
    flat = flatten_games(games, games.batch_shape)
    found = []
    for p, u, U, fault in zip(flat.prior, flat.user_utility, flat.agent_utilities, faults(flat), strict=True):
        happens = np.asarray(p).sum((0, 1)) > 0  # what cannot happen needs no payment
        u, U = (np.asarray(x, np.float64)[..., happens] for x in (u, U))
        found.append(np.nan if fault else _least(u, U, kind, weights))
    return np.array(found).reshape(games.batch_shape)


def best_transfers(games: Game, budget, user: AbstractUser | None = None, *, kind: str = "outcome") -> BestTransfers:
    """The transfers within `budget` (a number or [...]) under which the guarantee is largest.

    The guarantee is V_full less the coverage slack (section 6.3 of docs/model.md; without obedience). It holds in
    Pooled, and in Selection with temperature 0, and V_full does not change with transfers if her ties are her own.
    """
    user = RationalUser(ties="lowest") if user is None else user
    games, budget, user = on_host(games=games, budget=budget, user=user)
    choice("kind", kind, KINDS)
    budget = np.asarray(budget, np.float64)
    if not ((budget >= 0) & np.isfinite(budget)).all():
        raise ValueError(f"budget: expected finite numbers >= 0, got {shown(budget)}")
    batch = np.broadcast_shapes(games.batch_shape, budget.shape)
    flat, budgets = flatten_games(games, batch), np.broadcast_to(budget, batch).ravel()
    reduced, users = reduce_game(flat, np), batching.flatten(user, batch)
    K, A, Z = games.agents, games.actions, games.outcomes if kind == "outcome" else 1
    shapes = (), (), (K, A, Z), (K,)
    columns = [np.full((len(budgets), *shape), np.nan) for shape in shapes]
    for k, fault in enumerate(faults(flat)):
        if fault:
            continue
        one = batching.item(users, k)
        form = standard_form(ReducedGame(*(np.asarray(x[k]) for x in reduced)), Selection(), one)
        found = _best(form, np.asarray(flat.prior[k], np.float64), form.user, float(budgets[k]), kind)
        for column, value in zip(columns, found, strict=True):
            column[k] = value
    return BestTransfers(*(x.reshape((*batch, *shape)) for x, shape in zip(columns, shapes, strict=True)))


def _least(u, U, kind, weights) -> float:
    """In a unit that is made smaller until the budget is of its size: that of the agents may be far from it."""
    u, U = u - u.mean(0), U - U.mean(1, keepdims=True)  # offsets by outcome are free
    user_unit, unit = _spread(u), max(_spread(x) for x in U)
    if not unit > 0:  # no agent wants anything
        return 0.0 if weights == "cone" else _needed(u, U, np.full(len(U), 1 / len(U)), 1.0, kind)
    if weights == "simplex":  # then agents must be paid as much as the user has at stake
        unit = max(unit, user_unit)
    best = np.inf
    for refined in range(REFINEMENTS):
        try:
            found = _solve_least(u, U, kind, weights, user_unit or 1.0, unit)
        except LPFailed:
            if not refined:
                return np.nan
            break
        needed = np.inf if found is None else _needed(u, U, *found, kind)
        if not needed < best:
            break
        best, refine = needed, 0 < needed < COARSE * unit
        if not refine:
            break
        unit = needed
    return best


def _spread(utility: Float[np.ndarray, "A Y"]) -> float:
    """Largest difference between two actions."""
    return float(np.ptp(utility, axis=0).max(initial=0.0))


def _needed(u, U, w, scale, kind) -> float:
    """The budget that agents of these weights need to be paid into scale * u; inf where none does it."""
    gap = scale * u - np.tensordot(w, U, 1)
    if _spread(gap) <= ROUNDING * (scale * np.abs(u).max() + w @ np.abs(U).max((1, 2))):
        return 0.0
    if kind == "outcome":
        return _spread(gap) / 2
    gap = gap - gap[:1]
    varies = np.ptp(gap, axis=1).max(initial=0.0)
    if varies > NOT_BY_ACTION * max(scale * _spread(u), max(w_i * _spread(x) for w_i, x in zip(w, U, strict=True))):
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
    """What weights and a sum of transfers secure, in standard units; proved by evaluating it, whoever found them."""

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
        law = respond(user, user_total, mass, ahead, nothing, functools.partial(units.advantages, nothing))
        self.law, self.g = law.reshape(cells, A), game.user.reshape(cells, A)  # a*, or a distribution
        self.p = prior.reshape(cells, Y) if kind == "outcome" else prior.sum(-1).reshape(cells, 1)
        self.step = self.law[:, None, :] - np.eye(A)  # [cells, a, b]: how what is done differs from a
        self.lost = np.einsum("cab,cb->ca", self.step, self.g)
        self.own = np.einsum("cab,kcb->cak", self.step, game.agents.reshape(K, cells, A))
        self.full = float((self.law * self.g).sum())

    def best(self, budget: float) -> _Secured | None:
        """Columns w [K], S [A, Z], slack [cells]: minimise the slacks subject to, for all cells and actions,
        slack >= g(a*) - g(a) - sum_i w_i (G_i(a*) - G_i(a)) - (S(a*) - S(a)) and |S| <= sum_i w_i budget / unit_i."""
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
        weights = np.where(weights.sum() < NO_WEIGHT, 0, weights)
        most = float(weights @ limit)
        return self.secured(weights, np.clip(solved.x[K : K + A * Z].reshape(A, Z), -most, most))

    def secured(self, weights, paid) -> _Secured:
        moved = np.einsum("cab,bz,cz->ca", self.step, paid, self.p)
        slack = (self.lost - self.own @ weights - moved).max(1)
        return _Secured(self.full - float(np.maximum(slack, 0).sum()), weights, paid)


def _best(form: StandardForm, prior, user, budget: float, kind: str):
    """guarantee, the same without transfers, transfers, weights; NaN if an LP failed."""
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
