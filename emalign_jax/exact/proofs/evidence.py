"""Multipliers for proof files: LPs in float64, whose answers are rounded to fractions (section 12 of docs/model.md).

Any multipliers of the right sign prove some bound. So rounding costs a little of the bound and never its validity, and
the LPs need not be solved exactly. Distributions must be obedient exactly, so their LPs are solved in rational
arithmetic, from the basis that the float LP ends at.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np

from emalign_jax.exact.alignment.fits import Alignment
from emalign_jax.exact.obedience.program import assembled
from emalign_jax.exact.proofs import verify
from emalign_jax.lp import rational
from emalign_jax.lp.highs import KeptLP, LPFailed

# Multipliers are multiples of this, in units in which the largest payoff of a game is about 1.
STEP = Fraction(1, 2**44)


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
    """The obedience LP of one game (section 5.1), in the units of the verifier's game.

    tolerance: of the user's ties.
    """

    def __init__(self, game: Any, tolerance: float):
        self.game = game
        self.user_size = size_of(v for row in game.g for cell in row for v in cell)
        g = np.array([[[float(v / self.user_size) for v in cell] for cell in row] for row in game.g])
        self.recommendations = np.array(game.recommendations)  # [R, X]
        R, B = len(self.recommendations), game.B
        types = np.arange(game.X)
        self.rows = [
            (r, x, c)
            for r, advice in enumerate(game.recommendations)
            for x, c in itertools.product(range(game.X), range(game.A))
            if c != advice[x]
        ]
        r, x, c = np.array(self.rows, int).reshape(-1, 3).T
        step = g[x, :, self.recommendations[r, x]] - g[x, :, c]  # [rows, B]
        step = step + tolerance * abs(step)
        self.worth = g[types[:, None], :, self.recommendations.T].sum(0).T  # [B, R]
        column = np.arange(B * R).reshape(B, R)
        value_row = B + len(r)
        parts = [
            (np.repeat(np.arange(B), R), column.ravel(), np.ones(B * R)),
            (np.repeat(B + np.arange(len(r)), B), column.T[r].ravel(), step.ravel()),
            (np.full(B * R, value_row), column.ravel(), self.worth.ravel()),
        ]
        row, col, entry = (np.concatenate(part) for part in zip(*parts, strict=True))
        lower = np.concatenate([np.ones(B), np.zeros(len(r)), [-np.inf]])
        upper = np.concatenate([np.ones(B), np.full(len(r) + 1, np.inf)])
        self.lp = KeptLP(assembled(row, col, entry, (value_row + 1, B * R)), lower, upper)
        self.value_row = value_row

    def _solve(self, payoff, low: Fraction | None, high: Fraction | None):
        self.size = size_of(v for row in payoff for cell in row for v in cell)
        own = np.array([[[float(v / self.size) for v in cell] for cell in row] for row in payoff])
        cost = own[np.arange(self.game.X)[:, None], :, self.recommendations.T].sum(0).T
        ends = [
            end if value is None else float(value / self.user_size) for value, end in ((low, -np.inf), (high, np.inf))
        ]
        self.lp.set_cost(cost.ravel())
        self.lp.set_row(self.value_row, min(ends), max(ends))
        return self.lp.solve()

    def bound(self, payoff, low: Fraction | None, high: Fraction | None) -> dict[str, Any]:
        """Multipliers that bound `payoff` [x][b][a] over obedient distributions worth between `low` and `high`."""
        if low is not None and low > self.game.full:  # Nothing is worth this: a price that no payoff makes up for.
            price = 4 * sum(max(map(abs, cell)) for row in payoff for cell in row) / (low - self.game.full)
            return {"value_price": text(price), "obedience": []}
        found = self._solve(payoff, low, high)
        if not found.optimal:
            raise LPFailed(found.status)
        scale = self.size / self.user_size
        price = fraction(-float(found.row_dual[self.value_row])) * scale
        if (low if price > 0 else high) is None:
            price = Fraction(0)
        obey = np.maximum(-found.row_dual[self.game.B : self.value_row], 0)
        rows = [
            [list(self.game.recommendations[r]), x, c, text(fraction(value) * scale)]
            for (r, x, c), value in zip(self.rows, obey, strict=True)
            if fraction(value)
        ]
        return {"value_price": text(price), "obedience": rows}

    def distribution(self, payoff, low: Fraction) -> list[Any]:
        """The obedient distribution worth at least `low` that pays most, at the vertex that the float LP ends at."""
        found = self._solve(payoff, low, None)
        if not found.optimal:
            raise LPFailed(found.status)
        game, recs = self.game, self.game.recommendations
        B, columns = game.B, game.B * len(recs)
        rows = np.full((self.value_row + 1, columns), Fraction(0), object).reshape(-1, B, len(recs))
        cost = np.full((B, len(recs)), Fraction(0), object)
        for b in range(B):
            rows[b, b] = Fraction(1)
            for r, advice in enumerate(recs):
                rows[-1, b, r] = sum(game.g[x][b][a] for x, a in enumerate(advice)) / self.user_size
                cost[b, r] = sum(payoff[x][b][a] for x, a in enumerate(advice)) / self.size
        for k, (r, x, c) in enumerate(self.rows, B):
            for b in range(B):
                rows[k, b, r] = (game.g[x][b][recs[r][x]] - game.g[x][b][c]) / self.user_size
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
        z = np.array(exact.x, object).reshape(B, -1)
        return [[list(advice), text(list(z[:, r]))] for r, advice in enumerate(recs) if any(z[:, r])]


def least_value(game: Any, shortfall: list[Fraction], obedient: bool) -> dict[str, Any]:
    """Weights of the agents and multipliers of obedience that bound the user's value from below (section 6.3)."""
    X, B, A, K = game.X, game.B, game.A, game.K
    size = size_of(v for row in game.g for cell in row for v in cell)
    g = np.array([[[float(v / size) for v in cell] for cell in row] for row in game.g])
    sizes = [size_of(v for row in own for cell in row for v in cell) for own in game.G]
    G = np.array(
        [[[[float(v / s) for v in cell] for cell in row] for row in own] for own, s in zip(game.G, sizes, strict=True)]
    )
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


