"""Branch and bound for a quantal user: no belief ever pays more than a bound, and values against mpmath."""

import mpmath
import numpy as np
import pytest
from support.beliefs import BeliefProblem, pooled_problem
from support.games import random_game

import emalign_jax as em
from emalign_jax.exact.concavification import branch_and_bound
from emalign_jax.exact.concavification import cells as cell_bounds

pytestmark = pytest.mark.host_only

ROUNDING = 1e-10  # of payoffs of size 1 to 10


def random_problem(rng, XB, XA, precision, purity):
    """Among rivals from interior (Dirichlet 1) to nearly pure (.02) to pure (0)."""
    game = random_game(rng, K=int(rng.integers(2, 4)), XA=XA, XB=XB, A=int(rng.integers(2, 5)))
    shape = (game.agents, XB)
    schemes = np.eye(2)[rng.integers(2, size=shape)] if purity == 0 else rng.dirichlet(np.full(2, purity), shape)
    small = em.reduce_game(game, np)
    return pooled_problem(small, schemes, 0, em.QuantalUser(precision))


def bound_pricing(problem, goal, price, target, work):
    """The bounds of one problem; `work` counts cells."""
    found = branch_and_bound.bound_pricing(
        problem.alone(goal), price[None], np.array([target]), np.array([work]), compiled=False
    )
    return branch_and_bound.PricingBounds(found.upper[0], found.best[0], found.at[0], found.work[0])


def bound_cells(problem, goal, price, cells, target):
    """Bounds [N], values at the vertices [N, V], and where to divide: edge (i, j) and share [2, N, 3]."""
    one = branch_and_bound._Search(problem.alone(goal), price[None], np.array([target]), False)
    bound, values, edge, share = one.bound(cells, np.zeros(len(cells), int))
    return bound, values, np.concatenate([np.array(cell_bounds.edges(cells.shape[1]))[edge], share[..., None]], -1)


def random_cells(rng, B, count):
    """Sub-simplices: the whole, wide, small, slivers, and ones that touch vertices and faces."""
    cells = [np.eye(B)]
    while len(cells) < count:
        kind = rng.integers(5)
        corners = rng.dirichlet(np.full(B, 10.0 ** rng.uniform(-1, 0.5)), B)
        if kind == 1:
            corners = rng.dirichlet(np.ones(B)) + 10.0 ** rng.uniform(-6, -1) * (corners - 1 / B)
            corners = np.maximum(corners, 0)
        elif kind == 2:
            corners = corners[:1] + np.outer(rng.uniform(size=B), corners[1] - corners[0])
            corners += 1e-5 * rng.uniform(size=(B, B))
        elif kind == 3:
            corners[: rng.integers(1, B)] = np.eye(B)[rng.integers(B)]
            corners[-1] = np.eye(B)[rng.integers(B)] * 0.9 + 0.1 * corners[-1]
        elif kind == 4:
            corners[:, rng.integers(B)] = 0
        size = corners.sum(1, keepdims=True)
        if (size > 0).all():
            cells.append(corners / size)
    return np.array(cells)


def inside(rng, V, count):
    """Weights of a cell's vertices: everywhere, on faces, and close to every vertex."""
    spread = np.concatenate([rng.dirichlet(np.full(V, c), count) for c in (0.1, 0.5, 1.0)])
    edges = []
    for i in range(V):
        for j in range(V):
            if i != j:
                t = np.concatenate([np.linspace(0, 1, 41), 10.0 ** -np.arange(2, 10)])[:, None]
                edges.append((1 - t) * np.eye(V)[i] + t * np.eye(V)[j])
    close = [(1 - h) * np.eye(V) + h * rng.dirichlet(np.ones(V), V) for h in (1e-1, 1e-2, 1e-3, 1e-6, 1e-9)]
    return np.concatenate([np.eye(V), spread, *edges, *close])


