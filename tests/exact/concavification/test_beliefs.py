"""Concavification against tangents, dense grids and linprog; slopes, lattices and kinks."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from support.beliefs import concavify, monopoly_problem, pooled_problem
from support.games import random_game

import emalign_jax as em
from emalign_jax.exact.concavification import quantal
from emalign_jax.exact.concavification.kinks import kinks
from emalign_jax.exact.concavification.lattice import GRID, simplex_grid, simplex_lattice
from emalign_jax.exact.concavification.problems import joined
from emalign_jax.exact.obedience.program import ObedienceLP
from emalign_jax.exact.responses import pooled_payoffs

pytestmark = pytest.mark.host_only


def monopoly(game, user, agent=0):
    small = em.reduce_game(game, np)
    return monopoly_problem(small, agent, user)


def test_rational_judge():
    found = concavify(monopoly(em.catalog.judge(), em.RationalUser("agents")), np.eye(2))
    assert found.value == pytest.approx(0.6, abs=1e-5)  # the tie tolerance 1e-6, times the slope 2


def grid_optimum(game, agent, precision, sign=1.0, value_at_least=None, parts=40):
    """linprog over a dense grid of beliefs, payoffs of the quantal user from the game's own arrays."""
    p, u, own = game.prior, game.user_utility, game.agent_utilities[agent]
    beliefs = np.array([[i, j, parts - i - j] for i in range(parts + 1) for j in range(parts + 1 - i)]) / parts
    F, V = np.zeros(len(beliefs)), np.zeros(len(beliefs))
    given = p / p.sum((0, 2))[None, :, None]
    for xa in range(len(p)):
        joint = beliefs @ given[xa]  # [N, Y], sums to P(x_A)
        mass = joint.sum(1)
        power = np.exp(precision * ((joint @ u.T) / mass[:, None]))
        choice = power / power.sum(1, keepdims=True)
        F += (choice * (joint @ own.T)).sum(1)
        V += (choice * (joint @ u.T)).sum(1)
    extra = {} if value_at_least is None else {"A_ub": [-V], "b_ub": [-value_at_least]}
    result = linprog(-sign * F, A_eq=beliefs.T, b_eq=p.sum((0, 2)), **extra)
    return -sign * result.fun if result.status == 0 else np.nan


