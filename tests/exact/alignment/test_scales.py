"""What a fit claims, against exact optima in rational arithmetic, for agents of any sizes: error - gap is below the
optimum and error above it, the optimum of the numbers as they are. No Gram matrix can tell at such ratios of sizes."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from support.fit_rules import every_rule
from support.nightly import one_in

import emalign_jax as em

pytestmark = pytest.mark.host_only

RNG = np.random.default_rng(0)
K, A, Y, T = 3, 2, 2, 3  # tiny: exact optima of all supports in fractions


def _cases():
    u, U = np.round(RNG.normal(size=(T, A, Y)), 3), np.round(RNG.normal(size=(K, A, Y)), 3)
    size = lambda *powers: U * 10.0 ** np.array(powers)[:, None, None]  # noqa: E731
    yield "agents 1e10 apart", u, size(0, 10, 0)
    yield "agents 1e10 apart, the small ones out of reach", 1e6 * u, size(0, 10, 0)
    yield "agents 1e24 apart", u, size(-12, 0, 12)
    yield "a tiny user", 1e-12 * u, size(0, 0, 10)
    yield "a huge user", 1e12 * u, size(-10, 0, 5)
    yield "nearly the same agent", u, np.stack([U[0], U[0] + 1e-9 * U[1], U[2]])
    yield "nearly opposite agents", u, np.stack([U[0], 1e-6 * U[1] - U[0], U[2]])
    yield "opposite agents", u, np.stack([U[0], -U[0], U[2]])
    yield "the same agent twice, and one without a stake", 1e3 * u, np.stack([1e10 * U[0], 1e10 * U[0], 0 * U[0]])
    yield "an agent who is all offset", u, np.stack([U[0], 0 * U[1] + 0.3, 1e8 * U[2]])
    shift = 1e6 * np.array([1.0, -0.7])
    yield "offsets of 1e6, the same for all", u + 1e6, U + 1e6
    yield "offsets of 1e6 a state, and one agent 1e8 large", u + shift, size(0, 0, 8) - shift
    yield "nearly in the hull", np.tensordot([0.2, 0.3, 0.5], U, 1) + 1e-9 * u, U
    wide = size(0, 10, 0)
    yield "nearly in the hull of agents 1e10 apart", np.tensordot([0.5, 1e-10, 0.5], wide, 1) + 1e-6 * u, wide


CASES = {name: (u, U) for name, u, U in _cases()}


def fractions(x):
    return [Fraction(float(v)) for v in np.ravel(x)]


def free_columns(offset):
    each = {"none": 0, "constant": 1, "per_state": Y}[offset]
    return [[Fraction(int(each == 1 or cell % Y == y)) for cell in range(A * Y)] for y in range(each)]


def linear(matrix, right):
    """The solution in fractions; None if the matrix is singular."""
    rows = [[*row, b] for row, b in zip(matrix, right, strict=True)]
    for c in range(len(rows)):
        pivot = next((r for r in range(c, len(rows)) if rows[r][c]), None)
        if pivot is None:
            return None
        rows[c], rows[pivot] = rows[pivot], rows[c]
        rows[c] = [v / rows[c][c] for v in rows[c]]
        for r in range(len(rows)):
            if r != c and rows[r][c]:
                rows[r] = [v - rows[r][c] * w for v, w in zip(rows[r], rows[c], strict=True)]
    return [row[-1] for row in rows]


def root(x):
    """sqrt, to 60 digits."""
    return Fraction(math.isqrt(x.numerator * 10**400 // x.denominator), 10**200)


def exact_l2(u, U, weights, offset):
    """The best of all supports, each by its KKT equations."""
    u, tables, free, best = fractions(u), [fractions(x) for x in U], free_columns(offset), None
    dot = lambda x, y: sum(a * b for a, b in zip(x, y, strict=True))  # noqa: E731
    for count in range(weights == "simplex", K + 1):
        for support in combinations(range(K), count):
            fit = [tables[i] for i in support] + free
            matrix, right = [[dot(x, y) for y in fit] for x in fit], [dot(x, u) for x in fit]
            if weights == "simplex":
                total = [Fraction(int(i < count)) for i in range(len(fit))]
                matrix = [[*row, one] for row, one in zip(matrix, total, strict=True)] + [[*total, Fraction(0)]]
                right.append(Fraction(1))
            x = linear(matrix, right) if matrix else []
            if x is None or min(x[:count], default=0) < 0:
                continue
            left = [sum(v * column[c] for v, column in zip(x, fit, strict=False)) - u[c] for c in range(len(u))]
            best = dot(left, left) if best is None else min(best, dot(left, left))
    return root(best)


def exact_sup(u, U, weights, offset):
    """max <q, u> - (the most of <q, U_i>, on the cone 0) over |q| <= 1 orthogonal to offsets, by Bland's rule."""
    both = lambda x: [*x, *(-v for v in x)]  # noqa: E731
    level = [Fraction(-1), Fraction(1)] if weights == "simplex" else []
    rows = [both(fractions(x)) + level for x in U]
    rows += [[sign * v for v in both(x)] + [0 * v for v in level] for x in free_columns(offset) for sign in (1, -1)]
    rows += [[Fraction(1)] * (2 * A * Y) + [0 * v for v in level]]
    cost = both(fractions(u)) + level
    m, n = len(rows), len(cost)
    table = [
        row + [Fraction(int(i == j)) for j in range(m)] + [Fraction(int(i == m - 1))] for i, row in enumerate(rows)
    ]
    last, basis = [-c for c in cost] + [Fraction(0)] * (m + 1), list(range(n, n + m))
    while (enter := next((j for j in range(n + m) if last[j] < 0), None)) is not None:
        ratios = [(row[-1] / row[enter], basis[i], i) for i, row in enumerate(table) if row[enter] > 0]
        leave = min(ratios)[2]
        table[leave] = [v / table[leave][enter] for v in table[leave]]
        for i in (i for i in range(m) if i != leave):
            table[i] = [v - table[i][enter] * w for v, w in zip(table[i], table[leave], strict=True)]
        last = [v - last[enter] * w for v, w in zip(last, table[leave], strict=True)]
        basis[leave] = enter
    return last[-1]