def exceeded(problem, goal, price, cells, bounds, weights):
    """The largest excess over a bound met in any of the cells."""
    points = np.einsum("sv,nvb->nsb", weights, cells)
    paid = problem.value(points.reshape(-1, points.shape[-1]), goal).reshape(points.shape[:2]) - points @ price
    return float((paid.max(1) - bounds).max())


@pytest.mark.slow
@pytest.mark.parametrize("purity", [1.0, 0.1, 0.02, 0.0])
@pytest.mark.parametrize("precision", [0.1, 1.0, 5.0, 20.0, 100.0, 500.0])
def test_no_belief_of_a_cell_pays_more_than_its_bound(precision, purity):
    rng = np.random.default_rng([int(10 * precision), int(100 * purity)])
    for XB in (2, 3, 4):
        for XA in (1, 2):
            problem = random_problem(rng, XB, XA, precision, purity)
            B = len(problem.target)
            for goal in (problem.goal(1.0, 0.0), problem.goal(-1.0, 0.0), problem.goal(*rng.normal(size=2))):
                price = rng.normal(size=B)
                cells = random_cells(rng, B, 12)
                weights = inside(rng, B, 60)
                for target in (1e-6, 1e-2):
                    bounds, values, edges = bound_cells(problem, goal, price, cells, target)
                    assert exceeded(problem, goal, price, cells, bounds, weights) <= ROUNDING
                    paid = problem.value(cells.reshape(-1, B), goal).reshape(-1, B) - cells @ price
                    np.testing.assert_allclose(values, paid, rtol=0, atol=1e-9)
                    assert (edges[..., 0] != edges[..., 1]).all()


def turns_early():
    """A type that hardly occurs in x_B = 0 (mass 1e-3) and whose response turns at half a percent of it."""
    mass = np.array([[1e-3, 1.0], [1 - 1e-3, 1e-12]])
    user, own = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    user[0, :, 1] = [2.0, -10.0]
    user[1, :, 0] = 50 * mass[1]
    own[:, :, 1] = mass
    return BeliefProblem(mass, user, own, em.QuantalUser(1.0))


def test_a_rare_type_that_turns_far_from_where_it_is_rare():
    problem = turns_early()
    goal, price = problem.goal(1.0, 0.0), np.zeros(2)
    share = np.linspace(0, 1, 10001)
    paid = problem.value(np.stack([share, 1 - share], 1), goal)
    assert paid.max() == pytest.approx(0.12818, abs=1e-5)
    bounds, *_ = bound_cells(problem, goal, price, np.eye(2)[None], 1e-9)
    assert bounds[0] >= paid.max()
    assert bound_pricing(problem, goal, price, 0.2, 10**6).upper >= paid.max()


def optimum_on_a_line(problem, goal, price):
    """The maximum over 1e5 beliefs of two x_B, refined around the best of them."""
    low, high = 0.0, 1.0
    for _ in range(2):
        share = np.linspace(low, high, 100_001)
        points = np.stack([share, 1 - share], 1)
        paid = problem.value(points, goal) - points @ price
        best = int(paid.argmax())
        low, high = share[max(best - 1, 0)], share[min(best + 1, 100_000)]
    return float(paid[best])


@pytest.mark.slow
@pytest.mark.parametrize("purity", [1.0, 0.05, 0.0])
@pytest.mark.parametrize("precision", [0.5, 8.0, 100.0])
def test_two_features_against_a_line_of_beliefs(precision, purity):
    rng = np.random.default_rng([int(precision), int(100 * purity)])
    for XA in (1, 2):
        problem = random_problem(rng, 2, XA, precision, purity)
        for goal in (problem.goal(1.0, 0.0), problem.goal(-0.4, 1.0)):
            price = problem.slope(problem.target[None], goal)[0]
            truth = optimum_on_a_line(problem, goal, price)
            price = price + truth  # as in use: the best belief pays its price
            proof = bound_pricing(problem, goal, price, 1e-6, 10**9)
            assert -1e-9 <= proof.upper <= 1e-6
            assert proof.best <= 1e-9
            refuted = bound_pricing(problem, goal, price, -1e-3, 10**9)
            assert -1e-3 < refuted.best <= 1e-9
            assert refuted.upper >= -1e-9
            met = problem.value(refuted.at, goal) - refuted.at @ price
            assert met[0] == pytest.approx(refuted.best, abs=1e-12)


