"""Upper bounds for a rational user: MILP against enumeration, grids, tie rules and limits."""

import itertools

import numpy as np
import pytest
from support.beliefs import BeliefProblem, monopoly_problem, pooled_problem
from support.games import random_game, switched

import emalign_jax as em
from emalign_jax.exact.concavification import belief_milp, rational_lps
from emalign_jax.exact.concavification.by_user import belief_lps
from emalign_jax.exact.responses import pooled_payoffs
from emalign_jax.users.rational import TIES

pytestmark = pytest.mark.host_only

RATIONAL = em.RationalUser("agents")
TIE = 1e-5  # the user's tie tolerance, 1e-6 of the range, may be used on one side and not on the other


def rational_problem(seed, XA=1, XB=3, K=2, purity=1.0, ties="agents"):
    game = random_game(seed, K, XA, XB)
    small = em.reduce_game(game, np)
    schemes = np.random.default_rng(seed).dirichlet(np.full(2, purity), (K, XB))
    return pooled_problem(small, schemes, 0, em.RationalUser(ties))


def bound_pricing(problem, sign, price, target=1e-7):
    """The bound by enumeration or, where edges are too many, by a MILP, and whether all edges are known."""
    lps = belief_lps(problem.alone(problem.goal(sign, 0.0), sign), np.eye(len(price))[None])
    lps.price[0] = price
    found = lps.bound(np.zeros(1, int), np.array([target]), np.array([10**9]))
    return belief_milp.PricingBound(found.upper[0], found.best[0], found.at[0, 0], found.work[0]), lps._edges[0][2]


@pytest.mark.parametrize("purity", [1.0, 0.05])
@pytest.mark.parametrize(("seed", "XA", "XB"), [(0, 1, 3), (1, 1, 3), (2, 2, 3), (3, 1, 4)])
def test_the_milp_agrees_with_enumeration(seed, XA, XB, purity):
    problem = rational_problem(seed, XA, XB, purity=purity)
    rng = np.random.default_rng(seed)
    for sign in (1.0, -1.0):
        price, goal = rng.normal(size=XB), problem.goal(sign, 0.0)
        listed, known = bound_pricing(problem, sign, price)
        assert known or purity < 1
        solved = belief_milp.bound_by_milp(problem.alone(goal, sign), price, 1e-7, 10**9)
        assert solved.best == pytest.approx(listed.best, abs=TIE)
        assert solved.upper == pytest.approx(listed.upper, abs=TIE)
        assert solved.work > 0
        points = np.concatenate([np.eye(XB), rng.dirichlet(np.full(XB, 0.5), 20_000)])
        paid = (problem.value(points, goal) - points @ price).max()
        assert paid <= min(listed.upper, solved.upper) + TIE
        assert paid >= listed.best - 0.3  # a coarse sample comes near: the bounds are not vacuous


