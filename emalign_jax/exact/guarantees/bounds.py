"""The two guarantees of a profile: the theorem's and the sharp form (sections 6.1 and 6.2 of docs/model.md).

Both bound the user's value at a given profile, equilibrium or not, from what each agent would gain by switching to full
revelation; with gains of 0 they bound the value of every equilibrium. HiGHS solves the LP of a single game. The LPs of
many games are solved by the batched simplex. Its multipliers must prove its values; HiGHS solves the LPs for which they
do not. The public `worst_case` and `coverage` are in `coverage_lp.py`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.alignment import sup_norm
from emalign_jax.exact.alignment.residuals import Rule
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.games.units import LP_ERROR
from emalign_jax.lp import batched_lp
from emalign_jax.lp.choice import use_batched
from emalign_jax.lp.highs import MAX_EXACT, KeptLP, LPFailed

# The largest distance of the multipliers' bound from the LP's value, relative to the spread of the user's totals.
MAX_DUALITY_GAP = 1e-7
# In the user's unit of payoff. Bounds this close to the LP's value are not refined further.
REFINED_DUALITY_GAP = 1e-8
# By how much the 2 eps bound that weights prove may fall short of the LP's value, relative to the terms of the bound.
MAX_THEOREM_GAP = 1e-8
# Utilities of this size count as 0: dividing by them might overflow.
SMALLEST_UTILITY = 1e-200
GAMES_AT_ONCE = 1024
# Games get agents without utility up to a multiple of this number, so that few programs are compiled.
AGENTS = 8
THEOREM_FIT = Rule("cone", "per_state", "sup")


class Theorem(NamedTuple):
    """The bound of theorem 1 with the weights that make it largest.

    value:    V_full - 2 eps - sum_i w_i e_i; NaN where the LP was not solved
    eps:      half the largest spread over actions of sum_i w_i U_i - u, over outcomes
    weights:  [K] w >= 0
    fallback: whether HiGHS solved the LP because the batched solver's answer was not proved
    """

    value: float
    eps: float
    weights: Float[np.ndarray, "K"]
    fallback: bool = False


def theorem_bound(
    user_utility: Float[np.ndarray, "A Y"],
    agent_utilities: Float[np.ndarray, "K A Y"],
    full_information: float,
    reveal_gains: Float[np.ndarray, "K"],
) -> Theorem:
    """The 2 eps form: minimise 2 eps + sum_i w_i e_i over w >= 0 and offsets c(y), where
    |sum_i w_i U_i + c - u| <= eps everywhere. NaN where the LP is not solved."""
    K, A, Y = agent_utilities.shape
    user, agents, size, sizes = _scaled_to_one(user_utility, agent_utilities)
    cells = A * Y
    span = agents.reshape(K, cells).T
    half = np.concatenate([span, np.tile(np.eye(Y), (A, 1))], axis=1)
    rows = np.empty((2, cells, K + Y + 1))
    rows[:, :, :-1] = half
    rows[0, :, -1], rows[1, :, -1] = 1, -1
    target = user.ravel()
    lp = KeptLP(
        rows.reshape(2 * cells, -1),
        np.concatenate([target, np.full(cells, -np.inf)]),
        np.concatenate([np.full(cells, np.inf), target]),
        cost=-np.concatenate([reveal_gains / sizes, np.zeros(Y), [2.0]]),
        col_lower=np.concatenate([np.zeros(K), np.full(Y, -np.inf), [0.0]]),
    )
    result = lp.solve()
    if not result.optimal:
        return _unsolved_theorem(K)
    value, eps, weights = _bound_of_weights(
        user_utility, agent_utilities, full_information, reveal_gains, result.x[:K] * (size / sizes)
    )
    return Theorem(float(value), float(eps), weights)


def _unsolved_theorem(K: int) -> Theorem:
    return Theorem(np.nan, np.nan, np.full(K, np.nan))


def _scaled_to_one(
    user: Float[np.ndarray, "*N A Y"], agents: Float[np.ndarray, "*N K A Y"]
) -> tuple[Any, Any, Any, Any]:
    """Utilities without offsets, each divided by its largest number, and those numbers [..., 1] and [..., K]: large
    offsets and units far apart would cost the LP its precision."""
    user, agents = user - user.mean(-2, keepdims=True), agents - agents.mean(-2, keepdims=True)
    size, sizes = (np.where(x > SMALLEST_UTILITY, x, 1.0) for x in (abs(user).max((-2, -1)), abs(agents).max((-2, -1))))
    return user / size[..., None, None], agents / sizes[..., None, None], size[..., None], sizes


def _bound_of_weights(user, agents, full, gains, weights) -> tuple[Any, Any, Any]:
    """The 2 eps bound that `weights` prove: (value, eps, weights made >= 0)."""
    weights = np.maximum(weights, 0)
    eps = np.ptp(np.einsum("...k,...kay->...ay", weights, agents) - user, axis=-2).max(-1) / 2
    return full - 2 * eps - (weights * gains).sum(-1), eps, weights


def theorem_bounds(
    user_utility: Float[np.ndarray, "N A Y"],
    agent_utilities: Float[np.ndarray, "N K A Y"],
    full_information: Float[np.ndarray, "N"],
    reveal_gains: Float[np.ndarray, "N K"],
    *,
    lp: str = "auto",
    size: tuple[int, int] = (0, 0),
) -> list[Theorem]:
    """`theorem_bound` of a batch of games, by the batched simplex where `lp` and the LPs' size call for it.

    size: see `batched_lp.maximise`.
    """
    N, K, A, Y = agent_utilities.shape
    use_batch = use_batched(lp, N, math.prod(sup_norm.shape(K, A, Y, THEOREM_FIT)))
    bounds: list[Theorem] = []
    for at in range(0, N, GAMES_AT_ONCE):
        data = tuple(
            x[at : at + GAMES_AT_ONCE] for x in (user_utility, agent_utilities, full_information, reveal_gains)
        )
        found = _batched_theorem_bounds(*data, size=size) if use_batch else [None] * len(data[0])
        for known, u, U, full, gains in zip(found, *data, strict=True):
            try:
                bound = known or theorem_bound(u, U, float(full), gains)._replace(fallback=use_batch)
            except LPFailed:  # The other games of the batch keep their bounds.
                bound = _unsolved_theorem(K)._replace(fallback=use_batch)
            bounds.append(bound)
    return bounds


def _batched_theorem_bounds(user, agents, full, gains, *, size) -> list[Theorem | None]:
    """`theorem_bound` by the batched simplex; None where its value is not proved, or its weights prove less than it."""
    K = agents.shape[1]
    agents, gains = _with_idle_agents(agents), _with_idle_agents(gains)
    own, theirs, scale, scales = _scaled_to_one(user, agents)
    found = sup_norm.propose(own, theirs, THEOREM_FIT, gains / scales / 2, size)
    with np.errstate(invalid="ignore"):
        value, eps, weights = _bound_of_weights(user, agents, full, gains, found.weights * (scale / scales))
        short = _bound_of_weights(own, theirs, 0.0, gains / scales, found.weights)[0] + 2 * found.value
        best = found.proved & (-short <= MAX_THEOREM_GAP * (1 + (found.weights * gains / scales).sum(1)))
    return [Theorem(float(value[n]), float(eps[n]), weights[n, :K]) if best[n] else None for n in range(len(best))]


class WorstDistribution(NamedTuple):
    """The least user value over all distributions over actions that pay each agent at least its floor.

    value:       a lower bound proved by the multipliers; NaN unless solved
    weights:     [K] multipliers >= 0 of the floors
    commands:    [XA, A, A] multipliers >= 0 of obedience, of playing a rather than c at x_A; 0 without obedience
    cell_values: [XA, XB] the least value of each cell net of what the multipliers pay for; value = sum of cell_values
                 + weights @ floors
    status:      "Optimal"; "Open" if the multipliers do not prove the LP's value; else HiGHS's status
    exact:       the LP's value as a rational number, if asked for
    fallback:    whether HiGHS solved the LP because the batched solver's answer was not proved
    """

    value: float
    weights: Float[np.ndarray, "K"]
    commands: Float[np.ndarray, "XA A A"]
    cell_values: Float[np.ndarray, "XA XB"]
    status: str
    exact: Fraction | None = None
    fallback: bool = False


def worst_distribution(
    game: ReducedGame, floors: Float[np.ndarray, "K"], *, tie_tolerance: float | None, exact: bool = False
) -> WorstDistribution:
    """Minimise the user's value over distributions q[a | x_A, x_B] that pay agent i at least floors[i] (the payoff
    under full revelation less the gain from it), in standard units.

    tie_tolerance: of a rational user's obedience (`units.relaxed`), 0 for exact obedience; None without obedience.
    exact:         also derive the LP's value in rational arithmetic (`ValueError` if the LP is too large).
    """
    problem = _problem(ReducedGame(*(np.asarray(x)[None] for x in game)), floors[None], tie_tolerance)
    right = problem.right[0]
    lower = np.concatenate([right[: problem.cells], np.full(len(right) - problem.cells, -np.inf)])
    needed = problem.rows[0].any(1)

    def solve(exactly: bool) -> tuple[WorstDistribution, bool]:
        """The answer, and whether its multipliers need no refinement."""
        result = KeptLP(
            problem.rows[0][needed], lower[needed], right[needed], cost=problem.cost[0], exact=exactly
        ).solve()
        dual = np.zeros((1, len(right)))
        if result.optimal:
            dual[0, needed] = result.row_dual
        numbers = dual, np.array([result.value]), [result.status]
        worst, refined = _proved(problem, *numbers)[0], _proved(problem, *numbers, refined=True)[0]
        return worst._replace(exact=None if result.exact is None else -result.exact), refined.status != "Open"

    worst, good = solve(exact)
    if not good and not exact and needed.sum() * len(problem.cost[0]) <= MAX_EXACT:
        # Multipliers are imprecise in float64 where coefficients differ by many orders of magnitude.
        again, good = solve(True)
        if good and again.status == "Optimal":
            return again._replace(exact=None)
    return worst


def worst_distributions(
    game: ReducedGame,
    floors: Float[np.ndarray, "N K"],
    *,
    tie_tolerance: float | None,
    lp: str = "auto",
    size: tuple[int, int] = (0, 0),
) -> list[WorstDistribution]:
    """`worst_distribution` of a batch of games, by the batched simplex where `lp` and the LPs' size call for it.

    size: see `batched_lp.maximise`.
    """
    N, XA, XB, A = np.shape(game.user)
    rows = XA * XB + floors.shape[1] + (0 if tie_tolerance is None else XA * A * (A - 1))
    use_batch = use_batched(lp, N, rows * XA * XB * A)
    answers: list[WorstDistribution] = []
    for at in range(0, N, GAMES_AT_ONCE):
        some = np.arange(at, min(at + GAMES_AT_ONCE, N))
        mine, own = game.at(some), floors[some]
        found = _batched_worst_distributions(mine, own, tie_tolerance, size) if use_batch else [None] * len(some)
        for k, worst in enumerate(found):
            if worst is None:
                one = mine.at(k)
                try:
                    worst = worst_distribution(one, own[k], tie_tolerance=tie_tolerance)
                except LPFailed:  # The other games of the batch keep their bounds.
                    worst = _unsolved_distribution(one, "NotANumber")
                worst = worst._replace(fallback=use_batch)
            answers.append(worst)
    return answers


def _batched_worst_distributions(game: ReducedGame, floors, tie_tolerance, size) -> list[WorstDistribution | None]:
    """`worst_distribution` by the batched simplex; None where the answer is not proved."""
    K = floors.shape[1]
    game = game._replace(agents=_with_idle_agents(np.asarray(game.agents)))
    problem = _problem(game, _with_idle_agents(floors), tie_tolerance)
    A = game.user.shape[-1]
    # The user's worst action in every cell is a basis that is dual feasible.
    first = game.welfare.argmin(-1).reshape(len(floors), -1) + A * np.arange(problem.cells)
    found = batched_lp.maximise(
        problem.cost, problem.rows, problem.right, equal=problem.cells, first=first.astype(np.int32), size=size
    )
    status = ["Optimal" if ok else "Open" for ok in found.proved]
    answers = _proved(problem, found.dual, found.value, status, refined=True)
    return [worst._replace(weights=worst.weights[:K]) if worst.status == "Optimal" else None for worst in answers]


def common_size(game: ReducedGame, A: int, Y: int, tie_tolerance: float | None) -> tuple[int, int]:
    """A size for the LPs of both guarantees, or (0, 0) where zeros would more than double one of them."""
    _, XA, XB, _ = np.shape(game.user)
    K = -(-np.shape(game.agents)[1] // AGENTS) * AGENTS
    obedience = 0 if tie_tolerance is None else XA * A * (A - 1)
    sizes = (XA * XB + K + obedience, XA * XB * A), sup_norm.shape(K, A, Y, THEOREM_FIT)
    rows, columns = map(max, zip(*sizes, strict=True))
    return (rows, columns) if rows * columns <= 2 * min(map(math.prod, sizes)) else (0, 0)


def _with_idle_agents(x: Float[np.ndarray, "N K *any"]) -> Float[np.ndarray, "N more *any"]:
    """With zeros for agents to whom nothing matters, who change no bound."""
    more = -x.shape[1] % AGENTS
    return np.concatenate([x, np.zeros((len(x), more, *x.shape[2:]))], 1)


class _Problem(NamedTuple):
    """The LPs of N games: maximise cost @ q subject to rows @ q <= right. The first `cells` rows hold with equality;
    then come the floors, then obedience."""

    game: ReducedGame
    floors: Float[np.ndarray, "N K"]
    cost: Float[np.ndarray, "N cols"]
    rows: Float[np.ndarray, "N rows cols"]
    right: Float[np.ndarray, "N rows"]
    cells: int
    advantage: Float[np.ndarray, "N XA XB A A"]  # of a over c, with the tie tolerance (`units.relaxed`)
    row_scale: Float[np.ndarray, "N XA A A"]  # by which a row of obedience is divided; 1 for an empty row
    obedience: bool


def _problem(game: ReducedGame, floors, tie_tolerance) -> _Problem:
    _, user, agents, welfare = (np.asarray(x) for x in game)
    N, XA, XB, A = user.shape
    cells = XA * XB
    total = np.zeros((cells, cells, A))
    total[np.arange(cells), np.arange(cells)] = 1
    rows = [np.broadcast_to(total.reshape(cells, -1), (N, cells, cells * A)), -agents.reshape(N, -1, cells * A)]
    right = [np.ones((N, cells)), -_relaxed(floors)]
    advantage = units.relaxed(user, tie_tolerance or 0.0)
    size = np.abs(advantage).max(2)
    size = np.where(size > 0, size, 1.0)
    if tie_tolerance is not None:
        xa, a, c = np.nonzero(np.broadcast_to(~np.eye(A, dtype=bool), (XA, A, A)))
        obey = np.zeros((len(xa), N, XA, XB, A))
        scaled = advantage / size[:, :, None]
        obey[np.arange(len(xa)), :, xa, :, a] = -scaled[:, xa, :, a, c]
        rows.append(obey.swapaxes(0, 1).reshape(N, len(xa), cells * A))
        right.append(np.zeros((N, len(xa))))
    every, limits = np.concatenate(rows, 1), np.concatenate(right, 1)
    cost = -welfare.reshape(N, -1)
    return _Problem(game, floors, cost, every, limits, cells, advantage, size, tie_tolerance is not None)


def _relaxed(floors):
    """Floors that the profile's own distribution pays in spite of rounding."""
    return floors - LP_ERROR


