"""Batched solvers for many small programs of one shape: linear programs and non-negative least squares.

Pure JAX, float64 inside a context of their own, no host callbacks; they know no games. What they answer is a proposal
with multipliers: whoever asks checks it (`exact`, in NumPy), and has HiGHS or scipy do again what fails.
"""