@pytest.mark.slow
@every_rule
@pytest.mark.parametrize("name", one_in(3, CASES))
def test_claims_hold_of_the_exact_optimum(name, rule):
    u, U = CASES[name]
    exact = exact_l2 if rule["norm"] == "l2" else exact_sup
    optima = [exact(one, U, rule["weights"], rule["offset"]) for one in u]
    together = [em.align(u, U, **rule, lp=lp) for lp in ("batched", "highs")]
    for k, best in enumerate(optima):
        for error, gap, w in [(f.error[k], f.gap[k], f.weights[k]) for f in together] + [
            (f.error, f.gap, f.weights) for f in [em.align(u[k], U, **rule)]
        ]:
            in_use = Fraction(float(np.abs(u[k]).max() + (w * np.abs(U).max((1, 2))).sum()))
            assert Fraction(float(error)) - Fraction(float(gap)) <= best, "proved, but there is better"
            assert Fraction(float(error)) >= best - in_use * Fraction(1e-15), "not attained"
            assert error - float(best) <= 1e-6 * float(in_use), "far from the best"


@pytest.mark.parametrize("norm", ["sup", "l2"])
@pytest.mark.parametrize("weights", ["simplex", "cone"])
@pytest.mark.parametrize("lp", ["batched", "highs"])
def test_units_change_nothing(lp, weights, norm):
    """Powers of 2 change no digit; powers of ten change the last one of the data."""
    u, U = CASES["agents 1e10 apart, the small ones out of reach"]
    plain = em.align(u, U, weights=weights, norm=norm, lp=lp)
    for power in (-300, -40, 40, 250):
        other = em.align(u * 2.0**power, U * 2.0**power, weights=weights, norm=norm, lp=lp)
        np.testing.assert_allclose(other.error, plain.error * 2.0**power, rtol=1e-12)
    for unit in (1e-90, 1e-9, 1e9, 1e80):
        other = em.align(u * unit, U * unit, weights=weights, norm=norm, lp=lp)
        assert other.solved.all()
        np.testing.assert_allclose(other.error, plain.error * unit, rtol=1e-9)
