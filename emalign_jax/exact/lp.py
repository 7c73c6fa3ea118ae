"""One HiGHS model, kept and changed between solves (float64, one thread, simplex).

The status of a solve is returned, never guessed: a solve that did not end "optimal" has value NaN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import highspy
import numpy as np

FEASIBILITY = 1e-9  # primal and dual tolerance handed to HiGHS


class LPResult(NamedTuple):
    optimal: bool
    value: float  # NaN unless optimal
    x: np.ndarray  # [columns]
    row_dual: np.ndarray  # [rows]
    status: str


class KeptLP:
    """maximise cost @ x subject to row_lower <= rows @ x <= row_upper, col_lower <= x <= col_upper."""

    def __init__(self, rows, row_lower, row_upper, *, cost=None, col_lower: Any = 0.0, col_upper: Any = np.inf):
        rows = _finite(rows)
        self.num_rows, self.num_cols = rows.shape
        self._columns = np.arange(self.num_cols, dtype=np.int32)
        lp = highspy.HighsLp()
        lp.num_row_, lp.num_col_ = self.num_rows, self.num_cols
        lp.sense_ = highspy.ObjSense.kMaximize
        lp.col_cost_ = np.zeros(self.num_cols) if cost is None else _finite(cost)
        lp.col_lower_ = np.broadcast_to(np.asarray(col_lower, np.float64), self.num_cols).copy()
        lp.col_upper_ = np.broadcast_to(np.asarray(col_upper, np.float64), self.num_cols).copy()
        lp.row_lower_ = np.asarray(row_lower, np.float64)
        lp.row_upper_ = np.asarray(row_upper, np.float64)
        keep = rows != 0
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.num_row_, lp.a_matrix_.num_col_ = self.num_rows, self.num_cols
        lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(keep.sum(1))]).astype(np.int32)
        lp.a_matrix_.index_ = np.nonzero(keep)[1].astype(np.int32)
        lp.a_matrix_.value_ = rows[keep]
        self._highs = new_highs()
        if self._highs.passModel(lp) == highspy.HighsStatus.kError:
            raise ValueError("HiGHS refused the model: a bound is NaN")

    def set_cost(self, cost) -> None:
        self._highs.changeColsCost(self.num_cols, self._columns, _finite(cost))

    def set_row(self, row: int, lower: float, upper: float) -> None:
        self._highs.changeRowBounds(row, float(lower), float(upper))

    def add_columns(self, cost, columns) -> None:
        """Append columns [rows, n] >= 0 with the given cost [n]."""
        columns, cost = _finite(columns), _finite(cost)
        n = columns.shape[1]
        by_column = columns.T
        keep = by_column != 0
        starts = np.concatenate([[0], np.cumsum(keep.sum(1))[:-1]]).astype(np.int32)
        self._highs.addCols(
            n, cost, np.zeros(n), np.full(n, highspy.kHighsInf), int(keep.sum()),
            starts, np.nonzero(keep)[1].astype(np.int32), by_column[keep],
        )  # fmt: skip
        self.num_cols += n
        self._columns = np.arange(self.num_cols, dtype=np.int32)

    def solve(self) -> LPResult:
        self._highs.run()
        status = self._highs.getModelStatus()
        if status != highspy.HighsModelStatus.kOptimal:  # once more from scratch: a warm start can go wrong
            self._highs.clearSolver()
            self._highs.setOptionValue("presolve", "on")
            self._highs.run()
            self._highs.setOptionValue("presolve", "off")
            status = self._highs.getModelStatus()
        solution = self._highs.getSolution()
        optimal = status == highspy.HighsModelStatus.kOptimal
        value = self._highs.getInfo().objective_function_value if optimal else np.nan
        return LPResult(
            optimal, value, np.array(solution.col_value), np.array(solution.row_dual), status.name.removeprefix("k")
        )


def _finite(values) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float64)
    if not np.isfinite(values).all():  # HiGHS would call such an LP unbounded, or never return
        raise ValueError("an LP needs finite costs and coefficients, got NaN or inf")
    return values


def new_highs(**options) -> highspy.Highs:
    """HiGHS, silent, on one thread, with simplex and no presolve unless `options` say otherwise."""
    highs = highspy.Highs()
    defaults = {
        "output_flag": False, "threads": 1, "presolve": "off", "solver": "simplex",
        "primal_feasibility_tolerance": FEASIBILITY, "dual_feasibility_tolerance": FEASIBILITY,
    }  # fmt: skip
    for option, value in (defaults | options).items():
        if highs.setOptionValue(option, value) == highspy.HighsStatus.kError:
            raise RuntimeError(f"HiGHS does not know the option {option}")
    return highs
