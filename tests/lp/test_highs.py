"""KeptLP against scipy.optimize.linprog, and against LP duality, which needs no second solver."""

import numpy as np
import pytest
from scipy.optimize import linprog
from support.commands import child

from emalign_jax.lp.highs import KeptLP

pytestmark = pytest.mark.host_only

# both solvers stop at feasibility 1e-9 or 1e-7 (scipy's default); the optima are of size 1 to 10
TOLERANCE = 1e-6


def reference(rows, lower, upper, cost, col_lower=0.0, col_upper=np.inf):
    """The same maximum by linprog: (status, value); two-sided rows become two one-sided ones."""
    above, below = np.isfinite(upper), np.isfinite(lower)
    bounds = np.broadcast_arrays(col_lower, col_upper, np.zeros(len(cost)))[:2]
    result = linprog(
        -np.asarray(cost),
        A_ub=np.concatenate([rows[above], -rows[below]]),
        b_ub=np.concatenate([upper[above], -lower[below]]),
        bounds=list(zip(*bounds, strict=True)),
    )
    return result.status, -result.fun if result.status == 0 else np.nan


def random_lp(rng, rows=6, columns=9, whole=False):
    """A feasible, bounded LP: the rows' bounds surround the activity of a known point; all x are in a box row."""
    draw = (
        (lambda *shape: rng.integers(-2, 3, shape).astype(float)) if whole else (lambda *shape: rng.normal(size=shape))
    )
    matrix = np.concatenate([draw(rows, columns), np.ones((1, columns))])
    inside = (rng.random(columns) < 0.5).astype(float)
    activity = matrix @ inside
    lower = np.where(rng.random(rows + 1) < 0.5, activity - rng.integers(0, 2, rows + 1), -np.inf)
    upper = np.where(rng.random(rows + 1) < 0.5, activity + rng.integers(0, 2, rows + 1), np.inf)
    upper[-1] = activity[-1] + 1
    return matrix, lower, upper, draw(columns)


def assert_optimal(result, rows, lower, upper, cost):
    """x is feasible, and the duals prove that nothing is better (weak duality by hand)."""
    assert result.optimal
    assert result.status == "Optimal"
    assert result.x.min() >= -TOLERANCE
    activity = rows @ result.x
    assert (activity >= lower - TOLERANCE).all()
    assert (activity <= upper + TOLERANCE).all()
    assert cost @ result.x == pytest.approx(result.value, abs=TOLERANCE)
    y = np.where(np.abs(result.row_dual) > 1e-9, result.row_dual, 0)
    assert (cost - rows.T @ y <= TOLERANCE).all()
    bound = sum(v * (upper[k] if v > 0 else lower[k]) for k, v in enumerate(y) if v != 0)
    assert bound == pytest.approx(result.value, abs=TOLERANCE)


@pytest.mark.parametrize("whole", [False, True], ids=["real", "degenerate"])
@pytest.mark.parametrize("seed", range(15))
def test_random_lps(seed, whole):
    rows, lower, upper, cost = random_lp(np.random.default_rng(seed), whole=whole)
    if whole:  # every row twice, and a cost parallel to a face
        rows, lower, upper = (np.concatenate([x, x]) for x in (rows, lower, upper))
        cost = rows[0] + rows[-1]
    result = KeptLP(rows, lower, upper, cost=cost).solve()
    status, value = reference(rows, lower, upper, cost)
    assert status == 0
    assert result.value == pytest.approx(value, abs=TOLERANCE)
    assert_optimal(result, rows, lower, upper, cost)


@pytest.mark.parametrize("seed", range(5))
def test_changes_between_solves(seed):
    """One kept model through twenty changes of cost and row bounds gives what a fresh model gives."""
    rng = np.random.default_rng(seed)
    rows, lower, upper, cost = random_lp(rng)
    lp = KeptLP(rows, lower, upper, cost=cost)
    seen = set()
    for _ in range(20):
        change = rng.integers(2)
        if change == 0:
            cost = rng.normal(size=len(cost))
            lp.set_cost(cost)
        else:
            row = int(rng.integers(len(rows) - 1))
            lower[row] = rng.choice([-np.inf, rng.normal()])
            upper[row] = lower[row] + 1 if np.isfinite(lower[row]) else np.inf
            lp.set_row(row, lower[row], upper[row])
        result = lp.solve()
        status, value = reference(rows, lower, upper, cost)
        seen.add(status)
        assert result.optimal == (status == 0)
        if result.optimal:
            assert result.value == pytest.approx(value, abs=TOLERANCE)
            assert_optimal(result, rows, lower, upper, cost)
        else:
            assert result.status == "Infeasible"
            assert np.isnan(result.value)
    assert 0 in seen


def test_infeasible_is_reported_and_can_be_repaired():
    lp = KeptLP(np.array([[1.0, 1.0]]), [3.0], [4.0], cost=[1.0, 2.0], col_upper=1.0)
    result = lp.solve()
    assert (result.optimal, result.status) == (False, "Infeasible")
    assert np.isnan(result.value)
    lp.set_row(0, -np.inf, 1.5)
    assert lp.solve().value == pytest.approx(2.5, abs=TOLERANCE)


def test_unbounded_is_reported_and_can_be_repaired():
    lp = KeptLP(np.array([[1.0, -1.0]]), [0.0], [np.inf], cost=[1.0, 0.0])
    result = lp.solve()
    assert (result.optimal, result.status) == (False, "Unbounded")
    assert np.isnan(result.value)
    lp.set_cost([-1.0, 0.5])
    assert lp.solve().value == pytest.approx(0.0, abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(5))
def test_column_bounds(seed):
    rng = np.random.default_rng(seed)
    rows, _, _, cost = random_lp(rng)
    col_lower = rng.choice([-1.0, 0.0, 0.5], len(cost))
    col_upper = col_lower + rng.choice([0.0, 1.0, 2.0], len(cost))
    middle = rows @ (col_lower + col_upper) / 2
    lower, upper = middle - 0.3, middle + 0.1
    result = KeptLP(rows, lower, upper, cost=cost, col_lower=col_lower, col_upper=col_upper).solve()
    status, value = reference(rows, lower, upper, cost, col_lower, col_upper)
    assert status == 0
    assert result.value == pytest.approx(value, abs=TOLERANCE)
    assert (result.x >= col_lower - TOLERANCE).all()
    assert (result.x <= col_upper + TOLERANCE).all()


def test_what_is_not_finite_is_refused():
    """HiGHS itself calls a NaN coefficient unbounded and never returns from a NaN cost."""
    lp = KeptLP(np.ones((1, 2)), [0.0], [1.0], cost=[1.0, 2.0])
    for refused in (
        lambda: KeptLP(np.array([[1.0, np.nan]]), [0.0], [1.0]),
        lambda: KeptLP(np.ones((1, 2)), [0.0], [1.0], cost=[1.0, np.nan]),
        lambda: lp.set_cost([np.nan, 1.0]),
    ):
        with pytest.raises(ValueError, match="finite costs and coefficients"):
            refused()
    assert lp.solve().value == pytest.approx(2.0, abs=TOLERANCE)  # the model is as it was
    with pytest.raises(ValueError, match="a bound is NaN"):
        KeptLP(np.ones((1, 2)), [0.0], [np.nan])


@pytest.mark.slow
def test_standard_output_is_left_alone():
    """HiGHS 1.16 prints a banner with the first model of a process; what others print is not lost."""
    code = "from emalign_jax.lp.highs import new_highs; print('before'); new_highs().run(); new_highs(); print('after')"
    assert child(code) == "before\nafter\n"
