"""Solvers of alignment fits one by one, for targets that share their agents."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from emalign_jax.exact.alignment.residuals import Rule, size_of
from emalign_jax.lp.highs import KeptLP

# The largest number of rows * columns of an LP that is solved in rational arithmetic if HiGHS's answer is not accurate.
MOST_EXACT = 2_000


class Sup:
    """The LP of the sup norm: minimise eps subject to -eps <= sum_i w_i U_i + c - u <= eps in every cell.

    The target is only in the bounds of the rows, so that the basis of one target is a start for the next. The dual q is
    the duals of the rows. Sizes and units are powers of 2, so that dividing by them does not round."""

    def __init__(self, tables: Float[np.ndarray, "K A Y"], rule: Rule, *, exact: bool = False):
        K, A, Y = tables.shape
        self.rule, self.cells = rule, A * Y
        size = _power_of_two(size_of(tables, "sup"))
        self.unit = float(size[size > 0].min()) if size.any() else 1.0
        self.size = np.where(size > 0, size, self.unit)
        fit = (tables / self.size[:, None, None]).reshape(K, -1).T
        one = np.ones((A * Y, 1))
        free = {"none": one[:, :0], "constant": one, "per_state": np.tile(np.eye(Y), (A, 1))}[rule.offset]
        total = np.concatenate([self.unit / self.size, np.zeros(free.shape[1] + 1)])[None]
        endless = np.full(A * Y, np.inf)
        self.lp = KeptLP(
            np.concatenate([np.block([[fit, free, one], [fit, free, -one]]), total[: int(rule.simplex)]]),
            np.concatenate([np.zeros(A * Y), -endless, np.zeros(int(rule.simplex))]),
            np.concatenate([endless, np.zeros(A * Y + int(rule.simplex))]),
            cost=-np.eye(K + free.shape[1] + 1)[-1],
            col_lower=np.concatenate([np.zeros(K), np.full(free.shape[1], -np.inf), [0.0]]),
            exact=exact,
        )

    @staticmethod
    def can_be_exact(K: int, cells: int) -> bool:
        return (2 * cells + 1) * (K + cells + 1) <= MOST_EXACT

    def fit(self, target, unit: float) -> tuple[np.ndarray, np.ndarray | None] | None:
        unit = float(_power_of_two(np.asarray(unit)))
        for row, value in enumerate(target.ravel() / unit):
            self.lp.set_row(row, value, np.inf)
            self.lp.set_row(self.cells + row, -np.inf, value)
        if self.rule.simplex:
            self.lp.set_row(2 * self.cells, self.unit / unit, self.unit / unit)
        result = self.lp.solve()
        if not result.optimal:
            return None
        dual = result.row_dual[: 2 * self.cells].reshape(2, *target.shape).sum(0)
        return result.x[: len(self.size)] * unit / self.size, dual


def _power_of_two(x: np.ndarray) -> np.ndarray:
    """The next power of two; 0 for 0."""
    return np.where(x > 0, np.ldexp(1.0, np.frexp(x)[1]), 0.0)


class L2:
    """Non-negative least squares with the triangle R of the tables' QR decomposition, which is computed once."""

    def __init__(self, tables: Float[np.ndarray, "K A Y"], rule: Rule):
        self.rule = rule
        size = size_of(tables, "l2")
        self.size = np.where(size > 0, size, 1.0)
        self.basis, self.triangle = np.linalg.qr((tables / self.size[:, None, None]).reshape(len(tables), -1).T)

    def fit(self, target, unit: float) -> tuple[np.ndarray, np.ndarray | None] | None:
        from scipy.optimize import nnls

        goal = self.basis.T @ target.ravel() / unit
        columns = self.triangle
        if self.rule.simplex:
            # Minimising |Z w|, Z_i = U_i - u, over the simplex is the NNLS [Z; 1] v ~ [0; 1], normalised: for v of sum
            # s the minimum is s^2 d^2 + (s - 1)^2, with d the minimum of |Z w|, so that v is s times the best w for
            # some s > 0; s >= 1/2 because d <= 1 in this unit. The part of u outside the span adds the same to all w.
            columns = np.concatenate([columns * (self.size / unit) - goal[:, None], np.ones((1, len(self.size)))])
            goal = np.eye(len(columns))[-1]
        length = np.linalg.norm(columns, axis=0)
        length = np.where(length > 0, length, 1.0)
        if not (np.isfinite(columns).all() and np.isfinite(length).all()):
            return None
        try:
            v = nnls(columns / length, goal, maxiter=30 * len(length))[0] / length
        except RuntimeError:  # Too many iterations.
            return None
        return (v if self.rule.simplex else v * unit / self.size), None
