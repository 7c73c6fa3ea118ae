"""The obedience LPs of many games at once: f_i, M and payoff ranges, by the batched simplex of `lp`.

The parametric simplex walks along the user's value v and meets every breakpoint of a curve in one pass. What it says
is used as a proposal only: here, in NumPy float64 and from the game's own numbers, every point's law is made a law,
its obedience is measured, and every segment is bounded from above by weak duality. For any multipliers y >= 0 of the
obedience rows and p >= 0 of the value row no obedient law worth at least v to her pays more than

    sum_xb max_r (payoff + p user - y rows)[xb, r] - p v.

A curve whose bound lies more than TOLERANCE above it is not `proved`, and is for HiGHS to do again.
This file, `guarantees`, `sup_norm` and `alignment` are where the exact part hands work to `lp`, as elsewhere to HiGHS;
`lp` knows no games.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.choice import check_word
from emalign_jax.exact.obedience import check_size
from emalign_jax.game import ReducedGame
from emalign_jax.lp import batch, simplex

TOLERANCE = 1e-9  # of what dictating her actions is worth to whom a curve is about, and of obedience
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
    XA, A = payoff.shape[-3], payoff.shape[-1]
    advice = _recommendations(XA, A)
    return np.add.reduce([payoff[..., xa, :, :][..., advice[:, xa]] for xa in range(XA)])


def trace(
    game: ReducedGame, payoffs: Float[np.ndarray, "N C XA XB A"], sign: Float[np.ndarray, "C"] | None = None
) -> Frontier:
    """The curves of `payoffs` in the games of a batch, in standard units.

    sign: [C] 1, or -1 for user value at most: worth is then minus her value, and it ends at -V_none."""
    sign = np.ones(payoffs.shape[1]) if sign is None else sign
    parts = []
    for at in range(0, len(payoffs), TOGETHER):
        some = slice(at, at + TOGETHER)
        parts.append(_trace(ReducedGame(*(x[some] for x in game)), payoffs[some], sign))
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


def _trace(game: ReducedGame, payoffs, sign) -> Frontier:
    N, C = payoffs.shape[:2]
    rows, own, her, limit, relief = _lps(game, payoffs, sign)
    XB, R = own.shape[2:]
    n, m = XB * R, rows.shape[1] + 1
    every = np.concatenate([np.broadcast_to(rows[:, None], (N, C, m - 1, n)), -her.reshape(N, C, 1, n)], 2)
    lowest = her.min(-1).sum(-1) - 1  # of her value: there its row does not bind
    right = np.zeros((N, C, m))
    right[..., :XB], right[..., -1] = 1, -lowest
    direction = np.zeros((N * C, m))
    direction[:, -1] = -1
    _, x, dual, count, status, _ = batch.run(
        (own.reshape(-1, n), every.reshape(-1, m, n), right.reshape(-1, m), direction, _first(own)),
        equal=XB, free=(), lean=1e-3, limit=20 * (m + n), points=POINTS * payoffs.shape[2],
    )  # fmt: skip
    ended = (status == simplex.OPTIMAL) & (count > 0)
    most = max(int(count.max()), 1)
    last = np.minimum(np.arange(most), np.maximum(count - 1, 0)[:, None])[..., None]  # what lies beyond repeats it
    law = np.maximum(np.take_along_axis(x, last, 1), 0).reshape(N, C, most, XB, R)
    dual = np.maximum(np.take_along_axis(dual, last, 1)[..., XB:], 0).reshape(N, C, most, -1)
    total = law.sum(-1, keepdims=True)
    law = law / np.where(total > 0, total, 1)
    paid, worth = (np.einsum("ncpbr,ncbr->ncp", law, payoff) for payoff in (own, her))
    tilted = own[:, :, None] + dual[..., -1, None, None] * her[:, :, None]
    tilted = tilted - np.einsum("ncpm,nmx->ncpx", dual[..., :-1], rows[:, XB:]).reshape(law.shape)
    bound = tilted.max(-1).sum(-1)
    before = np.concatenate([worth[..., :1], worth[..., :-1]], -1)
    ends = [bound - dual[..., -1] * worth - paid, bound - dual[..., -1] * before - np.concatenate(
        [paid[..., :1], paid[..., :-1]], -1)]  # fmt: skip
    excess = np.max(ends, 0).max(-1)
    missed = np.einsum("nmx,ncpx->ncpm", rows[:, XB:], law.reshape(N, C, most, n)).max((-2, -1), initial=0.0)
    grouped = dual[..., :-1].reshape(N, C, most, R, -1)  # as they are listed
    price = np.einsum("ncprm,nrmb->ncprb", grouped, relief).max(3).sum(-1)
    stake = np.ptp(payoffs, axis=-1).sum((2, 3))
    ended = (
        ended.reshape(N, C) & (np.abs(worth[..., -1] - limit) <= TOLERANCE) & (np.abs(total - 1) < 1e-6).all((2, 3, 4))
    )
    proved = ended & (excess <= TOLERANCE * stake) & (missed <= TOLERANCE)
    return Frontier(worth, paid, law, count.reshape(N, C), price, excess, proved)


def most(game: ReducedGame, payoffs: Float[np.ndarray, "N C XA XB A"]) -> Float[np.ndarray, "N C"]:
    """The most that obedient laws pay; NaN where that is not proved."""
    parts = []
    for at in range(0, len(payoffs), 4 * TOGETHER):
        some = slice(at, at + 4 * TOGETHER)
        parts.append(_most(ReducedGame(*(x[some] for x in game)), payoffs[some]))
    return np.concatenate(parts)


def _most(game, payoffs):
    N, C = payoffs.shape[:2]
    rows, own, *_ = _lps(game, payoffs, np.ones(C))
    XB = own.shape[2]
    m, n = rows.shape[1:]
    right = np.zeros((N * C, m))
    right[:, :XB] = 1
    every = np.broadcast_to(rows[:, None], (N, C, m, n)).reshape(-1, m, n)
    x, dual, _, status, _ = batch.run(
        (own.reshape(-1, n), every, right, np.zeros((N * C, m)), _first(own)),
        equal=XB, free=(), lean=1e-3, limit=20 * (m + n), points=0,
    )  # fmt: skip
    law = np.maximum(x, 0).reshape(own.shape)
    law = law / np.maximum(law.sum(-1, keepdims=True), 1e-300)
    value = (law * own).sum((2, 3))
    priced = np.einsum("ncm,nmx->ncx", np.maximum(dual, 0).reshape(N, C, m)[..., XB:], rows[:, XB:]).reshape(own.shape)
    bound = (own - priced).max(-1).sum(-1)
    missed = np.einsum("nmx,ncx->ncm", rows[:, XB:], law.reshape(N, C, n)).max(-1, initial=0.0)
    stake = np.ptp(payoffs, axis=-1).sum((2, 3))
    sound = (status.reshape(N, C) == simplex.OPTIMAL) & (bound - value <= TOLERANCE * stake) & (missed <= TOLERANCE)
    return np.where(sound, value, np.nan)


def _lps(game: ReducedGame, payoffs, sign):
    """Rows [N, XB + obedience, XB R] (laws first, with =, then <= 0), costs [N, C, XB, R], her value with its sign
    [N, C, XB, R], the most that this can be [N, C], and what slack adds to the rows of each recommendation."""
    user = np.asarray(game.user)
    N, XA, XB, A = user.shape
    recommended = _recommendations(XA, A)
    R = len(recommended)
    advantage = user[..., :, None] - user[..., None, :]  # [N, XA, XB, a, b]
    size = np.abs(advantage).max(2)
    unit = np.exp2(np.frexp(np.where(size > 0, size, 1))[1])  # powers of two, so that nothing is rounded
    advantage = advantage / unit[:, :, None]
    listed = [(r, xa, b) for r in range(R) for xa in range(XA) for b in range(A) if b != recommended[r, xa]]
    rows = np.zeros((N, XB + len(listed), XB, R))
    relief = np.zeros((N, len(listed), XB))
    rows[:, np.arange(XB), np.arange(XB)] = 1
    for k, (r, xa, b) in enumerate(listed):
        rows[:, XB + k, :, r] = -advantage[:, xa, :, recommended[r, xa], b]
        relief[:, k] = np.asarray(game.mass)[:, xa] / unit[:, xa, recommended[r, xa], b, None]
    informed, silent = user.max(-1).sum((1, 2)), user.sum(2).max(-1).sum(1)
    limit = np.where(sign > 0, informed[:, None], -silent[:, None])
    her = sign[:, None, None] * spread(user)[:, None]
    return rows.reshape(N, -1, XB * R), spread(payoffs), her, limit, relief.reshape(N, R, -1, XB)


def _first(own: Float[np.ndarray, "N C XB R"]) -> Int[np.ndarray, "NC XB"]:
    """Of each x_B the recommendation that pays most: a dictionary that is dual feasible."""
    XB, R = own.shape[2:]
    return (own.argmax(-1) + R * np.arange(XB)).reshape(-1, XB).astype(np.int32)


def _recommendations(XA: int, A: int) -> Int[np.ndarray, "R XA"]:
    return np.array(list(itertools.product(range(A), repeat=XA)))
