"""Multipliers for proof files: LPs in float64, whose answers are rounded to fractions (section 12 of docs/model.md).

Any multipliers of the right sign prove some bound. So rounding costs a little of the bound and never its validity, and
the LPs need not be solved exactly. Distributions must be obedient exactly: they are so by a margin before they are
rounded, and where that fails their LPs are solved in rational arithmetic, from the basis that the float LP ends at.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np

from emalign_jax.exact.alignment.fits import Alignment
from emalign_jax.exact.alignment.residuals import Rule
from emalign_jax.exact.obedience.program import ObedienceLP, Price
from emalign_jax.exact.proofs import verify
from emalign_jax.games.game import ReducedGame
from emalign_jax.lp import rational
from emalign_jax.lp.highs import MAX_EXACT, KeptLP, LPFailed

# Multipliers are multiples of this, in units in which the largest payoff of a game is about 1.
STEP = Fraction(1, 2**44)
# Distributions are sought that are obedient, and worth enough, by this share: far less than any claim is weakened, and
# far more than what floats are rounded by.
MARGIN = 1e-12
# Probabilities below this are rounding.
NOISE = 1e-14


def fraction(value: float, step: Fraction = STEP) -> Fraction:
    """The multiple of `step` next to `value`."""
    return round(Fraction(float(value)) / step) * step


def text(value: Any) -> Any:
    """Fractions as text, in nested lists."""
    return [text(each) for each in value] if isinstance(value, list | tuple) else str(value)


def size_of(values) -> Fraction:
    """A power of two near the largest of the numbers, 1 if all are 0."""
    largest = max((abs(float(v)) for v in values), default=0.0)
    return Fraction(2) ** int(np.frexp(largest)[1]) if largest > 0 else Fraction(1)


class ObedienceEvidence:
    """Evidence from the obedience LP of one game (section 5.1), in the units of the verifier's game.

    tolerance: of the user's ties. Negative: distributions are obedient by a margin, so that they still are when they
               have been rounded.
    """

    def __init__(self, game: Any, tolerance: float):
        self.game = game
        self.user_size = size_of(v for row in game.g for cell in row for v in cell)
        user = _floats(game.g, self.user_size)
        sets = np.array(game.recommendations)[:, :, None] == np.arange(game.A)  # [R, X, A]
        reduced = ReducedGame(np.ones(user.shape[:2]), user, user[None], user)
        self.lp = ObedienceLP(reduced, tie_tolerance=tolerance, sets=sets, scaled=False)
        self.rows = self.lp.rows.tolist()

    def _solve(self, payoff, low: Fraction | None, high: Fraction | None, more: float = 0.0) -> tuple[Price, Fraction]:
        """The answer of the LP, its payoffs in units of a size. more: by how much the value must be above `low`."""
        size = size_of(v for row in payoff for cell in row for v in cell)
        least = -np.inf if low is None else float(low / self.user_size) + more
        found = self.lp.price(_floats(payoff, size), least, np.inf if high is None else float(high / self.user_size))
        return found, size

    def bound(self, payoff, low: Fraction | None, high: Fraction | None) -> dict[str, Any]:
        """Multipliers that bound `payoff` [x][b][a] over obedient distributions worth between `low` and `high`."""
        if low is not None and low > self.game.full:  # Nothing is worth this: a price that no payoff makes up for.
            price = 4 * sum(max(map(abs, cell)) for row in payoff for cell in row) / (low - self.game.full)
            return {"value_price": text(price), "obedience": []}
        found, size = self._solve(payoff, low, high)
        if found.obedience is None:
            raise LPFailed(found.status)
        scale = size / self.user_size
        price = fraction(-found.slope) * scale
        if (low if price > 0 else high) is None:
            price = Fraction(0)
        rows = [
            [list(self.game.recommendations[r]), x, c, text(fraction(value) * scale)]
            for (r, x, _, c), value in zip(self.rows, found.obedience.tolist(), strict=True)
            if fraction(value)
        ]
        return {"value_price": text(price), "obedience": rows}

    def distribution(self, i: int, low: Fraction) -> tuple[list[Any], Fraction, float]:
        """An obedient distribution worth at least `low` that pays agent i about most, what it pays exactly, and about
        how much the most changes with the user's value."""
        payoff = self.game.G[i]
        found, size = self._solve(payoff, low, None, MARGIN)
        if found.distribution is not None:
            z = np.where(found.distribution > NOISE, found.distribution, 0)
            try:
                rows = self._mended(z)
                return rows, verify.obedient(self.game, i, low, rows), found.slope * float(size / self.user_size)
            except verify.Unproved:
                pass
        found, size = self._solve(payoff, low, None)
        if found.distribution is None:
            raise LPFailed(found.status)
        rows = self._exactly(payoff, size, low)
        return rows, verify.obedient(self.game, i, low, rows), found.slope * float(size / self.user_size)

    def _mended(self, z: np.ndarray) -> list[Any]:
        """The fractions that the floats are; the largest of each state makes the sum 1."""
        exact = [[Fraction(v) for v in row] for row in z.tolist()]
        for row, most in zip(exact, z.argmax(1).tolist(), strict=True):
            row[most] += 1 - sum(v for v in row if v)
        return self._listed(exact)

    def _listed(self, z) -> list[Any]:
        columns = zip(self.game.recommendations, zip(*z, strict=True), strict=True)
        return [[list(advice), text(list(column))] for advice, column in columns if any(column)]

    def _exactly(self, payoff, size: Fraction, low: Fraction) -> list[Any]:
        """The distribution at the vertex that the float LP ended at, in rational arithmetic."""
        game, recs = self.game, self.game.recommendations
        B, columns, last = game.B, game.B * len(recs), game.B + len(self.rows)
        if (last + 1) * columns > MAX_EXACT:
            raise LPFailed("rounding, and the LP is too large for rational arithmetic")
        rows = np.full((last + 1, columns), Fraction(0), object).reshape(-1, B, len(recs))
        cost = np.full((B, len(recs)), Fraction(0), object)
        for b in range(B):
            rows[b, b] = Fraction(1)
            for r, advice in enumerate(recs):
                rows[-1, b, r] = sum(game.g[x][b][a] for x, a in enumerate(advice)) / self.user_size
                cost[b, r] = sum(payoff[x][b][a] for x, a in enumerate(advice)) / size
        for k, (r, x, a, c) in enumerate(self.rows, B):
            for b in range(B):
                rows[k, b, r] = (game.g[x][b][a] - game.g[x][b][c]) / self.user_size
        least = float(low / self.user_size)
        if Fraction(least) * self.user_size < low:  # The verifier wants `low` itself.
            least = np.nextafter(least, np.inf)
        lower = np.concatenate([np.ones(B), np.zeros(len(self.rows)), [least]])
        upper = np.concatenate([np.ones(B), np.full(len(self.rows) + 1, np.inf)])
        exact = rational.maximise(
            rational.ExactLP(
                rows.reshape(-1, columns), lower, upper, cost.ravel(), np.zeros(columns), np.full(columns, np.inf)
            ),
            self.lp.basis(),
        )
        if exact.status != rational.OPTIMAL:
            raise LPFailed(exact.status)
        return self._listed(np.array(exact.x, object).reshape(B, -1).tolist())


