"""The verifier of proofs about quantal users: interval arithmetic against mpmath, and bounds of cells that are attacked
by beliefs."""

import itertools
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from support.beliefs import pooled_problem
from support.games import random_game, reduced

import emalign_jax as em
from emalign_jax.exact.proofs import files, verify_quantal

pytestmark = pytest.mark.host_only

flint = pytest.importorskip("flint")


@pytest.fixture(autouse=True)
def _many_bits():
    with flint.ctx.workprec(verify_quantal.BITS):
        yield


def exact_game(game, schemes, precision):
    """The verifier's game."""
    numbers = {"prior": game.prior, "user": game.user_utility, "agents": game.agent_utilities}
    data = {name: files.fractions(np.asarray(x, float)) for name, x in numbers.items()}
    return verify_quantal.Game(data | {"rule": {"precision": str(Fraction(precision))}}, files.fractions(schemes))


# Values against mpmath.


def payoffs_in_mpmath(game, schemes, precision):
    """The user's value and the agents' payoffs, by the definitions of sections 1 and 2.1, with 50 digits."""
    prior, u, U = (np.asarray(x, float) for x in (game.prior, game.user_utility, game.agent_utilities))
    (XA, XB, Y), K, M = prior.shape, len(U), schemes.shape[2]
    rows = [[[mpmath.mpf(p) / mpmath.fsum(map(mpmath.mpf, row)) for p in row] for row in s] for s in schemes.tolist()]
    paid = [mpmath.mpf(0)] * (K + 1)
    for x, message in itertools.product(range(XA), itertools.product(range(M), repeat=K)):
        joint = [
            mpmath.fsum(mpmath.fprod(rows[j][b][s] for j, s in enumerate(message)) * prior[x, b, y] for b in range(XB))
            for y in range(Y)
        ]
        if not any(joint):
            continue
        totals = [[mpmath.fsum(p * v for p, v in zip(joint, row, strict=True)) for row in own] for own in (u, *U)]
        powers = [mpmath.exp(mpmath.mpf(precision) * value / mpmath.fsum(joint)) for value in totals[0]]
        for k, own in enumerate(totals):
            paid[k] += mpmath.fsum(q * v for q, v in zip(powers, own, strict=True)) / mpmath.fsum(powers)
    return paid


@pytest.mark.parametrize("precision", [0.5, 50.0, 3000.0])
def test_payoffs_contain_those_of_mpmath(precision):
    rng = np.random.default_rng(int(precision))
    for K, XA, XB in ((1, 2, 2), (2, 1, 3), (3, 2, 2)):
        game = random_game(rng, K=K, XA=XA, XB=XB)
        schemes = rng.dirichlet(np.full(XB, 0.3), (K, XB))
        schemes[0, 0] = np.eye(schemes.shape[2])[0]  # Types that are impossible at some beliefs.
        exact = exact_game(game, schemes, precision)
        with mpmath.workdps(50):
            truth = [mpmath.nstr(paid, 45) for paid in payoffs_in_mpmath(game, schemes, precision)]
        for k, own in enumerate((exact.g, *exact.G)):
            i = max(k - 1, 0)
            found = verify_quantal.Payoffs(exact, i, own).paid(exact.schemes[i])
            assert abs(found - flint.arb(truth[k])) < 1e-30
            assert found.rad() < 1e-30


def test_a_belief_of_two_actions_by_hand():
    """The judge convicts with probability 1 / (1 + exp(precision (1 - 2 mu)))."""
    game = em.Game(np.array([[[0.75, 0], [0, 0.25]]]), np.eye(2), np.array([[[0.0, 0.0], [1.0, 1.0]]]))
    exact = exact_game(game, np.ones((1, 2, 1)), 5.0)
    payoffs = verify_quantal.Payoffs(exact, 0, exact.G[0])
    for guilty in (0.0, 0.3, 0.5, 1.0):
        at = flint.arb(guilty)
        assert payoffs.at([1 - at, at]).paid.overlaps(1 / (1 + (5 * (1 - 2 * at)).exp()))


# Bounds of cells.


def random_cells(rng, B, count):
    """Sub-simplices: the whole, wide, small, slivers, and such as touch vertices and faces."""
    cells = [np.eye(B)]
    while len(cells) < count:
        kind, corners = rng.integers(4), rng.dirichlet(np.full(B, 10.0 ** rng.uniform(-1, 0.5)), B)
        if kind == 1:
            centre = rng.dirichlet(np.ones(B))
            corners = np.maximum(centre + 10.0 ** rng.uniform(-6, -1) * (corners - 1 / B), 0)
        elif kind == 2:
            corners[: rng.integers(1, B)] = np.eye(B)[rng.integers(B)]
            corners[-1] = np.eye(B)[rng.integers(B)] * 0.9 + 0.1 * corners[-1]
        elif kind == 3:
            corners[:, rng.integers(B)] = 0
        if (corners.sum(1) > 0).all():
            cells.append(corners / corners.sum(1, keepdims=True))
    return cells


