"""The two guarantees of a profile: the theorem's and the sharp form (sections 6.1 and 6.2 of docs/model.md).

At a given profile both bounds hold, equilibrium or not, from what each agent would gain by switching to full
revelation; with no gains they bound every equilibrium. One game is HiGHS's; many go to the batched simplex, whose
multipliers must prove its values, and to HiGHS where they do not. The public `worst_case` and `coverage` are in
`coverage_lp.py`.
"""

from __future__ import annotations

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
from emalign_jax.lp.choice import together
from emalign_jax.lp.highs import MAX_EXACT, KeptLP, LPFailed

CLOSED = (
    1e-7  # of what all actions may differ by to the user: how far the multipliers' bound may be from the LP's value
)
TIGHT = 1e-8  # of the user's unit: within this of the LP's value multipliers are not asked for again, more exactly
SAME = 1e-8  # what the 2 eps bound that weights prove may lack of the LP's value, in units of what it is made of
TINY = 1e-200  # utilities of this size are nothing: to divide by them might overflow
TOGETHER = 1024  # games at a time
FITS = Rule("cone", "per_state", "sup")  # the w and c of the theorem


class Theorem(NamedTuple):
    """value: V_full - 2 eps - sum_i w_i e_i, with the weights and offset that make it largest; fallback: the batched
    solver's answer was not proved, and this is HiGHS's."""

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
    user, agents, size, sizes = _of_size_one(user_utility, agent_utilities)
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
        return _no_theorem(K)
    value, eps, weights = _proved_by(
        user_utility, agent_utilities, full_information, reveal_gains, result.x[:K] * (size / sizes)
    )
    return Theorem(float(value), float(eps), weights)


def _no_theorem(K: int) -> Theorem:
    return Theorem(np.nan, np.nan, np.full(K, np.nan))


def _of_size_one(user: Float[np.ndarray, "*N A Y"], agents: Float[np.ndarray, "*N K A Y"]) -> tuple[Any, Any, Any, Any]:
    """Utilities without offsets, each divided by its largest number, and those numbers [..., 1] and [..., K]: large
    offsets and units far apart would cost the LP its precision."""
    user, agents = user - user.mean(-2, keepdims=True), agents - agents.mean(-2, keepdims=True)
    size, sizes = (np.where(x > TINY, x, 1.0) for x in (abs(user).max((-2, -1)), abs(agents).max((-2, -1))))
    return user / size[..., None, None], agents / sizes[..., None, None], size[..., None], sizes


def _proved_by(user, agents, full, gains, weights) -> tuple[Any, Any, Any]:
    """The 2 eps bound that any weights prove: (value, eps, weights >= 0)."""
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
) -> list[Theorem]:
    """`theorem_bound` of a batch of games, by the batched simplex where `lp` and their size say so."""
    N, K, A, Y = agent_utilities.shape
    use_batch = together(lp, N, sup_norm.cells(K, A, Y, FITS))
    bounds: list[Theorem] = []
    for at in range(0, N, TOGETHER):
        data = tuple(x[at : at + TOGETHER] for x in (user_utility, agent_utilities, full_information, reveal_gains))
        found = _theorems(*data) if use_batch else [None] * len(data[0])
        for known, u, U, full, gains in zip(found, *data, strict=True):
            try:
                bound = known or theorem_bound(u, U, float(full), gains)._replace(fallback=use_batch)
            except LPFailed:  # its own game alone goes without
                bound = _no_theorem(K)._replace(fallback=use_batch)
            bounds.append(bound)
    return bounds


def _theorems(user, agents, full, gains) -> list[Theorem | None]:
    """None where the LP's value is not proved, or the weights, whatever they are, attain less."""
    own, theirs, size, sizes = _of_size_one(user, agents)
    found = sup_norm.propose(own, theirs, FITS, gains / sizes / 2)
    with np.errstate(invalid="ignore"):
        value, eps, weights = _proved_by(user, agents, full, gains, found.weights * (size / sizes))
        short = _proved_by(own, theirs, 0.0, gains / sizes, found.weights)[0] + 2 * found.value
        best = found.proved & (-short <= SAME * (1 + (found.weights * gains / sizes).sum(1)))
    return [Theorem(float(value[n]), float(eps[n]), weights[n]) if best[n] else None for n in range(len(best))]


