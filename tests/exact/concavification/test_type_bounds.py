"""The four bounds of one type on a cell, each against beliefs of the cell; and the search that uses them."""

import os

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from support.beliefs import pooled_problem
from support.games import random_game

import emalign_jax as em
from emalign_jax.exact.concavification import branch_and_bound, cells, type_bounds

pytestmark = pytest.mark.host_only
ROUNDING = 1e-10  # of payoffs of size 1 to 10
SPREADS = (1.0, 0.3, 0.05, 0.01)  # of the rivals' rows: from interior to nearly deterministic


def draw(n):
    """A problem, a price, a cell of any size (its vertices are often those of the simplex), and who drew them."""
    rng = np.random.default_rng(n)
    B, A, K = int(rng.integers(2, 6)), int(rng.integers(2, 5)), int(rng.integers(2, 4))
    game = random_game(rng, K=K, XA=int(rng.integers(1, 3)), XB=B, A=A)
    schemes = rng.dirichlet(np.full(2, SPREADS[n % 4]), (K, B))
    user = em.QuantalUser(float(10 ** rng.uniform(-1, 2.5)))
    problem = pooled_problem(em.reduce_game(game, np), schemes, 0, user)
    size = 10 ** rng.uniform(-4, 0)
    corners = (1 - size) * rng.dirichlet(np.ones(B)) + size * rng.dirichlet(np.full(B, 0.3), B)
    corners = np.where(rng.uniform(size=(B, 1)) < 0.3, np.eye(B), corners)
    return rng, problem, rng.normal(size=B), corners / corners.sum(1, keepdims=True)


def block(problem, price, corners, target):
    """The cell as `cells.py` wants it."""
    one = branch_and_bound._Search(problem.alone(problem.goal(1.0, 0.0)), price[None], np.array([target]), False)
    B, T, A = one.size
    parts = np.split(one.rows[0], np.cumsum([B * T, B * A * T, B * A * T, B, 1]))
    shapes = (B, T, 1), (B, A, T, 1), (B, A, T, 1), (B, 1), (1,), (1,)
    return cells.Cells(corners[..., None], *(x.reshape(s) for x, s in zip(parts, shapes, strict=True)))


def by_type(problem, beliefs):
    """D_t psi_t [N, T] at beliefs [N, B]."""
    *_, response = problem.responses(beliefs)
    own = (beliefs @ problem.own_payoff.reshape(len(problem.target), -1)).reshape(response.shape)
    return (response * own).sum(2)


def most_exceeded(call, V, rng):
    """The largest value of `call` at weights [N, V] of the vertices: random, on edges, and climbed from the best."""
    share = np.concatenate([np.linspace(0, 1, 21), 10.0 ** -np.arange(2.0, 9)])[:, None]
    edges = [(1 - share) * np.eye(V)[i] + share * np.eye(V)[j] for i in range(V) for j in range(V) if i != j]
    weights = np.concatenate([rng.dirichlet(np.full(V, c), 150) for c in (0.1, 0.4, 1.0)] + edges)
    values = call(weights)
    start = np.log(np.maximum(weights[values.argmax()], 1e-9))
    # Nelder-Mead needs no slopes, which are steep near vertices where a type hardly occurs.
    found = minimize(lambda x: -call(softmax(x))[0], start, method="Nelder-Mead", options={"maxfev": 150})
    return max(float(values.max()), -float(found.fun))


def softmax(x):
    power = np.exp(x - x.max())
    return (power / power.sum())[None]


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_no_belief_pays_more_than_any_of_the_bounds(block):
    """One game of each block, in the harder run 50: 2,000 games."""
    for n in range(50 * block, 50 * block + (50 if os.environ.get("EMALIGN_NIGHTLY") == "1" else 1)):
        attack(n)


