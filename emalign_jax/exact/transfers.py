"""What transfers to agents can do for the user, exactly: the yardstick of tuned ones (float64, one LP a game).

Transfers t_i(a) or t_i(a, y) are added to U_i and are bounded, |t_i| <= budget at every event. Weighted sums of them,
S = sum_i w_i t_i, range over |S| <= budget * sum_i w_i, so both problems are linear in (w, S), although not in (w, t).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.certificate import flatten_games
from emalign_jax.exact.lp import KeptLP
from emalign_jax.exact.responses import respond, value_scale
from emalign_jax.game import Game, ReducedGame, faults, reduce_game
from emalign_jax.given import checked
from emalign_jax.users import AbstractUser, RationalUser

KINDS = ("action", "outcome")
WEIGHTS = ("simplex", "cone")
NO_WEIGHT = 1e-9  # agents of less weight in all cannot be paid to matter


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
    (games,) = checked(games=games)
    _check(kind=kind)
    if weights not in WEIGHTS:
        raise ValueError(f"weights: expected one of {', '.join(WEIGHTS)}, got {weights!r}")
    flat = flatten_games(games, games.batch_shape)
    found = [
        np.nan if fault else _least(np.asarray(u, np.float64), np.asarray(U, np.float64), kind, weights)
        for u, U, fault in zip(flat.user_utility, flat.agent_utilities, faults(flat), strict=True)
    ]
    return np.array(found).reshape(games.batch_shape)


def best_transfers(games: Game, budget, user: AbstractUser | None = None, *, kind: str = "outcome") -> BestTransfers:
    """The transfers within `budget` (a number or [...]) under which the guarantee of section 6 is largest.

    The guarantee is V_full less the coverage slack (without a rational user's obedience), as in `coverage`; it holds in
    Pooled, and in Selection with temperature 0, and V_full does not change with transfers if her ties are her own.
    """
    user = RationalUser(ties="lowest") if user is None else user
    games, budget, user = checked(games=games, budget=budget, user=user)
    _check(kind=kind)
    budget = np.asarray(budget, np.float64)
    if not ((budget >= 0) & np.isfinite(budget)).all():
        raise ValueError(f"budget: expected finite numbers >= 0, got {budget}")
    batch = np.broadcast_shapes(games.batch_shape, budget.shape)
    flat, budgets = flatten_games(games, batch), np.broadcast_to(budget, batch).ravel()
    reduced = reduce_game(flat, np)
    K, A, Z = games.agents, games.actions, games.outcomes if kind == "outcome" else 1
    shapes = (), (), (K, A, Z), (K,)
    columns = [np.full((len(budgets), *shape), np.nan) for shape in shapes]
    for k, fault in enumerate(faults(flat)):
        if fault:
            continue
        own = ReducedGame(*(np.asarray(x[k]) for x in reduced))
        prior = np.asarray(flat.prior[k], np.float64)
        best = _best(own, prior, user, budgets[k], kind)
        for column, value in zip(columns, (best[0], _best(own, prior, user, 0.0, kind)[0], *best[1:]), strict=True):
            column[k] = value
    return BestTransfers(*(x.reshape((*batch, *shape)) for x, shape in zip(columns, shapes, strict=True)))


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")


def _least(u, U, kind, weights) -> float:
    """Columns: w [K], scale of u, c [Y], S by action [A] (kind "action" alone), budget. Minimise the budget subject to
    scale * u + c - sum_i w_i U_i = S with |S| <= budget, sum w = 1."""
    K, A, Y = U.shape
    base = np.concatenate([-U.reshape(K, -1).T, u.reshape(-1, 1), np.tile(np.eye(Y), (A, 1))], 1)  # [A Y, K + 1 + Y]
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
        lower[K] = upper[K] = 1
    cost = np.zeros(columns)
    cost[-1] = -1
    lp = KeptLP(
        np.concatenate([*rows, total]), np.concatenate([*low, [1.0]]), np.concatenate([*high, [1.0]]),
        cost=cost, col_lower=lower, col_upper=upper,
    )  # fmt: skip
    solved = lp.solve()
    return np.inf if solved.status == "Infeasible" else -solved.value


def _best(game: ReducedGame, prior, user, budget: float, kind: str):
    """(guarantee, transfers, weights): columns w [K], S [A, Z], slack [cells]. Minimise the slacks subject to, for all
    cells and actions, slack >= g(a*) - g(a) - sum_i w_i (G_i(a*) - G_i(a)) - (S(a*) - S(a)) and |S| <= budget sum w."""
    XA, XB, A = game.user.shape
    K, Y = len(game.agents), prior.shape[-1]
    cells = XA * XB
    scale = value_scale(game)
    law = respond(user, np.asarray(game.user), np.asarray(game.mass), np.zeros((XA, XB, A)), scale).reshape(
        cells, A
    )  # a*, or a law
    g, G = game.user.reshape(cells, A), game.agents.reshape(K, cells, A)
    p = prior.reshape(cells, Y) if kind == "outcome" else prior.sum(-1).reshape(cells, 1)
    Z = p.shape[1]
    step = law[:, None, :] - np.eye(A)  # [cells, a, b]: how what is done differs from a
    own = np.einsum("cab,kcb->cak", step, G)
    paid = np.einsum("cab,cz->cabz", step, p).reshape(cells * A, A * Z)
    pays = np.concatenate([own.reshape(cells * A, K), paid, np.repeat(np.eye(cells), A, 0)], 1)
    bound = np.zeros((2, A * Z, pays.shape[1]))
    bound[0, :, K : K + A * Z], bound[1, :, K : K + A * Z] = np.eye(A * Z), -np.eye(A * Z)
    bound[:, :, :K] = -budget
    low = np.concatenate([np.einsum("cab,cb->ca", step, g).ravel(), np.full(2 * A * Z, -np.inf)])
    high = np.concatenate([np.full(cells * A, np.inf), np.zeros(2 * A * Z)])
    lower = np.concatenate([np.zeros(K), np.full(A * Z, -np.inf), np.zeros(cells)])
    cost = np.concatenate([np.zeros(K + A * Z), -np.ones(cells)])
    solved = KeptLP(np.concatenate([pays, *bound]), low, high, cost=cost, col_lower=lower).solve()
    if not solved.optimal:
        return np.nan, np.full((K, A, Z), np.nan), np.full(K, np.nan)
    weights, S = solved.x[:K], solved.x[K : K + A * Z].reshape(A, Z)
    whole = weights.sum()
    transfers = np.zeros((K, A, Z)) if whole < NO_WEIGHT else np.broadcast_to(S / whole, (K, A, Z))
    return float((law * g).sum() + solved.value), np.clip(transfers, -budget, budget), weights