class WorstLaw(NamedTuple):
    """The worst user value over all laws over actions that pay the agents their floors.

    value:    no such law pays her less: what the multipliers prove, whoever made them; NaN unless solved
    weights:  [K] multipliers of the floors, >= 0
    commands: [XA, A, A] multipliers of obedience, of playing a rather than c at x_A (0 where it is not asked for)
    left:     [XA, XB] what a cell is worth to her at the least, net of what the multipliers pay for: the value is
              its sum plus weights @ floors
    status:   "Optimal", "Open" if the multipliers do not prove the LP's value, or what HiGHS said instead
    exact:    the LP's value as a rational, if that was asked for
    fallback: the batched solver's answer was not proved, and this is HiGHS's
    """

    value: float
    weights: Float[np.ndarray, "K"]
    commands: Float[np.ndarray, "XA A A"]
    left: Float[np.ndarray, "XA XB"]
    status: str
    exact: Fraction | None = None
    fallback: bool = False


def worst_law(
    game: ReducedGame, floors: Float[np.ndarray, "K"], *, ease: float | None, exact: bool = False
) -> WorstLaw:
    """Minimise the user's value over distributions q[a | x_A, x_B] that pay agent i at least floors[i] (the payoff
    under full revelation less the gain from it), in standard units.

    ease: a rational user's tie tolerance (`units.relaxed`), or 0 for true ties alone; None for a user who is not
        rational.
    """
    problem = _problem(ReducedGame(*(np.asarray(x)[None] for x in game)), floors[None], ease)
    right = problem.right[0]
    lower = np.concatenate([right[: problem.cells], np.full(len(right) - problem.cells, -np.inf)])
    needed = problem.rows[0].any(1)

    def solve(exactly: bool) -> tuple[WorstLaw, bool]:
        """And whether its multipliers are as good as they should be."""
        result = KeptLP(
            problem.rows[0][needed], lower[needed], right[needed], cost=problem.cost[0], exact=exactly
        ).solve()
        dual = np.zeros((1, len(right)))
        if result.optimal:
            dual[0, needed] = result.row_dual
        numbers = dual, np.array([result.value]), [result.status]
        law, tight = _proved(problem, *numbers)[0], _proved(problem, *numbers, tight=True)[0]
        return law._replace(exact=None if result.exact is None else -result.exact), tight.status != "Open"

    law, good = solve(exact)
    if not good and not exact and needed.sum() * len(problem.cost[0]) <= MAX_EXACT:
        again, good = solve(True)  # what is rounded where numbers of very different size meet
        if good and again.status == "Optimal":
            return again._replace(exact=None)
    return law


def worst_laws(
    game: ReducedGame,
    floors: Float[np.ndarray, "N K"],
    *,
    ease: float | None,
    lp: str = "auto",
) -> list[WorstLaw]:
    """`worst_law` of a batch of games, by the batched simplex where `lp` and their size say so."""
    N, XA, XB, A = np.shape(game.user)
    rows = XA * XB + floors.shape[1] + (0 if ease is None else XA * A * (A - 1))
    use_batch = together(lp, N, rows * XA * XB * A)
    laws: list[WorstLaw] = []
    for at in range(0, N, TOGETHER):
        some = np.arange(at, min(at + TOGETHER, N))
        mine, own = ReducedGame(*(np.asarray(x)[some] for x in game)), floors[some]
        found = _worst_laws(mine, own, ease) if use_batch else [None] * len(some)
        for k, law in enumerate(found):
            if law is None:
                one = ReducedGame(*(x[k] for x in mine))
                try:
                    law = worst_law(one, own[k], ease=ease)._replace(fallback=use_batch)
                except LPFailed:  # its own game alone goes without
                    law = _no_law(one, "NotANumber")._replace(fallback=use_batch)
            laws.append(law)
    return laws


def _worst_laws(game: ReducedGame, floors, ease) -> list[WorstLaw | None]:
    """None where the answer is not proved."""
    problem = _problem(game, floors, ease)
    A = game.user.shape[-1]
    # a start that is dual feasible
    first = game.user.argmin(-1).reshape(len(floors), -1) + A * np.arange(problem.cells)
    found = batched_lp.maximise(
        problem.cost, problem.rows, problem.right, equal=problem.cells, first=first.astype(np.int32)
    )
    laws = _proved(problem, found.dual, found.value, ["Optimal" if ok else "Open" for ok in found.proved], tight=True)
    return [law if law.status == "Optimal" else None for law in laws]