def attack(n):
    """Of each type the first bound and the fourth with any reference; and of the sum the bound of the cell."""
    rng, problem, price, corners = draw(n)
    at = block(problem, price, corners, 1e-6)
    V, goal = len(corners), problem.goal(1.0, 0.0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        mass, E, W, response = posterior = cells._posterior(at, xp=np)
        mean = [sum(response[a][v] * W[a][v] for a in range(len(E))) for v in range(V)]
        first, *_ = type_bounds.by_order(at.precision, *posterior, mean, xp=np)
        logs, tilted = type_bounds.tilts(at.precision, *posterior, mean, xp=np)
        anywhere = list(rng.dirichlet(np.full(V, 0.5)))
        entropy = type_bounds.away(anywhere, mass, logs, xp=np)
        bound, values, *_ = cells.bound(at, np)
    excesses = [[m * f for m, f in zip(mass, first, strict=True)]]
    excesses += [
        [m * (x + inverse * y) for m, x, y in zip(mass, moved, entropy, strict=True)] for inverse, moved in tilted
    ]
    vertices = by_type(problem, corners)
    for excess in excesses:
        linear = vertices + np.array(excess)[..., 0]  # [V, T]
        for t in range(linear.shape[1]):
            gap = most_exceeded(lambda w, t=t, u=linear: by_type(problem, w @ corners)[:, t] - w @ u[:, t], V, rng)
            assert gap <= ROUNDING
    paid = most_exceeded(lambda w: problem.value(w @ corners, goal) - w @ corners @ price, V, rng)
    assert paid <= bound[0] + ROUNDING
    np.testing.assert_allclose(values[:, 0], problem.value(corners, goal) - corners @ price, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", range(20))
def test_the_second_bound_is_the_curvature_of_small_cells(n):
    """On a tiny edge, half of minus the second derivative by differences, where that is positive."""
    rng = np.random.default_rng(n)
    A, L, step = int(rng.integers(2, 5)), float(rng.uniform(0.5, 20)), 1e-3
    E, W, x, y = rng.normal(size=(4, A))

    def psi(t):
        power = np.exp(L * (E + t * x))
        return power @ (W + t * y) / power.sum()

    curved = -(psi(step) - 2 * psi(0.0) + psi(-step)) / step**2 / 2
    small = 1e-5
    ends = [[[np.array([[z[a] + s * small * d[a]]]) for s in (0, 1)] for a in range(A)] for z, d in ((E, x), (W, y))]
    response = [[np.exp(L * (e - E.max())) for e in own] for own in ends[0]]
    whole = [sum(own[v] for own in response) for v in range(2)]
    response = [[own[v] / whole[v] for v in range(2)] for own in response]
    mean = [sum(response[a][v] * ends[1][a][v] for a in range(A)) for v in range(2)]
    ones = [np.ones((1, 1))] * 2
    _, second, _ = type_bounds.by_order(L, ones, *ends, response, mean, xp=np)
    scale = 1 + L**2 * np.ptp(x) ** 2 * np.ptp(W)
    assert float(second[0][0, 0]) / small**2 == pytest.approx(max(curved, 0), abs=1e-2 * scale)
    assert float(second[0][0, 0]) / small**2 >= curved - 1e-4 * scale


def hard(n):
    """A problem of four x_B among nearly deterministic rivals, with prices that no belief exceeds by much, and some by
    nothing."""
    rng = np.random.default_rng(n)
    game = random_game(rng, K=2, XA=1, XB=4, A=4)
    schemes = rng.dirichlet(np.full(4, 0.05), (2, 4))
    problem = pooled_problem(em.reduce_game(game, np), schemes, 0, em.QuantalUser(20.0))
    goal = problem.goal(1.0, 0.0)
    price, alone = problem.slope(problem.target[None], goal)[0], problem.alone(goal)
    while (best := bounded(alone, price, 1e-6, 10**6).best[0]) > 5e-7:
        price = price + best
    return alone, price


def bounded(problem, price, target, work, loosest=None):
    loosest = None if loosest is None else np.array([loosest])
    return branch_and_bound.bound_pricing(
        problem, price[None], np.array([target]), np.array([work]), compiled=False, loosest=loosest
    )


def test_looser_bounds_are_proved_first():
    """Where work runs out, the loosest bound of use is left; the target alone leaves none."""
    problem, price = hard(0)
    target, loosest = 1e-5, 1e-2
    price = price + 1e-4  # Nothing refutes.
    enough = int(bounded(problem, price, loosest, 10**6).work[0])
    whole = bounded(problem, price, target, 10**6, loosest)
    assert whole.upper[0] <= target
    assert whole.work[0] > 2 * enough
    found = bounded(problem, price, target, enough + 1, loosest)
    assert target < found.upper[0] <= loosest
    assert bounded(problem, price, target, enough + 1).upper[0] > loosest


def test_a_belief_above_half_of_the_target_refutes():
    problem, price = hard(1)
    target = 1e-3
    shifted = price - 0.7 * target
    found = bounded(problem, shifted, target, 10**6)
    assert branch_and_bound.REFUTES * target < found.best[0] <= target
    assert found.upper[0] >= found.best[0]


@pytest.mark.slow
def test_cells_do_not_become_flat():
    """This profile was not proved with any work while only edges at the vertex that binds were cut: three vertices of a
    cell came to lie on a line, and the shorter edges between them were cut again and again."""
    rng = np.random.default_rng(0)
    schemes = [rng.dirichlet(np.full(5, (1.0, 0.3, 0.05)[k % 3]), (2, 5)) for k in range(27)][-1]
    drawn = em.random_games(
        jax.random.key(0), 6, family="opposed", agents=2, agent_features=5, actions=5, information_worth=0.0
    )
    found = em.certify(drawn[2], schemes, em.Pooled(), em.QuantalUser(20.0), tolerance=1e-3)
    assert found.closed
