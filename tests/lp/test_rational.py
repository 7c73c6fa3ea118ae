"""The rational LPs against known fractions, all bases of small LPs, and the float path; what the proof rejects.

Equalities below are equalities of fractions: no tolerance.
"""

import itertools
from fractions import Fraction as F

import numpy as np
import pytest
from support.games import random_game, reduced

import emalign_jax as em
from emalign_jax.exact.obedience.program import ObedienceLP
from emalign_jax.lp import rational
from emalign_jax.lp.highs import FEASIBILITY, MAX_EXACT, KeptLP
from emalign_jax.lp.rational import BASIC, LOWER, UPPER, ZERO, ExactLP, maximise, proves

pytestmark = pytest.mark.host_only

INF = np.inf
TINY = F(1, 10**18)
# HiGHS stops at 1e-9 on every row and reduced cost; a hundred of them with multipliers of the size of the data
FLOAT_ERROR = 1e-7


def make(rows, lower, upper, cost, col_lower=0.0, col_upper=INF):
    rows = np.array(rows, float).reshape(len(lower), len(cost))
    bounds = [np.broadcast_to(np.asarray(b, float), len(cost)).copy() for b in (col_lower, col_upper)]
    return ExactLP(rows, np.array(lower, float), np.array(upper, float), np.array(cost, float), *bounds)


def kept(lp, **options):
    return KeptLP(*lp[:3], cost=lp.cost, col_lower=lp.col_lower, col_upper=lp.col_upper, **options)


def starts(lp, seed=0):
    """Starts good and bad: none, two random ones (of too many, too few or dependent columns), all columns basic."""
    rng = np.random.default_rng(seed)
    size = sum(lp.rows.shape)
    return [None, *rng.integers(0, 4, (2, size)).tolist(), [BASIC] * size, [UPPER] * size]


def solve(matrix, target):
    """Gauss in Fractions; None if singular."""
    work = [[*map(F, row), F(t)] for row, t in zip(matrix, target, strict=True)]
    for k in range(len(work)):
        pivot = next((r for r in range(k, len(work)) if work[r][k]), None)
        if pivot is None:
            return None
        work[k], work[pivot] = work[pivot], work[k]
        for r in range(len(work)):
            if r != k and work[r][k]:
                ratio = work[r][k] / work[k][k]
                work[r] = [a - ratio * b for a, b in zip(work[r], work[k], strict=True)]
    return [row[-1] / row[k] for k, row in enumerate(work)]


def best_vertex(lp):
    """The maximum over all vertices: N of the bounds of columns and rows hold with equality. None: no vertex."""
    N = len(lp.cost)
    sides = [(row, bound) for row, *two in zip(np.eye(N), lp.col_lower, lp.col_upper, strict=True) for bound in two]
    sides += [(row, bound) for row, *two in zip(lp.rows, lp.row_lower, lp.row_upper, strict=True) for bound in two]
    sides = [(row.tolist(), bound) for row, bound in sides if np.isfinite(bound)]
    best = None
    for chosen in itertools.combinations(sides, N):
        x = solve(*zip(*chosen, strict=True))
        if x is not None and rational._feasible(lp, x):
            value = sum(F(c) * v for c, v in zip(lp.cost.tolist(), x, strict=True))
            best = value if best is None else max(best, value)
    return best


def test_two_by_two_in_closed_form():
    """max 3x + 2y, x + 3y <= 4, 3x + y <= 5: x = 11/8, y = 7/8 and multipliers (3/8, 7/8)."""
    lp = make([[1, 3], [3, 1]], [-INF, -INF], [4, 5], [3, 2])
    for start in starts(lp):
        found = maximise(lp, start)
        assert (found.status, found.value) == ("Optimal", F(47, 8))
        assert found.x == (F(11, 8), F(7, 8))
        assert found.row_dual == (F(3, 8), F(7, 8))