def _floats(payoff, size: Fraction) -> np.ndarray:
    """[X, B, A] a payoff in units of `size`."""
    return np.array([[[float(v / size) for v in cell] for cell in row] for row in payoff])


def least_value(game: Any, shortfall: list[Fraction], obedient: bool) -> dict[str, Any]:
    """Weights of the agents and multipliers of obedience that bound the user's value from below (section 6.3)."""
    X, B, A, K = game.X, game.B, game.A, game.K
    size = size_of(v for row in game.g for cell in row for v in cell)
    g = _floats(game.g, size)
    sizes = [size_of(v for row in own for cell in row for v in cell) for own in game.G]
    G = np.array([_floats(own, s) for own, s in zip(game.G, sizes, strict=True)])
    floors = [float((game.informed[i] - shortfall[i]) / sizes[i]) for i in range(K)]
    rows = [(x, a, c) for x, a, c in itertools.product(range(X), range(A), range(A)) if a != c] if obedient else []
    matrix = np.zeros((X * B + K + len(rows), X * B * A))
    cells = np.arange(X * B * A).reshape(X, B, A)
    for k, (x, b) in enumerate(itertools.product(range(X), range(B))):
        matrix[k, cells[x, b]] = 1
    matrix[X * B : X * B + K] = G.reshape(K, -1)
    for k, (x, a, c) in enumerate(rows, X * B + K):
        step = g[x, :, a] - g[x, :, c]
        matrix[k, cells[x, :, a]] = step + float(game.tolerance) * abs(step)
    lower = np.concatenate([np.ones(X * B), floors, np.zeros(len(rows))])
    upper = np.concatenate([np.ones(X * B), np.full(K + len(rows), np.inf)])
    found = KeptLP(matrix, lower, upper, cost=-g.ravel()).solve()
    if not found.optimal:  # No profile pays this much: weights of 0 prove what is true without agents.
        return {"weights": text([Fraction(0)] * K), "obedience": []}
    dual = np.maximum(-found.row_dual[X * B :], 0)
    weights = [fraction(w) * size / s for w, s in zip(dual[:K], sizes, strict=True)]
    obey = [[[x, a], c, text(fraction(v))] for (x, a, c), v in zip(rows, dual[K:], strict=True) if fraction(v)]
    return {"weights": text(weights), "obedience": obey}