def halved(problem, goal, price, width):
    """A slow obvious reference for two x_B: intervals halved by twice the steepest slope met on a fine grid."""

    def pays(share):
        points = np.stack([share, 1 - share], 1)
        return problem.value(points, goal) - points @ price

    steep = 2 * np.abs(np.diff(pays(np.linspace(0, 1, 20_001)))).max() * 20_000
    left, right, best = np.zeros(1), np.ones(1), -np.inf
    while True:
        middle = pays((left + right) / 2)
        best = max(best, float(middle.max()))
        bound = middle + steep * (right - left) / 2
        if bound.max() <= best + width:
            return best, best + width
        open_ = bound > best + width
        left, right = left[open_], right[open_]
        centre = (left + right) / 2
        left, right = np.concatenate([left, centre]), np.concatenate([centre, right])


@pytest.mark.parametrize("seed", range(3))
def test_against_lipschitz_halving(seed):
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, 2, 2, 6.0, 0.3)
    goal = problem.goal(*rng.normal(size=2))
    price = rng.normal(size=2)
    low, high = halved(problem, goal, price, 1e-4)
    proof = bound_pricing(problem, goal, price + low, high - low, 10**8)
    assert -1e-9 <= proof.upper <= high - low


@pytest.mark.parametrize("seed", range(4))
def test_the_checks_catch_a_bound_that_is_too_low(seed):
    """A proof that is too low by a thousandth of the payoff range is caught by what is attained."""
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, 3, 1, 10.0, 0.2)
    goal = problem.goal(1.0, 0.0)
    price = problem.slope(problem.target[None], goal)[0]
    points = np.concatenate([inside(rng, 3, 1000), rng.dirichlet(np.full(3, 0.5), 60_000)])
    paid = problem.value(points, goal) - points @ price
    spread = float(np.ptp(paid))
    price, paid = price + paid.max(), paid - paid.max()
    proof = bound_pricing(problem, goal, price, 1e-4 * spread, 10**9)
    top = max(0.0, proof.best)
    assert top - 1e-12 <= proof.upper
    assert proof.upper - 1e-3 * spread < top
    cell = np.tile(points[paid.argmax()], (1, 3, 1)) + 1e-4 * (np.eye(3) - 1 / 3)  # a tight cell
    cell = np.maximum(cell, 0) / np.maximum(cell, 0).sum(-1, keepdims=True)
    bounds, *_ = bound_cells(problem, goal, price, cell, 1e-9)
    weights = inside(rng, 3, 60)
    assert exceeded(problem, goal, price, cell, bounds, weights) <= ROUNDING
    assert exceeded(problem, goal, price, cell, bounds - 1e-3 * spread, weights) > 0


def test_a_spent_budget_leaves_a_valid_bound():
    rng = np.random.default_rng(0)
    problem = random_problem(rng, 4, 2, 20.0, 0.3)
    goal, price = problem.goal(1.0, 0.0), np.zeros(4)
    paid = problem.value(rng.dirichlet(np.full(4, 0.5), 20_000), goal).max()
    bounds = []
    for work in (1, 10**4, 10**6, 10**7):
        proof = bound_pricing(problem, goal, price, paid + 1e-3, work)
        assert proof.upper >= paid
        bounds.append(proof.upper)
    assert bounds[-1] <= bounds[0]


def softmax(values):
    top = max(values)
    power = [mpmath.exp(v - top) for v in values]
    return [p / sum(power) for p in power]