def fit(game: Any, weights_kind: str, offset_kind: str, found: Alignment) -> dict[str, Any]:
    """The weights and the dual of a fit in the sup norm, made exact, and the errors that they prove (section 7)."""
    if not found.solved:
        raise LPFailed("the fit was not solved")
    A, Y = game.A, game.Y
    d = [[fraction(v) for v in row] for row in found.dual.tolist()]
    d = _repaired(d, game.U if weights_kind == "cone" else [], offset_kind)
    chosen = [max(fraction(w), Fraction(0)) for w in found.weights.tolist()]
    if weights_kind == "simplex":
        chosen[int(np.argmax(found.weights))] += 1 - sum(chosen)
    rest = [
        [game.u[a][y] - sum(w * own[a][y] for w, own in zip(chosen, game.U, strict=True)) for y in range(Y)]
        for a in range(A)
    ]
    offset = [(max(column) + min(column)) / 2 for column in zip(*rest, strict=True)]
    if offset_kind != "per_state":
        flat = [v for row in rest for v in row]
        offset = [(max(flat) + min(flat)) / 2 if offset_kind == "constant" else Fraction(0)] * Y
    error = max(abs(row[y] - offset[y]) for row in rest for y in range(Y))
    user, *along = [sum(map(verify.dot, d, own)) for own in (game.u, *game.U)]
    return {
        "weights": text(chosen), "offset": text(offset), "dual": text(d),
        "weights_kind": weights_kind, "offset_kind": offset_kind,
        "at_least": text((min(along) if weights_kind == "simplex" else 0) - user), "at_most": text(error),
    }  # fmt: skip


def _repaired(d, utilities, offset_kind: str):
    """The dual made exactly orthogonal to offsets, and to utilities that it is orthogonal to but for rounding."""
    A, Y = len(d), len(d[0])
    flat = [v for row in d for v in row]
    span: list[list[Fraction]] = []

    def add(vector):
        for other in span:
            share = verify.dot(vector, other) / verify.dot(other, other)
            vector = [v - share * o for v, o in zip(vector, other, strict=True)]
        if any(vector):
            span.append(vector)

    if offset_kind == "constant":
        add([Fraction(1)] * (A * Y))
    elif offset_kind == "per_state":
        for y in range(Y):
            add([Fraction(int(k % Y == y)) for k in range(A * Y)])
    flats = [[v for row in own for v in row] for own in utilities]
    for own in flats:
        if abs(verify.dot(flat, own)) <= Fraction(1, 10**8) * max(map(abs, own)):
            add(own)
    for other in span:
        share = verify.dot(flat, other) / verify.dot(other, other)
        flat = [v - share * o for v, o in zip(flat, other, strict=True)]
    norm = max(sum(map(abs, flat)), Fraction(1))
    flat = [v / norm for v in flat]
    if any(verify.dot(flat, own) < 0 for own in flats):  # It bounds nothing; 0 does, trivially.
        flat = [Fraction(0)] * (A * Y)
    return [flat[a * Y : (a + 1) * Y] for a in range(A)]
