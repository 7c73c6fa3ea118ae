"""Batched solvers for many small programs of one shape: linear programs and non-negative least squares.

They are pure JAX in float64, without host callbacks, and know nothing of games. Their answers are proposals with
multipliers, which the caller checks in NumPy; HiGHS or scipy solve the programs whose answers fail the check.
"""