def utility_of_belief(game, precision):
    """F(belief) of agent 0 in mpmath, from the game's own arrays; belief over x_B, x_A and y as the prior has it."""
    prior, u, own = (np.asarray(x) for x in (game.prior, game.user_utility, game.agent_utilities[0]))
    XA, XB, Y = prior.shape
    share = prior.sum((0, 2))

    def F(belief):
        total = mpmath.mpf(0)
        for xa in range(XA):
            joint = [
                mpmath.fsum(belief[b] * mpmath.mpf(prior[xa, b, y]) / share[b] for b in range(XB)) for y in range(Y)
            ]
            mass = mpmath.fsum(joint)
            expected = [mpmath.fsum(q * mpmath.mpf(v) for q, v in zip(joint, row, strict=True)) / mass for row in u]
            odds = softmax([precision * e for e in expected])
            paid = [mpmath.fsum(q * mpmath.mpf(v) for q, v in zip(joint, row, strict=True)) for row in own]
            total += mpmath.fsum(o * w for o, w in zip(odds, paid, strict=True))
        return total

    return F, share


def closure_on_a_line(F, at):
    """Concave closure of F over P(x_B = 1) at `at`: hull of a grid, then the tangent condition solved in mpmath."""
    grid = np.linspace(0, 1, 801)
    values = np.array([float(F((1 - x, x))) for x in grid])
    hull = [0]
    for k in range(1, 801):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (values[b] - values[a]) * (grid[k] - grid[a]) > (values[k] - values[a]) * (grid[b] - grid[a]):
                break
            hull.pop()
        hull.append(k)
    right = next(k for k in hull if grid[k] >= at)
    left = max(k for k in hull if grid[k] <= at)
    f = lambda x: F((1 - x, x))  # noqa: E731
    if right - left <= 1:
        return f(mpmath.mpf(at)), 0
    slope = lambda x: mpmath.diff(f, x)  # noqa: E731
    a, b = mpmath.mpf(grid[left]), mpmath.mpf(grid[right])
    touching = (left > 0) + (right < 800)
    if touching == 2:
        a, b = mpmath.findroot(lambda x, y: [slope(x) - slope(y), f(y) - f(x) - slope(x) * (y - x)], (a, b), tol=1e-30)
    elif right < 800:
        around = (mpmath.mpf(grid[right - 1]), mpmath.mpf(grid[right + 1]))
        b = mpmath.findroot(lambda y: f(y) - f(a) - slope(y) * (y - a), around, solver="anderson", tol=1e-25)
    elif left > 0:
        around = (mpmath.mpf(grid[left - 1]), mpmath.mpf(grid[left + 1]))
        a = mpmath.findroot(lambda x: f(b) - f(x) - slope(x) * (b - x), around, solver="anderson", tol=1e-25)
    return f(a) + (f(b) - f(a)) * (at - a) / (b - a), touching


def silence(game):
    return em.no_information(game.agents, game.agent_features, 1)


def best_value(game, precision, **options):
    return em.best_response(game, silence(game), 0, em.Pooled(), em.QuantalUser(precision), bracket=1e-9, **options)


@pytest.mark.parametrize(
    ("guilty", "precision", "known"),
    [
        (0.3, 5.0, 0.38236599), (0.3, 20.0, 0.49708735), (0.3, 100.0, 0.56790980), (0.1, 3.0, None),
        (0.45, 40.0, None), (0.7, 10.0, None), (0.02, 300.0, None),
    ],
)  # fmt: skip
def test_quantal_judge_in_mpmath(guilty, precision, known):
    judge = em.catalog.judge()
    game = em.Game(np.diag([1 - guilty, guilty])[None], judge.user_utility, judge.agent_utilities)
    F, share = utility_of_belief(game, precision)
    truth, _ = closure_on_a_line(F, float(share[1]))
    if known is not None:
        assert float(truth) == pytest.approx(known, abs=1e-8)
    found = best_value(game, precision)
    assert found.value == pytest.approx(float(truth), abs=1e-8)
    assert found.value - 1e-12 <= float(truth) <= found.upper + 1e-12
    assert found.upper == pytest.approx(float(truth), abs=1e-7)


