"""One HiGHS model, kept and changed between solves (float64, one thread, simplex).

A solve that does not end optimal has value NaN and HiGHS's status.

In an optimal float answer all bounds and rows, scaled as given, hold within FEASIBILITY in x, and all reduced costs
have the right sign within FEASIBILITY (HiGHS drops coefficients of 1e-9 or less). So the value is too high by at most
about FEASIBILITY * sum |multipliers| and too low by at most about FEASIBILITY * sum |x|, with the multipliers and x of
the exact optimum.

With `exact=True` an optimal answer is derived again in rational arithmetic from HiGHS's last basis, and proved: it is
the optimum of the LP whose data are the given float64 numbers, none dropped (bounds beyond 1e20 count as none). The two
answers differ where rows are linearly dependent except for the rounding of the data: the exact multipliers are then of
size 1e16, and the exact answer is about the LP of the rounded data, which may be infeasible.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from fractions import Fraction
from typing import Any, NamedTuple

import highspy
import numpy as np

from emalign_jax.lp import rational

# HiGHS's primal and dual tolerance.
FEASIBILITY = 1e-9
# HiGHS's codes of its simplex methods.
DUAL, PRIMAL = 1, 4
# Rows * columns with exact=True. A solve takes 5 s if all entries are nonzero, 0.05 s for an obedience LP.
MAX_EXACT = 8_000


# Two threads that redirect standard output at the same time would lose it.
_FIRST_MODEL = threading.Lock()


class LPFailed(ValueError):
    """The LP of a game was not solved, or its data are not finite. In a batch, only this game fails."""


class LPResult(NamedTuple):
    """An answer. With exact=True the floats are nearest to the exact rational numbers, and `exact` is the value."""

    optimal: bool
    value: float  # NaN unless optimal
    x: np.ndarray  # [columns]
    row_dual: np.ndarray  # [rows]
    status: str
    exact: Fraction | None = None


class KeptLP:
    """maximise cost @ x subject to row_lower <= rows @ x <= row_upper, col_lower <= x <= col_upper.

    rows:  [rows, columns] a NumPy array, or a sparse array of SciPy.
    exact: derive each optimal answer again in rational arithmetic. The LP may then be "Infeasible" or "Unbounded" by
           less than HiGHS's tolerance. If HiGHS does not find an optimum, its status is returned.
    Raises `ValueError` with exact=True for more than `MAX_EXACT` rows * columns, and `LPFailed` for data that are not
    finite.
    """

    def __init__(
        self,
        rows,
        row_lower,
        row_upper,
        *,
        cost=None,
        col_lower: Any = 0.0,
        col_upper: Any = np.inf,
        exact: bool = False,
    ):
        rows = rows if hasattr(rows, "tocsc") else _finite(rows)
        self.num_rows, self.num_cols = rows.shape
        if exact:
            _check_exact_size(self.num_rows, self.num_cols)
        # HiGHS drops tiny coefficients.
        self._exact_rows = (rows.copy() if isinstance(rows, np.ndarray) else rows.toarray()) if exact else None
        self._columns = np.arange(self.num_cols, dtype=np.int32)
        self._highs = new_highs()
        self._highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        none, lower, upper = np.empty(0, np.int32), _bounds(row_lower, self.num_rows), _bounds(row_upper, self.num_rows)
        starts = np.zeros(self.num_rows, np.int32)
        refused = self._highs.addRows(self.num_rows, lower, upper, 0, starts, none, np.empty(0))
        cost = np.zeros(self.num_cols) if cost is None else _finite(cost)
        lower, upper = _bounds(col_lower, self.num_cols), _bounds(col_upper, self.num_cols)
        if highspy.HighsStatus.kError in (refused, self._pass_columns(cost, lower, upper, rows)):
            raise LPFailed("HiGHS refused the model: a bound is NaN")

    def _pass_columns(self, cost, lower, upper, columns) -> highspy.HighsStatus:
        """Add columns to the model, as arrays, which is faster than number by number."""
        if hasattr(columns, "tocsc"):
            stored = columns.tocsc()
            stored.eliminate_zeros()
            stored.sort_indices()
            starts, rows, values = stored.indptr[:-1].astype(np.int32), stored.indices, _finite(stored.data)
        else:
            by_column = columns.T
            keep = by_column != 0
            starts, rows, values = np.zeros(len(cost), np.int32), np.nonzero(keep)[1], by_column[keep]
            np.cumsum(keep.sum(1)[:-1], out=starts[1:])
        return self._highs.addCols(len(cost), cost, lower, upper, len(values), starts, rows.astype(np.int32), values)

    def set_cost(self, cost) -> None:
        self._highs.changeColsCost(self.num_cols, self._columns, _finite(cost))

    def set_row(self, row: int, lower: float, upper: float) -> None:
        self._highs.changeRowBounds(row, float(lower), float(upper))

    def solve(self) -> LPResult:
        """Solve the present LP."""
        self._highs.run()
        status = self._highs.getModelStatus()
        # If that fails, start from scratch, because a warm start can fail; then use the primal method, which is more
        # robust to large costs.
        enough = {highspy.HighsModelStatus.kOptimal}
        for option, other, usual in (("presolve", "on", "off"), ("simplex_strategy", PRIMAL, DUAL)):
            if status in enough:
                break
            enough |= {highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnbounded}
            self._highs.clearSolver()
            self._highs.setOptionValue(option, other)
            self._highs.run()
            self._highs.setOptionValue(option, usual)
            status = self._highs.getModelStatus()
        solution = self._highs.getSolution()
        optimal = status == highspy.HighsModelStatus.kOptimal
        if optimal and self._exact_rows is not None:
            return self._solve_exactly(self._exact_rows)
        value = self._highs.getInfo().objective_function_value if optimal else np.nan
        return LPResult(
            optimal, value, np.array(solution.col_value), np.array(solution.row_dual), status.name.removeprefix("k")
        )

    def basis(self) -> list[int] | None:
        """The status of each column and then of each row in the last answer, for `rational.maximise`."""
        basis = self._highs.getBasis()
        return [int(s) for s in (*basis.col_status, *basis.row_status)] if basis.valid else None

    def _solve_exactly(self, rows: np.ndarray) -> LPResult:
        model = self._highs.getLp()
        bounds = (model.row_lower_, model.row_upper_, model.col_cost_, model.col_lower_, model.col_upper_)
        found = rational.maximise(rational.ExactLP(rows, *(np.array(b, np.float64) for b in bounds)), self.basis())
        if found.value is None:
            x, dual = np.full(self.num_cols, np.nan), np.full(self.num_rows, np.nan)
            return LPResult(False, np.nan, x, dual, found.status)
        x, dual = (np.array([float(v) for v in numbers]) for numbers in (found.x, found.row_dual))
        return LPResult(True, float(found.value), x, dual, found.status, found.value)


def _check_exact_size(rows: int, columns: int) -> None:
    if rows * columns > MAX_EXACT:
        raise ValueError(
            f"an exact LP of {rows} rows and {columns} columns has rows * columns = {rows * columns}, the limit is "
            f"{MAX_EXACT}: take exact=False, which holds to {FEASIBILITY}"
        )


def _bounds(values, count: int) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(np.asarray(values, np.float64), count))


def _finite(values) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float64)
    if not np.isfinite(values).all():  # HiGHS would report such an LP as unbounded, or not return.
        raise LPFailed("an LP needs finite costs and coefficients, got NaN or inf")
    return values


def new_highs(**options) -> highspy.Highs:
    """A silent HiGHS on one thread, with simplex and without presolve unless `options` say otherwise."""
    with _FIRST_MODEL:
        _first_model()
    highs = highspy.Highs()
    if highs.passOptions(_options()) == highspy.HighsStatus.kError:
        raise RuntimeError("HiGHS does not accept its options")
    for option, value in options.items():
        if highs.setOptionValue(option, value) == highspy.HighsStatus.kError:
            raise RuntimeError(f"HiGHS does not know the option {option}")
    return highs


@functools.cache
def _first_model() -> None:
    """Make the first model of the process with standard output redirected: HiGHS 1.16 prints a banner before its output
    can be turned off."""
    libc = ctypes.CDLL(None) if os.name == "posix" else ctypes.cdll.msvcrt
    try:
        stdout = os.dup(1)
    except OSError:  # There is no standard output.
        return
    libc.fflush(None)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        highspy.Highs()
        libc.fflush(None)
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


@functools.cache
def _options() -> highspy.HighsOptions:
    """HiGHS's options, made once, because setting them for every model would take a tenth of a certificate's time."""
    options = highspy.HighsOptions()
    options.output_flag, options.log_to_console, options.threads = False, False, 1
    options.presolve, options.solver = "off", "simplex"
    options.primal_feasibility_tolerance = options.dual_feasibility_tolerance = FEASIBILITY
    return options