@pytest.mark.parametrize("XA", [1, 2])
@pytest.mark.parametrize("precision", [2.0, 15.0])
@pytest.mark.parametrize("seed", range(3))
def test_three_states_against_a_dense_grid(seed, precision, XA):
    game = random_game(seed, XA=XA)
    problem = monopoly(game, em.QuantalUser(precision))
    small = em.reduce_game(game, np)
    best, worst = concavify(problem, np.eye(3)), concavify(problem, np.eye(3), sign=-1.0)
    # any set of beliefs bounds from below; 1e-8 of the spread is left unpriced
    assert best.value >= grid_optimum(game, 0, precision) - 1e-7
    assert best.value <= small.agents[0].max(-1).sum()
    assert worst.value <= grid_optimum(game, 0, precision, sign=-1.0) + 1e-7
    assert worst.value >= small.agents[0].min(-1).sum()
    mirrored = em.Game(game.prior, game.user_utility, -game.agent_utilities)
    assert concavify(monopoly(mirrored, em.QuantalUser(precision)), np.eye(3)).value == pytest.approx(
        -worst.value, abs=1e-7
    )
    for found in (best, worst):  # and the scheme attains it
        _, payoff = pooled_payoffs(
            small._replace(agents=small.agents[:1]), found.scheme[None], em.QuantalUser(precision)
        )
        assert payoff[0] == pytest.approx(found.value, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_value_at_least(seed):
    game, precision = random_game(seed), 10.0
    problem = monopoly(game, em.QuantalUser(precision))
    free = concavify(problem, np.eye(3))
    low = problem.payoffs(problem.target[None])[1][0]
    high = problem.payoffs(np.diag(problem.target))[1].sum()
    for value in np.linspace(low, high, 4):
        found = concavify(problem, np.eye(3), value_at_least=value - 1e-9)
        assert found.value <= free.value + 1e-8
        assert found.value >= grid_optimum(game, 0, precision, value_at_least=value) - 1e-7
        own, user = problem.payoffs((found.scheme * problem.prior[:, None]).T)
        assert user.sum() >= value - 1e-7
        assert own.sum() == pytest.approx(found.value, abs=1e-9)
        assert found.scheme.shape[1] <= 4  # XB + 1
    impossible = concavify(problem, np.eye(3), value_at_least=game.user_utility.max() + 1)
    assert np.isnan(impossible.value)


@pytest.mark.parametrize("user", [em.QuantalUser(6.0), em.RationalUser("agents")], ids=["quantal", "rational"])
def test_an_impossible_feature_changes_nothing(user):
    game = random_game(5)
    more = em.Game(np.insert(game.prior, 1, 0, axis=1), game.user_utility, game.agent_utilities)
    small = concavify(monopoly(game, user), np.eye(3))
    found = concavify(monopoly(more, user), np.eye(4))
    assert found.value == pytest.approx(small.value, abs=1e-9)
    assert found.scheme.shape[0] == 4
    assert np.isfinite(found.scheme).all()
    np.testing.assert_allclose(found.scheme.sum(1), 1, atol=1e-9)


@pytest.mark.parametrize("user", [em.QuantalUser(6.0), em.RationalUser("agents")], ids=["quantal", "rational"])
def test_agents_who_know_nothing(user):
    """XB = 1, or only one x_B that happens: every scheme pays the same, and nothing breaks."""
    for prior in ([[[0.4, 0.6]]], [[[0.4, 0.6], [0, 0]]]):
        game = em.Game(np.array(prior), np.eye(2), np.array([[[1.0, 0], [0, 0]]]))
        for protocol in (em.Pooled(), em.Selection()):
            certificate = em.certify(game, np.full((1, len(prior[0]), 2), 0.5), protocol, user)
            assert (
                certificate.result <= em.Result.UNREFUTED
            )  # the upper bound in Pooled lets the agent choose the action
            np.testing.assert_allclose(certificate.gain_lower, 0, atol=1e-9)
            assert certificate.user == pytest.approx(float(certificate.full_information), abs=1e-12)


@pytest.mark.parametrize("XA", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_rational_user_against_the_obedience_lp(seed, XA):
    """Two formulations of the same optimum; the belief LP may use the tie tolerance, here 1e-9."""
    game = random_game(seed, XA=XA)
    small = em.reduce_game(game, np)
    found = concavify(monopoly(game, em.RationalUser("agents", 1e-9)), np.eye(3))
    assert found.value == pytest.approx(ObedienceLP(small).best(small.agents[0]).value, abs=1e-6)


@pytest.mark.parametrize("goal", [(1.0, 0.0), (0.0, 1.0), (-0.7, 2.0)])
def test_slope_is_the_gradient(goal):
    game = random_game(1, K=3, XA=2)
    small = em.reduce_game(game, np)
    rng = np.random.default_rng(0)
    problem = pooled_problem(small, rng.dirichlet(np.ones(2), (3, 3)), 1, em.QuantalUser(4.0))
    beliefs = rng.dirichlet(np.ones(3), 10) * rng.uniform(0.1, 2, (10, 1))  # of any mass
    wanted = problem.goal(*goal)
    step = 1e-6
    central = [
        (problem.value(beliefs + step * e, wanted) - problem.value(beliefs - step * e, wanted)) / (2 * step)
        for e in np.eye(3)
    ]
    # rounding 1e-16 / step, and step^2 times third derivatives of size L^2 / mass^2
    np.testing.assert_allclose(problem.slope(beliefs, wanted), np.stack(central, 1), rtol=0, atol=1e-6)
    own, user = problem.payoffs(beliefs)
    np.testing.assert_allclose(problem.value(beliefs, wanted), goal[0] * own + goal[1] * user, rtol=0, atol=1e-12)


def climbs(count, XB):
    """Problems of one size with different users, goals and prices, and where to climb from."""
    rng = np.random.default_rng(XB)
    for k in range(count):
        small = em.reduce_game(random_game(k, K=2, XB=XB), np)
        user = em.QuantalUser(float(2 + 3 * k))
        problem = pooled_problem(small, rng.dirichlet(np.ones(2), (2, XB)), 0, user)
        yield problem, problem.goal(*rng.normal(size=2)), rng.normal(size=XB), rng.dirichlet(np.ones(XB), 7)


def climbed(cases, starts, xp):
    """Where climbs of all cases at once end [G, R, B], and their excess [G, R]."""
    setting = quantal.setting(
        joined([p.alone(goal) for p, goal, *_ in cases]), np.array([price for *_, price, _ in cases])
    )
    with jax.enable_x64(True):
        ends, excess = quantal.ascend(setting, np.moveaxis(starts, -1, 0), 0.1, xp)
    return np.moveaxis(np.asarray(ends), 0, -1), np.asarray(excess)


@pytest.mark.slow
@pytest.mark.parametrize("xp", [np, jnp])
def test_climbs_are_those_of_each_problem_alone(xp):
    cases = list(climbs(4, 3))
    starts = np.array([start for *_, start in cases])
    ends, excess = climbed(cases, starts, xp)
    for n, (problem, goal, price, start) in enumerate(cases):
        alone = climbed(cases[n : n + 1], starts[n : n + 1], np)
        np.testing.assert_allclose(excess[n], alone[1][0], rtol=0, atol=1e-6)  # Rounding decides where a step ends.
        paid = problem.value(ends[n], goal) - ends[n] @ price
        np.testing.assert_allclose(excess[n], paid, rtol=0, atol=1e-12)
        assert (paid >= problem.value(start, goal) - start @ price - 1e-12).all()


@pytest.mark.parametrize("xp", [np, jnp])
def test_slopes_of_a_batch(xp):
    cases = list(climbs(3, 4))
    starts = np.moveaxis(np.array([start for *_, start in cases]), -1, 0)
    setting = quantal.setting(
        joined([p.alone(goal) for p, goal, *_ in cases]), np.array([price for *_, price, _ in cases])
    )
    with jax.enable_x64(True):
        found = np.asarray(quantal.slope(setting, starts, xp))
    for n, (problem, goal, price, start) in enumerate(cases):
        np.testing.assert_allclose(found[:, n].T, problem.slope(start, goal) - price, rtol=0, atol=1e-11)


def test_the_best_climb_ends_at_the_maximum_on_a_line():
    share = np.linspace(0, 1, 20_001)
    line = np.stack([share, 1 - share], 1)
    for problem, goal, price, start in climbs(4, 2):
        paid = problem.value(line, goal) - line @ price
        ends, _ = climbed([(problem, goal, price, start)], line[None, ::500], np)
        _, excess = climbed([(problem, goal, price, start)], ends, np)
        assert excess.max() >= paid.max() - 1e-12
        assert excess.max() <= paid.max() + 1e-4  # a step of the line, times slopes of up to L times payoffs


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 8])
def test_lattice(dimension):
    lattice = simplex_lattice(dimension)
    parts = round(1 / lattice.spacing)
    assert len(lattice.points) == math.comb(parts + dimension - 1, dimension - 1) <= GRID
    if dimension > 1:
        assert math.comb(parts + dimension, dimension - 1) > GRID  # as fine as it may be
    np.testing.assert_allclose(lattice.points.sum(1), 1, atol=1e-12)
    assert len(np.unique(np.round(lattice.points * parts), axis=0)) == len(lattice.points)
    one = np.eye(dimension)
    steps = [one[i] - one[j] for i, j in itertools.permutations(range(dimension), 2)]
    wanted = lattice.points[:, None] + np.array(steps).reshape(-1, dimension) / parts
    inside = (wanted > -1e-9).all(-1)
    reached = lattice.points[lattice.neighbours] if dimension > 1 else wanted
    there = np.where(inside[..., None], wanted, lattice.points[:, None])
    np.testing.assert_allclose(reached, there, atol=1e-12)


def test_lattice_keeps_the_vertices():
    assert sorted(map(tuple, simplex_grid(9, 5))) == sorted(map(tuple, np.eye(9)))


def kinks_of(problem):
    found = kinks(problem.alone(problem.goal(1.0, 0.0)), 4000)[0]
    return np.unique(np.round(found, 9), axis=0)


def test_kinks_are_indifference_points():
    judge = kinks_of(monopoly(em.catalog.judge(), em.QuantalUser(5.0)))
    np.testing.assert_allclose(sorted(judge[:, 0]), [0, 0.5, 1], atol=1e-12)
    game = random_game(2, XA=2)
    found = kinks_of(monopoly(game, em.RationalUser()))
    u, given = game.user_utility, game.prior / game.prior.sum((0, 2))[None, :, None]
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)
    interior = 0
    for belief in found:
        meet = int((belief < 1e-8).sum())
        interior += meet == 0
        for xa in range(2):
            expected = u @ (belief @ given[xa])
            meet += sum(abs(expected[a] - expected[b]) < 1e-7 for a in range(3) for b in range(a))
        assert meet >= 2  # XB - 1 of them
    assert interior > 0