def test_the_data_are_the_floats():
    """max x with 3x <= 0.1: a third of the float 0.1, which is not a tenth."""
    value = maximise(make([[3]], [-INF], [0.1], [1])).value
    assert value == F(0.1) / 3
    assert value != F(1, 30)
    # 0.1 + 0.2 is not 0.3 in floats: the equations are off by one rounding, and that is what is said
    equations = make([[1, 0], [0, 1], [1, 1]], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [1, 0])
    assert kept(equations).solve().optimal
    result = kept(equations, exact=True).solve()
    assert (result.optimal, result.status, result.exact) == (False, "Infeasible", None)
    assert np.isnan(result.value)
    assert np.isnan(result.x).all()
    assert np.isnan(result.row_dual).all()


def test_rows_that_depend_but_for_one_rounding():
    """x + y = 1 twice, once with 1 + 2^-52: no float solver sees that y must be 0; the multipliers tell."""
    lp = make([[1, 1], [1, 1 + 2.0**-52]], [1, 1], [1, 1], [0, 1])
    assert kept(lp).solve().value == pytest.approx(1, abs=FLOAT_ERROR)
    result = kept(lp, exact=True).solve()
    assert result.exact == 0
    np.testing.assert_array_equal(result.x, [1, 0])
    assert np.abs(result.row_dual).max() >= 2.0**52


@pytest.mark.parametrize("sign", [1, -1])
def test_a_float_basis_that_is_infeasible_by_one_rounding(sign):
    """x = 0.1, y >= 0.2 and two rows that meet there up to rounding: HiGHS cannot tell which of them binds."""
    total = 0.1 + 0.2  # the float, 4e-17 above 0.3, itself not the sum of the floats 0.1 and 0.2
    lp = make([[1, 0, 0], [1, 1, 0], [1, 1, 1]], [0.1, 0.3, total], [0.1, 0.3, total], [0, 0, sign], [0, 0.2, 0])
    corner = F(0.3) - F(0.1) - F(0.2)
    assert corner < 0
    assert maximise(lp).status == "Infeasible"
    lp.row_upper[1] = INF
    slack = F(total) - F(0.1) - F(0.2)
    assert slack > 0
    for start in [*starts(lp), [BASIC, LOWER, LOWER, LOWER, BASIC, BASIC], [BASIC, BASIC, LOWER, LOWER, LOWER, BASIC]]:
        assert maximise(lp, start).value == (slack if sign > 0 else 0)
    # the basis of row 1 has y < 0.2 by 1e-17: exact pivots repair it
    off = maximise(lp, [BASIC, BASIC, BASIC, LOWER, LOWER, LOWER])
    assert off.pivots > 0
    assert kept(lp, exact=True).solve().exact == off.value


@pytest.mark.parametrize(
    ("lp", "value"),
    [
        (  # Beale's example, which cycles under the largest-coefficient rule (numbers scaled to integers)
            make(
                [[1, -240, -0.16, 36], [1, -180, -0.04, 6], [0, 0, 1, 0]],
                [-INF] * 3, [0, 0, 1], [75, -15000, 2, -600],
            ),
            None,
        ),
        # Chvatal's cycling example (chapter 3): optimum 1
        (
            make(
                [[0.5, -5.5, -2.5, 9], [0.5, -1.5, -0.5, 1], [1, 0, 0, 0]],
                [-INF] * 3, [0, 0, 1], [10, -57, -9, -24],
            ),
            F(1),
        ),
        (make([[1, 0, 0], [4, 1, 0], [8, 4, 1]], [-INF] * 3, [5, 25, 125], [4, 2, 1]), F(125)),  # Klee and Minty
        (make(np.ones((4, 5)), [1] * 4, [1] * 4, [1] * 5), F(1)),  # ties everywhere, equal rows and equal columns
        (make(np.zeros((3, 2)), [0, -1, -INF], [0, 1, 0], [1, -1], col_upper=[2, 5]), F(2)),  # zero rows
        (make(np.zeros((0, 2)), [], [], [1, -1], -1, 3), F(4)),  # no rows at all
        (make([[1, 1]], [1], [1], [0, 0], -INF), F(0)),  # free, and no cost
        (make([[1, 1], [1, -1]], [-INF] * 2, [1, 0.5], [1, 0], -INF), F(3, 4)),  # free, with a vertex
        (make([[1, 2, 3]], [2], [4], [1, 1, 1], [-1, 0.5, -INF], [1, 0.5, 0.25]), F(7, 4)),  # boxed, fixed, from above
        (make([[1, 1]], [3], [3], [1, 3], 1, [2, 2]), F(7)),
    ],
    ids=["beale", "chvatal", "klee-minty", "ties", "zero-rows", "no-rows", "free", "free-vertex", "boxed", "fixed-row"],
)  # fmt: skip
def test_known_optima(lp, value):
    found = [maximise(lp, start) for start in starts(lp)]
    assert {result.status for result in found} == {"Optimal"}
    wanted = best_vertex(lp) if value is None else value
    assert {result.value for result in found} == {wanted}
    assert float(wanted) == pytest.approx(kept(lp).solve().value, abs=FLOAT_ERROR) if len(lp.rows) else True


