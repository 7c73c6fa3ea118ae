"""The obedience LPs of many games at once: f_i, M and payoff ranges, by the batched simplex of `lp`.

The parametric simplex finds all breakpoints of a curve in one pass over the user's value v. Its answers are proposals,
which are checked here in NumPy float64 from the game's own numbers: the violation of obedience is measured at every
point, and every segment is bounded from above by weak duality (section 5.1 of docs/model.md). For any multipliers
y >= 0 of the obedience rows and p >= 0 of the value row, no obedient distribution worth at least v to the user pays
more than

    sum_xb max_r (payoff + p user - y rows)[xb, r] - p v.

A curve whose bound lies more than TOLERANCE above it is not `proved`; HiGHS then solves its game.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from emalign_jax.exact.obedience import program, recommendations
from emalign_jax.exact.obedience.program import bound_of, check_size
from emalign_jax.games import units
from emalign_jax.games.game import ReducedGame
from emalign_jax.lp import batched_lp, simplex
from emalign_jax.lp.choice import check_word

# In standard units: of the bound of a curve, and of the violation of obedience.
TOLERANCE = 1e-9
# The largest number of breakpoints of a curve for each x_A, degenerate pivots included.
POINTS = 24
# Numbers in the answers of the LPs that are solved together.
MOST_NUMBERS = 2**22
# Rows * columns of a game's LP. HiGHS makes use of sparsity and is faster for larger LPs.
MOST_CELLS = 6_000
# With so many games compiling is worth while.
FEWEST = 64


def choose(lp: str, count: int, game: ReducedGame) -> bool:
    """Whether to solve the LPs of `count` games batched. Raises `ValueError` for an unknown word `lp`, and for
    "batched" if the LPs are too large."""
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
    """C value-payoff frontiers of each of N games: the largest payoff at user value at least v, for v up to V_full.

    user_value:   [N, C, P] the user's value at each breakpoint, ascending; the last one is repeated
    paid:         [N, C, P] the payoff at each breakpoint; the first is the largest
    distribution: [N, C, P, XB, R] an obedient distribution over recommendations with this value and payoff
    count:        [N, C] number of breakpoints
    price:        [N, C, P] a tie tolerance of e raises the curve between this breakpoint and the one before by at most
                  e * price
    excess:       [N, C] curve + excess is an upper bound of the payoff
    proved:       [N, C] whether excess <= TOLERANCE, the distributions are obedient, and the last is worth V_full
    """

    user_value: Float[np.ndarray, "N C P"]
    paid: Float[np.ndarray, "N C P"]
    distribution: Float[np.ndarray, "N C P XB R"]
    count: Int[np.ndarray, "N C"]
    price: Float[np.ndarray, "N C P"]
    excess: Float[np.ndarray, "N C"]
    proved: Bool[np.ndarray, "N C"]

    def _between(self, n, c, v):
        """The breakpoints before and after v, and the weight of the latter in the interpolation."""
        after = np.minimum((self.user_value[n, c] < v[..., None]).sum(-1), self.count[n, c] - 1)
        before = np.maximum(after - 1, 0)
        low, high = self.user_value[n, c, before], self.user_value[n, c, after]
        width = high - low
        with np.errstate(invalid="ignore"):
            share = np.where(width > 0, np.clip((v - low) / np.where(width > 0, width, 1), 0, 1), 1.0)
        return before, after, share

    def pay(
        self, n: Int[np.ndarray, "G"], v: Float[np.ndarray, "G C"]
    ) -> tuple[Float[np.ndarray, "G C"], Float[np.ndarray, "G C"]]:
        """The payoffs of the curves of games n at user value at least v (beyond the last breakpoint: at it), and the
        prices of a tie tolerance there."""
        n, c = n[:, None], np.arange(v.shape[1])
        before, after, share = self._between(n, c, v)
        paid = self.paid[n, c, before] * (1 - share) + self.paid[n, c, after] * share
        return paid, np.maximum(self.price[n, c, before], self.price[n, c, after])

    def offer(
        self, n: Int[np.ndarray, "G"], c: Int[np.ndarray, "G"], v: Float[np.ndarray, "G"]
    ) -> Float[np.ndarray, "G XB R"]:
        """The distributions over recommendations of curves c of games n at user value at least v."""
        before, after, share = self._between(n, c, v)
        share = share[:, None, None]
        return self.distribution[n, c, before] * (1 - share) + self.distribution[n, c, after] * share

    def of(self, n: int) -> Frontier:
        """Game n alone, as a batch of one."""
        return Frontier(*(x[n : n + 1] for x in self))

    def best(self, c: int, v: float) -> tuple[float, Float[np.ndarray, "XB R"], float, float]:
        """Of the first game's curve c at user value at least v: payoff, distribution, price and excess."""
        first, values = np.zeros(1, int), np.full((1, self.paid.shape[1]), v)
        paid, price = (float(x[0, c]) for x in self.pay(first, values))
        distribution = self.offer(first, np.array([c]), values[:, c])[0]
        return paid, distribution, price, float(max(self.excess[0, c], 0))