def fit(game: Any, rule: Rule, found: Alignment) -> dict[str, Any]:
    """The weights and the dual of a fit, made exact, and the errors that they prove (section 7)."""
    if not found.solved:
        raise LPFailed("the fit was not solved")
    A, Y, l2 = game.A, game.Y, rule.norm == "l2"
    d = [[fraction(v) for v in row] for row in found.dual.tolist()]
    d = _repaired(d, [] if rule.simplex else game.U, rule)
    chosen = [max(fraction(w), Fraction(0)) for w in found.weights.tolist()]
    if rule.simplex:
        chosen[int(np.argmax(found.weights))] += 1 - sum(chosen)
    rest = [
        [game.u[a][y] - sum(w * own[a][y] for w, own in zip(chosen, game.U, strict=True)) for y in range(Y)]
        for a in range(A)
    ]

    def middle(values: Any) -> Fraction:
        return sum(values, Fraction(0)) / len(values) if l2 else (max(values) + min(values)) / 2

    offset = [middle(column) for column in zip(*rest, strict=True)]
    if rule.offset != "per_state":
        flat = [v for row in rest for v in row]
        offset = [middle(flat) if rule.offset == "constant" else Fraction(0)] * Y
    left = [abs(row[y] - offset[y]) for row in rest for y in range(Y)]
    user, *along = [sum(map(verify.dot, d, own)) for own in (game.u, *game.U)]
    return {
        "weights": text(chosen), "offset": text(offset), "dual": text(d),
        "weights_kind": rule.weights, "offset_kind": rule.offset, "norm": rule.norm,
        "at_least": text((min(along) if rule.simplex else 0) - user),
        "at_most": text(root_above(verify.dot(left, left)) if l2 else max(left)),
    }  # fmt: skip


def root_above(square: Fraction) -> Fraction:
    """The square root of a number that is not negative, rounded up to about 30 digits."""
    if not square:
        return Fraction(0)
    # A unit that is small beside the root, so that the integer part of the root in it has a hundred bits.
    bits = 100 - (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    unit = Fraction(1, 2**bits) if bits > 0 else Fraction(2**-bits)
    return (math.isqrt(math.ceil(square / unit**2)) + 1) * unit


def _repaired(d, utilities, rule: Rule):
    """The dual made exactly orthogonal to offsets, and to utilities that it is orthogonal to but for rounding."""
    A, Y = len(d), len(d[0])

    def without_offset(table) -> list[Fraction]:
        flat = [v for row in table for v in row]
        if rule.offset == "none":
            return flat
        means = [sum(column, Fraction(0)) / A for column in zip(*table, strict=True)]
        means = means if rule.offset == "per_state" else [sum(means, Fraction(0)) / Y] * Y
        return [v - means[k % Y] for k, v in enumerate(flat)]

    flat = without_offset(d)
    span: list[list[Fraction]] = []
    for own in utilities:
        vector = without_offset(own)
        if abs(verify.dot(flat, vector)) <= Fraction(1, 10**8) * max(map(abs, vector)):
            vector = _away_from(vector, span)
            span += [vector] if any(vector) else []
    flat = _away_from(flat, span)
    norm = max(root_above(verify.dot(flat, flat)) if rule.norm == "l2" else sum(map(abs, flat)), Fraction(1))
    table = [[v / norm for v in flat[a * Y : (a + 1) * Y]] for a in range(A)]
    if any(sum(map(verify.dot, table, own)) < 0 for own in utilities):  # It bounds nothing; 0 does, trivially.
        return [[Fraction(0)] * Y for _ in range(A)]
    return table


def _away_from(vector: list[Fraction], span: list[list[Fraction]]) -> list[Fraction]:
    """Without its projection on vectors that are orthogonal to each other."""
    for other in span:
        share = verify.dot(vector, other) / verify.dot(other, other)
        vector = [v - share * o for v, o in zip(vector, other, strict=True)]
    return vector