class _Problem(NamedTuple):
    """maximise cost @ q, rows @ q <= right, the first `cells` of them with =, then the floors, then obedience."""

    game: ReducedGame
    floors: Float[np.ndarray, "N K"]
    cost: Float[np.ndarray, "N cols"]
    rows: Float[np.ndarray, "N rows cols"]
    right: Float[np.ndarray, "N rows"]
    cells: int
    advantage: Float[np.ndarray, "N XA XB A A"]  # of a over c, eased
    size: Float[np.ndarray, "N XA A A"]  # what a row of obedience is divided by; 1 where it is empty
    asked: bool  # for obedience


def _problem(game: ReducedGame, floors, ease) -> _Problem:
    _, user, agents = (np.asarray(x) for x in game)
    N, XA, XB, A = user.shape
    cells = XA * XB
    total = np.zeros((cells, cells, A))
    total[np.arange(cells), np.arange(cells)] = 1
    rows = [np.broadcast_to(total.reshape(cells, -1), (N, cells, cells * A)), -agents.reshape(N, -1, cells * A)]
    right = [np.ones((N, cells)), -_given_way(floors)]
    advantage = units.relaxed(user, ease or 0.0)
    size = np.abs(advantage).max(2)
    size = np.where(size > 0, size, 1.0)
    if ease is not None:
        xa, a, c = np.nonzero(np.broadcast_to(~np.eye(A, dtype=bool), (XA, A, A)))
        obey = np.zeros((len(xa), N, XA, XB, A))
        scaled = advantage / size[:, :, None]
        obey[np.arange(len(xa)), :, xa, :, a] = -scaled[:, xa, :, a, c]
        rows.append(obey.swapaxes(0, 1).reshape(N, len(xa), cells * A))
        right.append(np.zeros((N, len(xa))))
    every, limits = np.concatenate(rows, 1), np.concatenate(right, 1)
    cost = -user.reshape(N, -1)
    return _Problem(game, floors, cost, every, limits, cells, advantage, size, ease is not None)


def _given_way(floors):
    """The distribution at hand pays its floors up to this."""
    return floors - LP_ERROR


def _proved(problem: _Problem, dual, value, status, tight: bool = False) -> list[WorstLaw]:
    """What the multipliers `dual` [N, rows] prove, against the `value` [N] of the LPs; "Open" where that is less by
    more than `CLOSED` (`TIGHT`)."""
    game, floors = problem.game, problem.floors
    (N, K), (_, XA, _, A) = floors.shape, game.user.shape
    multipliers = np.maximum(dual[:, problem.cells :], 0)
    weights, commands = multipliers[:, :K], np.zeros((N, XA, A, A))
    if problem.asked:
        commands[:, :, ~np.eye(A, dtype=bool)] = multipliers[:, K:].reshape(N, XA, A * (A - 1))
        commands /= problem.size
    paid = np.einsum("nk,nkxba->nxba", weights, game.agents)
    paid += np.einsum("nxac,nxbac->nxba", commands, problem.advantage)
    left = (game.user - paid).min(-1)
    proved = left.sum((1, 2)) + (weights * floors).sum(1)  # any multipliers >= 0 prove this of the floors themselves
    of_lp = left.sum((1, 2)) + (weights * _given_way(floors)).sum(1)
    stake = np.maximum(np.ptp(game.user, axis=-1).sum((1, 2)), 1e-300)
    closed = np.abs(of_lp + value) <= (np.minimum(TIGHT, CLOSED * stake) if tight else CLOSED * stake)  # NaN: no
    laws = []
    for n in range(N):
        if status[n] == "Optimal":
            state = "Optimal" if closed[n] else "Open"
            bound = float(proved[n]) if closed[n] else np.nan
            laws.append(WorstLaw(bound, weights[n], commands[n], left[n], state))
        else:
            laws.append(_no_law(ReducedGame(*(x[n] for x in game)), status[n]))
    return laws


def _no_law(game: ReducedGame, status: str) -> WorstLaw:
    XA, XB, A = np.shape(game.user)
    nothing = np.full(len(game.agents), np.nan), np.zeros((XA, A, A)), np.full((XA, XB), np.nan)
    return WorstLaw(np.nan, *nothing, status)