def spread(payoff: Float[np.ndarray, "*any XA XB A"]) -> Float[np.ndarray, "*any XB R"]:
    """The expected payoff at x_B under each recommendation (an action for every x_A)."""
    return recommendations.spread(payoff, recommendations.single_actions(payoff.shape[-3], payoff.shape[-1]))


_reused: contextvars.ContextVar[dict[bytes, Any] | None] = contextvars.ContextVar("reused", default=None)


@contextlib.contextmanager
def reused():
    """Within it, what is asked again of the same numbers is computed once: a search, its monopolists and the exact
    equilibria of a block of games share their curves. They are forgotten at the end."""
    token = _reused.set({})
    try:
        yield
    finally:
        _reused.reset(token)


def _once(what: Callable[..., Any], *arguments: Any) -> Any:
    """what(*arguments), which are arrays."""
    kept = _reused.get()
    if kept is None:
        return what(*arguments)
    key = hashlib.blake2b(what.__name__.encode())
    for x in map(np.asarray, arguments):
        key.update(f"{x.shape} {x.dtype} ".encode() + x.tobytes())
    if key.digest() not in kept:
        kept[key.digest()] = what(*arguments)
    return kept[key.digest()]


def trace(
    game: ReducedGame,
    payoffs: Float[np.ndarray, "N C XA XB A"],
    sign: Float[np.ndarray, "C"] | None = None,
    *,
    allowed: Bool[np.ndarray, "N R"] | None = None,
    tie_tolerance: Any = 0.0,
    keep: bool = True,
) -> Frontier:
    """The frontiers of `payoffs` in the games of a batch, in standard units.

    sign:          [C] 1 (default), or -1 for a user value of at most v: `user_value` is then minus the user's value,
                   and ends at -V_none.
    allowed:       [N, R] the recommendations that may be made; all by default.
    tie_tolerance: see `ObedienceLP`.
    keep:          whether `reused` keeps them.
    """
    sign = np.ones(payoffs.shape[1]) if sign is None else sign
    allowed = np.ones((len(payoffs), 1), bool) if allowed is None else allowed
    if not keep:
        return _trace_in_parts(*game, payoffs, sign, allowed, tie_tolerance)
    return _once(_trace_in_parts, *game, payoffs, sign, allowed, tie_tolerance)


def _trace_in_parts(mass, user, agents, welfare, payoffs, sign, allowed, tie_tolerance, plain=False) -> Frontier:
    """plain: whether variables are probabilities, and not shares of their bounds. Bounds that are far apart cost a few
    LPs their pivots; those are solved again without them."""
    game = ReducedGame(mass, user, agents, welfare)
    found = _together(
        [_trace(game.at(some), payoffs[some], sign, allowed[some], tie_tolerance, plain) for some in _blocks(payoffs)]
    )
    doubtful = np.flatnonzero(~found.proved.all(1))
    if plain or not len(doubtful):
        return found
    again = _trace_in_parts(*game.at(doubtful), payoffs[doubtful], sign, allowed[doubtful], tie_tolerance, plain=True)
    place, better = np.arange(len(payoffs)), np.flatnonzero(again.proved.all(1))
    place[doubtful[better]] = len(payoffs) + better
    return Frontier(*(x[place] for x in _together([found, again])))