def integer_lp(seed):
    """Three or four columns, small integers, so ties are the rule; about every third is infeasible."""
    rng = np.random.default_rng(seed)
    M, N = rng.integers(1, 4), rng.integers(2, 5)
    rows = rng.integers(-2, 3, (M, N))
    lower = np.where(rng.random(M) < 0.6, rng.integers(-3, 2, M), -INF)
    upper = np.where(rng.random(M) < 0.6, np.maximum(lower, -3) + rng.integers(0, 4, M), INF)
    col_lower = rng.integers(-2, 1, N)
    col_upper = col_lower + rng.integers(0, 4, N)
    if seed % 3 == 0:  # the same rows and columns again
        rows, lower, upper = np.concatenate([rows, rows[:1]]), np.append(lower, lower[0]), np.append(upper, upper[0])
        rows[:, -1] = rows[:, 0]
    return make(rows, lower, upper, rng.integers(-2, 3, N), col_lower, col_upper)


@pytest.mark.parametrize("seed", range(60))
def test_all_bases_of_small_lps(seed):
    """All columns are boxed, so a feasible LP has an optimal vertex: the best of all of them, from any start."""
    lp = integer_lp(seed)
    wanted = best_vertex(lp)
    for start in starts(lp, seed):
        found = maximise(lp, start)
        assert (found.status, found.value) == ("Infeasible" if wanted is None else "Optimal", wanted)
        assert proves(lp, found)


def test_infeasible_and_unbounded():
    crossed = make([[1]], [2], [1], [1])
    sums = make([[1, 1], [1, 1]], [2, -INF], [INF, 1], [1, 1])
    for lp in (crossed, sums, make([[0, 0]], [1], [2], [1, 1]), make([[1]], [0], [1], [1], 3, 2)):
        found = maximise(lp)
        assert (found.status, found.value, found.x) == ("Infeasible", None, ())
        assert proves(lp, found)
    assert maximise(sums).row_dual == (-1, 1)  # 2 <= x + y <= 1
    ray = make([[1, -1], [1, 1]], [0, -4], [1, INF], [1, 0])
    free = make([[1, 1]], [0], [1], [1, -1], -INF)
    for lp in (ray, free, make(np.zeros((0, 1)), [], [], [1]), make([[0]], [0], [0], [-1], -INF, 0)):
        for start in starts(lp):
            found = maximise(lp, start)
            assert (found.status, found.value) == ("Unbounded", None)
            assert proves(lp, found)
            assert not proves(lp, found._replace(ray=tuple(-v for v in found.ray)))
    # a cost below HiGHS's tolerance on a column without end
    tiny = make([[1, 0]], [0], [1], [1, 1e-12])
    assert kept(tiny).solve().optimal
    result = kept(tiny, exact=True).solve()
    assert (result.optimal, result.status, result.exact) == (False, "Unbounded", None)


def test_data_that_are_no_lp_are_refused():
    for lp in (make([[np.nan]], [0], [1], [1]), make([[1]], [INF], [INF], [1]), make([[1]], [0], [np.nan], [1])):
        with pytest.raises(ValueError, match="an LP needs"):
            maximise(lp)


