"""The obedience LPs of many games at once: f_i, M and payoff ranges, by the batched simplex of `lp`.

The parametric simplex walks along the user's value v and meets every breakpoint of a curve in one pass. What it says
is used as a proposal only: here, in NumPy float64 and from the game's own numbers, the obedience of every point's
distribution is measured, and every segment is bounded from above by weak duality (section 5.1 of docs/model.md): for
any multipliers y >= 0 of the obedience rows and p >= 0 of the value row no obedient distribution worth at least v to
the user pays more than

    sum_xb max_r (payoff + p user - y rows)[xb, r] - p v.

A curve whose bound lies more than TOLERANCE above it is not `proved`, and is for HiGHS to do again. This file,
`bounds`, `sup_norm` and `fits` are where the exact part hands work to `lp`, as elsewhere to HiGHS; `lp` knows no games.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.obedience import program, recommendations
from emalign_jax.exact.obedience.program import bound_of, check_size
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.lp import batched_lp, simplex
from emalign_jax.lp.choice import check_word

TOLERANCE = 1e-9  # of the unit of whom a curve is about, and of obedience
POINTS = 24  # breakpoints of a curve for each x_A, at most (degenerate pivots included)
TOGETHER = 256  # games at a time
MOST_CELLS = 6_000  # rows * columns of a game's LP: beyond it HiGHS, which knows sparsity, is faster
FEWEST = 64  # games from which compiling pays


def choose(lp: str, count: int, game: ReducedGame) -> bool:
    """Whether to solve batched. Raises `ValueError` for an unknown word, or a size that "batched" cannot do."""
    check_word(lp)
    XA, XB, A = np.shape(game.user)[-3:]
    check_size(XA, XB, A)
    cells = (XB + A**XA * XA * (A - 1) + 1) * A**XA * XB
    if lp == "batched" and cells > MOST_CELLS:
        raise ValueError(
            f"lp: an obedience LP of A = {A}, XA = {XA}, XB = {XB} has {cells} cells, the limit of the batched "
            f'solver is {MOST_CELLS}: take "highs"'
        )
    return lp == "batched" or (lp == "auto" and count >= FEWEST and cells <= MOST_CELLS)


class Frontier(NamedTuple):
    """C curves of each of N games: the most of a payoff at user value at least v, for v from V_0 to V_full.

    worth:  [N, C, P] her value at each breakpoint, ascending; the last one is repeated
    paid:   [N, C, P] the payoff there; the first is the most of all
    law:    [N, C, P, XB, R] an obedient law over recommendations that is worth and pays this
    count:  [N, C] breakpoints
    price:  [N, C, P] what her missing her best action by a little adds between this breakpoint and the one before, per
            unit of that little, at most
    excess: [N, C] no obedient law worth at least v pays more than the curve at v and this
    proved: [N, C] excess <= TOLERANCE of the payoff's stake, the laws obey, and the last one is worth V_full
    """

    worth: Float[np.ndarray, "N C P"]
    paid: Float[np.ndarray, "N C P"]
    law: Float[np.ndarray, "N C P XB R"]
    count: Int[np.ndarray, "N C"]
    price: Float[np.ndarray, "N C P"]
    excess: Float[np.ndarray, "N C"]
    proved: Bool[np.ndarray, "N C"]

    def _between(self, n, c, v):
        """Breakpoints before and after v, and the share of the latter."""
        after = np.minimum((self.worth[n, c] < v[..., None]).sum(-1), self.count[n, c] - 1)
        before = np.maximum(after - 1, 0)
        low, high = self.worth[n, c, before], self.worth[n, c, after]
        width = high - low
        with np.errstate(invalid="ignore"):
            share = np.where(width > 0, np.clip((v - low) / np.where(width > 0, width, 1), 0, 1), 1.0)
        return before, after, share

    def pay(self, n: Int[np.ndarray, "G"], v: Float[np.ndarray, "G C"]) -> Float[np.ndarray, "G C"]:
        """What the curves of games n pay at user value at least v (beyond the last point: there)."""
        n, c = n[:, None], np.arange(v.shape[1])
        before, after, share = self._between(n, c, v)
        return self.paid[n, c, before] * (1 - share) + self.paid[n, c, after] * share

    def offer(
        self, n: Int[np.ndarray, "G"], c: Int[np.ndarray, "G"], v: Float[np.ndarray, "G"]
    ) -> Float[np.ndarray, "G XB R"]:
        """The law of curve c of game n that does so, one each."""
        before, after, share = self._between(n, c, v)
        share = share[:, None, None]
        return self.law[n, c, before] * (1 - share) + self.law[n, c, after] * share

    def of(self, n: int) -> Frontier:
        """Game n alone, still a batch."""
        return Frontier(*(x[n : n + 1] for x in self))

    def best(self, c: int, v: float) -> tuple[float, Float[np.ndarray, "XB R"], float, float]:
        """One game, one curve: payoff at user value at least v, the law, the price of her slack, the excess."""
        at = np.zeros(1, int), np.array([c]), np.array([v])
        before, after, share = self._between(*at)
        paid = self.paid[0, c, before[0]] * (1 - share[0]) + self.paid[0, c, after[0]] * share[0]
        price = max(self.price[0, c, before[0]], self.price[0, c, after[0]])
        return float(paid), self.offer(*at)[0], float(price), float(max(self.excess[0, c], 0))


def spread(payoff: Float[np.ndarray, "*any XA XB A"]) -> Float[np.ndarray, "*any XB R"]:
    """Expected payoff of x_B under each recommendation (an action for every x_A)."""
    return recommendations.spread(payoff, recommendations.single_actions(payoff.shape[-3], payoff.shape[-1]))


def trace(
    game: ReducedGame,
    payoffs: Float[np.ndarray, "N C XA XB A"],
    sign: Float[np.ndarray, "C"] | None = None,
    *,
    allowed: Bool[np.ndarray, "N R"] | None = None,
    ease: Any = 0.0,
) -> Frontier:
    """The curves of `payoffs` in the games of a batch, in standard units.

    sign:    [C] 1, or -1 for user value at most: worth is then minus the user's value, and it ends at -V_none.
    allowed: the recommendations that may be made; all by default.
    ease:    see `obedience.ObedienceLP`.
    """
    sign = np.ones(payoffs.shape[1]) if sign is None else sign
    allowed = np.ones((len(payoffs), 1), bool) if allowed is None else allowed
    parts = []
    for at in range(0, len(payoffs), TOGETHER):
        some = slice(at, at + TOGETHER)
        parts.append(_trace(ReducedGame(*(x[some] for x in game)), payoffs[some], sign, allowed[some], ease))
    most = max(part.worth.shape[2] for part in parts)
    widths = [((0, 0), (0, 0), (0, most - part.worth.shape[2])) for part in parts]
    cut = [
        part._replace(
            worth=np.pad(part.worth, w, mode="edge"), paid=np.pad(part.paid, w, mode="edge"),
            price=np.pad(part.price, w, mode="edge"),
            law=np.pad(part.law, (*w, (0, 0), (0, 0)), mode="edge"),
        )
        for part, w in zip(parts, widths, strict=True)
    ]  # fmt: skip
    return Frontier(*(np.concatenate(x) for x in zip(*cut, strict=True)))


def _trace(game: ReducedGame, payoffs, sign, allowed, ease) -> Frontier:
    N, C = payoffs.shape[:2]
    lps = _lps(game, payoffs, sign, allowed, ease)
    XB, R = lps.own.shape[2:]
    n, m = XB * R, lps.rows.shape[1] + 1
    every = np.concatenate(
        [np.broadcast_to(lps.rows[:, None], (N, C, m - 1, n)), -lps.in_columns(lps.hers).reshape(N, C, 1, n)], 2
    )
    right = np.zeros((N, C, m))
    right[..., :XB], right[..., -1] = 1, 1 - lps.least  # where the row of the user's value does not bind
    direction = np.zeros((N * C, m))
    direction[:, -1] = -1
    _, x, dual, count, status, _ = batched_lp.run(
        (lps.in_columns(lps.own).reshape(-1, n), every.reshape(-1, m, n), right.reshape(-1, m), direction, lps.first()),
        equal=XB, free=(), lean=1e-3, limit=20 * (m + n), points=POINTS * payoffs.shape[2],
    )  # fmt: skip
    ended = (status == simplex.OPTIMAL) & (count > 0)
    most = max(int(count.max()), 1)
    last = np.minimum(np.arange(most), np.maximum(count - 1, 0)[:, None])[..., None]  # what lies beyond repeats it
    law = np.maximum(np.take_along_axis(x, last, 1), 0).reshape(N, C, most, XB, R) * lps.possible[:, None, None]
    dual = np.maximum(np.take_along_axis(dual, last, 1)[..., XB:], 0).reshape(N, C, most, -1)
    total = law.sum(-1, keepdims=True)
    law = law / np.where(total > 0, total, 1)
    paid, worth = (np.einsum("ncpbr,ncbr->ncp", law, payoff) for payoff in (lps.own, lps.hers))
    tilted = lps.in_columns(lps.own)[:, :, None] + dual[..., -1, None, None] * lps.in_columns(lps.hers)[:, :, None]
    tilted = tilted - np.einsum("ncpm,nmx->ncpx", dual[..., :-1], lps.rows[:, XB:]).reshape(law.shape)
    bound = bound_of(tilted, lps.possible[:, None, None])
    before = np.concatenate([worth[..., :1], worth[..., :-1]], -1)
    ends = [bound - dual[..., -1] * worth - paid, bound - dual[..., -1] * before - np.concatenate(
        [paid[..., :1], paid[..., :-1]], -1)]  # fmt: skip
    excess = np.max(ends, 0).max(-1)
    grouped = dual[..., :-1].reshape(N, C, most, R, -1)  # as they are listed
    eased = np.einsum("ncprm,nrmb->ncpbr", grouped, lps.relief)
    price = bound_of(eased, lps.possible[:, None, None])
    ended = (
        ended.reshape(N, C)
        & (np.abs(worth[..., -1] - lps.limit) <= TOLERANCE)
        & (np.abs(total - 1) < 1e-6).all((2, 3, 4))
    )
    proved = ended & (excess <= TOLERANCE) & (lps.missed(law) <= TOLERANCE)
    return Frontier(worth, paid, law, count.reshape(N, C), price, excess, proved)


def most(
    game: ReducedGame, payoffs: Float[np.ndarray, "N C XA XB A"], *, allowed: Bool[np.ndarray, "N R"] | None = None
) -> Float[np.ndarray, "N C"]:
    """The most that obedient distributions pay; NaN where that is not proved."""
    allowed = np.ones((len(payoffs), 1), bool) if allowed is None else allowed
    parts = []
    for at in range(0, len(payoffs), 4 * TOGETHER):
        some = slice(at, at + 4 * TOGETHER)
        parts.append(_most(ReducedGame(*(x[some] for x in game)), payoffs[some], allowed[some]))
    return np.concatenate(parts)


def _most(game, payoffs, allowed):
    N, C = payoffs.shape[:2]
    lps = _lps(game, payoffs, np.ones(C), allowed, 0.0)
    XB = lps.own.shape[2]
    m, n = lps.rows.shape[1:]
    right = np.zeros((N * C, m))
    right[:, :XB] = 1
    every = np.broadcast_to(lps.rows[:, None], (N, C, m, n)).reshape(-1, m, n)
    x, dual, _, status, _ = batched_lp.run(
        (lps.in_columns(lps.own).reshape(-1, n), every, right, np.zeros((N * C, m)), lps.first()),
        equal=XB, free=(), lean=1e-3, limit=20 * (m + n), points=0,
    )  # fmt: skip
    law = np.maximum(x, 0).reshape(lps.own.shape) * lps.possible[:, None]
    law = law / np.maximum(law.sum(-1, keepdims=True), 1e-300)
    value = (law * lps.own).sum((2, 3))
    dual = np.maximum(dual, 0).reshape(N, C, m)[..., XB:]
    priced = np.einsum("ncm,nmx->ncx", dual, lps.rows[:, XB:]).reshape(lps.own.shape)
    bound = bound_of(lps.in_columns(lps.own) - priced, lps.possible[:, None])
    ended = status.reshape(N, C) == simplex.OPTIMAL
    sound = ended & (bound - value <= TOLERANCE) & (lps.missed(law[:, :, None]) <= TOLERANCE)
    return np.where(sound, value, np.nan)


class _LPs(NamedTuple):
    """rows:     [N, XB + obedience, XB R] the sums with =, then obedience with <= 0, per unit of a column
    own, hers: [N, C, XB, R] the payoff, and the user's value with its sign
    possible:  [N, XB, R] a unit of a column is so much probability; 0 where the recommendation may not be made
    least:     [N, C] no distribution has a user value (with its sign) below it; limit: the largest
    relief:    [N, R, rows of a recommendation, XB] what an ease adds to its rows
    """

    rows: Float[np.ndarray, "N m n"]
    own: Float[np.ndarray, "N C XB R"]
    hers: Float[np.ndarray, "N C XB R"]
    possible: Float[np.ndarray, "N XB R"]
    least: Float[np.ndarray, "N C"]
    limit: Float[np.ndarray, "N C"]
    relief: Float[np.ndarray, "N R k XB"]

    def in_columns(self, payoff: Float[np.ndarray, "N C XB R"]) -> Float[np.ndarray, "N C XB R"]:
        """Of a unit of each column."""
        return payoff * self.possible[:, None]

    def first(self) -> Int[np.ndarray, "NC XB"]:
        """Of each x_B the recommendation that pays most: a dictionary that is dual feasible."""
        XB, R = self.own.shape[2:]
        best = np.where(self.possible[:, None] > 0, self.own, -np.inf).argmax(-1)
        return (best + R * np.arange(XB)).reshape(-1, XB).astype(np.int32)

    def missed(self, law: Float[np.ndarray, "N C P XB R"]) -> Float[np.ndarray, "N C"]:
        """By how much obedience is violated, at most."""
        XB = law.shape[3]
        columns = law / np.where(self.possible > 0, self.possible, 1)[:, None, None]
        columns = columns.reshape(*law.shape[:3], -1)
        return np.einsum("nmx,ncpx->ncpm", self.rows[:, XB:], columns).max((-2, -1), initial=0.0)


def _lps(game: ReducedGame, payoffs, sign, allowed, ease) -> _LPs:
    user = np.asarray(game.user)
    N, XA, XB, A = user.shape
    sets = recommendations.single_actions(XA, A)
    likely = units.most_likely(user, tolerance=program.TOLERANCE)
    possible = recommendations.possible(likely, sets) * allowed[:, None]
    r, xa, a, c = recommendations.comparisons(sets)
    R, each = len(sets), np.arange(len(r))
    columns = possible[:, :, r].swapaxes(1, 2)  # [N, rows, XB]
    advantage = units.relaxed(user, ease)[:, xa, :, a, c].swapaxes(0, 1) * columns
    relief = np.abs(user[:, xa, :, a] - user[:, xa, :, c]).swapaxes(0, 1) * columns
    size = np.abs(advantage).max(-1, keepdims=True)
    unit = np.exp2(np.frexp(np.where(size > 0, size, 1))[1])  # powers of two, so that nothing is rounded
    rows = np.zeros((N, XB + len(r), XB, R))
    rows[:, np.arange(XB), np.arange(XB)] = possible
    rows[:, XB + each, :, r] = -(advantage / unit).swapaxes(0, 1)
    informed, silent = user.max(-1).sum((1, 2)), user.sum(2).max(-1).sum(1)
    limit = np.where(sign > 0, informed[:, None], -silent[:, None])
    ends = units.attainable(user, likely)
    least = np.where(sign > 0, ends[0][:, None], -ends[1][:, None])
    hers = sign[:, None, None] * spread(user)[:, None]
    return _LPs(
        rows.reshape(N, -1, XB * R), spread(payoffs), hers, possible, least, limit,
        (relief / unit).reshape(N, R, -1, XB),
    )  # fmt: skip