@pytest.mark.parametrize("XA", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_whole_brackets_by_milp_and_by_enumeration(seed, XA, monkeypatch):
    game = random_game(seed, XA=XA)
    schemes = np.random.default_rng(seed).dirichlet(np.ones(2), (2, 3))
    listed = em.best_response(game, schemes, 0, em.Pooled(), RATIONAL)
    monkeypatch.setattr(rational_lps, "edges", lambda problems: (np.empty((len(problems.target), 0, 3)), [False]))
    called = []
    solve = rational_lps.bound_by_milp
    monkeypatch.setattr(rational_lps, "bound_by_milp", lambda *args: called.append(1) or solve(*args))
    solved = em.best_response(game, schemes, 0, em.Pooled(), RATIONAL)
    assert called
    assert listed.closed
    assert solved.closed
    assert solved.value == pytest.approx(listed.value, abs=1e-4)
    assert solved.value - TIE <= listed.upper
    assert listed.value - TIE <= solved.upper


@pytest.mark.slow
@pytest.mark.parametrize(("K", "M", "A"), [(2, 8, 4), (3, 3, 3)])
def test_the_belief_of_a_milp_survives_rounding(K, M, A):
    """It lies where several types are just tied; evaluated there to the last digit, one tie or other is lost."""
    game = random_game(0, K=K, XB=4, A=A)
    schemes = np.random.default_rng(0).dirichlet(np.ones(M), (K, 4))
    found = em.best_response(game, schemes, 0, em.Pooled(), RATIONAL)
    assert found.closed
    small = em.reduce_game(game, np)
    paid = pooled_payoffs(small, switched(schemes, 0, found.scheme), RATIONAL)[1][0]
    assert paid == pytest.approx(found.value, abs=1e-5)


@pytest.mark.slow
def test_the_best_of_several_proofs_is_kept():
    """A MILP of 64 binaries uses up the work of an agent; the proof that is cut short is not the one reported."""
    game = random_game(0, K=3, XB=4, A=4)
    schemes = np.random.default_rng(0).dirichlet(np.ones(4), (3, 4))
    found = em.best_response(game, schemes, 0, em.Pooled(), RATIONAL)
    assert found.upper - found.value <= 0.02


def grid_optimum(game, parts=60):
    """A monopolist's optimum over a grid of beliefs; near-ties (within half a grid step) are broken for the agent."""
    from scipy.optimize import linprog

    XB = game.agent_features
    points = np.array([c for c in itertools.product(range(parts + 1), repeat=XB) if sum(c) == parts]) / parts
    given = game.prior / game.prior.sum((0, 2))[None, :, None]
    paid = np.zeros(len(points))
    for joint in (points @ given[xa] for xa in range(len(given))):
        worth = joint @ game.user_utility.T
        paid += (joint @ game.agent_utilities[0].T)[np.arange(len(points)), worth.argmax(1)]
    return -linprog(-paid, A_eq=points.T, b_eq=game.prior.sum((0, 2))).fun


@pytest.mark.parametrize("seed", range(4))
def test_brackets_hold_what_a_dense_grid_finds(seed):
    game = random_game(seed, K=1, XA=1 + seed % 2)
    silent = em.no_information(1, 3, 1)
    truth = grid_optimum(game)
    for ties in TIES:
        found = em.best_response(game, silent, 0, em.Pooled(), em.RationalUser(ties))
        assert truth <= found.upper + TIE
        assert found.value <= found.upper
        assert found.upper == pytest.approx(truth, abs=0.1)  # a grid step of 1/60 and utilities of size 1 to 3


@pytest.mark.parametrize("prior", [0.0625, 0.3, 0.45, 0.5, 0.7])
@pytest.mark.parametrize("ties", ["agents", "lowest", "uniform"])
def test_the_judge_for_any_prior_and_tie_rule(prior, ties):
    """The agent gets min(2 p, 1); where ties acquit this is a supremum, approached by beliefs just above one half."""
    game = em.catalog.judge(prior)
    user = em.RationalUser(ties)
    found = em.best_response(game, em.no_information(1, 2, 2), 0, em.Pooled(), user)
    truth = min(2 * prior, 1.0)
    assert found.value == pytest.approx(truth, abs=1e-4)
    assert found.upper >= truth - 2e-6
    assert found.upper == pytest.approx(truth, abs=1e-4)
    assert found.closed
    certificate = em.certify(game, found.scheme[None], em.Pooled(), user)
    assert certificate.agents[0] == pytest.approx(found.value, abs=1e-9)
    assert certificate.user == pytest.approx(max(1 - prior, prior), abs=1e-4)  # persuasion is worth nothing to the user


@pytest.mark.parametrize("prior", [0.0625, 0.3, 0.5, 0.7])
def test_the_judge_in_selection(prior):
    game = em.catalog.judge(prior)
    found = em.best_response(game, em.no_information(1, 2, 2), 0, em.Selection(), RATIONAL)
    assert found.value == pytest.approx(min(2 * prior, 1), abs=1e-7)
    assert found.upper == pytest.approx(found.value, abs=1e-6)
    certificate = em.certify(game, found.scheme[None], em.Selection(), RATIONAL)
    assert certificate.user == pytest.approx(max(1 - prior, prior), abs=1e-5)


def denied_at_the_kink():
    """At even odds the user is indifferent between actions 0 and 2. Only action 2 pays the agent; it is best from even
    odds on, a little better than action 1 there. Lowest-index ties play action 0 at even odds."""
    user = np.array([[1.0, 0.0], [0.0, 0.9], [0.0, 1.0]])
    own = np.array([[[0.0, 0.0], [0.0, 0.0], [1.0, 0.2]]])
    return em.Game(np.diag([0.75, 0.25])[None], user, own)


def test_a_supremum_that_lowest_ties_deny():
    """From even odds on action 2 pays (1 - x) + .2 x: most at even odds, .6, where ties play action 0. At the prior
    1/4 half of all messages can be such: .3, approached and not attained."""
    game = denied_at_the_kink()
    for ties in ("lowest", "uniform"):
        found = em.best_response(game, em.no_information(1, 2, 2), 0, em.Pooled(), em.RationalUser(ties))
        assert found.upper == pytest.approx(0.3, abs=1e-4)
        assert found.upper >= 0.3 - 2e-6
        assert found.value == pytest.approx(0.3, abs=1e-4)
        assert found.value <= found.upper
        assert found.closed
        attained = em.certify(game, found.scheme[None], em.Pooled(), em.RationalUser(ties)).agents[0]
        assert attained == pytest.approx(found.value, abs=1e-9)
    kink = np.array([[0.5, 0.5]])
    small = em.reduce_game(game, np)
    problem = monopoly_problem(small, 0, em.RationalUser("lowest"))
    assert problem.value(kink, problem.goal(1.0, 0.0))[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("tilt", [1e-2, 1e-6])
def test_no_kink_is_lost_where_planes_nearly_agree(tilt):
    """Three types and four x_B; type t is indifferent where mu1 + mu2 - mu3 - mu4 + tilt (mu_t - mu4) = 0. The agent
    wants types 1 and 3 on one side and type 2 on the other, so mu2 <= min(mu1, mu3) about. Of those beliefs the even
    one, where the planes meet, has the largest price, .1 (mu2 - mu3 / 2): 1.0125. Without it 1 would be the most."""
    user, own = np.zeros((3, 4, 2)), np.zeros((3, 4, 2))
    user[:, :, 1] = (np.array([1.0, 1, -1, -1]) + tilt * (np.eye(4)[:3] - np.eye(4)[3])) / 12
    for t, wanted in enumerate((1, 0, 1)):
        own[t, :, wanted] = 1 / 12
    problem = BeliefProblem(np.full((3, 4), 1 / 12), user, own, em.RationalUser("agents", 1e-9))
    proof, known = bound_pricing(problem, 1.0, np.array([0, -0.1, 0.05, 0]), 1e-8)
    assert proof.upper == pytest.approx(1.0125, abs=3e-4)  # the tie tolerance is a thousandth of the smaller tilt
    assert known == (tilt == 1e-2)


def test_an_agent_with_one_message_to_send_is_known_exactly():
    """XB = 1: nothing to say, so the bracket is closed under every tie rule, tied or not."""
    game = em.Game(np.array([[[0.4, 0.6]]]), np.ones((2, 2)), np.array([[[0.0, 0.0], [1.0, 1.0]]]))
    for ties, pays in (("agents", 1.0), ("lowest", 0.0), ("uniform", 0.5)):
        found = em.best_response(game, np.ones((1, 1, 1)), 0, em.Pooled(), em.RationalUser(ties))
        assert found.value == pytest.approx(pays, abs=1e-12)
        assert found.upper == pytest.approx(pays, abs=1e-9)


def test_too_many_binaries_are_refused_before_any_work(monkeypatch):
    game = random_game(0, K=3, XA=2, XB=4, A=4)
    schemes = np.full((3, 4, 8), 1 / 8)
    monkeypatch.setattr(em.exact.pooled, "profile_lps", lambda *a: pytest.fail("worked"))
    for call in (
        lambda: em.best_response(game, schemes, 0, em.Pooled(), RATIONAL),
        lambda: em.certify(game, schemes, em.Pooled(), RATIONAL),
    ):
        with pytest.raises(ValueError, match=r"messages: .* 512 binaries, the limit is \d+: take .*verify=False"):
            call()


@pytest.mark.slow
def test_a_short_time_leaves_a_valid_bound():
    game = random_game(1, K=3, XA=2, XB=4, A=3)
    schemes = np.random.default_rng(1).dirichlet(np.ones(3), (3, 4))
    small = em.reduce_game(game, np)
    problem = pooled_problem(small, schemes, 0, RATIONAL)
    goal, price = problem.goal(1.0, 0.0), np.zeros(4)
    cut = belief_milp.bound_by_milp(problem.alone(goal), price, 1e-9, 1)
    points = np.random.default_rng(0).dirichlet(np.full(4, 0.4), 20_000)
    assert cut.upper >= problem.value(points, goal).max() - TIE
    assert cut.upper >= cut.best