def cases(count):
    """(verifier's payoffs, the same problem in NumPy, random numbers) of agent 0 in random games."""
    for seed in range(count):
        rng = np.random.default_rng([7, seed])
        K, XB, XA, precision = 2 + seed % 2, 2 + seed % 3, 1 + seed % 2, float(10.0 ** rng.uniform(-0.5, 2.5))
        game = random_game(rng, K=K, XB=XB, XA=XA, A=int(rng.integers(2, 5)))
        schemes = rng.dirichlet(np.full(2, rng.choice([1.0, 0.1, 0.02])), (K, XB))
        exact = exact_game(game, schemes, precision)
        problem = pooled_problem(reduced(game), schemes, 0, em.QuantalUser(precision))
        yield verify_quantal.Payoffs(exact, 0, exact.G[0]), problem, rng


def balls(row):
    return [flint.arb(float(x)) for x in row]


def beliefs_of(rng, V, count=300):
    """Weights of a cell's vertices: everywhere, on edges, and close to every vertex."""
    ends = [
        (1 - t) * np.eye(V)[i] + t * np.eye(V)[j] for i in range(V) for j in range(V) for t in 10.0 ** -np.arange(6)
    ]
    lines_ = [
        (1 - t) * np.eye(V)[i] + t * np.eye(V)[j] for i in range(V) for j in range(i) for t in np.linspace(0, 1, 21)
    ]
    return np.concatenate([rng.dirichlet(np.full(V, c), count) for c in (0.1, 0.5, 1.0)] + [ends, lines_])


def attack_cells(count):
    """For random cells and prices, the least room with which the verifier closes a cell: no belief met in the cell pays
    more. Returns how many were closed by first order alone, and by edges."""
    closed = [0, 0]
    for payoffs, problem, rng in cases(count):
        B = len(problem.target)
        for corners in random_cells(rng, B, 8):
            vertices = [payoffs.at(balls(row)) for row in corners]
            price = rng.normal(size=B)
            paid = problem.value(corners, problem.goal(1.0, 0.0)) - corners @ price
            size = 1e-9 + np.ptp(paid) + 0.01 * problem.spread
            for room in size * 2.0 ** np.arange(-30, 6):
                cell = verify_quantal.Cell(payoffs, balls(price + paid.max() + room), vertices)
                if cell.closed:
                    break
            assert cell.closed
            closed[bool(cell.edges)] += 1
            points = beliefs_of(rng, B) @ corners
            excess = problem.value(points, problem.goal(1.0, 0.0)) - points @ price - paid.max()
            assert excess.max() <= room + 1e-10
    return closed


def test_no_belief_of_a_closed_cell_pays_more_than_its_price():
    assert min(attack_cells(2)) > 1


@pytest.mark.slow
def test_no_belief_of_many_closed_cells_pays_more_than_its_price():
    assert min(attack_cells(60)) > 50


@pytest.mark.slow
def test_each_bound_of_the_excess_holds_and_some_are_nearly_met():
    """First order, and each choice of vertices that are treated separately, for each type on its own."""
    nearest = []
    for payoffs, problem, rng in cases(40):
        B = len(problem.target)
        for corners in random_cells(rng, B, 4):
            vertices = [payoffs.at(balls(row)) for row in corners]
            weights = beliefs_of(rng, B, 60)
            for t, (mass, user, goal) in enumerate(payoffs.types):
                responses = [v.types[t] for v in vertices]
                if sum(each is not None for each in responses) < 2:
                    continue
                excess = verify_quantal.Excess(payoffs, responses)
                D, g, own = (np.array([[float(x) for x in row] for row in rows]) for rows in ([mass], user, goal))
                weights_at = weights[:, excess.at]
                points = weights @ corners
                D, g, own = (points @ D.T)[:, 0], points @ g.T, points @ own.T
                power = np.exp(float(payoffs.rate) * (g - g.max(1, keepdims=True)) / np.maximum(D, 1e-300)[:, None])
                paid = (power * own).sum(1) / power.sum(1)
                ends = np.array([float(each.mass * each.mean) for each in excess.some])
                over, x = paid - weights_at @ ends, weights_at * [float(each.mass) for each in excess.some]
                first = weights_at @ [float(v) for v in excess.first]
                assert (over <= first + 1e-10).all()
                edges = excess.edges()
                bounds = [first]
                for count in range(len(excess.at)):
                    for apart in itertools.combinations(range(len(excess.at)), count):
                        parts = [
                            x[:, i] * x[:, j] / np.maximum(x[:, i] + x[:, j], 1e-300)
                            * float(third if {i, j} & set(apart) else second)
                            for i, j, second, third in edges
                        ]  # fmt: skip
                        bounds.append(np.sum(parts, 0))
                        assert (over <= bounds[-1] + 1e-10).all()
                some = over > 1e-6
                nearest.append(np.max(over[some] / np.min(bounds, 0)[some], initial=0.0))
    assert max(nearest) > 0.5