def random_lp(seed, whole):
    """Feasible: rows around the activity of a known point; `whole`: degenerate, every row twice."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-2, 3, (6, 9)) if whole else rng.normal(size=(6, 9))
    inside = rng.integers(0, 2, 9) / (1 if whole else 3)
    lower = np.where(rng.random(6) < 0.6, rows @ inside, -INF)
    upper = np.where(rng.random(6) < 0.6, rows @ inside + rng.integers(0, 2, 6), INF)
    lower = np.minimum(lower, upper - 1e-12)  # the float activity is off by roundings
    cost = rows[0] + rows[1] if whole else rng.normal(size=9)
    if whole:
        rows, lower, upper = (np.concatenate([v, v]) for v in (rows, lower, upper))
    return make(rows, lower, upper, cost, rng.choice([0.0, -INF, -1.0], 9), rng.choice([1.0, 2.0], 9))


@pytest.mark.parametrize("whole", [False, True], ids=["real", "degenerate"])
@pytest.mark.parametrize("seed", range(20))
def test_float_path_holds_to_its_tolerance(seed, whole):
    """Values, points and duals of both paths; signs of the duals are those of HiGHS."""
    lp = random_lp(seed, whole)
    plain, exact = kept(lp).solve(), kept(lp, exact=True).solve()
    assert plain.exact is None
    if not plain.optimal:  # three of the forty are unbounded: HiGHS's status is kept, and exact arithmetic agrees
        assert (plain.status, exact.status, exact.exact, maximise(lp).status) == (*2 * ["Unbounded"], None, "Unbounded")
        return
    assert exact.optimal
    assert float(exact.exact) == exact.value
    scale = 1 + np.abs(plain.x).sum() + np.abs(plain.row_dual).sum()
    assert abs(exact.value - plain.value) <= FLOAT_ERROR * scale
    x, y = (np.abs(plain[k]).sum() + np.abs(exact[k]).sum() for k in (2, 3))
    assert abs(exact.value - plain.value) <= FEASIBILITY * (x + y) + 1e-12  # what the docstring of lp.py states
    if not whole:  # one optimum, one multiplier vector
        np.testing.assert_allclose(exact.x, plain.x, atol=FLOAT_ERROR * scale)
        np.testing.assert_allclose(exact.row_dual, plain.row_dual, atol=FLOAT_ERROR * scale)
    found = maximise(lp)  # without HiGHS's basis
    assert found.value == exact.exact


def test_changes_between_exact_solves():
    """set_cost and set_row reach the exact path, with coefficients that HiGHS itself drops."""
    rng = np.random.default_rng(0)
    lp = random_lp(3, False)
    lp.rows[0, 0] = 1e-10
    model = kept(lp, exact=True)
    for k in range(6):
        cost = rng.normal(size=len(lp.cost))
        model.set_cost(cost)
        model.set_row(k, -1.0, 2.0)
        lp.row_lower[k], lp.row_upper[k] = -1, 2
        lp = lp._replace(cost=cost)
        result, wanted = model.solve(), maximise(lp)
        assert (result.status, result.exact) == (wanted.status, wanted.value)


def test_size_limit():
    assert MAX_EXACT == 80 * 100
    KeptLP(np.zeros((80, 100)), np.zeros(80), np.ones(80), exact=True)
    said = r"81 rows and 100 columns.* = 8100, the limit is 8000: take exact=False"
    with pytest.raises(ValueError, match=said):
        KeptLP(np.zeros((81, 100)), np.zeros(81), np.ones(81), exact=True)


@pytest.mark.parametrize("prior", [0.3, 0.1, 0.45])
def test_judge_in_closed_form(prior):
    """Kamenica and Gentzkow: the prosecutor gets twice the prior, to the last bit of the floats that the LP holds."""
    game = em.reduce_game(em.catalog.judge(prior), np)
    found = ObedienceLP(game, exact=True).best(game.agents[0])
    assert found.exact == 2 * F(prior)
    assert found.value == float(found.exact)
    assert ObedienceLP(game).best(game.agents[0]).exact is None


@pytest.mark.parametrize("XA", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_random_obedience_lps(XA, seed):
    """Both paths agree; at the user's full value the LP has hardly any room, and may be infeasible exactly."""
    game = reduced(random_game(seed, XA=XA))
    exact, plain = ObedienceLP(game, exact=True), ObedienceLP(game)
    none, full = game.user.sum(1).max(-1).sum(), game.user.max(-1).sum()
    for agent, share in itertools.product(game.agents, [-1, 0, 0.5, 0.99, 1, 1.1]):
        value = none + share * (full - none)
        one, two = exact.best(agent, value), plain.best(agent, value)
        assert two.exact is None
        # V_full in the coefficients of the LP decides whether it is feasible, without a tolerance
        attainable = sum(max(F(v) for v in row) for row in exact._user_spread.tolist())
        assert one.optimal == (F(value) <= attainable)
        if one.optimal:
            assert one.value == float(one.exact)
            assert abs(one.value - two.value) <= FLOAT_ERROR * (1 + np.abs(agent).sum())
            assert one.scheme.sum(1) == pytest.approx(1)
        else:
            assert (one.exact, one.status) == (None, "Infeasible")
            assert np.isnan(one.value)


