"""Small LPs in rational arithmetic, with answers that are proved by multipliers without any tolerance.

    maximise cost @ x  subject to  row_lower <= rows @ x <= row_upper,  col_lower <= x <= col_upper,
where every float64 stands for its exact rational value. The method is that of QSopt_ex (Applegate, Cook, Dash and
Espinoza, "Exact solutions to linear programming problems", 2007): start from the last basis of a float solver, continue
with exact pivots if rounding misled the solver, and prove the answer by multipliers.

The basis inverse is kept as integers over one common determinant and updated by integer pivoting (Edmonds; Bareiss
1968), so that nothing is rounded and no fraction is reduced. Bland's rule (Chvatal, "Linear Programming", chapters 3
and 8 to 10) guarantees termination, also at degenerate vertices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import chain
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

OPTIMAL, INFEASIBLE, UNBOUNDED = "Optimal", "Infeasible", "Unbounded"
# The status of a variable, in HiGHS's codes: basic, nonbasic at a bound, or nonbasic and free.
LOWER, BASIC, UPPER, ZERO = range(4)


class ExactLP(NamedTuple):
    """The data of an LP; bounds may be infinite. Besides float64, rows and costs may be objects: fractions whose
    denominators are powers of 2."""

    rows: Float[np.ndarray, "M N"]
    row_lower: Float[np.ndarray, "M"]
    row_upper: Float[np.ndarray, "M"]
    cost: Float[np.ndarray, "N"]
    col_lower: Float[np.ndarray, "N"]
    col_upper: Float[np.ndarray, "N"]


class ExactResult(NamedTuple):
    """An answer with its proof, which `proves` checks.

    status:   "Optimal", "Infeasible" or "Unbounded"
    value:    the optimum (None unless optimal)
    x:        [N] an optimum; if unbounded, a feasible point; empty if infeasible
    row_dual: [M] multipliers, positive where a row holds at its upper bound; if infeasible, a proof of that (Farkas);
              empty if unbounded
    ray:      [N] a feasible direction in which the objective grows without bound; empty unless unbounded
    pivots:   the number of exact pivots; 0 if the given basis was optimal
    """

    status: str
    value: Fraction | None
    x: tuple[Fraction, ...]
    row_dual: tuple[Fraction, ...]
    ray: tuple[Fraction, ...]
    pivots: int


def maximise(lp: ExactLP, statuses: Sequence[int] | None = None) -> ExactResult:
    """Solve `lp` exactly, and prove the answer.

    statuses: [N + M] LOWER, BASIC, UPPER or ZERO of each column and then of each row: the initial basis, which need be
              neither feasible nor regular. None: all rows are basic.
    Raises `ValueError` for NaN, an infinite coefficient, a lower bound of +inf or an upper bound of -inf, and
    `ArithmeticError` if `proves` rejects the answer.
    """
    lower, upper = (np.concatenate(pair) for pair in ((lp.col_lower, lp.row_lower), (lp.col_upper, lp.row_upper)))
    if not (all(np.isfinite(x.astype(float)).all() for x in (lp.rows, lp.cost)) and (lower < np.inf).all()):
        raise ValueError("an LP needs finite costs and coefficients and lower bounds below +inf")
    if not (upper > -np.inf).all():
        raise ValueError("an LP needs upper bounds above -inf")
    if (lower > upper).any():
        return ExactResult(INFEASIBLE, None, (), (Fraction(0),) * len(lp.rows), (), 0)
    result = _Simplex(lp, lower, upper, statuses).solve()
    if not proves(lp, result):
        raise ArithmeticError("the exact simplex method ended at an answer that its own multipliers do not prove")
    return result


def proves(lp: ExactLP, result: ExactResult) -> bool:
    """Whether `result` proves its statement about `lp`, however it was found.

    Optimal: x is feasible with objective `value`, and the multipliers prove that this is an upper bound (weak duality).
    Infeasible: with cost 0, the multipliers prove a negative upper bound of the objective.
    Unbounded: x is feasible, and the ray is a feasible direction with a positive objective.
    Raises `ValueError` if a tuple does not have the length that `ExactResult` states.
    """
    cost = _fractions(lp.cost)
    if result.status == OPTIMAL:
        return (
            _feasible(lp, result.x)
            and _dot(cost, result.x) == result.value
            and _dual_bound(lp, cost, result.row_dual) == result.value
        )
    if result.status == INFEASIBLE:
        if (lp.row_lower > lp.row_upper).any() or (lp.col_lower > lp.col_upper).any():
            return True
        bound = _dual_bound(lp, [Fraction(0)] * len(cost), result.row_dual)
        return bound is not None and bound < 0
    moves = [*result.ray, *_activity(lp, result.ray)]
    lower, upper = (np.concatenate(pair) for pair in ((lp.col_lower, lp.row_lower), (lp.col_upper, lp.row_upper)))
    endless = all(
        (v <= 0 or high == np.inf) and (v >= 0 or low == -np.inf)
        for v, low, high in zip(moves, lower, upper, strict=True)
    )
    return result.status == UNBOUNDED and _feasible(lp, result.x) and endless and _dot(cost, result.ray) > 0


def _fractions(values: np.ndarray) -> list[Fraction]:
    return [Fraction(v) for v in values.tolist()]


def _dot(a: Sequence[Fraction], b: Sequence[Fraction]) -> Fraction:
    return sum((v * w for v, w in zip(a, b, strict=True) if v and w), Fraction(0))


def _activity(lp: ExactLP, x: Sequence[Fraction]) -> list[Fraction]:
    return [_dot(_fractions(row), x) for row in lp.rows]


def _feasible(lp: ExactLP, x: Sequence[Fraction]) -> bool:
    lower, upper = lp.col_lower.tolist() + lp.row_lower.tolist(), lp.col_upper.tolist() + lp.row_upper.tolist()
    # Python compares a Fraction with a finite or infinite float exactly.
    return all(low <= v <= high for v, low, high in zip([*x, *_activity(lp, x)], lower, upper, strict=True))


def _dual_bound(lp: ExactLP, cost: Sequence[Fraction], y: Sequence[Fraction]) -> Fraction | None:
    """The maximum of cost @ x + y @ (s - rows @ x) over the bounds of x and s, an upper bound of any feasible cost @ x;
    None if it is infinite, as with a multiplier of the wrong sign."""
    reduced = [c - _dot(_fractions(column), y) for c, column in zip(cost, lp.rows.T, strict=True)]
    total = Fraction(0)
    for price, lower, upper in chain(
        zip(y, lp.row_lower.tolist(), lp.row_upper.tolist(), strict=True),
        zip(reduced, lp.col_lower.tolist(), lp.col_upper.tolist(), strict=True),
    ):
        if price:
            at = upper if price > 0 else lower
            if math.isinf(at):
                return None
            total += price * Fraction(at)
    return total


def _whole(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Integers (object dtype) and their common denominator, a power of 2; an infinite value counts as 0."""
    ratios = [(v.as_integer_ratio() if math.isfinite(v) else (0, 1)) for v in values.ravel().tolist()]
    common = max((q for _, q in ratios), default=1)
    whole = np.empty(len(ratios), object)
    whole[:] = [p * (common // q) for p, q in ratios]
    return whole.reshape(values.shape), common


class _Simplex:
    """Bounded-variable simplex methods on  [rows, -1] (x, s) = 0, bounds on x and on s; slack i is variable N + i.

    All numbers are integers. The rows and bounds are scaled by powers of 2; the inverse of the basis is W / det,
    a basic value is an entry of `_values()` / (det * bound_scale), a reduced cost is one of `_reduced()` /
    (det * cost_scale).
    """

    def __init__(self, lp: ExactLP, lower: np.ndarray, upper: np.ndarray, statuses: Sequence[int] | None):
        M, N = lp.rows.shape
        self.M, self.N, self.pivots = M, N, 0
        scaled = [_whole(row) for row in lp.rows]
        self.rows = np.array([row for row, _ in scaled], object).reshape(M, N)
        self.row_scale = [scale for _, scale in scaled]
        bounds, self.bound_scale = _whole(np.stack([lower, upper]))
        bounds[:, N:] *= np.array(self.row_scale, object)
        self.lower, self.upper = bounds
        self.has_lower, self.has_upper = np.isfinite(lower), np.isfinite(upper)
        self.fixed = lower == upper
        cost, self.cost_scale = _whole(lp.cost)
        self.cost = np.concatenate([cost, np.full(M, 0, object)])
        # Start with all rows basic, then exchange them for the basic columns of the given basis.
        self.W, self.det = -np.eye(M, dtype=int).astype(object), 1
        self.basic = np.arange(N, N + M)
        given = [BASIC if j >= N else LOWER for j in range(N + M)] if statuses is None else statuses
        self.status = np.array([BASIC if j >= N else self._rest(j, given[j]) for j in range(N + M)])
        count = (self.rows != 0).sum(0)
        for column in sorted((j for j in range(N) if given[j] == BASIC), key=lambda j: count[j]):
            alpha = self._column(column)
            out = [p for p in range(M) if alpha[p] and self.basic[p] >= N and given[self.basic[p]] != BASIC]
            if out:  # Otherwise the given basis is singular: the column stays nonbasic, and a slack basic.
                leaving = int(self.basic[out[0]])
                self._pivot(out[0], column, alpha, self._rest(leaving, given[leaving]))

    def _rest(self, j: int, wanted: int) -> int:
        """The status of variable j if nonbasic: `wanted` if it has that bound."""
        if wanted == UPPER and self.has_upper[j]:
            return UPPER
        return LOWER if self.has_lower[j] else UPPER if self.has_upper[j] else ZERO

    def _column(self, j: int) -> np.ndarray:
        """W times the column of variable j: the decrease of the basic variables if j increases by det."""
        if j >= self.N:
            return -self.W[:, j - self.N]
        rows = np.nonzero(self.rows[:, j])[0]
        return self.W[:, rows] @ self.rows[rows, j]

    def _at(self) -> np.ndarray:
        """[N + M] the values of the nonbasic variables, 0 for the basic ones."""
        return np.where(self.status == LOWER, self.lower, np.where(self.status == UPPER, self.upper, 0))

    def _values(self) -> np.ndarray:
        at = self._at()
        return -(self.W @ (self.rows @ at[: self.N] - at[self.N :]))

    def _duals(self) -> np.ndarray:
        return self.cost[self.basic] @ self.W

    def _reduced(self) -> np.ndarray:
        y = self._duals()
        rows = np.nonzero(y)[0]  # Few rows bind.
        reduced = self.det * self.cost
        reduced[: self.N] -= y[rows] @ self.rows[rows]
        reduced[self.N :] += y
        return reduced

    def _improving(self, reduced: np.ndarray) -> np.ndarray:
        """The nonbasic variables whose increase or decrease improves the objective."""
        free = (self.status != BASIC) & ~self.fixed
        return np.nonzero(free & ((reduced > 0) & (self.status != UPPER) | (reduced < 0) & (self.status != LOWER)))[0]

    def _pivot(self, p: int, entering: int, alpha: np.ndarray, to: int) -> None:
        """Variable `entering` becomes basic at position p; the status of the leaving variable becomes `to`."""
        leaving = self.basic[p]
        sign, size = (1, alpha[p]) if alpha[p] > 0 else (-1, -alpha[p])
        # The column of W of a basic slack is a unit vector, so that only the others are computed.
        slack_at = {int(j) - self.N: k for k, j in enumerate(self.basic) if j >= self.N and k != p}
        changing = np.array([i for i in range(self.M) if i not in slack_at], int)
        pivot_row = sign * self.W[p, changing]
        block = (size * self.W[:, changing] - np.outer(alpha, pivot_row)) // self.det  # Divides exactly.
        block[p] = pivot_row
        self.W[:, changing] = block
        for i, k in slack_at.items():
            self.W[k, i] = -size
        self.det = size
        self.basic[p] = entering
        self.status[entering], self.status[leaving] = BASIC, to

    def solve(self) -> ExactResult:
        proof = None
        if self._misfits()[0].size:
            true_cost, reduced = self.cost, self._reduced()
            # The dual method needs reduced costs of the right sign: costs with a wrong one are changed to give 0.
            self.cost = true_cost * self.det
            offending = self._improving(reduced)
            self.cost[offending] -= reduced[offending]
            proof = self._dual_simplex()
            self.cost = true_cost
        if proof is not None:
            return ExactResult(INFEASIBLE, None, (), self._multipliers(proof, self.det), (), self.pivots)
        ray = self._primal_simplex()
        x = self._at()
        scale = self.det * self.bound_scale
        x *= self.det
        x[self.basic] = self._values()
        point = tuple(Fraction(v, scale) for v in x[: self.N].tolist())
        if ray is not None:
            return ExactResult(UNBOUNDED, None, point, (), tuple(Fraction(v) for v in ray.tolist()), self.pivots)
        value = Fraction(int(self.cost[: self.N] @ x[: self.N]), self.cost_scale * scale)
        return ExactResult(
            OPTIMAL, value, point, self._multipliers(self._duals(), self.det * self.cost_scale), (), self.pivots
        )

    def _multipliers(self, y: np.ndarray, scale: int) -> tuple[Fraction, ...]:
        return tuple(Fraction(v * k, scale) for v, k in zip(y.tolist(), self.row_scale, strict=True))

    def _misfits(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the basic variables outside their bounds, and which of them are too low."""
        values, j = self._values(), self.basic
        low = self.has_lower[j] & (values < self.lower[j] * self.det)
        high = self.has_upper[j] & (values > self.upper[j] * self.det)
        p = np.nonzero(low | high)[0]
        return p, low[p]

    def _dual_simplex(self) -> np.ndarray | None:
        """Pivot from a basis with reduced costs of the right sign to a feasible one. Returns None, or multipliers that
        prove infeasibility.

        A variable that left the basis at a bound enters next from that bound, so that the usual proof of termination
        with Bland's rule applies to variables with two bounds too."""
        while True:
            misfits, low = self._misfits()
            if not misfits.size:
                return None
            first = np.argmin(self.basic[misfits])
            p, rise = int(misfits[first]), bool(low[first])
            w = self.W[p] if rise else -self.W[p]
            alpha = np.concatenate([w @ self.rows, -w])
            usable = (self.status != BASIC) & ~self.fixed
            usable &= (alpha < 0) & (self.status != UPPER) | (alpha > 0) & (self.status != LOWER)
            candidates = np.nonzero(usable)[0]
            if not candidates.size:
                return w
            reduced = self._reduced()
            entering = min(candidates.tolist(), key=lambda j: (Fraction(abs(reduced[j]), abs(alpha[j])), j))
            self._pivot(p, entering, self._column(entering), LOWER if rise else UPPER)
            self.pivots += 1

    def _primal_simplex(self) -> np.ndarray | None:
        """Pivot from a feasible basis to an optimal one. Returns None, or a [N] direction of unbounded improvement."""
        while True:
            reduced = self._reduced()
            improving = self._improving(reduced)
            if not improving.size:
                return None
            entering = int(improving[0])
            rise = reduced[entering] > 0
            alpha = self._column(entering)
            slope = -alpha if rise else alpha  # The change of the basic variables.
            values, j = self._values(), self.basic
            stops = []  # (Length of the step, variable that limits it, its position, its status after the step.)
            if self.has_lower[entering] and self.has_upper[entering]:
                width = Fraction(self.upper[entering] - self.lower[entering])
                stops.append((width, entering, -1, UPPER if rise else LOWER))
            for p in np.nonzero(((slope > 0) & self.has_upper[j]) | ((slope < 0) & self.has_lower[j]))[0].tolist():
                to, bound = (UPPER, self.upper) if slope[p] > 0 else (LOWER, self.lower)
                stops.append((Fraction(bound[j[p]] * self.det - values[p], slope[p]), int(j[p]), p, to))
            if not stops:
                ray = np.full(self.N + self.M, 0, object)
                ray[entering], ray[j] = (self.det if rise else -self.det), slope
                return ray[: self.N]
            _, _, p, to = min(stops)
            if p < 0:
                self.status[entering] = to
            else:
                self._pivot(p, entering, alpha, to)
            self.pivots += 1