def _proved(problem: _Problem, dual, value, status, refined: bool = False) -> list[WorstDistribution]:
    """The bounds that the multipliers `dual` [N, rows] prove. "Open" where a bound is further than `MAX_DUALITY_GAP`
    (`refined`: `REFINED_DUALITY_GAP`) from the `value` [N] of its LP."""
    game, floors = problem.game, problem.floors
    (N, K), (_, XA, _, A) = floors.shape, game.user.shape
    multipliers = np.maximum(dual[:, problem.cells :], 0)
    weights, commands = multipliers[:, :K], np.zeros((N, XA, A, A))
    if problem.obedience:
        commands[:, :, ~np.eye(A, dtype=bool)] = multipliers[:, K:].reshape(N, XA, A * (A - 1))
        commands /= problem.row_scale
    paid = np.einsum("nk,nkxba->nxba", weights, game.agents)
    paid += np.einsum("nxac,nxbac->nxba", commands, problem.advantage)
    cell_values = (game.welfare - paid).min(-1)
    proved = cell_values.sum((1, 2)) + (weights * floors).sum(1)  # Weak duality, for any multipliers >= 0.
    of_lp = cell_values.sum((1, 2)) + (weights * _relaxed(floors)).sum(1)
    stake = np.maximum(np.ptp(game.welfare, axis=-1).sum((1, 2)), 1e-300)
    most = MAX_DUALITY_GAP * stake
    closed = np.abs(of_lp + value) <= (np.minimum(REFINED_DUALITY_GAP, most) if refined else most)  # False for NaN.
    answers = []
    for n in range(N):
        if status[n] == "Optimal":
            state = "Optimal" if closed[n] else "Open"
            bound = float(proved[n]) if closed[n] else np.nan
            answers.append(WorstDistribution(bound, weights[n], commands[n], cell_values[n], state))
        else:
            answers.append(_unsolved_distribution(game.at(n), status[n]))
    return answers


def _unsolved_distribution(game: ReducedGame, status: str) -> WorstDistribution:
    XA, XB, A = np.shape(game.user)
    nothing = np.full(len(game.agents), np.nan), np.zeros((XA, A, A)), np.full((XA, XB), np.nan)
    return WorstDistribution(np.nan, *nothing, status)