class TestProof:
    """`proves` looks at the multipliers alone, so whatever is moved it must see."""

    lp = random_lp(1, False)
    found = maximise(lp)

    def test_accepts_the_answer(self):
        assert self.found.status == "Optimal"
        assert any(self.found.row_dual)
        assert proves(self.lp, self.found)

    @pytest.mark.parametrize("shift", [F(1, 1000), F(-1, 1000), TINY, -TINY])
    def test_a_value_that_was_moved(self, shift):
        assert not proves(self.lp, self.found._replace(value=self.found.value + shift))

    def test_duals_of_the_wrong_sign(self):
        for k, y in enumerate(self.found.row_dual):
            for wrong in [-y] if y else [TINY, -TINY]:
                duals = (*self.found.row_dual[:k], wrong, *self.found.row_dual[k + 1 :])
                assert not proves(self.lp, self.found._replace(row_dual=duals))
        small = make([[1, 1]], [-INF], [1], [1, 0])  # no lower bound: a multiplier below 0 proves nothing
        assert proves(small, maximise(small))
        assert not proves(small, maximise(small)._replace(row_dual=(F(-1),)))

    def test_a_point_that_is_infeasible_by_1e_18(self):
        """Along a face of equal cost, so that value and multipliers stay right and feasibility alone decides."""
        lp = make([[1, 1]], [-INF], [1], [1, 1])
        found = maximise(lp)
        x, y = found.x
        assert proves(lp, found)
        assert proves(lp, found._replace(x=(F(1, 3), F(2, 3))))
        assert not proves(lp, found._replace(x=(-TINY, 1 + TINY)))
        assert not proves(lp, found._replace(x=(x + TINY, y)))
        # a row that no multiplier looks at
        lp = make([[1, 0], [0, 1]], [-INF, 0.5], [1, 0.5], [1, 0])
        assert not proves(lp, maximise(lp)._replace(x=(F(1), F(1, 2) + TINY)))

    def test_another_status(self):
        for status in ("Infeasible", "Unbounded", "Solved"):
            assert not proves(self.lp, self.found._replace(status=status, ray=self.found.x))

    def test_an_unproved_answer_is_never_returned(self, monkeypatch):
        wrong = self.found._replace(value=self.found.value + TINY)
        monkeypatch.setattr(rational._Simplex, "solve", lambda self: wrong)
        with pytest.raises(ArithmeticError, match="do not prove"):
            maximise(self.lp)


def test_where_a_free_variable_rests():
    """ZERO, a bound that is not there, and a free column that never moves."""
    lp = make([[1, 1, 0]], [1], [2], [1, 1, 0], [0, -INF, -INF])
    for start in ([LOWER, ZERO, ZERO, BASIC], [UPPER, LOWER, LOWER, UPPER], [BASIC, BASIC, BASIC, BASIC]):
        found = maximise(lp, start)
        assert (found.value, found.x[2]) == (2, 0)