def _together(parts: list[Frontier]) -> Frontier:
    """The frontiers of several blocks of games."""
    most = max(part.user_value.shape[2] for part in parts)
    widths = [((0, 0), (0, 0), (0, most - part.user_value.shape[2])) for part in parts]
    padded = [
        part._replace(
            user_value=np.pad(part.user_value, w, mode="edge"), paid=np.pad(part.paid, w, mode="edge"),
            price=np.pad(part.price, w, mode="edge"),
            distribution=np.pad(part.distribution, (*w, (0, 0), (0, 0)), mode="edge"),
        )
        for part, w in zip(parts, widths, strict=True)
    ]  # fmt: skip
    return Frontier(*(np.concatenate(x) for x in zip(*padded, strict=True)))


def _blocks(payoffs) -> list[slice]:
    """The games whose LPs are solved together."""
    N, C, XA, XB, A = payoffs.shape
    answers = C * POINTS * XA
    together = max(64, MOST_NUMBERS // (answers * (2 * XB * A**XA + A**XA * XA * (A - 1))))
    return [slice(at, at + together) for at in range(0, N, together)]


def _trace(game: ReducedGame, payoffs, sign, allowed, tie_tolerance, plain: bool) -> Frontier:
    N, C = payoffs.shape[:2]
    lps = scaled = _lps(game, payoffs, sign, allowed, tie_tolerance)
    if plain:
        lps = _lps(game, payoffs, sign, allowed, tie_tolerance, plain=True)
    limit = _limit(game, sign, allowed, tie_tolerance)
    XB, R = lps.own.shape[2:]
    x, dual, count, status, _ = lps.solve(POINTS * payoffs.shape[2])
    ended = (status == simplex.OPTIMAL) & (count > 0)
    # Curves have few breakpoints, but some have many: what follows is computed for one list of all breakpoints.
    found = np.maximum(count, 1)
    curve = np.repeat(np.arange(N * C), found)
    g, c = curve // C, curve % C
    starts = np.cumsum(found) - found
    possible, own, user = lps.possible[g], lps.own[g, c], lps.user[g, c]
    distribution = np.maximum(x, 0).reshape(-1, XB, R) * possible
    total = distribution.sum(-1, keepdims=True)
    distribution = distribution / np.where(total > 0, total, 1)
    dual = np.maximum(dual[:, XB:], 0)
    value_price, obedience = dual[:, -1], dual[:, :-1]
    paid, user_value = ((distribution * payoff).sum((1, 2)) for payoff in (own, user))
    tilted = (own + value_price[:, None, None] * user) * possible
    tilted -= _by_game(g, obedience, lps.rows[:, XB:]).reshape(tilted.shape)
    bound = bound_of(tilted, possible)
    before = np.maximum(np.arange(len(g)) - 1, starts[curve])
    short = np.maximum(*(bound - value_price * user_value[n] - paid[n] for n in (slice(None), before)))
    excess = np.maximum.reduceat(short, starts)
    # Obedience rows are listed by recommendation.
    price = bound_of(np.einsum("trm,trmb->tbr", obedience.reshape(len(g), R, -1), lps.relief[g]), possible)
    violated = scaled.violation(g, distribution)
    sums = np.abs(total - 1).max((1, 2))
    ended &= np.abs(user_value[starts + found - 1] - limit.reshape(-1)) <= TOLERANCE
    ended &= (np.maximum.reduceat(sums, starts) < 1e-6) & (np.maximum.reduceat(violated, starts) <= TOLERANCE)
    proved = ended & (excess <= TOLERANCE)
    # Later points repeat the last one.
    padded = starts[:, None] + np.minimum(np.arange(found.max()), found[:, None] - 1)

    def of_points(column):
        return column[padded].reshape(N, C, -1, *column.shape[1:])

    return Frontier(
        of_points(user_value), of_points(paid), of_points(distribution), count.reshape(N, C), of_points(price),
        excess.reshape(N, C), proved.reshape(N, C),
    )  # fmt: skip


def _by_game(
    g: Int[np.ndarray, "T"], x: Float[np.ndarray, "T a"], matrices: Float[np.ndarray, "N a b"]
) -> Float[np.ndarray, "T b"]:
    """x[t] @ matrices[g[t]] for ascending g, by one product a game."""
    counts = np.bincount(g, minlength=len(matrices))
    place = np.arange(len(g)) - (np.cumsum(counts) - counts)[g]
    padded = np.zeros((len(matrices), counts.max(), x.shape[1]))
    padded[g, place] = x
    return (padded @ matrices)[g, place]


def largest_payoffs(
    game: ReducedGame, payoffs: Float[np.ndarray, "N C XA XB A"], *, allowed: Bool[np.ndarray, "N R"] | None = None
) -> Float[np.ndarray, "N C"]:
    """The largest payoffs of obedient distributions; NaN where they are not proved."""
    allowed = np.ones((len(payoffs), 1), bool) if allowed is None else allowed
    return _once(_largest_payoffs_in_parts, *game, payoffs, allowed)


def _limit(game: ReducedGame, sign, allowed, tie_tolerance) -> Float[np.ndarray, "N C"]:
    """The largest user value of an obedient distribution, times its sign; NaN where it is not proved."""
    if game.is_perceived:  # V_full and V_none are not the ends.
        each = _largest_payoffs(game, sign[:, None, None, None] * game.welfare[:, None], allowed, tie_tolerance)
        return np.broadcast_to(each, (len(game.user), len(sign)))
    informed, silent = game.user.max(-1).sum((1, 2)), game.user.sum(2).max(-1).sum(1)
    return np.where(sign > 0, informed[:, None], -silent[:, None])


def _largest_payoffs_in_parts(mass, user, agents, welfare, payoffs, allowed):
    game = ReducedGame(mass, user, agents, welfare)
    blocks = _blocks(payoffs)
    return np.concatenate([_largest_payoffs(game.at(some), payoffs[some], allowed[some]) for some in blocks])


def _largest_payoffs(game, payoffs, allowed, tie_tolerance=0.0):
    N, C = payoffs.shape[:2]
    lps = _lps(game, payoffs, np.ones(C), allowed, tie_tolerance)
    XB = lps.own.shape[2]
    x, dual, _, status, _ = lps.solve(POINTS * payoffs.shape[2], rising=False)
    distribution = np.maximum(x, 0).reshape(lps.own.shape) * lps.possible[:, None]
    distribution = distribution / np.maximum(distribution.sum(-1, keepdims=True), 1e-300)
    value = (distribution * lps.own).sum((2, 3))
    dual = np.maximum(dual[:, XB:-1], 0).reshape(N, C, -1)
    priced = np.einsum("ncm,nmx->ncx", dual, lps.rows[:, XB:]).reshape(lps.own.shape)
    bound = bound_of(lps.scaled(lps.own) - priced, lps.possible[:, None])
    ended = status.reshape(N, C) == simplex.OPTIMAL
    violated = lps.violation(np.repeat(np.arange(N), C), distribution.reshape(N * C, XB, -1))
    sound = ended & (bound - value <= TOLERANCE) & (violated.reshape(N, C) <= TOLERANCE)
    return np.where(sound, value, np.nan)


class _LPs(NamedTuple):
    """The obedience LPs of N games with C objectives each. One unit of a variable is the probability `possible`.

    rows:      [N, XB + obedience, XB R] the sums of probabilities (= 1), then obedience (<= 0)
    own, user: [N, C, XB, R] the payoff, and the user's value times its sign
    possible:  [N, XB, R] an upper bound of the probability; 0 where the recommendation may not be made
    least:     [N, C] a lower bound of the user's value times its sign
    relief:    [N, R, rows of a recommendation, XB] the change of these rows per unit of tie tolerance
    """

    rows: Float[np.ndarray, "N m n"]
    own: Float[np.ndarray, "N C XB R"]
    user: Float[np.ndarray, "N C XB R"]
    possible: Float[np.ndarray, "N XB R"]
    least: Float[np.ndarray, "N C"]
    relief: Float[np.ndarray, "N R k XB"]

    def scaled(self, payoff: Float[np.ndarray, "N C XB R"]) -> Float[np.ndarray, "N C XB R"]:
        """The payoff of one unit of each variable."""
        return payoff * self.possible[:, None]

    def solve(self, points: int, *, rising: bool = True) -> tuple[np.ndarray, ...]:
        """What the batched simplex finds for each objective of each game in turn (`batched_lp.run`): all breakpoints in
        the user's value, or with rising=False the largest payoff alone, as the first point. Both are one program, which
        is compiled once."""
        N, C, XB, R = self.own.shape
        n, m = XB * R, self.rows.shape[1] + 1
        worth = -self.scaled(self.user).reshape(-1, 1, n)

        def rows(some):
            return np.concatenate([self.rows[some // C], worth[some]], 1)

        right = np.zeros((N, C, m))
        right[..., :XB], right[..., -1] = 1, 1 - self.least  # There the row of the user's value does not bind.
        direction = np.zeros((N * C, m))
        direction[:, -1] = -1.0 if rising else 0.0
        data = self.scaled(self.own).reshape(-1, n), rows, right.reshape(-1, m), direction
        return batched_lp.run(
            (*data, self.first()), equal=XB, free=(), lean=1e-3, limit=20 * (m + n), points=points
        )  # fmt: skip

    def first(self) -> Int[np.ndarray, "NC XB"]:
        """The recommendation that pays most at each x_B, which is a basis that is dual feasible."""
        XB, R = self.own.shape[2:]
        best = np.where(self.possible[:, None] > 0, self.own, -np.inf).argmax(-1)
        return (best + R * np.arange(XB)).reshape(-1, XB).astype(np.int32)

    def violation(self, g: Int[np.ndarray, "T"], distribution: Float[np.ndarray, "T XB R"]) -> Float[np.ndarray, "T"]:
        """The largest violation of obedience by each distribution in game g[t], g ascending."""
        XB = distribution.shape[1]
        variables = distribution / np.where(self.possible > 0, self.possible, 1)[g]
        rows = self.rows[:, XB:].swapaxes(1, 2)
        return _by_game(g, variables.reshape(len(g), -1), rows).max(-1, initial=0.0)


def _lps(game: ReducedGame, payoffs, sign, allowed, tie_tolerance, plain: bool = False) -> _LPs:
    user = np.asarray(game.user)
    N, XA, XB, A = user.shape
    sets = recommendations.single_actions(XA, A)
    likely = units.most_likely(user, tolerance=program.TOLERANCE)
    possible = recommendations.possible(likely, sets) * allowed[:, None]
    possible = np.where(possible > 0, 1.0, 0.0) if plain else possible
    r, xa, a, c = recommendations.comparisons(sets)
    R, each = len(sets), np.arange(len(r))
    scale = possible[:, :, r].swapaxes(1, 2)  # [N, rows, XB]
    advantage = units.relaxed(user, tie_tolerance)[:, xa, :, a, c].swapaxes(0, 1) * scale
    relief = np.abs(user[:, xa, :, a] - user[:, xa, :, c]).swapaxes(0, 1) * scale
    size = np.abs(advantage).max(-1, keepdims=True)
    unit = np.exp2(np.frexp(np.where(size > 0, size, 1))[1])  # Powers of two, so that division does not round.
    rows = np.zeros((N, XB + len(r), XB, R))
    rows[:, np.arange(XB), np.arange(XB)] = possible
    rows[:, XB + each, :, r] = -(advantage / unit).swapaxes(0, 1)
    ends = units.attainable(game.welfare, likely)
    least = np.where(sign > 0, ends[0][:, None], -ends[1][:, None])
    signed_user = sign[:, None, None] * spread(np.asarray(game.welfare))[:, None]
    return _LPs(
        rows.reshape(N, -1, XB * R), spread(payoffs), signed_user, possible, least,
        (relief / unit).reshape(N, R, -1, XB),
    )  # fmt: skip