def three_steps(prior):
    """The user takes action 0, 1 or 2 as x_B = 1 becomes likely; action 1 pays the agent most."""
    user = np.array([[1.0, 0.0], [0.7, 0.7], [0.0, 1.0]])
    own = np.array([[[0.4, 0.1], [1.0, 0.9], [0.2, 0.3]]])
    return em.Game(np.diag([1 - prior, prior])[None], user, own)


def valleys(prior):
    """Of the four actions that are best in turn as x_B = 1 becomes likely, the second and the last pay the agent."""
    points = np.array([0.0, 1 / 3, 2 / 3, 1.0])
    user = np.stack([-(points**2), -((1 - points) ** 2)], 1)
    own = np.array([[[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [2.5, -0.1]]])
    return em.Game(np.diag([1 - prior, prior])[None], user, own)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [20.0, 60.0])
@pytest.mark.parametrize("make", [three_steps, valleys])
def test_interior_tangents_in_mpmath(make, precision):
    touched = []
    for prior in (0.1, 0.3, 0.5, 0.62, 0.85):
        game = make(prior)
        F, share = utility_of_belief(game, precision)
        truth, touching = closure_on_a_line(F, float(share[1]))
        touched.append(touching)
        found = best_value(game, precision)
        assert found.value == pytest.approx(float(truth), abs=1e-8)
        assert found.upper >= float(truth) - 1e-12
        assert found.upper == pytest.approx(float(truth), abs=1e-7)
    assert max(touched) == (2 if make is valleys else 1)


@pytest.mark.parametrize(("seed", "precision"), [(0, 6.0), (1, 15.0), (2, 40.0)])
def test_a_user_who_knows_something_in_mpmath(seed, precision):
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(8)).reshape(2, 2, 2) * (0.1 + np.eye(2))
    game = em.Game(prior / prior.sum(), rng.normal(size=(3, 2)), rng.normal(size=(1, 3, 2)))
    F, share = utility_of_belief(game, precision)
    truth, _ = closure_on_a_line(F, float(share[1]))
    found = best_value(game, precision)
    assert found.value == pytest.approx(float(truth), abs=1e-8)
    assert found.upper >= float(truth) - 1e-12
    assert found.upper == pytest.approx(float(truth), abs=1e-7)


@pytest.mark.slow
def test_three_states_and_the_tangent_plane():
    """A symmetric game of guessing: the user guesses x_B or takes the safe action, which alone pays the agent. By
    symmetry the closure at the uniform prior has three tangent points, permutations of one; the plane through them
    is level."""
    precision = 12.0
    user = np.vstack([np.eye(3), np.full((1, 3), 0.55)])
    own = np.array([[[0.0] * 3] * 3 + [[1.0] * 3]])
    game = em.Game(np.eye(3)[None] / 3, user, own)
    F, _ = utility_of_belief(game, precision)
    silent = float(F([mpmath.mpf(1) / 3] * 3))
    found = best_value(game, precision)
    assert found.value == pytest.approx(silent, abs=1e-8)  # silence is best for an agent that wants the safe action
    against = em.Game(game.prior, user, 1 - own)  # this agent wants a guess: by symmetry the maximum is at the vertices
    F, _ = utility_of_belief(against, precision)
    assert best_value(against, precision).value == pytest.approx(float(F([1, 0, 0])), abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "precision"), [(0, 8.0), (1, 20.0), (2, 5.0)])
def test_three_states_in_mpmath(seed, precision):
    """Beliefs of the scheme found are polished to the tangency conditions: one plane touches F at all of them, along
    every direction that stays in their face, and they average to the prior. Its height there is the closure."""
    rng = np.random.default_rng(seed)
    prior = rng.dirichlet(np.ones(9)).reshape(1, 3, 3) * (0.1 + np.eye(3))
    game = em.Game(prior / prior.sum(), rng.normal(size=(3, 3)), rng.normal(size=(1, 3, 3)))
    F, share = utility_of_belief(game, precision)
    found = best_value(game, precision)
    sent = (found.scheme * share[:, None]).T
    used = sent[sent.sum(1) > 1e-6]
    beliefs = used / used.sum(1, keepdims=True)
    groups = []
    for belief in beliefs:  # columns closer than 1e-2 are one tangent point, split by the float LP
        near = [g for g in groups if np.abs(g[0] - belief).max() < 1e-2]
        near[0].append(belief) if near else groups.append([belief])
    points = [np.mean(g, axis=0) for g in groups]
    free = [[b for b in range(3) if p[b] > 1e-7] for p in points]

    def unpack(numbers):
        plane, rest, out = list(numbers[:3]), list(numbers[3 + len(points) :]), []
        for support in free:
            inner = [rest.pop(0) for _ in support[1:]]
            belief = [mpmath.mpf(0)] * 3
            for b, x in zip(support[1:], inner, strict=True):
                belief[b] = x
            belief[support[0]] = 1 - mpmath.fsum(inner)
            out.append(belief)
        return plane, out

    def level(belief, plane):
        return F(belief) - mpmath.fsum(a * b for a, b in zip(plane, belief, strict=True))

    def conditions(*numbers):
        plane, beliefs = unpack(numbers)
        rows = [level(belief, plane) for belief in beliefs]
        weights = numbers[3 : 3 + len(points)]
        rows += [mpmath.fdot(weights, [p[b] for p in beliefs]) - mpmath.mpf(share[b]) for b in range(3)]
        for belief, support in zip(beliefs, free, strict=True):
            for b in support[1:]:

                def along(h, belief=belief, b=b, first=support[0]):
                    moved = list(belief)
                    moved[b], moved[first] = moved[b] + h, moved[first] - h
                    return level(moved, plane)

                rows.append(mpmath.diff(along, 0))
        return rows

    plane = np.linalg.lstsq(np.array(points), [float(F(p)) for p in points], rcond=None)[0]
    weights = np.linalg.lstsq(np.array(points).T, share, rcond=None)[0]
    start = [*plane, *weights, *(p[b] for p, support in zip(points, free, strict=True) for b in support[1:])]
    with mpmath.workdps(30):
        solved = mpmath.findroot(conditions, [mpmath.mpf(float(x)) for x in start], tol=1e-20, maxsteps=30)
        plane = list(solved)[:3]
        truth = float(mpmath.fsum(a * mpmath.mpf(b) for a, b in zip(plane, share, strict=True)))
    grid = np.random.default_rng(0).dirichlet(np.full(3, 0.5), 200)
    assert max(float(level(list(map(float, mu)), [float(x) for x in plane])) for mu in grid) <= 1e-12  # it is above F
    assert min(list(solved)[3 : 3 + len(points)]) > 0
    assert found.value == pytest.approx(truth, abs=1e-8)
    assert found.upper >= truth - 1e-12
    assert found.upper == pytest.approx(truth, abs=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_few_payoffs_at_stake_are_bracketed_too(seed):
    """The tighter the bracket asked for, the tighter the bracket, down to the price tolerance (1e-8 of the spread)."""
    rng = np.random.default_rng(seed)
    game = random_game(rng, XB=2)
    flat = em.Game(game.prior, 1e-3 * np.asarray(game.user_utility), game.agent_utilities)
    found = em.best_response(flat, rng.dirichlet(np.ones(2), (2, 2)), 0, em.Pooled(), em.QuantalUser(2.0))
    assert found.upper - found.value <= 1e-6
